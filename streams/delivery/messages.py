"""What the processor of a partition puts out, as Kafka records: bytes, keys and headers, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from streams.records import TripsRecord
from streams.trips.content import iso

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.records import Announcement, Late, Record, Rejected

__all__ = [
    "HEADER_ORIGINAL_SIZE",
    "HEADER_PARTIAL",
    "HEADER_PARTITION",
    "HEADER_REASONS",
    "Headers",
    "Message",
    "Source",
    "announcement_messages",
    "batch_size",
    "dead_letter",
    "late_letter",
]

Headers = list[tuple[str, bytes | None]]

# The headers of Kafka Connect's dead letters (org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter), so
# that tools that know those understand ours.
_CONNECT: Final = "__connect.errors."
# Connect names the step that failed: org.apache.kafka.connect.runtime.errors.Stage. Ours is always the same one.
_STAGE: Final = b"VALUE_CONVERTER"

HEADER_PARTIAL: Final = "ignition-trips.partial"
"""``true``: the good properties of this record were applied. ``false`` or absent: nothing of it was."""
HEADER_REASONS: Final = "ignition-trips.reasons"
"""The reasons as they are counted in the metrics, separated by commas."""
HEADER_ORIGINAL_SIZE: Final = "ignition-trips.original-size"
"""How many bytes the value had. Fewer are left: it did not fit and is cut short. The whole is at the source offset."""

HEADER_PARTITION: Final = "ignition-trips.partition"
"""Of an announcement: the partition of the source that its vehicle is in. Commands about the trip go to that one."""

# Kafka's batch header is 61 bytes; each record adds lengths and deltas of at most 5 bytes each.
_BATCH_OVERHEAD: Final = 61
_VARINT: Final = 5
# A record may have any number of bad properties; the message tells of the first ones.
_MAX_TEXT: Final = 4096


class Source(NamedTuple):
    """Where the records of a processor come from."""

    topic: str
    partition: int


class Message(NamedTuple):
    """A Kafka record to be sent."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def announcement_messages(
    announcement: Announcement, ce_source: bytes, partition: int
) -> tuple[Message, Message | None]:
    """The record for ``trip-events``, and the one for ``trips`` if this announcement changes the trip's record there.

    Args:
        announcement: what is announced.
        ce_source: the CloudEvents source: who announces.
        partition: the partition of the source that it comes of.
    """
    headers = _cloud_event(announcement, ce_source)
    headers.append((HEADER_PARTITION, b"%d" % partition))
    event = Message(announcement.vehicle_id.encode(), announcement.payload, headers)
    match announcement.trips_record:
        case TripsRecord.PUT:
            return event, Message(announcement.trip_id.encode(), announcement.payload, headers)
        case TripsRecord.DELETE:
            return event, Message(announcement.trip_id.encode(), None, headers)
        case TripsRecord.KEEP:
            return event, None


def _cloud_event(announcement: Announcement, source: bytes) -> Headers:
    """CloudEvents 1.0, Kafka protocol binding, binary content mode."""
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", announcement.event_id.encode()),
        ("ce_source", source),
        ("ce_type", announcement.event.encode()),
        ("ce_time", iso(announcement.time_ms).encode()),
        ("ce_subject", announcement.trip_id.encode()),
        ("content-type", b"application/json"),
    ]
    if announcement.traceparent is not None:
        headers.append(("traceparent", announcement.traceparent.encode()))
    return headers


def dead_letter(rejected: Rejected, source: Source, max_size: int) -> Message:
    """The record as it came, with the reasons in its headers.

    Args:
        rejected: the record and what is wrong with it.
        source: the topic and partition that it came from.
        max_size: ``max.message.bytes`` of the dead-letter topic. A value that does not fit is cut short.
    """
    problems = rejected.problems
    headers = _errors(
        rejected.record,
        source,
        problems[0].reason.value if problems else "",
        "; ".join(problem.message for problem in problems),
    )
    headers.append((HEADER_REASONS, ",".join(dict.fromkeys(problem.reason.value for problem in problems)).encode()))
    if rejected.partial:
        headers.append((HEADER_PARTIAL, b"true"))
    elif _has(rejected.record, HEADER_PARTIAL):
        # A dead letter that somebody has sent again, headers and all: what it says is not about this time.
        headers.append((HEADER_PARTIAL, b"false"))
    return _fit(rejected.record, headers, max_size)


def late_letter(late: Late, source: Source, max_size: int) -> Message:
    """The record as it came, with what of it came too late in its headers. Arguments as of :func:`dead_letter`."""
    return _fit(late.record, _errors(late.record, source, "late", late.message), max_size)


def _errors(record: Record, source: Source, reason: str, message: str) -> Headers:
    return [
        (_CONNECT + "topic", source.topic.encode()),
        (_CONNECT + "partition", str(source.partition).encode()),
        (_CONNECT + "offset", str(record.offset).encode()),
        (_CONNECT + "stage", _STAGE),
        (_CONNECT + "exception.class.name", f"ignition_trips.{reason}".encode()),
        (_CONNECT + "exception.message", _shortened(message).encode(errors="replace")),
    ]


def _has(record: Record, header: str) -> bool:
    return any(name == header for name, _ in record.headers)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _fit(record: Record, errors: Headers, max_size: int) -> Message:
    """What of the record fits into ``max_size`` bytes beside our headers.

    The topic is created with room for the largest record of the source and our headers, so something is left out
    only where somebody has set other limits: first the end of the value, then the record's own headers, then its key.
    """
    key, value = record.key, record.value
    sized = [*errors, (HEADER_ORIGINAL_SIZE, str(len(value or b"")).encode())]
    if _has(record, HEADER_ORIGINAL_SIZE):  # of a dead letter that was cut short, and has been sent again
        errors = sized
    headers = [*record.headers, *errors]
    if batch_size(key, value, headers) <= max_size:
        return Message(key, value, headers)
    errors = sized
    for kept_key, own in ((key, record.headers), (key, ()), (None, ())):
        headers = [*own, *errors]
        room = max_size - batch_size(kept_key, b"", headers)
        if room >= 0:
            return Message(kept_key, value[:room] if value is not None else None, headers)
    return Message(None, None, errors)


def batch_size(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> int:
    """The most that a batch of only this record takes in Kafka's message format 2."""
    return _BATCH_OVERHEAD + sum(_sizes(key, value, headers))


def _sizes(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> Iterator[int]:
    yield 1 + 4 * _VARINT  # attributes; length, timestamp and offset deltas, number of headers
    for part in (key, value):
        yield _VARINT + len(part or b"")
    for name, content in headers:
        yield 2 * _VARINT + len(name.encode()) + len(content or b"")
