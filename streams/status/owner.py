"""The process that decides: a term of it, from the fence to whatever ends it.

Of all processes one has the partition of the requests (Kafka's consumer group says which), and so decides. A term is
a straight line:

1. fence: open the transactional producer; whoever decided before can commit nothing any more;
2. read the book back from the changelog, which does not move since the fence;
3. go on, in the requests and in ``trip-events``, from where the book says;
4. over and over: read, decide, and commit events, changed records, answers and positions in one transaction.

Nothing in memory outlives the term. Whatever goes wrong ends it, and what it has not committed has not happened: the
next one, here or elsewhere, begins at 1.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.delivery.checkpoint import partition_for, transact
from streams.delivery.messages import Message
from streams.errors import ClusterError, InternalError, StateError
from streams.runtime.changelog import read_changelog
from streams.runtime.source import close
from streams.status.bodies import UpdateBody
from streams.status.book import META_KEY, Book, read_trip
from streams.status.wire import answer_record, event_message, read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from streams.runtime.fences import Fence
    from streams.settings import Settings
    from streams.status.metrics import StatusMetrics

__all__ = ["REQUESTS", "Term"]

_log = structlog.get_logger(__name__)

REQUESTS: Final = 0
"""The one partition of the requests, and of the changelog."""
_MARK: Final = "status:1"
# How long to wait for the next records; a term that is to end notices within it (milliseconds).
_POLL_MS: Final = 200
# A batch is work without a pause for everything else in the process: a decision takes some 50 µs.
_MAX_RECORDS: Final = 500
# Positions that have moved without any change are written this often (seconds): after a restart less is read again.
_POSITIONS_EVERY: Final = 5.0
# How often it is looked what has been kept for long enough, and whether trip-events has got more partitions (seconds).
_SWEEP_EVERY: Final = 15.0
_TIMEOUT: Final = 60.0


class Term:
    """One term of deciding.

    Args:
        settings: checked.
        fence: of the requests' partition, opened for this term.
        metrics: are told what happens.
        now: epoch seconds.
    """

    def __init__(
        self, settings: Settings, fence: Fence, metrics: StatusMetrics, now: Callable[[], float] = time.time
    ) -> None:
        self.book: Book | None = None
        """From when it has been read back."""
        self._settings = settings
        self._topics = settings.topics
        self._group = f"{settings.application_id}-status"
        self._source = f"/ignition-trips/{settings.application_id}".encode()
        self._producer = fence.producer
        self._metrics = metrics
        self._now = now
        self._requests = TopicPartition(self._topics.status_requests, REQUESTS)
        self._changelog = TopicPartition(self._topics.status_changelog, REQUESTS)
        self._written = 0.0
        self._swept = time.monotonic()

    async def run(self, ending: asyncio.Event, committed: int | None) -> None:
        """Decide, until the term is to end.

        Args:
            ending: set when it is.
            committed: offset of the requests that the group has committed, if any.

        Raises:
            TripsError, KafkaError: it cannot go on.
        """
        began = time.monotonic()
        book = Book(
            retention_ms=int(self._settings.status_retention.total_seconds() * 1000),
            memory_ms=int(self._settings.status_trip_memory.total_seconds() * 1000),
        )
        records = await self._read_back(book, committed)
        consumer = self._new_consumer()
        try:
            await self._take_positions(consumer, book)
            self.book = book
            self._metrics.term()
            _log.info(
                "deciding about planned trips",
                plans=len(book.plans),
                records=records,
                seconds=round(time.monotonic() - began, 3),
            )
            while not ending.is_set():
                await self._round(consumer, book)
        finally:
            self.book = None
            await close(consumer)

    # -- beginning -------------------------------------------------------------------------------------------------

    async def _read_back(self, book: Book, committed: int | None) -> int:
        topic = self._topics.status_changelog

        def take(_: int, records: Sequence[Any]) -> None:
            for record in records:
                try:
                    book.restore([(record.key or b"", record.value)])
                except StateError as error:
                    raise StateError(f"{topic} offset {record.offset}: {error}") from error

        count = await read_changelog(topic, [REQUESTS], self._settings.client(), take)
        try:
            found = book.restored()
        except StateError as error:
            raise StateError(f"{topic}: {error}. {self._without()}") from error
        if not found and committed is not None:
            raise StateError(
                f"{topic} holds no planned trips, but the group {self._group} has decided requests up to offset "
                f"{committed} of {self._topics.status_requests}: the changelog has been deleted or cut off. "
                f"{self._without()}"
            )
        return count

    def _without(self) -> str:
        return (
            "To go on without what it held: stop all processes that serve, delete it, create it with `trips topics "
            "create`, and delete the group's offsets: kafka-consumer-groups.sh --delete-offsets --group "
            f"{self._group} --topic {self._topics.status_requests}"
        )

    def _new_consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._settings.client(),
            isolation_level="read_committed",
            auto_offset_reset="none",  # a position that is not there any more ends the term
            enable_auto_commit=False,
            fetch_max_wait_ms=250,
            max_partition_fetch_bytes=2**20,
        )

    async def _take_positions(self, consumer: AIOKafkaConsumer, book: Book) -> None:
        events = self._topics.events
        try:
            async with asyncio.timeout(_TIMEOUT):
                await consumer.start()
                places = [self._requests, *await self._event_places(consumer)]
                consumer.assign(places)
                ends = await consumer.end_offsets(places)
                begins = await consumer.beginning_offsets(places)
                first = not any(_place_name(events, number) in book.positions for number in range(len(places)))
                starts = await self._first_starts(consumer, ends) if first else {}
        except TimeoutError as error:
            raise ClusterError(f"The brokers do not tell where {events} begins and ends: are they away?") from error
        for place in places:
            name = _place_name(place.topic, place.partition)
            position = book.positions.get(name)
            if position is None:
                position = starts.get(place, begins[place])
            elif not begins[place] <= position <= ends[place]:
                _log.warning(
                    "records are gone before they were read; links may be missing"
                    if place.topic == events
                    else "requests are gone before they were read; they were answered 503",
                    topic=place.topic,
                    partition=place.partition,
                    position=position,
                    begin=begins[place],
                    end=ends[place],
                )
                position = begins[place]
            book.positions[name] = position
            consumer.seek(place, position)

    async def _event_places(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        topic = self._topics.events
        numbers = consumer.partitions_for_topic(topic) or await consumer._client._wait_on_metadata(topic)  # noqa: SLF001
        return [TopicPartition(topic, number) for number in sorted(numbers)]

    async def _first_starts(
        self, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Where trips begin that could be remembered still. All older ones are nothing to us."""
        since = int((self._now() - self._settings.status_trip_memory.total_seconds()) * 1000)
        places = [place for place in ends if place != self._requests]
        found = await consumer.offsets_for_times(dict.fromkeys(places, max(since, 0)))
        # Nothing so new was there: from what was the end before it was asked for.
        return {place: found[place].offset if found.get(place) else ends[place] for place in places}

    # -- a round ---------------------------------------------------------------------------------------------------

    async def _round(self, consumer: AIOKafkaConsumer, book: Book) -> None:
        fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
        answers: list[tuple[bytes, bytes]] = []
        # Announcements first: a plan that is accepted in this round finds the trips that are there.
        for place, records in sorted(fetched.items(), key=lambda one: one[0] == self._requests):
            if place == self._requests:
                answers += self._decide(book, records)
            else:
                self._note(book, records)
            book.positions[_place_name(place.topic, place.partition)] = records[-1].offset + 1
        await self._sweep(consumer, book)
        changes = book.take()
        moved = bool(fetched) and time.monotonic() - self._written > _POSITIONS_EVERY
        if not (changes.records or answers or moved):
            return
        began = time.monotonic()
        messages: defaultdict[TopicPartition, list[Message]] = defaultdict(list)
        for event in changes.events:
            message = event_message(event, self._source)
            messages[await self._place_of(message.key)].append(message)
        # Behind the records their answers: whoever has read an answer has read what it is about.
        items = [*changes.records.items(), (META_KEY, book.meta()), *answers]
        messages[self._changelog] = [Message(key, value, []) for key, value in items]
        offsets = {self._requests: OffsetAndMetadata(book.positions[_place_name(*self._requests)], _MARK)}
        batches = {place: _batches(self._producer, some) for place, some in messages.items()}
        await transact(self._producer, batches, offsets, self._group)
        self._written = time.monotonic()
        self._metrics.committed(changes.events, self._written - began)

    def _decide(self, book: Book, records: Iterable[Any]) -> list[tuple[bytes, bytes]]:
        answers = []
        for record in records:
            try:
                request = read_request(record.value or b"")
            except (KeyError, TypeError, ValueError):
                self._leave_out(record)
                continue
            body = request.body
            if isinstance(body, UpdateBody):
                answer = book.update(body, record.timestamp)
            else:
                answer = book.plan(body, record.timestamp)
            answers.append(answer_record(request.id, record.offset, answer))
        return answers

    def _note(self, book: Book, records: Iterable[Any]) -> None:
        for record in records:
            try:
                trip = read_trip(orjson.loads(record.value or b""), record.timestamp)
            except (KeyError, TypeError, ValueError):
                self._leave_out(record)
                continue
            book.note(trip)

    def _leave_out(self, record: Any) -> None:
        self._metrics.unreadable()
        _log.warning(
            "a record cannot be read, and is left out",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )

    async def _sweep(self, consumer: AIOKafkaConsumer, book: Book) -> None:
        """Forget what has been kept for long enough, once everything from before has been read."""
        if time.monotonic() - self._swept < _SWEEP_EVERY:
            return
        self._swept = time.monotonic()
        places = sorted(consumer.assignment())
        known = consumer.partitions_for_topic(self._topics.events)
        if known and len(known) + 1 != len(places):
            raise ClusterError(f"{self._topics.events} has {len(known)} partitions now: all of them will be read.")
        now = self._now()
        async with asyncio.timeout(_TIMEOUT):
            ends = await consumer.end_offsets(places)
            positions = {place: await consumer.position(place) for place in places}
        if all(positions[place] >= ends[place] for place in places):
            expired = book.expire(int(now * 1000))
            if expired:
                _log.info("planned trips have expired", plans=expired)

    async def _place_of(self, key: bytes | None) -> TopicPartition:
        topic = self._topics.status_events
        count = len(await self._producer.partitions_for(topic))
        return TopicPartition(topic, partition_for(key, count, 0))


def _place_name(topic: str, partition: int) -> str:
    return f"{topic}/{partition}"


def _batches(producer: Any, messages: Iterable[Message]) -> list[Any]:
    builders = [producer.create_batch()]
    for key, value, headers in messages:
        if builders[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
            builders.append(producer.create_batch())
            if builders[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
                raise InternalError("A record does not fit into a batch of its own.")
    return builders
