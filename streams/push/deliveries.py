"""What is due, and how it is stored: plain values, no I/O.

Each value of the changelog names its format version and proves that it is whole (``streams.trips.state``). Keys are a
letter for the kind of value, and what it is about:

=====  ==========================  ====================================================================
key    of                          value
=====  ==========================  ====================================================================
``k``  the partition               where in the events and in the requests it stands; how many deliveries wait
``d``  offset and subscription     a delivery that waits: what it is about, its attempts, when it is due
``p``  offset                      the announcement, for as long as a delivery of it waits
``s``  subscription                running totals, and the last errors; of the last 100 that were removed, too
``x``  trip                        it was deleted, and when: nothing else is told of it any more
=====  ==========================  ====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack

from streams.records import Standing

__all__ = [
    "DELETED",
    "DELIVERY",
    "FORMAT_VERSION",
    "KEY_OF_STANDING",
    "PAYLOAD",
    "TOTALS",
    "Attempt",
    "Delivery",
    "Totals",
]

FORMAT_VERSION: Final = 1
KEY_OF_STANDING: Final = b"k"
DELIVERY: Final = b"d"
PAYLOAD: Final = b"p"
TOTALS: Final = b"s"
DELETED: Final = b"x"
_ERRORS_KEPT: Final = 5


class Attempt(NamedTuple):
    """One attempt that failed.

    Attributes:
        at_ms: when it began, epoch ms.
        status: HTTP; None: there was no answer.
        error: what happened, for people.
    """

    at_ms: int
    status: int | None
    error: str


@dataclass(slots=True, eq=False)
class Delivery:
    """An announcement that is due to a subscription.

    Attributes:
        offset: of the event.
        uid: of the subscription.
        subscription: its name.
        event_id: ``metadata.id``.
        event: the type.
        created_ms: when it came to be due.
        due_ms: when it is attempted next.
        attempts: those that failed.
        gone: it does not wait any more: what comes of an attempt that is under way does not count.
    """

    offset: int
    uid: str
    subscription: str
    event_id: str
    event: str
    trip_id: str
    vehicle_id: str
    created_ms: int
    due_ms: int
    attempts: list[Attempt] = field(default_factory=list)
    payload: bytes = b""
    gone: bool = False

    @property
    def id(self) -> str:
        """The same at every attempt, whoever makes it: the announcement's id, and the subscription."""
        return delivery_id(self.event_id, self.subscription)

    @property
    def key(self) -> bytes:
        """Where it is stored."""
        return DELIVERY + _place(self.offset) + self.uid.encode()

    def pack(self) -> bytes:
        """As stored, without the announcement."""
        packed: bytes = msgpack.packb(
            (
                self.subscription,
                self.event_id,
                self.event,
                self.trip_id,
                self.vehicle_id,
                self.created_ms,
                self.due_ms,
                [tuple(attempt) for attempt in self.attempts],
            )
        )
        return packed

    @classmethod
    def unpack(cls, key: bytes, content: bytes) -> Delivery:
        """The inverse of :meth:`pack`."""
        subscription, event_id, event, trip_id, vehicle_id, created_ms, due_ms, attempts = msgpack.unpackb(content)
        return cls(
            int.from_bytes(key[1:9], "big"),
            key[9:].decode(),
            subscription,
            event_id,
            event,
            trip_id,
            vehicle_id,
            created_ms,
            due_ms,
            [Attempt(*attempt) for attempt in attempts],
        )


def delivery_id(event_id: str, subscription: str) -> str:
    """See :attr:`Delivery.id`."""
    return f"{event_id}-{subscription}"


def payload_key(offset: int) -> bytes:
    """Where the announcement at an offset is stored."""
    return PAYLOAD + _place(offset)


def _place(offset: int) -> bytes:
    return offset.to_bytes(8, "big")


@dataclass(slots=True)
class Totals:
    """What has become of a subscription's deliveries in one partition, since it was added.

    Attributes:
        subscription: its name.
        delivered: taken by the endpoint.
        attempts: made, whatever came of them.
        discarded: given up, and in the dead letters.
        dropped: the subscription was removed before.
        erased: the trip was deleted before.
        last_delivered_ms: epoch ms; None: never.
        errors: the last ones: when, what, and of which delivery.
    """

    subscription: str
    delivered: int = 0
    attempts: int = 0
    discarded: int = 0
    dropped: int = 0
    erased: int = 0
    last_delivered_ms: int | None = None
    errors: list[tuple[int, str, str]] = field(default_factory=list)

    def add_error(self, at_ms: int, error: str, delivery_id: str) -> None:
        """Remember it in place of the oldest."""
        self.errors = [*self.errors[1 - _ERRORS_KEPT :], (at_ms, error, delivery_id)]

    def pack(self) -> bytes:
        """As stored."""
        packed: bytes = msgpack.packb([getattr(self, name) for name in self.__slots__])
        return packed

    @classmethod
    def unpack(cls, content: bytes) -> Totals:
        """The inverse of :meth:`pack`."""
        values = dict(zip(cls.__slots__, msgpack.unpackb(content), strict=True))
        return cls(**{**values, "errors": [tuple(error) for error in values["errors"]]})


def pack_standing(standing: Standing, requests: int, waiting: int) -> bytes:
    """As stored.

    Args:
        standing: where the state stands in the events.
        requests: offset of the next request that is not applied.
        waiting: how many deliveries there are.
    """
    packed: bytes = msgpack.packb(
        (standing.next_offset, standing.telemetry_id, standing.changelog_id, requests, waiting)
    )
    return packed


def unpack_standing(content: bytes) -> tuple[Standing, int, int]:
    """The inverse of :func:`pack_standing`."""
    unpacked: Any = msgpack.unpackb(content)
    next_offset, telemetry_id, changelog_id, requests, waiting = unpacked
    return Standing(next_offset, telemetry_id, changelog_id), requests, waiting
