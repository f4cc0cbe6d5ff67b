"""The life of one source partition in this worker: batches in, checkpoints out, and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from streams.errors import ClusterError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from streams.records import Output, Record, Standing
    from streams.runtime.batches import Batch, Progress
    from streams.runtime.commands import Commanded, Plan

__all__ = ["CheckpointTaker", "Observer", "Partition", "PartitionProcessor", "QuietClock"]

# A checkpoint is taken at the latest when so many records wait for it: at 160,000 rec/s on 8 partitions that is once a
# second, and some tens of megabytes a worker. Twice as many wait while one is under way; then reading waits.
_MAX_WAITING: Final = 20_000
# A partition with so many records to read is late anyway. Its checkpoints are so many seconds apart, at least: each
# vehicle's state is then written once for several of its records.
_BACKLOG: Final = 10_000
_BACKLOG_INTERVAL: Final = 1.0
# Checkpoints that announce begin at once, so many for each interval on average, and so many in a row. At a few
# announcements a second nobody waits; at many, the brokers have little more to do than with one for each interval.
_AT_ONCE: Final = 2
_IN_A_ROW: Final = 10
# And so that a partition is in them for half of its time at most: where one takes long, the worker or the brokers are
# busy, and more of them would make them busier. Of late is: so many, on average.
_SHARE: Final = 0.5
_OF_LATE: Final = 8
# Less than the transaction's own timeout (30 s), so that we say what happened before the coordinator aborts it.
_CHECKPOINT_TIMEOUT: Final = 25.0
# So much later than that, it is not the brokers that were slow.
_STOOD_STILL: Final = 3.0
# The contract says that the clock is written at least once a minute while a timer is pending.
_CLOCK_WRITTEN_EVERY: Final = 50.0
# A long poll is answered at least twice a second. An answer older than this, and the broker may be away.
_ANSWER_FRESH: Final = 2.0


class PartitionProcessor(Protocol):
    """What the runtime needs of ``streams.processor.Processor``."""

    clock: int
    open_trips: int
    owed: int
    """Announcements that are part of the state, because it is stored before they are delivered: as of the last take or,
    before the first one, as restored. The next take has the state without them."""
    standing: Standing
    """Stored with the clock, and given back by :meth:`restore`. What it says is the runtime's."""

    @property
    def counts(self) -> Any:
        """Running totals: :class:`streams.processor.Counts`."""

    @property
    def vehicles(self) -> int:
        """How many have state."""

    @property
    def state_bytes(self) -> int:
        """How much it is."""

    @property
    def announcing(self) -> bool:
        """The next take has announcements."""

    def process(self, records: Iterable[Record]) -> None:
        """Apply a batch."""

    def advance(self, clock_ms: int) -> None:
        """Let the clock go on without a record."""

    def wake_at(self) -> int | None:
        """When, by the clock, there is something to do."""

    def touch_clock(self) -> None:
        """Put the clock and the standing into the next output's changes, whatever else is in there."""

    def take(self) -> Output:
        """Everything since the last take; where there are changes, the clock and the standing are among them."""

    def restore(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Records of the changelog, oldest first."""

    def restored(self) -> None:
        """That was the last of them."""


class CheckpointTaker(Protocol):
    """What commits the checkpoints: :class:`streams.delivery.checkpoint.Checkpointer`."""

    unsettled: bool
    """Another checkpoint has to follow, also if nothing comes in."""

    async def commit(self, output: Output, next_offset: int | None) -> int:
        """Deliver all or nothing; how many bytes of state it was."""


class Observer(Protocol):
    """Who wants to know what a partition does: the metrics."""

    def batch(self, records: int, seconds: float) -> None:
        """A batch was applied."""

    def checkpoint(self, processor: PartitionProcessor, output: Output, state_bytes: int, seconds: float) -> None:
        """A checkpoint was committed."""


class QuietClock:
    """Kafka time of a partition, while it is at its end and no record moves it.

    The clock of a partition is the newest Kafka timestamp read from it, advanced by the wall-clock time (here: the
    monotonic one, which nobody sets) spent at its end. What is not known to be spent at its end does not count: while
    the broker is away, records may be waiting there.
    """

    __slots__ = ("_answer", "_answered", "_base", "_since")

    def __init__(self) -> None:
        self._base = 0
        self._since: float | None = None  # monotonic; None: not at the end
        self._answered = 0.0
        self._answer: int | None = None

    def look(self, clock: int, progress: Progress | None, now: float) -> None:
        """Take in how far the partition is read.

        Args:
            clock: the processor's clock.
            progress: as of now; None: not known.
            now: monotonic seconds.
        """
        if progress is None or progress.end is None or progress.position < progress.end:
            self.leave()
            return
        if progress.answered_ms != self._answer:
            if self._since is not None and now - self._answered > _ANSWER_FRESH:
                # We or the broker were away (a process that is frozen, an outage), and this may be an answer from
                # before: what passed meanwhile is not known to have passed at the end.
                self._base += max(0, int((self._answered - self._since) * 1000))
                self._since = now
            self._answer, self._answered = progress.answered_ms, now
        if self._since is None:
            self._base, self._since = clock, now

    def read(self, now: float) -> int | None:
        """The clock in milliseconds; None: the partition is not at its end."""
        if self._since is None:
            return None
        until = now if now - self._answered <= _ANSWER_FRESH else self._answered
        return self._base + max(0, int((until - self._since) * 1000))

    def leave(self) -> None:
        """The partition is not at its end."""
        self._since = None


class Partition:
    """Applies batches at once, and delivers what comes of them at checkpoints.

    Batches are applied by whoever calls :meth:`apply`, in order; a task of its own takes the checkpoints, so that
    partitions go on side by side, and a partition goes on while its checkpoint is under way.

    Args:
        number: of the source partition.
        processor: its state, restored.
        checkpointer: commits.
        start: the source offset of the first record that is to come.
        interval: seconds from the first change to its checkpoint; one with announcements begins at once, if there are
            few of them.
        observer: is told what happens.
        fail: called once with what went wrong, when nothing may go on.
        plan: where it goes on in its commands; None: there are none.
        patience: the same for a checkpoint without announcements; None: ``interval``.
    """

    def __init__(
        self,
        number: int,
        processor: PartitionProcessor,
        checkpointer: CheckpointTaker,
        *,
        start: int,
        interval: float,
        observer: Observer,
        fail: Callable[[BaseException], None],
        plan: Plan | None = None,
        patience: float | None = None,
    ) -> None:
        self.number = number
        self.processor = processor
        self.lag: int | None = None
        """Records that are not committed yet, as of the last tick; None: not known."""
        self.answered = time.monotonic()
        """When a broker has last answered a fetch of this partition (monotonic)."""
        self._answer: int | None = None
        self._unread = 0  # as of the last tick
        self._checkpointer = checkpointer
        self._interval = interval
        self._observer = observer
        self._fail = fail
        self._plan = plan
        self._patience = interval if patience is None else patience
        self._draining = False
        self._credit = float(_IN_A_ROW)  # checkpoints that may begin at once, as of then (monotonic)
        self._credited = time.monotonic()
        self._takes = 0.0  # seconds, a checkpoint of late
        self._soon: asyncio.TimerHandle | None = None  # one is about to
        self._quiet = QuietClock()
        self._clock_written = time.monotonic()
        self._sequence = 0  # of the next batch
        self._expected = start  # the next record's offset, at least
        self._next_offset: int | None = None  # of the records applied since the last take
        self._reached = start  # what is committed
        self._waiting = 0
        self._waits_since: float | None = None  # monotonic: the oldest record that is applied and not taken
        self._taken_since: float | None = None  # the same, of what is in the checkpoint that is under way
        self._due = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def settled(self) -> bool:
        """Nothing is applied that is not committed."""
        return self._settled.is_set()

    def waiting_since(self) -> float | None:
        """When the oldest record was applied that is not committed yet (monotonic); None: all are."""
        return self._waits_since if self._taken_since is None else self._taken_since

    def record_start(self) -> None:
        """Commit where this partition starts, with its state, also if nothing comes."""
        self._next_offset = self._expected
        self.changed()

    def start(self) -> None:
        """Begin to take checkpoints."""
        self._task = asyncio.create_task(self._run(), name=f"checkpoints of partition {self.number}")
        self._release_at(self._expected)
        if self.processor.owed:  # by whoever had it before
            self.changed()

    def command(self, records: Sequence[Record]) -> None:
        """Carry out commands, the next ones of this partition; or hold them with those that are held."""
        plan, processor = self._plan, cast("Commanded", self.processor)
        if plan is None:
            raise InternalError(f"Partition {self.number} takes no commands.")
        records = [record for record in records if record.offset >= plan.next_command]
        if not records:
            return  # who has read them was to stop: an assignment follows the other without a pause
        plan.next_command = records[-1].offset + 1
        if plan.until is not None:
            plan.held += ((record, True) for record in records)
            processor.hold(plan.held)
            return
        for record in records:
            processor.command(record)
        self._stand_at(plan.next_command, changed=True)

    def _release_at(self, position: int) -> None:
        """Carry out the commands that are held, if the source is read that far."""
        plan = self._plan
        if plan is None or (plan.until is not None and position < plan.until):
            return
        held, plan.held, plan.until = plan.held, [], None
        cast("Commanded", self.processor).release()
        self._stand_at(plan.next_command, changed=bool(held))

    def _stand_at(self, next_command: int, *, changed: bool) -> None:
        """What came of the commands before this one and that it is the next are committed together."""
        standing = self.processor.standing
        self.processor.standing = standing._replace(next_command=next_command)
        if changed:
            if standing.next_offset is None and self._next_offset is None:
                self._next_offset = self._expected  # a state says where in the source it goes on
            self.processor.touch_clock()
            self.changed()

    async def stop(self) -> None:
        """End without a checkpoint; what is not committed is read again by the next owner."""
        task, self._task = self._task, None
        self._room.set()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def room(self) -> None:
        """Wait while too much waits for a checkpoint."""
        await self._room.wait()

    def apply(self, batch: Batch) -> None:
        """Apply a batch.

        Raises:
            InternalError: a batch before it has been lost inside this worker: what came of it would be missing, and
                its records would be committed over. Or its records have been applied already.
        """
        if batch.sequence != self._sequence:
            raise InternalError(
                f"Batch {batch.sequence} of partition {self.number} (offset {batch.records[0].offset}) arrived where "
                f"{self._sequence} was expected: records have been lost inside this worker."
            )
        if batch.records[0].offset < self._expected:
            raise InternalError(
                f"A batch of partition {self.number} begins at offset {batch.records[0].offset}, and what is before "
                f"offset {self._expected} has been applied: the position has gone back."
            )
        self._sequence += 1
        began, now = time.perf_counter(), time.monotonic()
        self._turn_clock(now)  # a record arrives at what the clock is by then
        self._quiet.leave()
        self.processor.process(batch.records)
        self._next_offset = self._expected = batch.records[-1].offset + 1
        if self._plan is not None and self._plan.until is not None:
            self._release_at(self._expected)
        self._waits_since = now if self._waits_since is None else self._waits_since
        self._waiting += len(batch.records)
        if self._waiting >= _MAX_WAITING:
            self._room.clear()
            self._hurry.set()
        self.changed()
        self._observer.batch(len(batch.records), time.perf_counter() - began)

    def tick(self, progress: Progress | None) -> None:
        """Let time go on, if there is nothing to be read. Called a few times a second.

        Args:
            progress: how far the partition is read; None: not known.
        """
        now = time.monotonic()
        if progress is not None and progress.answered_ms != self._answer:
            self._answer, self.answered = progress.answered_ms, now
        self._measure_lag(progress)
        if progress is not None and progress.batches != self._sequence:
            progress = None  # there are batches on their way
        if self._plan is not None and self._plan.until is not None and progress is not None:
            self._release_at(progress.position)
        self._quiet.look(self.processor.clock, progress, now)
        clock, wake_at = self._quiet.read(now), self.processor.wake_at()
        if clock is None or wake_at is None:
            return
        if clock >= wake_at:
            self._turn_clock(now)
            self.changed()
        elif now - self._clock_written >= _CLOCK_WRITTEN_EVERY and self.settled:
            self._turn_clock(now)
            self.changed()  # the checkpoint writes the clock

    def _measure_lag(self, progress: Progress | None) -> None:
        if progress is None or progress.end is None:
            self.lag, self._unread = None, 0
            return
        self._unread = progress.end - progress.position
        # Where the last offsets hold no records (transaction markers), nothing is left although nothing was committed.
        done = progress.position >= progress.end and progress.batches == self._sequence and self.settled
        self.lag = 0 if done else max(0, progress.end - self._reached)

    def _turn_clock(self, now: float) -> None:
        clock = self._quiet.read(now)
        if clock is not None and clock > self.processor.clock:
            self.processor.advance(clock)

    def changed(self) -> None:
        """The processor has something for a checkpoint."""
        self._settled.clear()
        self._due.set()
        if self.processor.announcing and self._unread <= _BACKLOG:
            self._announce_soon()

    async def drain(self) -> None:
        """Commit what has been applied, and end.

        Raises:
            asyncio.CancelledError: it took the caller too long.
        """
        if self._task is not None:
            if self.processor.wake_at() is not None:
                # Whoever comes next goes on from this clock, or a partition that moves often would never see a timer.
                self.processor.touch_clock()
                self.changed()
            self._draining = True
            self._hurry.set()
            settled = asyncio.ensure_future(self._settled.wait())
            try:
                await asyncio.wait([settled, self._task], return_when=asyncio.FIRST_COMPLETED)
            finally:
                settled.cancel()
        await self.stop()

    async def _run(self) -> None:
        try:
            while True:
                await self._due.wait()
                # Begun late: what comes of the next batches goes along.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):  # wait_for would lose a cancellation in Python 3.11
                        await self._hurry.wait()
                await self._checkpoint()
        except Exception as error:  # noqa: BLE001 - whatever it is, what is in memory is not what is committed
            self._fail(error)

    def _pause(self) -> float:
        """Seconds until a checkpoint that nobody is in a hurry for."""
        if self._draining:
            return 0.0
        return max(self._interval, _BACKLOG_INTERVAL) if self._unread > _BACKLOG else self._patience

    def _announce_soon(self) -> None:
        """Have a checkpoint begin, at once if there were not many of late."""
        if self._soon is None:
            now, credit_each = time.monotonic(), max(self._interval / _AT_ONCE, self._takes / _SHARE)
            self._credit = min(_IN_A_ROW, self._credit + (now - self._credited) / credit_each) - 1
            self._credited = now
            delay = max(0.0, -self._credit * credit_each)
            self._soon = asyncio.get_running_loop().call_later(delay, self._hurry.set)

    async def _checkpoint(self) -> None:
        began, began_at_clock = time.perf_counter(), time.monotonic()
        self._due.clear()
        if began_at_clock - self._clock_written >= _CLOCK_WRITTEN_EVERY and self.processor.wake_at() is not None:
            self.processor.touch_clock()
        next_offset, self._next_offset = self._next_offset, None
        if next_offset is not None:
            # State and offset say the same, and are committed together.
            self.processor.standing = self.processor.standing._replace(next_offset=next_offset)
            self.processor.touch_clock()
        output = self.processor.take()
        self._waiting = 0
        self._taken_since, self._waits_since = self._waits_since, None
        self._hurry.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._room.set()
        if next_offset is not None or _holds_something(output) or self._checkpointer.unsettled:
            try:
                async with asyncio.timeout(_CHECKPOINT_TIMEOUT):
                    state_bytes = await self._checkpointer.commit(output, next_offset)
            except TimeoutError:
                raise ClusterError(self._late_checkpoint(time.monotonic() - began_at_clock)) from None
            took = time.perf_counter() - began
            self._takes += (took - self._takes) / _OF_LATE
            self._observer.checkpoint(self.processor, output, state_bytes, took)
            self._reached = self._reached if next_offset is None else next_offset
            if output.changes:
                self._clock_written = time.monotonic()
        if self._checkpointer.unsettled:
            self.changed()
        self._taken_since = None
        if not self._due.is_set():
            self._settled.set()

    def _late_checkpoint(self, took: float) -> str:
        if took > _CHECKPOINT_TIMEOUT + _STOOD_STILL:
            return (
                f"A checkpoint of partition {self.number} was given up after {took:.0f} s: this worker stood still "
                "(paused, or without processor time). What it had not committed does not count; it can be started "
                "again at once."
            )
        return (
            f"The Kafka brokers did not take a checkpoint of partition {self.number} within "
            f"{_CHECKPOINT_TIMEOUT:.0f} s: are they away?"
        )


def _holds_something(output: Output) -> Any:
    return output.announcements or output.rejected or output.late or output.changes
