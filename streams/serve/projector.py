"""Reads the announcements from Kafka into the database, for as long as the process runs.

A projection begins with ``trips``, which holds the latest state of every finished trip for ever. It is read once, up to
where it ended then. After it come all announcements that ``trip-events`` still holds, and those that follow: every
change of ``trips`` is among them. So the projection has all finished trips, however old, and of everything else as much
as the retention of ``trip-events`` has left when it was begun.

How far each partition has been read stands in the database, written in the transaction that writes the rows. There is
no consumer group and nothing to rebalance: every process reads all partitions, and what another one has written already
is passed over.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.errors import ClusterError, DatabaseError, RefusedError, StateError
from streams.runtime.source import close
from streams.runtime.topic_ids import topic_ids
from streams.serve.database import reading, writing
from streams.serve.projection import (
    Position,
    advance,
    apply_announcements,
    apply_latest,
    put_positions,
    read_positions,
)
from streams.serve.tables import projection
from streams.serve.words import read_word
from streams.topics import connect, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Engine

    from streams.serve.metrics import ServeMetrics
    from streams.serve.projection import Place
    from streams.serve.words import Word
    from streams.settings import Settings

__all__ = ["REBUILD", "Projector"]

_log = structlog.get_logger(__name__)

REBUILD: Final = "`trips serve --rebuild` makes it anew from what the topics hold"
# Seconds. A round waits so long for records; the rest is looked at between rounds.
_ROUND: Final = 0.5
_LOOK_EVERY: Final = 1.0
_CHECK_TOPICS_EVERY: Final = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
# Nothing has come for so long, and that only markers of transactions have been read is written as well.
_MARKERS_AFTER: Final = 2.0
# Nothing heard of any broker for so long, and nobody should rely on what is answered being new.
_NOT_READY_AFTER: Final = 30.0
_CONNECT_TIMEOUT: Final = 40.0
# One transaction holds at most so many records: some tens of milliseconds.
_MAX_RECORDS: Final = 2000


class _MovedError(Exception):
    """The positions in the database are not those that we read on from: somebody has begun anew."""


class _Plan(NamedTuple):
    """Where we read on.

    Attributes:
        generation: of the projection that this belongs to.
        positions: as they are in the database, as far as we know.
        read: up to where we have read each partition: beyond its position where markers of transactions follow.
    """

    generation: int
    positions: dict[Place, Position]
    read: dict[Place, int]


class Projector:
    """Keeps the projection up to date.

    Args:
        settings: where the cluster is, and what the topics are called.
        engine: the database.
        metrics: what is counted.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: ServeMetrics) -> None:
        self._settings, self._engine, self._metrics = settings, engine, metrics
        self._topics = settings.topics
        self._consumer: AIOKafkaConsumer | None = None
        self._heard = self._quiet_since = time.monotonic()
        self.caught_up = False
        """Whether everything has been projected that was there when this process began."""

    @property
    def silence(self) -> float:
        """Seconds since a broker was last heard of."""
        consumer = self._consumer
        if consumer is not None:
            for place in consumer.assignment():
                polled = consumer.last_poll_timestamp(place)
                if polled:
                    self._heard = max(self._heard, time.monotonic() - max(0.0, time.time() - polled / 1000))
        return time.monotonic() - self._heard

    @property
    def ready(self) -> bool:
        """Whether the projection is there, and kept up to date."""
        return self.caught_up and self.silence < _NOT_READY_AFTER

    async def run(self) -> None:
        """Project, until cancelled. Brokers and databases that are away are waited for.

        Raises:
            TripsError: it cannot go on by itself: what to do is in the message.
        """
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except _MovedError:
                _log.info("the projection was begun anew")
                self.caught_up = False
                continue
            except (RefusedError, StateError):
                raise
            except (KafkaError, ClusterError, DatabaseError, OSError, TimeoutError) as error:
                if time.monotonic() - began > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                _log.warning("projecting is interrupted", reason=str(error) or repr(error), next_try_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _session(self) -> None:
        """From connecting until something breaks."""
        async with connect(self._settings) as admin:
            found = await describe(admin, [self._topics.events, self._topics.trips])
        missing = [name for name in (self._topics.events, self._topics.trips) if name not in found]
        if missing:
            raise ClusterError(f"Topics are missing: {', '.join(missing)}. `trips topics create` creates them.")
        consumer = AIOKafkaConsumer(
            **self._settings.client(),
            # What an aborted checkpoint has written is not true.
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=2**20,
            fetch_max_wait_ms=500,
            metadata_max_age_ms=int(_CHECK_TOPICS_EVERY * 1000),
        )
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await consumer.start()
            self._heard, self._consumer = time.monotonic(), consumer
            counts = {name: topic.partitions for name, topic in found.items()}
            await self._baseline(consumer, await self._plan(consumer, self._topics.trips, counts))
            await self._follow(consumer, await self._plan(consumer, self._topics.events, counts))
        finally:
            self._consumer = None
            await close(consumer)

    # -- where it goes on --------------------------------------------------------------------------------------------

    async def _plan(self, consumer: AIOKafkaConsumer, topic: str, counts: Mapping[str, int]) -> _Plan:
        """Find, or set, where to read a topic on, and check that it can be read on from there."""
        places = [TopicPartition(topic, number) for number in range(counts[topic])]
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            ends = await consumer.end_offsets(places)  # for a reader of committed records: the last stable offsets
            begins = await consumer.beginning_offsets(places)
        topic_id = (await topic_ids(consumer._client, [topic])).get(topic, b"").hex()  # noqa: SLF001 - it is connected
        once = topic == self._topics.trips
        fresh = {(topic, place.partition): Position(topic_id, begins[place], ends[place]) for place in places}
        generation, positions = await asyncio.to_thread(self._positions, topic, fresh)
        # Only now: others may have gone on beyond where the ends were before.
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            ends = await consumer.end_offsets(places)
        if not once or not all(position.done for position in positions.values()):
            for place, position in positions.items():
                if place not in fresh:
                    raise StateError(f"{topic} had more partitions when the projection was made from it. {REBUILD}.")
                self._check(place, position, fresh[place], ends[TopicPartition(*place)])
        return _Plan(generation, positions, {place: position.next_offset for place, position in positions.items()})

    def _positions(self, topic: str, fresh: Mapping[Place, Position]) -> tuple[int, dict[Place, Position]]:
        """Those in the database; where there are none of this topic yet, the fresh ones are put there."""
        with writing(self._engine) as (connection, generation):
            there = {place: position for place, position in read_positions(connection).items() if place[0] == topic}
            if not there:
                added = dict(fresh)
            elif topic == self._topics.trips:
                added = {}  # it is read once
            else:
                # Partitions that were added since: read from their very beginning.
                added = {
                    place: position._replace(next_offset=0, until=None)
                    for place, position in fresh.items()
                    if place not in there
                }
            put_positions(connection, added)
        return generation, there | added

    def _check(self, place: Place, position: Position, found: Position, end: int) -> None:
        where = f"{place[0]} partition {place[1]}"
        if position.topic_id and found.topic_id and position.topic_id != found.topic_id:
            raise StateError(
                f"{where} is not the topic that the projection was made from (up to offset {position.next_offset}): it "
                f"has been deleted and created anew. {REBUILD}."
            )
        if position.next_offset > end:
            raise StateError(
                f"{where} ends at offset {end}, but the projection goes on from {position.next_offset}: records are "
                f"lost, or the topic has been created anew. {REBUILD}."
            )
        if position.next_offset < found.next_offset:
            raise StateError(
                f"{where} begins at offset {found.next_offset}: records {position.next_offset} to "
                f"{found.next_offset - 1} were deleted before they were projected. {REBUILD}."
            )

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _baseline(self, consumer: AIOKafkaConsumer, plan: _Plan) -> None:
        """All of ``trips`` as it was when the projection was begun."""
        left = {place: position.until for place, position in plan.positions.items() if not position.done}
        if not left:
            return
        began = time.monotonic()
        self._seek(consumer, plan, left)
        while left:
            await self._round(consumer, plan, set(left))
            for place in [place for place in left if plan.positions[place].done]:
                del left[place]
                consumer.pause(TopicPartition(*place))
        _log.info("finished trips are projected", seconds=round(time.monotonic() - began, 1))

    async def _follow(self, consumer: AIOKafkaConsumer, plan: _Plan) -> None:
        """All announcements, and those that come."""
        places = set(plan.positions)
        self._seek(consumer, plan, places)
        ends = await consumer.end_offsets([TopicPartition(*place) for place in places])
        looked = checked = began = time.monotonic()
        while True:
            wrote = await self._round(consumer, plan, places)
            now = time.monotonic()
            if not self.caught_up and all(
                plan.read[place.topic, place.partition] >= end for place, end in ends.items()
            ):
                self.caught_up = True
                _log.info("the projection has caught up", seconds=round(now - began, 1))
            if not wrote and now - looked > _LOOK_EVERY:
                looked = now
                if await asyncio.to_thread(self._generation) != plan.generation:
                    raise _MovedError
            if now - checked > _CHECK_TOPICS_EVERY:
                checked = now
                await self._look_at_topic(consumer, plan)

    async def _look_at_topic(self, consumer: AIOKafkaConsumer, plan: _Plan) -> None:
        events = self._topics.events
        now = consumer.partitions_for_topic(events)
        if now is not None and len(now) != len(plan.positions):
            raise ClusterError(f"{events} has {len(now)} partitions, not {len(plan.positions)} any more: looking anew")
        found = (await topic_ids(consumer._client, [events])).get(events, b"").hex()  # noqa: SLF001 - as above
        known = plan.positions[events, 0].topic_id
        if known and found and found != known:
            raise ClusterError(f"{events} is another topic now: looking anew")

    def _seek(self, consumer: AIOKafkaConsumer, plan: _Plan, places: Iterable[Place]) -> None:
        consumer.assign([TopicPartition(*place) for place in sorted(places)])
        for place in places:
            consumer.seek(TopicPartition(*place), plan.read[place])

    async def _round(self, consumer: AIOKafkaConsumer, plan: _Plan, places: Iterable[Place]) -> bool:
        """What the next fetch brings. Whether anything was written."""
        fetched: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
            timeout_ms=int(_ROUND * 1000), max_records=_MAX_RECORDS
        )
        records = [record for some in fetched.values() for record in some]
        # Behind the last record there may be markers of transactions: they are read as well.
        for place in places:
            plan.read[place] = await consumer.position(TopicPartition(*place))
        # Markers alone are not worth a transaction, unless the end is waited for, or nothing else comes: when all has
        # expired, a position before a marker would be that of a record that is missing.
        if records:
            self._quiet_since = time.monotonic()
        worth = bool(records) or time.monotonic() - self._quiet_since > _MARKERS_AFTER
        ahead = {
            place: plan.read[place]
            for place in places
            if plan.read[place] > plan.positions[place].next_offset and (worth or plan.positions[place].unfinished)
        }
        if ahead:
            began = time.monotonic()
            for place, offset in (await asyncio.to_thread(self._write, plan, records, ahead)).items():
                plan.positions[place] = plan.positions[place]._replace(next_offset=offset)
                if offset > plan.read[place]:  # another process is further than we are
                    plan.read[place] = offset
                    consumer.seek(TopicPartition(*place), offset)
            self._metrics.written(len(records), time.monotonic() - began)
        self._metrics.lag = {
            place: max(0, (consumer.last_stable_offset(TopicPartition(*place)) or 0) - plan.read[place])
            for place in places
        }
        return bool(ahead)

    # -- writing, in a thread ----------------------------------------------------------------------------------------

    def _generation(self) -> int:
        with reading(self._engine) as connection:
            generation: int = connection.execute(projection.select()).one().generation
            return generation

    def _write(self, plan: _Plan, records: Sequence[Any], ahead: Mapping[Place, int]) -> dict[Place, int]:
        """Write what records mean, and how far they go; returns how far the database is then.

        Raises:
            _MovedError: the database is not where we go on from.
        """
        read = [(record, self._word(record)) for record in records]
        with writing(self._engine) as (connection, generation):
            there = read_positions(connection)
            if generation != plan.generation or any(
                place not in there or there[place].next_offset < plan.positions[place].next_offset for place in ahead
            ):
                raise _MovedError
            # Of `trips` no more than there was when the projection was begun: what follows is in `trip-events` as well,
            # and another process may have projected more of that already.
            up_to = {
                place: offset if place[0] == self._topics.events else min(offset, there[place].until or 0)
                for place, offset in ahead.items()
            }
            new = [
                (record, word)
                for record, word in read
                if there[place := (record.topic, record.partition)].next_offset <= record.offset < up_to.get(place, 0)
            ]
            apply_latest(
                connection,
                (
                    (record.key.decode(errors="replace"), word)
                    for record, word in new
                    if record.topic == self._topics.trips and record.key is not None and (word or record.value is None)
                ),
            )
            apply_announcements(
                connection, [word for record, word in new if record.topic == self._topics.events and word is not None]
            )
            positions = {place: max(offset, there[place].next_offset) for place, offset in up_to.items()}
            advance(connection, positions)
        return positions

    def _word(self, record: Any) -> Word | None:
        if record.value is None:
            return None
        try:
            return read_word(record.value)
        except ValueError as error:
            # Not one of ours: nobody's trips stop because of it.
            _log.warning(
                "a record is no announcement, and passed over",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=str(error),
            )
            self._metrics.skipped()
            return None
