"""``TripsTestDriver``: a worker's partition without Kafka, for tests. Bytes in, bytes out, advance the clock.

After Kafka's ``TopologyTestDriver``: what goes in are records of the telemetry topic, what comes out are the records
that a worker would publish, byte for byte, by topic. Nothing waits: time passes when the test says so. See
docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from streams.delivery.messages import Headers, Message, Source, announcement_messages, dead_letter, late_letter
from streams.processor import Processor
from streams.settings import Settings
from streams.telemetry.reader import Reader
from streams.trips.content import iso
from streams.trips.identity import identify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["OutputRecord", "TripsTestDriver"]

# As the dead-letter and late topics are created: Kafka's largest record and room for our headers.
_LETTER_BYTES: Final = 1_048_588 + 64 * 1024


class OutputRecord(NamedTuple):
    """A record that a worker would publish. ``value`` None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class _Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class TripsTestDriver:
    """One source partition and its worker, in memory.

    Args:
        settings: by name, as in docs/settings.md without ``TRIPS_``: ``TripsTestDriver(min_duration="PT2M")``. The
            environment and the files that a worker reads do not count.

    Attributes:
        settings: all of them, checked.

    Raises:
        SettingsError: a setting is wrong.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings.given(**settings)
        self._topics = self.settings.topics
        self._processor = self._new_processor()
        self._offset = 0
        self._published: dict[str, list[OutputRecord]] = {}
        self._trips: dict[str, bytes] = {}
        self._changelog: dict[bytes, bytes | None] = {}

    @property
    def clock(self) -> int:
        """The clock of the partition, epoch ms: the newest record's timestamp, and what was added since."""
        return self._processor.clock

    def pipe(
        self,
        message: Mapping[str, Any] | bytes | str | None,
        *,
        key: bytes | str | None = None,
        timestamp: int | datetime | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Put one message into the telemetry topic, and have the worker process it.

        Args:
            message: an object to be sent as JSON, or the bytes as they are.
            key: the record's key.
            timestamp: the record's Kafka timestamp (epoch ms, or an aware datetime). None: as if it had been sent
                when its newest sample was taken, but never before the clock.
            headers: the record's headers.

        Returns:
            Its offset, from 0.
        """
        self._processor.process([self._record(message, key, timestamp, headers)])
        self._deliver()
        return self._offset - 1

    def pipe_batch(self, messages: Iterable[Mapping[str, Any] | bytes | str | None]) -> None:
        """Put messages into the topic that the worker fetches as one batch: corrections wait for its end."""
        self._processor.process([self._record(message, None, None, ()) for message in messages])
        self._deliver()

    def advance(self, by: timedelta | float) -> None:
        """Let time pass (a float: in seconds) in which nothing arrives."""
        milliseconds = by // timedelta(milliseconds=1) if isinstance(by, timedelta) else round(by * 1000)
        self._processor.advance(self._processor.clock + milliseconds)
        self._deliver()

    def delete(self, trip_id: str, vehicle_id: str, *, requested_at: datetime | None = None) -> None:
        """Have a trip deleted that was announced.

        Args:
            trip_id: which trip.
            vehicle_id: whose it is.
            requested_at: aware; None: at the clock.
        """
        at = self.clock if requested_at is None else int(requested_at.timestamp() * 1000)
        command = {
            "type": "DeleteTrip",
            "id": identify(vehicle_id, at).id,
            "trip_id": trip_id,
            "vehicle_id": vehicle_id,
            "requested_at": iso(at),
            "revision": 0,
        }
        self._processor.command(_Record(0, self.clock, vehicle_id.encode(), orjson.dumps(command), ()))
        self._deliver()

    def restart(self) -> None:
        """Lose the worker, and have another one take over from what is stored."""
        self._processor = self._new_processor()
        self._processor.restore(self._changelog.items())
        self._processor.restored()

    def read(self, topic: str) -> list[OutputRecord]:
        """The records of a topic since it was read last; its name as in the settings, with the prefix."""
        return self._published.pop(topic, [])

    def announcements(self) -> list[dict[str, Any]]:
        """The announcements in ``trip-events`` since they were read last, decoded."""
        return [orjson.loads(record.value) for record in self.read(self._topics.events) if record.value is not None]

    def trips(self) -> dict[str, dict[str, Any]]:
        """What the compacted topic ``trips`` holds now: the latest state of each finished trip by its id, decoded."""
        return {trip_id: orjson.loads(value) for trip_id, value in self._trips.items()}

    def dead_letters(self) -> list[OutputRecord]:
        """The dead letters since they were read last."""
        return self.read(self._topics.dead_letters)

    def late(self) -> list[OutputRecord]:
        """The late records since they were read last."""
        return self.read(self._topics.late)

    def _new_processor(self) -> Processor:
        return Processor(self.settings.rules(), Reader(max_clock_skew_ms=self.settings.max_clock_skew_ms))

    def _record(
        self,
        message: Mapping[str, Any] | bytes | str | None,
        key: bytes | str | None,
        timestamp: int | datetime | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> _Record:
        value = orjson.dumps(message) if isinstance(message, Mapping) else _bytes(message)
        key = _bytes(key)
        if timestamp is None:
            reading = Reader(max_clock_skew_ms=None).read(value, key, 0)
            timestamp = max([self._processor.clock, *(row[0] for row in reading.rows)])
        elif isinstance(timestamp, datetime):
            timestamp = int(timestamp.timestamp() * 1000)
        self._offset += 1
        return _Record(self._offset - 1, timestamp, key, value, headers)

    def _deliver(self) -> None:
        output, topics = self._processor.take(), self._topics
        source = Source(topics.telemetry, 0)
        for rejected in output.rejected:
            origin = Source(topics.commands, 0) if rejected.is_command else source
            self._publish(topics.dead_letters, dead_letter(rejected, origin, _LETTER_BYTES))
        for late in output.late:
            self._publish(topics.late, late_letter(late, source, _LETTER_BYTES))
        ce_source = f"/ignition-trips/{self.settings.application_id}".encode()
        for announcement in output.announcements:
            event, trip = announcement_messages(announcement, ce_source, 0)
            self._publish(topics.events, event)
            if trip is None:
                continue
            self._publish(topics.trips, trip)
            if trip.value is None:
                self._trips.pop(announcement.trip_id, None)
            else:
                self._trips[announcement.trip_id] = trip.value
        self._changelog.update(output.changes)

    def _publish(self, topic: str, message: Message) -> None:
        self._published.setdefault(topic, []).append(OutputRecord(topic, *message))


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
