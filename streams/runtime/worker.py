"""The partitions of this worker: taken over, worked on, given up; and what ends the worker.

Kafka decides who has which partition, and Faust tells us (``streams.runtime.recovery``). Between two assignments the
worker is *open*: batches are applied. Whatever fails in here ends the process: what is in memory is then ahead of what
is committed, and nobody else may build on it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import faust
import structlog
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition
from faust.app.base import BootStrategy
from yarl import URL

from streams.delivery.at_least_once import AtLeastOnceCheckpointer
from streams.delivery.checkpoint import OFFSET_MARK, Checkpointer
from streams.errors import ClusterError, InternalError, StateError, TripsError
from streams.runtime.batches import BatchSchema, BatchTransport
from streams.runtime.changelog import read_changelog
from streams.runtime.cluster import check_partition_counts
from streams.runtime.commands import check_commands_id
from streams.runtime.garbage import no_collections
from streams.runtime.logs import FAUST_LOGGER
from streams.runtime.partition import Observer, Partition
from streams.runtime.positions import START_ANEW, Found, Names, Start, check_ids, refuse, start_of
from streams.runtime.recovery import PartitionTableManager, VehicleTable
from streams.runtime.source import Bounds, log_bounds
from streams.runtime.topic_ids import topic_ids
from streams.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from streams.delivery.checkpoint import Destinations
    from streams.runtime.batches import Batch, BatchConsumer
    from streams.runtime.commands import Commanded, Commands, Plan
    from streams.runtime.fences import Fence, Fences
    from streams.runtime.partition import CheckpointTaker, PartitionProcessor
    from streams.settings import Topics

__all__ = ["App", "Worker", "WorkerMetrics", "run_and_end"]

_log = structlog.get_logger(__name__)

# Seconds. A rebalance goes on without a member that takes longer than its rebalance timeout (set to 30 s).
_DRAIN_TIMEOUT: Final = 20.0
# No answer from any broker for so long, and the worker is not ready: it may still come back by itself.
_NOT_READY_AFTER: Final = 30.0
# What people hear of before that. A long poll is answered twice a second.
_SILENT_AFTER: Final = 5.0
# How often the clocks of quiet partitions are looked at.
_TICK: Final = 0.25
# How often it is looked whether the topics are still the same ones.
_LOOK_EVERY: Final = 10.0
# A worker that has failed and cannot even stop is ended by force.
_GRACE: Final = 8.0


class WorkerMetrics(Observer, Protocol):
    """What is told what happens, and shown to whoever asks: :class:`streams.runtime.metrics.Metrics`."""

    registry: CollectorRegistry

    def show(self, worker: Any) -> None:
        """Show how a worker is when somebody asks."""

    def rebalanced(self) -> None:
        """Partitions (perhaps none) were assigned."""

    def lost(self, records: int) -> None:
        """Records of the source are gone, and will not be missed."""

    def recovered(self, records: int, seconds: float) -> None:
        """Partitions were taken over."""


class Worker:
    """What this process does for the application.

    Args:
        topics: the names.
        destinations: where checkpoints go.
        client: where the cluster is.
        consumer_settings: keyword arguments for the group's consumer.
        fences: the producers.
        new_processor: makes the empty processor of a partition.
        partition_count: how many partitions the state is of.
        commit_interval: seconds.
        patience: seconds from the first change to a checkpoint that announces nothing; None: the same.
        metrics: are told what happens.
        anew: what to do where nothing else helps, for the messages.
        commands: what else comes in, if something does.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        destinations: Destinations,
        client: Mapping[str, Any],
        consumer_settings: Mapping[str, Any],
        fences: Fences,
        new_processor: Callable[[int], PartitionProcessor],
        partition_count: int,
        commit_interval: float,
        patience: float | None = None,
        metrics: WorkerMetrics,
        anew: str = START_ANEW,
        commands: Commands | None = None,
    ) -> None:
        self.topics = topics
        self.consumer_settings = consumer_settings
        self.metrics = metrics
        self.partitions: dict[int, Partition] = {}
        """Those that are worked on; empty while the worker is not open."""
        self.starts: dict[int, Start] = {}
        """Where those that were taken over last go on."""
        self.answered = time.monotonic()
        """When a broker was last heard of: by an answer to a fetch or, without partitions, by a heartbeat."""
        self._silent = False
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self._destinations = destinations
        self._client = client
        self._fences = fences
        self._new_processor = new_processor
        self._commit_interval = commit_interval
        self._patience = patience
        self._partition_count = partition_count
        self._generation: int | None = None
        self._consumer: BatchConsumer | None = None
        self._names = Names(destinations.application_id, topics.telemetry, topics.changelog, anew)
        self._commands = commands
        self._plans: dict[int, Plan] = {}
        self._look: asyncio.Task[None] | None = None
        self._looked = 0.0
        # Processors whose state is exactly what is committed: recovered and not yet open, or drained.
        self._settled: dict[int, PartitionProcessor] = {}
        self._fenced: dict[int, Fence] = {}
        self._home: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None
        self._watchdog: Watchdog | None = None
        metrics.show(self)

    @property
    def ready(self) -> bool:
        """Partitions (perhaps none) are assigned and recovered, the brokers answer, and nothing has failed."""
        if self._generation is None or self.failure is not None:
            return False
        return time.monotonic() - self.answered < _NOT_READY_AFTER

    # -- assignments ---------------------------------------------------------------------------------------------

    async def take_over(self, numbers: set[int], generation: int, consumer: BatchConsumer) -> None:
        """Fence partitions off from whoever had them, and read their state back.

        May be cancelled at any point, when Kafka has changed its mind.

        Raises:
            TripsError, KafkaError: it cannot be done.
        """
        began = time.monotonic()
        _log.info("partitions assigned", partitions=_ranges(numbers), generation=generation)
        self.metrics.rebalanced()
        self._consumer = consumer
        count = await consumer.partition_count(self.topics.telemetry)
        if not count:
            # Whoever leads the group and does not see the topic gives nobody anything, and nobody would notice.
            raise ClusterError(f"The brokers do not know of {self.topics.telemetry} (any more).")
        check_partition_counts(self.topics, count, self._partition_count)

        # 1. Fence. Whatever was going on in a partition is over after this, one way or the other.
        self._fenced = await self._fences.renew(numbers)

        # 2. What we know of a partition holds if nobody else has had it in between.
        self._settled = {
            number: processor
            for number, processor in self._settled.items()
            if number in self._fenced and self._fenced[number].unbroken
        }

        # 3. Read the rest back.
        unknown = {number: self._new_processor(number) for number in numbers if number not in self._settled}
        with no_collections():
            count = await read_changelog(
                self.topics.changelog,
                sorted(unknown),
                self._client,
                lambda partition, records: self._restore(partition, unknown[partition], records),
                self._names.anew,
            )
            for number, processor in unknown.items():
                try:
                    processor.restored()
                except StateError as error:
                    raise StateError(
                        f"{self.topics.changelog} partition {number}: {error}. To go on, {self._names.anew}."
                    ) from error

        # 4. Find out where each goes on in the source. Only now: it is for good since the fence.
        processors = self._settled | unknown
        self.starts = await self._starts(processors, consumer)
        self._settled = processors
        seconds = time.monotonic() - began
        self.metrics.recovered(count, seconds)
        _log.info("state recovered", partitions=_ranges(unknown), records=count, seconds=round(seconds, 3))

    def _restore(self, partition: int, processor: PartitionProcessor, records: Sequence[Any]) -> None:
        items = iter([(record.key or b"", record.value) for record in records])
        try:
            processor.restore(items)
        except StateError as error:
            offset = records[-1 - length_hint(items)].offset  # of the one that was taken last
            raise StateError(f"{self.topics.changelog} partition {partition} offset {offset}: {error}") from error

    async def _starts(self, processors: Mapping[int, PartitionProcessor], consumer: BatchConsumer) -> dict[int, Start]:
        """Where partitions go on in the source.

        Raises:
            TripsError: nowhere: something is missing, or not what it was.
        """
        ids = await self._topic_ids()
        bounds = await log_bounds(self.topics.telemetry, sorted(processors), self._client)
        places = {number: TopicPartition(self.topics.telemetry, number) for number in processors}
        committed = await consumer.committed(places.values()) if places else {}
        starts: dict[int, Start] = {}
        problems: list[tuple[int, TripsError]] = []
        for number, processor in processors.items():
            at = committed.get(places[number])
            found = Found(
                begin=bounds[number].begin,
                end=bounds[number].end,
                committed=None if at is None else at.offset,
                marked=at is not None and at.metadata == OFFSET_MARK,
            )
            standing = processor.standing
            try:
                check_ids(self._names, standing, ids, where=f" partition {number}")
                starts[number] = start_of(number, self._names, standing, found, empty=not processor.vehicles)
            except TripsError as error:
                problems.append((number, error))
            begins = standing.next_offset is None and not processor.vehicles
            processor.standing = standing._replace(
                backlog_end=found.end if begins else standing.backlog_end,
                telemetry_id=ids.get(self.topics.telemetry, standing.telemetry_id),
                changelog_id=ids.get(self.topics.changelog, standing.changelog_id),
            )
        if problems:
            refuse(problems)
        if self._commands is not None:
            await self._plan_commands(self._commands, processors, bounds, ids.get(self._commands.topic))
        return starts

    async def _plan_commands(
        self,
        commands: Commands,
        processors: Mapping[int, PartitionProcessor],
        bounds: Mapping[int, Bounds],
        topic_id: bytes | None,
    ) -> None:
        standings = {number: processor.standing for number, processor in processors.items()}
        ends = {number: each.end for number, each in bounds.items()}
        self._plans = await commands.plan(standings, ends, topic_id)
        for number, processor in processors.items():
            cast("Commanded", processor).hold(self._plans[number].held)
            standing = processor.standing
            # While commands are held none of this topic is done, whatever was done of the one before it.
            done = None if self._plans[number].until is not None else standing.next_command
            processor.standing = standing._replace(commands_id=topic_id or standing.commands_id, next_command=done)

    async def _topic_ids(self) -> dict[str, bytes]:
        """Those of source, changelog and commands, as far as they are known."""
        topics = [self.topics.telemetry, self.topics.changelog]
        if self._commands is not None:
            topics.append(self._commands.topic)
        for fence in self._fenced.values():
            return await topic_ids(fence.producer.client, topics)
        return {}

    def open(self, generation: int) -> None:
        """Work on what was taken over, from here on."""
        processors, self._settled = self._settled, {}
        self._generation = generation
        self.answered = self._looked = time.monotonic()
        self.partitions = {
            number: Partition(
                number,
                processor,
                self.checkpointer(self._fenced[number], number),
                start=self.starts[number].offset,
                interval=self._commit_interval,
                observer=self.metrics,
                fail=self.fail,
                plan=self._plans.get(number),
                patience=self._patience,
            )
            for number, processor in processors.items()
        }
        for number, partition in self.partitions.items():
            start = self.starts[number]
            partition.start()
            if not start.recorded:
                partition.record_start()
            if start.remark is not None:
                _log.warning(start.remark)
            self.metrics.lost(start.lost)
        if self._commands is not None:
            self._commands.start(self._plans, self._take_commands, self.fail)
        _log.info("worker ready", partitions=_ranges(self.partitions), generation=generation)

    def checkpointer(self, fence: Fence, number: int) -> CheckpointTaker:
        """What commits the checkpoints of a partition."""
        if fence.plain is not None:
            return AtLeastOnceCheckpointer(fence.producer, fence.plain, number, self._destinations)
        return Checkpointer(fence.producer, number, self._destinations)

    def _take_commands(self, number: int, records: Sequence[Any]) -> None:
        partition = self.partitions.get(number)
        if partition is not None and self.failure is None:
            partition.command(records)

    async def drain(self) -> None:
        """Commit what has been applied, because partitions are about to be given up; take nothing more."""
        partitions, self.partitions = self.partitions, {}
        self._generation = None
        await self._stop_looking()
        if self._commands is not None:
            await self._commands.stop()
        if self.failure is not None or not partitions:
            return
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await asyncio.gather(*(partition.drain() for partition in partitions.values()))
        except TimeoutError:
            self.fail(
                ClusterError(f"The last checkpoints of given-up partitions took longer than {_DRAIN_TIMEOUT:.0f} s.")
            )
        except asyncio.CancelledError:
            # Nobody would know what of it is committed.
            self.fail(InternalError("The last checkpoints of given-up partitions were cancelled."))
            raise
        if self.failure is None:
            self._settled = {
                number: partition.processor for number, partition in partitions.items() if partition.settled
            }
            _log.info("partitions given up", partitions=_ranges(partitions))

    async def close(self) -> None:
        """End for good."""
        self._generation = None
        await self._stop_looking()
        if self._commands is not None:
            await self._commands.stop()
        for partition in self.partitions.values():
            await partition.stop()
        await self._fences.close()

    # -- work ----------------------------------------------------------------------------------------------------

    async def handle(self, batch: Batch) -> None:
        """Apply a batch, unless it belongs to an assignment that is over. Never raises."""
        try:
            partition = self.partitions.get(batch.partition)
            if partition is not None:
                await partition.room()
            # Looked up again: the assignment may have ended while there was no room.
            partition = self.partitions.get(batch.partition)
            if partition is not None and batch.generation == self._generation and self.failure is None:
                partition.apply(batch)
                # Batches that wait do not make the checkpoints wait that are under way.
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - whatever it is, memory may be ahead of what is committed
            self.fail(error)

    async def keep_time(self) -> None:
        """Let the clocks of quiet partitions go on, for as long as the worker lives."""
        self._home = asyncio.get_running_loop(), threading.current_thread()
        self._watchdog = _end_by_force()
        try:
            while self.failure is None:
                await asyncio.sleep(_TICK)
                self._tick()
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    def _tick(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        for number, partition in self.partitions.items():
            partition.tick(consumer.progress(TopicPartition(self.topics.telemetry, number)))
            self.answered = max(self.answered, partition.answered)
        now = time.monotonic()
        if not self.partitions and self._generation is not None and consumer.in_touch:
            self.answered = now
        if self._generation is not None:
            self._tell_of_silence(now - self.answered)
        if self.partitions and now - self._looked >= _LOOK_EVERY and (self._look is None or self._look.done()):
            self._looked = now
            self._look = asyncio.create_task(self._look_at_topics(), name="look at the topics")

    def _tell_of_silence(self, seconds: float) -> None:
        if not self._silent and seconds > _SILENT_AFTER:
            self._silent = True
            _log.warning("the brokers do not answer", seconds=round(seconds, 1), not_ready_after=_NOT_READY_AFTER)
        elif self._silent and seconds < _SILENT_AFTER:
            self._silent = False
            _log.info("the brokers answer again")

    async def _look_at_topics(self) -> None:
        """Notice when a topic that is read is deleted and created anew while we work: offsets would go on as if."""
        try:
            ids = await self._topic_ids()
            for number, partition in self.partitions.items():
                standing = partition.processor.standing
                check_ids(self._names, standing, ids, where=f" partition {number}")
                if self._commands is not None:
                    check_commands_id(self._commands.topic, standing, ids.get(self._commands.topic))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would tell
            self.fail(error)

    async def _stop_looking(self) -> None:
        """Before the producers are closed: it asks through one of them."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    # -- failure -------------------------------------------------------------------------------------------------

    def fail(self, reason: BaseException) -> None:
        """Stop delivering, and end the process. May be called from any thread; the first reason counts."""
        self.must_end()
        if self._home is not None and threading.current_thread() is not self._home[1]:
            self._home[0].call_soon_threadsafe(self.fail, reason)
            return
        if self.failure is not None:
            return
        self.failure = reason
        self.failed.set()
        _log.critical(explain(reason), exc_info=reason)

    def must_end(self) -> None:
        """Whatever comes of what is done now: the process ends, by force if it has not by itself in time."""
        self._watchdog = self._watchdog or _end_by_force()
        self._watchdog.let_loose()

    def stand_down(self) -> None:
        """The process has got through its end by itself: no force is needed."""
        if self._watchdog is not None:
            self._watchdog.call_off()


def _end_by_force() -> Watchdog:
    return Watchdog(_GRACE, lambda: os._exit(1))


def run_and_end(work: Coroutine[Any, Any, int]) -> int:
    """``asyncio.run``, and after an exception the process ends, whatever threads are left over.

    The loop may fail without telling any task of it, where the system grants no more memory.
    """
    watchdog = _end_by_force()
    try:
        return asyncio.run(work)
    except TripsError:
        raise
    except BaseException:
        watchdog.let_loose()
        raise


def explain(reason: BaseException) -> str:
    """Why the worker ends, in one line for people."""
    match reason:
        case TripsError():
            return str(reason)
        case ProducerFenced() | InvalidProducerEpoch():
            return (
                "Fenced: another worker has taken partitions over while this one was away (paused, or cut off). "
                "What it had not committed does not count; it can be started again at once."
            )
        case asyncio.IncompleteReadError() | ConnectionError():
            return (
                "A Kafka broker has ended the connection in the middle of an answer. What was not committed does not "
                "count; it can be started again at once."
            )
        case UnknownTopicOrPartitionError():
            # aiokafka says so, too, when it has waited in vain for the brokers to tell anything of a topic.
            return "The brokers do not tell of a topic to write to. Are they away, is it gone (`trips topics check`)?"
        case KafkaError(__cause__=BaseException() as cause):
            # What aiokafka's sender says first is only that something was unexpected.
            return explain(cause)
        case KafkaError():
            return str(reason).replace("\n", " ")  # begins with its class
        case _:
            return f"{type(reason).__name__}: {reason}".replace("\n", " ")


def _ranges(numbers: Iterable[int]) -> str:
    """``{0, 1, 2, 5}`` as ``0-2,5``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs) or "none"


class _Boot(BootStrategy):  # type: ignore[misc]
    """What Faust starts: no web server (ours is ``streams.runtime.health``) and no producer (``Fences``)."""

    enable_kafka_producer = False
    enable_web = False


class App(faust.App):  # type: ignore[misc]
    """The Faust app around a :class:`Worker`."""

    logger = FAUST_LOGGER

    BootStrategy = _Boot

    def __init__(self, worker: Worker, *, application_id: str, rebalance_timeout: float) -> None:
        broker = "kafka://" + ";kafka://".join(worker.consumer_settings["bootstrap_servers"])
        super().__init__(
            application_id,
            broker=broker,
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=True,
            stream_recovery_delay=0.0,
            # In events: what is read ahead. Reading goes on when it falls to 40 % of it.
            stream_buffer_maxsize=16,
            broker_rebalance_timeout=rebalance_timeout,
            TableManager=PartitionTableManager,
        )
        self.worker = worker
        self.transport = BatchTransport([URL(broker.split(";")[0])], self)
        telemetry = self.topic(worker.topics.telemetry, schema=BatchSchema(), acks=False)
        table = VehicleTable(self, name="vehicles", beacon=self.tables.beacon)
        table.worker = worker
        self.tables.add(table)

        async def apply(stream: Any) -> None:
            async for event in stream.events():
                for batch in event.value:
                    await worker.handle(batch)

        self.agent(telemetry, name="trips")(apply)

    async def on_first_start(self) -> None:
        """Faust makes a data directory here; we have no data of our own."""

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.worker.fail(reason)
