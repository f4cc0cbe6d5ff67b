"""What goes into the processor of a partition and what comes out of it: plain values, no Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from streams.telemetry.reader import Problem

__all__ = ["Announcement", "FetchedRecord", "Late", "Output", "Record", "Rejected", "Standing", "TripsRecord"]


class Record(Protocol):
    """One record of the telemetry topic. aiokafka's ``ConsumerRecord`` is one."""

    @property
    def offset(self) -> int:
        """Its place in the partition (offline: the line number)."""

    @property
    def timestamp(self) -> int:
        """Kafka's timestamp in epoch milliseconds."""

    @property
    def key(self) -> bytes | None:
        """The vehicle id, or anything else."""

    @property
    def value(self) -> bytes | None:
        """The message: UTF-8 JSON."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """``traceparent`` is the only one that we read."""


class FetchedRecord(NamedTuple):
    """A :class:`Record` of a batch whose records are found by machine code."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class TripsRecord(Enum):
    """What an announcement does to its trip's record in the compacted ``trips`` topic."""

    KEEP = "keep"
    PUT = "put"
    DELETE = "delete"


@dataclass(slots=True)
class Announcement:
    """An event about a trip, encoded.

    Attributes:
        event: its type, such as ``TripStarted``.
        event_id: ``metadata.id``, a ULID.
        time_ms: ``metadata.occurred_at`` in epoch milliseconds.
        payload: the JSON that is published, byte for byte.
    """

    vehicle_id: str
    trip_id: str
    event: str
    event_id: str
    revision: int
    time_ms: int
    traceparent: str | None
    payload: bytes
    trips_record: TripsRecord


@dataclass(slots=True)
class Rejected:
    """A record for the dead letters: as a whole, or partial (its good properties were applied).

    Attributes:
        is_command: it is not of the source, but of the commands.
    """

    record: Record
    problems: Sequence[Problem]
    partial: bool
    is_command: bool = False


@dataclass(slots=True)
class Late:
    """A record with samples behind the horizon, and which."""

    record: Record
    message: str


@dataclass(slots=True)
class Output:
    """What one checkpoint delivers, in the order in which it came about.

    Attributes:
        changes: changed state, changelog key to value, each key once. None: the key is not needed any more.
    """

    announcements: list[Announcement] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)


class Standing(NamedTuple):
    """Where the state of a partition stands: with which record of which topic it goes on.

    The processor stores it with its state and gives it back; what it says is known to the runtime alone.

    Attributes:
        next_offset: of the source; None: not known, nothing was read yet.
        telemetry_id: Kafka's id of the source topic, 16 bytes; None: not known.
        changelog_id: the same of the topic that the state is written to.
        next_command: offset of the next command; None: none was read yet.
        commands_id: the same of the topic of commands.
        backlog_end: where the source ended when the state was begun, from nothing.
    """

    next_offset: int | None = None
    telemetry_id: bytes | None = None
    changelog_id: bytes | None = None
    next_command: int | None = None
    commands_id: bytes | None = None
    backlog_end: int | None = None
