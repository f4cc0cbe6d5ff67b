"""Deleting a trip: the command is sent to the partition that the vehicle is in, and its outcome waited for.

The worker of that partition does it: see docs/deletion.md. Whoever asks finds the trip first, in ``trips`` or among the
announcements, because only those tell whose it is and which partition its vehicle is in.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from ulid import ULID

from streams.delivery.checkpoint import partition_for
from streams.delivery.messages import HEADER_PARTITION, HEADER_REASONS
from streams.errors import ClusterError, UnknownTripError, UsageError
from streams.local.tail import read_to_end
from streams.telemetry.problems import Reason
from streams.topics import connect, describe
from streams.trips.content import iso
from streams.trips.identity import identify, start_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from streams.settings import Settings

__all__ = ["Deletion", "request_deletion"]

# Announcements of a trip are written after it has started, by the clocks of vehicle and worker: a day for both.
_CLOCKS_APART_MS: Final = 24 * 3_600_000
_LOOK_EVERY_MS: Final = 250
_DELETED: Final = "TripDeleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What became of a request.

    Attributes:
        state: ``deleted``: now, because of this request. ``already_deleted``: it was before. ``requested``: no worker
            has answered in time; the command stays, and will be carried out.
        requested_at: RFC 3339; of one that was deleted before: by that request.
        command_id: of the command that was sent; None: none was needed.
    """

    trip_id: str
    vehicle_id: str
    state: Literal["deleted", "already_deleted", "requested"]
    requested_at: str
    command_id: str | None


async def request_deletion(
    settings: Settings, trip_id: str, *, vehicle_id: str | None = None, within: float = 30.0
) -> Deletion:
    """Have a trip deleted.

    Args:
        settings: where the cluster is, and what the topics are called.
        trip_id: which trip.
        vehicle_id: whose it is, if that is known: less has to be read, and a worker that knows the trip deletes it
            also when no announcement of it is left.
        within: for how many seconds to wait for the worker's answer, once the command is sent.

    Returns:
        What became of it. It may be repeated.

    Raises:
        UsageError: this is no trip id, or not one of this vehicle.
        UnknownTripError: nobody knows such a trip.
        ClusterError: the cluster is away, or a topic is missing.
    """
    start = start_of(trip_id)
    if start is None:
        raise UsageError(f"{trip_id!r} is no trip id: it has 26 letters and digits, as in 01DBV9PR1RCZJY1A9JY81DH3MH.")
    if vehicle_id is not None and identify(vehicle_id, start).id != trip_id:
        raise UsageError(f"{trip_id} is not a trip of vehicle {vehicle_id!r}: an id holds whose it is.")
    counts = await _partition_counts(settings)
    consumer = AIOKafkaConsumer(
        **settings.client(), isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        return await _Request(
            settings, counts, consumer, trip_id=trip_id, start=start, vehicle_id=vehicle_id
        ).carry_out(within)
    except (KafkaError, OSError) as error:
        raise ClusterError(f"The Kafka cluster at {settings.bootstrap_servers} refuses: {error!r}") from error
    finally:
        await consumer.stop()


async def _partition_counts(settings: Settings) -> dict[str, int]:
    topics = settings.topics
    names = [topics.telemetry, topics.commands, topics.events, topics.trips, topics.dead_letters]
    async with connect(settings) as admin:
        found = await describe(admin, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise ClusterError(f"Missing: {', '.join(missing)}. `trips topics create` creates what is missing.")
    return {name: topic.partitions for name, topic in found.items()}


@dataclass(frozen=True, slots=True)
class _Word:
    """The last announcement of a trip that is still there."""

    vehicle_id: str
    event: str
    revision: int
    end: str | None
    occurred_at: str


class _Request:
    def __init__(
        self,
        settings: Settings,
        counts: dict[str, int],
        consumer: AIOKafkaConsumer,
        *,
        trip_id: str,
        start: int,
        vehicle_id: str | None,
    ) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._counts = counts
        self._consumer = consumer
        self._trip_id = trip_id
        self._since = max(0, start - settings.max_clock_skew_ms - _CLOCKS_APART_MS)
        self._vehicle_id = vehicle_id
        self._partition: int | None = None
        """That the newest announcement of the trip, else of its vehicle, names."""

    async def carry_out(self, within: float) -> Deletion:
        word = await self._in_trips() or await self._in_events()
        if word is not None and word.event == _DELETED:
            return Deletion(
                trip_id=self._trip_id,
                vehicle_id=word.vehicle_id,
                state="already_deleted",
                requested_at=word.occurred_at,
                command_id=None,
            )
        vehicle_id = word.vehicle_id if word is not None else self._vehicle_id
        if vehicle_id is None:
            raise UnknownTripError(
                f"There is no trip {self._trip_id}: {self._topics.trips} and {self._topics.events} hold nothing of it. "
                "If its announcements have expired, name its vehicle."
            )
        return await self._send(vehicle_id, word, within)

    # -- finding it --------------------------------------------------------------------------------------------------

    async def _in_trips(self) -> _Word | None:
        """What the compacted topic holds of it; a trip that it holds is not deleted."""
        place = self._place(self._topics.trips, self._trip_id)
        found = None
        async for record in self._read([place]):
            if record.key == self._trip_id.encode():
                found = record
        return None if found is None or found.value is None else self._take(found)

    async def _in_events(self) -> _Word | None:
        """The last announcement of it."""
        topic = self._topics.events
        if self._vehicle_id is None:
            places = [TopicPartition(topic, number) for number in range(self._counts[topic])]
        else:
            places = [self._place(topic, self._vehicle_id)]
        trip, vehicle = self._trip_id.encode(), self._vehicle_id and self._vehicle_id.encode()
        latest = found = None
        async for record in self._read(places):
            if record.value is None:
                continue
            if _header(record, "ce_subject") == trip:
                found = record
                if _header(record, "ce_type") == _DELETED.encode():
                    break
            elif record.key == vehicle:
                latest = record
        if found is not None:
            return self._take(found)
        if latest is not None:
            self._take(latest)
        return None

    async def _read(self, places: list[TopicPartition]) -> AsyncIterator[Any]:
        """The records of partitions since the trip can have been announced."""
        consumer = self._consumer
        consumer.assign(places)
        starts = await consumer.offsets_for_times(dict.fromkeys(places, self._since))
        for place in places:
            if starts.get(place) is None:
                await consumer.seek_to_end(place)
            else:
                consumer.seek(place, starts[place].offset)
        async for record in read_to_end(consumer):
            yield record

    def _take(self, record: Any) -> _Word:
        partition = _header(record, HEADER_PARTITION)
        if partition is not None:
            self._partition = int(partition)
        payload = orjson.loads(record.value)
        trip = payload["data"]["trip"]
        return _Word(
            trip["vehicle_id"],
            payload["metadata"]["type"],
            int(trip["revision"]),
            trip.get("end", {}).get("timestamp"),
            payload["data"]["occurred_at"],
        )

    def _place(self, topic: str, key: str) -> TopicPartition:
        return TopicPartition(topic, partition_for(key.encode(), self._counts[topic], 0))

    # -- having it done ----------------------------------------------------------------------------------------------

    async def _send(self, vehicle_id: str, word: _Word | None, within: float) -> Deletion:
        topics, now = self._topics, time.time_ns() // 1_000_000
        command_id = str(ULID(now.to_bytes(6, "big") + os.urandom(10)))
        requested_at = iso(now)
        command: dict[str, Any] = {
            "type": "DeleteTrip",
            "id": command_id,
            "trip_id": self._trip_id,
            "vehicle_id": vehicle_id,
            "requested_at": requested_at,
        }
        if word is not None:
            command["revision"] = word.revision
            if word.end is not None:
                command["end"] = word.end
        partition = self._partition
        if partition is None or partition >= self._counts[topics.telemetry]:
            partition = partition_for(vehicle_id.encode(), self._counts[topics.telemetry], 0)
        if partition >= self._counts[topics.commands]:
            raise ClusterError(
                f"{topics.commands} has no partition {partition}, as {topics.telemetry} has: see `trips topics check`."
            )

        # Where the answer will be. From here on, and the command only then.
        places = [self._place(topics.events, vehicle_id), self._place(topics.dead_letters, vehicle_id)]
        self._consumer.assign(places)
        for place, end in (await self._consumer.end_offsets(places)).items():
            self._consumer.seek(place, end)
        await self._produce(orjson.dumps(command), vehicle_id.encode(), partition)

        outcome = await self._outcome(command_id, within)
        if outcome == Reason.UNKNOWN_TRIP:
            raise UnknownTripError(
                f"There is no trip {self._trip_id} of vehicle {vehicle_id!r}: nothing was announced about it that is "
                "still there, and the worker does not know it."
            )
        if outcome not in ("requested", "deleted", Reason.ALREADY_DELETED):
            raise ClusterError(f"The worker has refused the command {command_id}: {outcome}")
        return Deletion(
            trip_id=self._trip_id,
            vehicle_id=vehicle_id,
            state=outcome,  # type: ignore[arg-type]
            requested_at=requested_at,
            command_id=command_id,
        )

    async def _produce(self, value: bytes, key: bytes, partition: int) -> None:
        producer = AIOKafkaProducer(**self._settings.client(), acks="all", enable_idempotence=True)
        await producer.start()
        try:
            await producer.send_and_wait(self._topics.commands, value, key=key, partition=partition)
        finally:
            await producer.stop()

    async def _outcome(self, command_id: str, within: float) -> str:
        """``deleted``, why the command was refused, or ``requested`` if nobody answers."""
        until = time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            batches = await self._consumer.getmany(timeout_ms=min(_LOOK_EVERY_MS, int(left * 1000) + 1))
            outcome = self._look_for(command_id, [record for records in batches.values() for record in records])
            if outcome is not None:
                return outcome
            await asyncio.sleep(0)
        return "requested"

    def _look_for(self, command_id: str, records: Iterable[Any]) -> str | None:
        for record in records:
            if record.topic == self._topics.events:
                if (
                    _header(record, "ce_subject") == self._trip_id.encode()
                    and _header(record, "ce_type") == b"TripDeleted"
                ):
                    return "deleted"
            elif command_id.encode() in (record.value or b""):
                return (_header(record, HEADER_REASONS) or b"").decode()
        return None


def _header(record: Any, name: str) -> bytes | None:
    """The last of this name: ours come after those that a record came with."""
    return next((value for one, value in reversed(record.headers) if one == name), None)
