"""Commands beside the source: read from where the state says, and carried out in the checkpoints of their partition.

No consumer group is needed for them. Who has a partition of the source has the partition of the commands with the same
number, and where it goes on stands in the state, in the same transaction as what came of them.

A state that was made anew has read no commands yet. Then all of them are read first, of all partitions (the source may
have had another number of them), and held until what was in the source by then is read: nothing is said of trips that
are deleted by one of them, and at the end they are.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from streams.errors import ClusterError
from streams.runtime.source import Bounds, close, log_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from streams.records import Record, Standing

__all__ = ["Commanded", "Commands", "Plan", "check_commands_id"]

_log = structlog.get_logger(__name__)

_POLL_MS: Final = 200
# No record and no step forward for so long (seconds): the brokers are away.
_STALLED: Final = 60.0
Held = list[tuple["Record", bool]]


class Commanded(Protocol):
    """What a processor must be able to do for this: :class:`streams.processor.Processor` can."""

    standing: Standing

    def command(self, record: Record, *, own: bool = True) -> None:
        """Carry out a command."""

    def hold(self, commands: Iterable[tuple[Record, bool]]) -> None:
        """Keep commands, instead of those that are kept, until :meth:`release`."""

    def release(self) -> None:
        """Carry them out."""


@dataclass(slots=True)
class Plan:
    """Where a partition goes on in its commands.

    Attributes:
        next_command: the offset of the next one.
        held: those to be carried out when the source is read up to ``until``, each with whether it is of our partition.
        until: an offset of the source; None: nothing is held.
    """

    next_command: int
    held: Held = field(default_factory=list)
    until: int | None = None


class Commands:
    """The commands of a worker's partitions.

    Args:
        topic: of the commands.
        client: where the cluster is.
    """

    def __init__(self, topic: str, client: Mapping[str, Any]) -> None:
        self.topic = topic
        self._client = client
        self._task: asyncio.Task[None] | None = None

    async def plan(
        self, standings: Mapping[int, Standing], ends: Mapping[int, int], topic_id: bytes | None
    ) -> dict[int, Plan]:
        """Where partitions go on.

        Args:
            standings: of the partitions that were taken over.
            ends: of the source.
            topic_id: Kafka's id of the commands' topic; None: not known.

        Raises:
            ClusterError: the brokers do not tell, or the topic has too few partitions.
        """
        if not standings:
            return {}
        bounds = await self._bounds(standings)
        plans = {
            number: Plan(self._next(number, at, bounds[number]))
            for number, standing in standings.items()
            if (at := _next_command(standing, topic_id)) is not None
        }
        anew = sorted(standings.keys() - plans.keys())
        if anew:
            records = await self._read_all(bounds)
            for number in anew:
                held = [(record, record.partition == number) for record in records]
                plans[number] = Plan(bounds[number].end, held, ends[number])
            if records:
                _log.info("commands wait until the telemetry is read", partitions=anew, commands=len(records))
        return plans

    async def _bounds(self, numbers: Iterable[int]) -> dict[int, Bounds]:
        consumer = AIOKafkaConsumer(**self._client, enable_auto_commit=False)
        try:
            async with asyncio.timeout(_STALLED):
                await consumer.start()
                cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - no public way to it
                found = cluster.partitions_for_topic(self.topic) or set()
        except (KafkaError, TimeoutError) as error:
            raise ClusterError(f"The brokers do not tell of {self.topic} ({error!r}): are they away?") from error
        finally:
            await close(consumer)
        missing = sorted(set(numbers) - found)
        if missing:
            raise ClusterError(
                f"{self.topic} has no partition {missing[0]}: it needs as many as the telemetry has. Add partitions to "
                "it, or `trips topics create` if it is not there."
            )
        return await log_bounds(self.topic, sorted(found), self._client)

    def _next(self, number: int, wanted: int, bounds: Bounds) -> int:
        if bounds.begin <= wanted <= bounds.end:
            return wanted
        # Nobody is helped by a worker that stands still: who asked can ask again.
        at = bounds.begin if wanted < bounds.begin else bounds.end
        _log.warning(
            f"{self.topic} partition {number}: goes on from offset {at}, not {wanted}: commands are gone. Repeat what "
            "was asked for and has not happened"
        )
        return at

    async def _read_all(self, bounds: Mapping[int, Bounds]) -> list[Any]:
        """All commands of all partitions, in the order of time."""
        ends = {
            TopicPartition(self.topic, number): each.end for number, each in bounds.items() if each.end > each.begin
        }
        if not ends:
            return []
        consumer = self._consumer()
        records: list[Any] = []
        try:
            async with asyncio.timeout(_STALLED) as patience:
                await consumer.start()
                consumer.assign(list(ends))
                for place in ends:
                    consumer.seek(place, bounds[place.partition].begin)
                while any([await consumer.position(place) < end for place, end in ends.items()]):
                    fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                    if fetched:
                        patience.reschedule(asyncio.get_running_loop().time() + _STALLED)
                    for place, some in fetched.items():
                        records += (record for record in some if record.offset < ends[place])
        except (KafkaError, TimeoutError) as error:
            raise ClusterError(f"The brokers do not let us read {self.topic} ({error!r}): are they away?") from error
        finally:
            await close(consumer)
        return sorted(records, key=lambda record: (record.timestamp, record.partition, record.offset))

    def start(
        self,
        plans: Mapping[int, Plan],
        take: Callable[[int, Sequence[Any]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Read on, until :meth:`stop` or another start.

        Args:
            plans: of the partitions.
            take: is given a partition and its next commands, in order.
            fail: called with what went wrong, when nothing more is read.
        """
        if self._task is not None:
            self._task.cancel()  # partitions may be assigned anew without having been given up
        starts = {number: plan.next_command for number, plan in plans.items()}
        self._task = None
        if starts:
            self._task = asyncio.create_task(self._run(starts, take, fail), name="commands")

    async def stop(self) -> None:
        """Take no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(
        self,
        starts: Mapping[int, int],
        take: Callable[[int, Sequence[Any]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        consumer = self._consumer()
        try:
            await consumer.start()
            consumer.assign([TopicPartition(self.topic, number) for number in starts])
            for number, offset in starts.items():
                consumer.seek(TopicPartition(self.topic, number), offset)
            while True:
                try:
                    fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                except OffsetOutOfRangeError as error:
                    places = list(error.args[0])
                    _log.warning("commands were deleted before they were read", places=[str(place) for place in places])
                    await consumer.seek_to_beginning(*places)
                    continue
                if self._task is not asyncio.current_task():
                    return
                for place, records in fetched.items():
                    take(place.partition, records)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody would carry commands out any more
            fail(error)
        finally:
            await close(consumer)

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._client, isolation_level="read_committed", auto_offset_reset="none", enable_auto_commit=False
        )


def check_commands_id(topic: str, standing: Standing, topic_id: bytes | None) -> None:
    """Check that the commands' topic is the one that is being read: of another one, nothing would be noticed.

    Raises:
        ClusterError: it is not.
    """
    if topic_id is not None and standing.commands_id not in (None, topic_id):
        raise ClusterError(
            f"{topic} has been deleted and created anew while commands were read from it. A worker that is started "
            "again reads it from its beginning; repeat what was asked for and has not happened."
        )


def _next_command(standing: Standing, topic_id: bytes | None) -> int | None:
    """Where a state goes on in this topic; None: it has read nothing of it yet."""
    another = topic_id is not None and standing.commands_id not in (None, topic_id)
    return None if another else standing.next_command
