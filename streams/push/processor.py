"""The deliveries of one partition: announcements in, what is due out; outcomes in, what follows out. No I/O.

Everything that waits is state. An event and the deliveries that it makes are committed together; an attempt is made
after that, and what came of it is the next change of state. So a worker that dies in between repeats an attempt, with
the same id, and forgets none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack
import orjson

from streams.errors import StateError
from streams.push.deliveries import (
    DELETED,
    FORMAT_VERSION,
    KEY_OF_STANDING,
    TOTALS,
    Attempt,
    Delivery,
    Totals,
    delivery_id,
    pack_standing,
    payload_key,
    unpack_standing,
)
from streams.push.profiles import delay_s
from streams.records import Output, Standing
from streams.trips.state import BrokenStateError, open_value, seal_value

if TYPE_CHECKING:
    from streams.push.subscriptions import Book
    from streams.records import Record

__all__ = ["Counts", "Event", "Letter", "Outcome", "PushOutput", "PushProcessor", "Retry", "read_event"]

# An announcement of a trip may be asked for again as long as dead letters are kept, and not after the trip was deleted.
_DELETED_KEPT_MS: Final = 90 * 86_400_000
# What is wrong on our side (a credential that is missing) is looked at again after this, and is no attempt (seconds).
_LOOK_AGAIN_S: Final = 60.0
# Totals of so many subscriptions that were removed are kept for the report.
_REMOVED_KEPT: Final = 100


class Event(NamedTuple):
    """What pushing needs to know of an announcement."""

    id: str
    type: str
    trip_id: str
    vehicle_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        at_ms: when it began, epoch ms.
        seconds: how long it took.
        status: HTTP; None: there was no answer.
        error: why it failed; None: delivered.
        retry_after_s: what the answer asked for.
        gone: the endpoint says that it is not there any more.
        made: False: there was nothing sent, for a reason on our side; it does not count as an attempt.
    """

    at_ms: int
    seconds: float
    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    gone: bool = False
    made: bool = True


@dataclass(frozen=True, slots=True)
class Letter:
    """A delivery that was given up."""

    delivery: Delivery
    reason: str
    at_ms: int


@dataclass(slots=True)
class Retry:
    """A request to deliver something again.

    Attributes:
        partition: whose business it is.
        uid: of the subscription that it was due to: another one of the same name is not told.
        discarded_at: when it was given up, as the dead letter says; with its id it says which letter that is.
    """

    partition: int
    offset: int
    uid: str
    subscription: str
    event: Event
    payload: str
    discarded_at: str

    @property
    def delivery_id(self) -> str:
        """See :attr:`Delivery.id`."""
        return delivery_id(self.event.id, self.subscription)

    def record(self) -> bytes:
        """As the value of a Kafka record."""
        return orjson.dumps(
            {
                "partition": self.partition,
                "offset": self.offset,
                "uid": self.uid,
                "subscription": self.subscription,
                "event": self.event._asdict(),
                "payload": self.payload,
                "discarded_at": self.discarded_at,
            }
        )

    @classmethod
    def read(cls, value: bytes) -> Retry:
        """The inverse of :meth:`record`.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = orjson.loads(value)
            return cls(**{**fields, "event": Event(**fields["event"])})
        except (TypeError, KeyError, AttributeError):
            raise ValueError("not a request") from None


@dataclass(slots=True)
class PushOutput(Output):
    """What a checkpoint of a partition of pushes holds, and what may go on once it is committed.

    Attributes:
        letters: for the dead letters.
        scheduled: deliveries to be attempted when they are due.
        outcomes: how attempts ended: subscription, and ``delivered``, ``failed``, ``discarded``, ``dropped`` or
            ``erased``.
    """

    letters: list[Letter] = field(default_factory=list)
    scheduled: list[Delivery] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Counts:
    """Running totals."""

    messages: int = 0
    unreadable: int = 0
    due: int = 0


def read_event(record: Any) -> Event | None:
    """What a record of the events is about; None: nothing that can be pushed."""
    if record.value is None:
        return None
    headers = dict(record.headers)
    try:
        if record.key and headers.get("ce_id") and headers.get("ce_type") and headers.get("ce_subject"):
            names = (headers["ce_id"], headers["ce_type"], headers["ce_subject"], record.key)
            return Event(*(name.decode() for name in names))
        announcement = orjson.loads(record.value)
        metadata, trip = announcement["metadata"], announcement["data"]["trip"]
        event = Event(metadata["id"], metadata["type"], trip["id"], trip["vehicle_id"])
    except (ValueError, KeyError, TypeError):
        return None
    return event if all(isinstance(name, str) for name in event) else None


class PushProcessor:
    """The state of one partition.

    Args:
        partition: which one, of the events.
        book: the subscriptions; somebody else keeps it up to date.
        now: the wall clock, epoch ms.
        chance: 0 to 1, evenly distributed.
        scale: times between attempts are multiplied by this.
        max_waiting: of one subscription.

    Attributes:
        standing: stored with the state, and given back with it; set by the runtime.
        requests: offset of the next request that was not applied.
        counted: what of the counts is in the metrics.
    """

    def __init__(
        self,
        partition: int,
        book: Book,
        *,
        now: Callable[[], int],
        chance: Callable[[], float],
        scale: float,
        max_waiting: int,
    ) -> None:
        self.clock = 0
        self.open_trips = 0
        self.owed = 0
        self.announcing = False
        self.standing = Standing()
        self.counts = Counts()
        self.counted = (0, 0, 0)
        self.requests = 0
        self.totals: dict[str, Totals] = {}
        """By subscription's uid."""
        self.state_bytes = 0
        self._partition = partition
        self._book = book
        self._now = now
        self._chance = chance
        self._scale = scale
        self._max_waiting = max_waiting
        self._deliveries: dict[bytes, Delivery] = {}
        self._by_uid: dict[str, dict[bytes, Delivery]] = {}
        self._by_trip: dict[str, dict[bytes, Delivery]] = {}
        self._payloads: dict[int, tuple[bytes, int]] = {}  # with how many deliveries need it
        self._deleted: OrderedDict[str, int] = OrderedDict()  # oldest first
        self._changed: dict[bytes, Delivery | Totals | bytes | None] = {}
        self._touched = False
        self._output = PushOutput()
        self._waiting_stored: int | None = None

    # -- what the runtime asks for -------------------------------------------------------------------------------

    @property
    def vehicles(self) -> int:
        """How many deliveries wait: to the runtime, whether there is any state."""
        return len(self._deliveries)

    def wake_at(self) -> int | None:
        """Never: the dispatcher knows when deliveries are due."""
        return None

    def advance(self, clock_ms: int) -> None:
        """Kafka's clock has no meaning here."""

    def touch_clock(self) -> None:
        """Have the next :meth:`take` store the standing although nothing else has changed."""
        self._touched = True

    def process(self, records: Iterable[Record]) -> None:
        """Take events in: what is due because of them waits from now on."""
        for record in records:
            self.counts.messages += 1
            event = read_event(record)
            if event is None:
                self.counts.unreadable += 1
                continue
            if event.type == "TripDeleted":
                self._delete(event.trip_id)
            elif event.trip_id in self._deleted:
                continue
            for entry in self._book.interested(event.type, event.vehicle_id, self._partition, record.offset):
                self._add(record.offset, entry.uid, entry.definition.id, event, record.value or b"")

    def take(self) -> PushOutput:
        """What has come about since the last time, with each changed value once."""
        output, self._output = self._output, PushOutput()
        changes = output.changes
        for key, value in self._changed.items():
            content = value if value is None or isinstance(value, bytes) else value.pack()
            changes[key] = None if content is None else seal_value(key, content, FORMAT_VERSION)
        self._changed = {}
        if changes or self._touched:
            content = pack_standing(self.standing, self.requests, len(self._deliveries))
            changes[KEY_OF_STANDING] = seal_value(KEY_OF_STANDING, content, FORMAT_VERSION)
            self._touched = False
        return output

    def restore(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take back stored values, oldest first. End with :meth:`restored`.

        Raises:
            StateError: a value is damaged, or of a newer format.
        """
        for key, value in items:
            try:
                content = None if value is None else open_value(key, value, FORMAT_VERSION)
            except BrokenStateError as error:
                raise StateError(str(error)) from error
            self._restore(key, content)

    def _restore(self, key: bytes, content: bytes | None) -> None:
        match key[:1]:
            case b"k" if content is not None:
                self.standing, self.requests, self._waiting_stored = unpack_standing(content)
            case b"d":
                if content is None:
                    self._deliveries.pop(key, None)
                else:
                    self._deliveries[key] = Delivery.unpack(key, content)
            case b"p":
                offset = int.from_bytes(key[1:], "big")
                if content is None:
                    self._payloads.pop(offset, None)
                else:
                    self._payloads[offset] = content, 0
            case b"s":
                self.totals.pop(key[1:].decode(), None)
                if content is not None:
                    self.totals[key[1:].decode()] = Totals.unpack(content)
            case b"x":
                trip_id = key[1:].decode()
                self._deleted.pop(trip_id, None)
                if content is not None:
                    self._deleted[trip_id] = msgpack.unpackb(content)
            case _:
                raise StateError(f"the record with key {key!r} is of no kind that this program knows")

    def restored(self) -> None:
        """That was the last of them: be ready for events.

        Raises:
            StateError: deliveries are missing.
        """
        if self._waiting_stored not in (None, len(self._deliveries)):
            raise StateError(
                f"it holds {len(self._deliveries)} deliveries, and should hold {self._waiting_stored}: records are "
                "missing, or are not ours"
            )
        for key, delivery in self._deliveries.items():
            if delivery.offset not in self._payloads:
                raise StateError(f"the announcement of delivery {delivery.id} is missing")
            self._index(key, delivery)
        # Of a compacted topic a value may be left whose tombstone is gone with it; nothing refers to it.
        self._payloads = {offset: entry for offset, entry in self._payloads.items() if entry[1]}
        self.state_bytes = sum(len(payload) for payload, _ in self._payloads.values())

    # -- what becomes of deliveries ------------------------------------------------------------------------------

    def waiting(self) -> Iterator[Delivery]:
        """All that wait."""
        yield from self._deliveries.values()

    def waiting_by_subscription(self) -> Iterator[tuple[str, int, int]]:
        """Of each subscription that something waits for: its name, how many, and since when the oldest (epoch ms)."""
        for some in self._by_uid.values():
            oldest = min(some.values(), key=_created)
            yield oldest.subscription, len(some), oldest.created_ms

    def request(self, offset: int, retry: Retry) -> str | None:
        """Take in a request to deliver something again.

        Args:
            offset: of the request; one that was applied before changes nothing.
            retry: what for.

        Returns:
            Why it is not followed; None: it is, or was before.
        """
        if offset < self.requests:
            return None
        self.requests = offset + 1
        self._touched = True
        entry = self._book.by_uid(retry.uid)
        if entry is None:
            return "the subscription is gone"
        if not self._book.asks_for(entry, retry.event.type, retry.event.vehicle_id):
            return "the subscription is not about such an event, or not about this vehicle"
        if retry.event.type != "TripDeleted" and retry.event.trip_id in self._deleted:
            self._totals(retry.uid, retry.subscription).erased += 1
            return "the trip was deleted"
        self._add(retry.offset, retry.uid, entry.definition.id, retry.event, retry.payload.encode())
        return None

    def settle(self, delivery: Delivery, profile: str, outcome: Outcome) -> bool:
        """An attempt has ended.

        Args:
            delivery: of this partition.
            profile: of its subscription.
            outcome: how.

        Returns:
            Whether it is due again without anything to be committed before.
        """
        if not outcome.made:
            return self._settle_unmade(delivery, outcome)
        self._settle_made(delivery, profile, outcome)
        return False

    def _settle_made(self, delivery: Delivery, profile: str, outcome: Outcome) -> None:
        totals = self._totals(delivery.uid, delivery.subscription)
        totals.attempts += 1
        if outcome.error is not None:
            totals.add_error(outcome.at_ms, outcome.error, delivery.id)
        if delivery.gone:
            return
        if outcome.error is None:
            totals.delivered += 1
            totals.last_delivered_ms = outcome.at_ms
            self._remove(delivery, "delivered")
            return
        delivery.attempts.append(Attempt(outcome.at_ms, outcome.status, outcome.error))
        delay = delay_s(profile, len(delivery.attempts), self._chance(), outcome.retry_after_s)
        if delay is None:
            count = len(delivery.attempts)
            self._discard(delivery, f"{count} attempts failed" if count > 1 else "the attempt failed", outcome.at_ms)
            return
        self._output.outcomes.append((delivery.subscription, "failed"))
        self._schedule(delivery, outcome.at_ms, delay)

    def _settle_unmade(self, delivery: Delivery, outcome: Outcome) -> bool:
        """It is looked at again soon, by whoever has it then: nothing to be stored but what is wrong, once."""
        totals = self.totals.get(delivery.uid)
        if totals is None or not totals.errors or totals.errors[-1][1] != outcome.error:
            self._totals(delivery.uid, delivery.subscription).add_error(
                outcome.at_ms, outcome.error or "not made", delivery.id
            )
        delivery.due_ms = outcome.at_ms + int(_LOOK_AGAIN_S * self._scale * 1000)
        return not delivery.gone

    def drop(self, uid: str) -> int:
        """The subscription is not there any more: nothing of it waits. How many did."""
        some = list(self._by_uid.get(uid, {}).values())
        for delivery in some:
            self._totals(uid, delivery.subscription).dropped += 1
            self._remove(delivery, "dropped")
        return len(some)

    def drop_strangers(self) -> int:
        """Drop what belongs to no subscription that there is; of the totals of such ones the last few are kept.

        Returns:
            How much there was.
        """
        known = {entry.uid for entry in self._book.entries.values()}
        dropped = sum(self.drop(uid) for uid in list(self._by_uid) if uid not in known)
        strangers = [uid for uid in self.totals if uid not in known]
        forgotten = strangers[: max(0, len(strangers) - _REMOVED_KEPT)]
        for uid in forgotten:
            del self.totals[uid]
            self._changed[TOTALS + uid.encode()] = None
        return dropped + len(forgotten)

    # -- inside --------------------------------------------------------------------------------------------------

    def _add(self, offset: int, uid: str, subscription: str, event: Event, payload: bytes) -> None:
        now = self._now()
        delivery = Delivery(
            offset, uid, subscription, event.id, event.type, event.trip_id, event.vehicle_id, now, now, [], payload
        )
        key = delivery.key
        if key in self._deliveries:
            return
        self.counts.due += 1
        if len(self._by_uid.get(uid, ())) >= self._max_waiting:
            totals = self._totals(uid, subscription)
            totals.discarded += 1
            self._output.letters.append(Letter(delivery, f"{self._max_waiting} deliveries wait already", now))
            self._output.outcomes.append((subscription, "discarded"))
            return
        if offset not in self._payloads:
            self._payloads[offset] = payload, 0
            self._changed[payload_key(offset)] = payload
            self.state_bytes += len(payload)
        self._deliveries[key] = delivery
        self._index(key, delivery)
        self._changed[key] = delivery
        self._output.scheduled.append(delivery)

    def _index(self, key: bytes, delivery: Delivery) -> None:
        payload, needed = self._payloads[delivery.offset]
        self._payloads[delivery.offset] = payload, needed + 1
        delivery.payload = payload
        self._by_uid.setdefault(delivery.uid, {})[key] = delivery
        self._by_trip.setdefault(delivery.trip_id, {})[key] = delivery

    def _schedule(self, delivery: Delivery, from_ms: int, seconds: float) -> None:
        delivery.due_ms = from_ms + int(seconds * self._scale * 1000)
        self._changed[delivery.key] = delivery
        self._output.scheduled.append(delivery)

    def _discard(self, delivery: Delivery, reason: str, at_ms: int) -> None:
        self._totals(delivery.uid, delivery.subscription).discarded += 1
        self._output.letters.append(Letter(delivery, reason, at_ms))
        self._remove(delivery, "discarded")

    def _remove(self, delivery: Delivery, how: str) -> None:
        delivery.gone = True
        key = delivery.key
        del self._deliveries[key]
        for index, name in ((self._by_uid, delivery.uid), (self._by_trip, delivery.trip_id)):
            del index[name][key]
            if not index[name]:
                del index[name]
        self._changed[key] = None
        payload, needed = self._payloads[delivery.offset]
        if needed > 1:
            self._payloads[delivery.offset] = payload, needed - 1
        else:
            del self._payloads[delivery.offset]
            self._changed[payload_key(delivery.offset)] = None
            self.state_bytes -= len(payload)
        self._output.outcomes.append((delivery.subscription, how))

    def _delete(self, trip_id: str) -> None:
        """A trip was deleted: what else was to be told of it is not told any more, and not kept."""
        for delivery in list(self._by_trip.get(trip_id, {}).values()):
            if delivery.event != "TripDeleted":
                self._totals(delivery.uid, delivery.subscription).erased += 1
                self._remove(delivery, "erased")
                delivery.payload = b""  # it stands in a queue until it is due, which may be a day
        now = self._now()
        self._deleted.pop(trip_id, None)
        self._deleted[trip_id] = now
        self._changed[DELETED + trip_id.encode()] = msgpack.packb(now)
        while self._deleted[oldest := next(iter(self._deleted))] <= now - _DELETED_KEPT_MS:  # not the new one
            del self._deleted[oldest]
            self._changed[DELETED + oldest.encode()] = None

    def _totals(self, uid: str, subscription: str) -> Totals:
        """To be changed: they go into the next checkpoint."""
        totals = self.totals.get(uid)
        if totals is None:
            totals = self.totals[uid] = Totals(subscription)
        self._changed[TOTALS + uid.encode()] = totals
        return totals


def _created(delivery: Delivery) -> int:
    return delivery.created_ms
