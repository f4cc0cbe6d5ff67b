"""One Faust event for what a fetch has brought: its cost is paid once for all of it, and not per message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage

from streams.errors import ClusterError
from streams.runtime.decoding import replace_decoder
from streams.runtime.logs import FAUST_LOGGER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from streams.records import Record
    from streams.runtime.decoding import Portion

__all__ = ["Batch", "BatchConsumer", "BatchSchema", "BatchTransport", "Progress"]

# How long a fetch waits for records, in seconds. A rebalance waits for the fetch that is under way.
_FETCH_WAIT: Final = 0.25
# What Faust sleeps between looks when all partitions are full is 1 s.
_FULL_WAIT: Final = 0.005
# More records than this at once are several events: others are to have their turn.
_EVENT_RECORDS: Final = 500
# aiokafka asks for the group's offsets for ever; a coordinator that moves is back within this, in seconds.
_COMMITTED_TIMEOUT: Final = 30.0


class Batch(NamedTuple):
    """A portion of what a fetch has brought, of one partition.

    Attributes:
        records: at least one, in order.
        sequence: counts the batches of this partition since its position was last set, from 0. A batch that does not
            follow the one before it means that one was lost on its way through the worker.
        generation: the consumer group's generation that it was fetched in.
    """

    partition: int
    records: Sequence[Record]
    sequence: int
    generation: int


class Progress(NamedTuple):
    """How far a partition is read.

    Attributes:
        position: the offset of the next record to be fetched.
        end: the last stable offset, as of the last answer of the broker; None: no answer yet.
        answered_ms: when that answer came, by the wall clock.
        batches: how many batches came of it so far.
    """

    position: int
    end: int | None
    answered_ms: int | None
    batches: int


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """Decodes nothing: the event's value is a list of :class:`Batch`."""

    def compile(
        self,
        app: Any,
        *,
        on_key_decode_error: Any,  # noqa: ARG002 - the signature is Faust's
        on_value_decode_error: Any,  # noqa: ARG002
        default_propagate: bool = False,  # noqa: ARG002
    ) -> Callable[..., Any]:
        """What Faust calls for each message."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001
            return create_event(None, message.value, [], message)

        return decode


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Makes the group's consumer with the settings of this project instead of Faust's translation of them."""

    logger = FAUST_LOGGER

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:  # noqa: ARG002 - Faust's signature
        replace_decoder()
        self._assignor = self.app.assignor
        return AIOKafkaConsumer(**self.app.worker.consumer_settings, partition_assignment_strategy=[self._assignor])


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Delivers batches, commits nothing, and loses nothing at a rebalance.

    Faust's own consumer commits what its agents have acknowledged, which they also do when they fail, and drops
    records that were fetched while a rebalance was under way. Here offsets are committed by the checkpoints alone, and
    between setting the positions and reading on nothing is fetched.
    """

    logger = FAUST_LOGGER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fetching = asyncio.Lock()
        """Held while a fetch is under way. Whoever holds it can set positions and resume partitions safely."""
        self._sequences: dict[Any, int] = {}

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, ConsumerMessage]]:  # noqa: ASYNC109 - Faust's
        """One message for all that the fetch has brought; several where that is much."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        async with self.fetching:
            messages = await self._fetch(min(timeout, _FETCH_WAIT))
        for message in messages:
            yield message.tp, message

    async def _fetch(self, timeout: float) -> list[ConsumerMessage]:  # noqa: ASYNC109 - aiokafka's
        generation = self.app.consumer_generation_id
        # A copy: Faust changes the set while the fetch is under way, and to aiokafka an empty set means all partitions.
        active = frozenset(self._get_active_partitions())
        if not (active and self.flow_active):
            await asyncio.sleep(_FULL_WAIT)
            return []
        try:
            fetched = await self._thread.getmany(active, timeout)
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            if self._interrupted(generation):
                return []
            raise ClusterError(_gone(error, self.app.worker.topics.telemetry)) from error
        if self._interrupted(generation):
            return []
        return [self._message(batches) for batches in _events(self._batches(fetched, generation))]

    def _interrupted(self, generation: int) -> bool:
        """A rebalance has begun: before anything else is read, positions are set to where each partition goes on."""
        return self.should_stop or not self.flow_active or generation != self.app.consumer_generation_id

    def _batches(self, fetched: Mapping[Any, Iterable[Portion]], generation: int) -> Iterator[Batch]:
        for tp, portions in fetched.items():
            for portion in portions:
                sequence = self._sequences.get(tp, 0)
                self._sequences[tp] = sequence + 1
                yield Batch(tp.partition, portion.records, sequence, generation)

    def _message(self, batches: Sequence[Batch]) -> ConsumerMessage:
        """What Faust makes an event of. To it that is a record of the first partition, which it has not seen yet."""
        first = batches[0]
        tp = TopicPartition(self.app.worker.topics.telemetry, first.partition)
        last = first.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000,
            None,
            [],
            None,
            batches,
            None,
            0,
            0,
            tp,
            generation_id=first.generation,
        )

    async def seek_to_committed(self) -> Mapping[Any, int]:
        """Set every position to where the worker goes on; to Faust, that is what is committed."""
        topic = self.app.worker.topics.telemetry
        starts = {TopicPartition(topic, number): start.offset for number, start in self.app.worker.starts.items()}
        await self._thread.call_thread(self._set_positions, starts)
        self._sequences.clear()
        return starts

    async def _set_positions(self, starts: Mapping[TopicPartition, int]) -> None:
        consumer = self._thread._ensure_consumer()  # noqa: SLF001
        for place, offset in starts.items():
            consumer.seek(place, offset)

    async def committed(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """The group's offsets, of those partitions that have one.

        Raises:
            ClusterError: the group's coordinator does not answer.
        """
        offsets: Mapping[TopicPartition, OffsetAndMetadata] = await self._thread.call_thread(
            self._committed, list(places)
        )
        return offsets

    async def _committed(self, places: list[TopicPartition]) -> Any:
        coordinator = self._thread._ensure_consumer()._coordinator  # noqa: SLF001 - the public way leaves metadata out
        try:
            async with asyncio.timeout(_COMMITTED_TIMEOUT):
                return await coordinator.fetch_committed_offsets(places)
        except TimeoutError:
            raise ClusterError(
                f"The group's coordinator did not tell its offsets within {_COMMITTED_TIMEOUT:.0f} s: are brokers away?"
            ) from None

    @property
    def in_touch(self) -> bool:
        """Whether the group's coordinator answers; told by the last heartbeat."""
        consumer = self._thread._consumer  # noqa: SLF001
        return consumer is not None and consumer._coordinator.coordinator_id is not None  # noqa: SLF001

    def progress(self, tp: TopicPartition) -> Progress | None:
        """How far a partition is read; None: not known, or not ours."""
        assignment = self._thread._ensure_consumer()._subscription.subscription.assignment  # noqa: SLF001
        state = assignment.state_value(tp) if assignment is not None else None
        if state is None or not state.has_valid_position:
            return None
        return Progress(state.position, state.lso, state.timestamp, self._sequences.get(tp, 0))

    async def partition_count(self, topic: str) -> int:
        """How many partitions the topic has; 0: the brokers do not know of it."""
        consumer = self._thread._ensure_consumer()  # noqa: SLF001
        if not consumer.partitions_for_topic(topic):
            await self._thread.call_thread(consumer._client.force_metadata_update)  # noqa: SLF001 - no public way to it
        return len(consumer.partitions_for_topic(topic) or ())

    def ack(self, message: Any) -> bool:
        """Faust's word that an event has been handled; it means nothing here."""
        message.acked = True
        self._unacked_messages.discard(message)
        return False

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002
        """Faust commits nothing: offsets are part of the checkpoints."""
        return False

    async def wait_empty(self) -> None:
        """Called when partitions are given up or the worker stops: finish what has been read."""
        await self.app.worker.drain()

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Faust's bookkeeping of offsets that hold no record, for its commits."""

    async def verify_all_partitions_active(self) -> None:
        """Faust's watch over its own commits."""


class BatchTransport(driver.Transport):  # type: ignore[misc]
    """Faust's Kafka, with our consumer."""

    Consumer = BatchConsumer


def _events(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Batches in order, together as long as they have few records."""
    together: list[Batch] = []
    count = 0
    for batch in batches:
        if together and count + len(batch.records) > _EVENT_RECORDS:
            yield together
            together, count = [], 0
        together.append(batch)
        count += len(batch.records)
    if together:
        yield together


def _gone(error: Exception, topic: str) -> str:
    """What a position that is not there means, when nobody has told us of a new one."""
    at = error.args[0] if error.args else None
    places = sorted(at.items()) if isinstance(at, dict) else []
    where = ", ".join(f"partition {place.partition} offset {offset}" for place, offset in places) or repr(at)
    return (
        f"{topic} {where}: there is no such position any more. Records that were not read yet have been deleted, or "
        "the topic has been cut off or created anew. Start again: what is missing, and what to do, is said then."
    )
