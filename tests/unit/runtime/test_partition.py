import asyncio
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from streams.errors import ClusterError, InternalError
from streams.records import Output, Standing
from streams.runtime import partition as module
from streams.runtime.batches import Batch, Progress
from streams.runtime.partition import Partition


class Processor:
    """State is how often each key was seen."""

    def __init__(self):
        self.clock = self.owed = 0
        self.announcing = False
        self.standing = Standing()
        self.seen = {}
        self.changed = set()
        self.due = None
        self.closed = []
        self.writes_clock = False

    def process(self, records):
        for record in records:
            self.clock = max(self.clock, record.timestamp)
            self.seen[record.key] = self.seen.get(record.key, 0) + 1
            self.changed.add(record.key)

    def advance(self, clock):
        self.clock = clock
        if self.due is not None and clock >= self.due:
            self.closed.append(clock)
            self.changed.add(b"closed")
            self.seen[b"closed"] = 1
            self.due = None

    def wake_at(self):
        return self.due

    def touch_clock(self):
        self.writes_clock = True

    def take(self):
        changed, self.changed = self.changed, set()
        output = Output(changes={key: str(self.seen[key]).encode() for key in changed})
        if changed or self.writes_clock:
            output.changes[b"clock"] = (self.clock, self.standing.next_offset)
            self.writes_clock = False
        return output


class Checkpointer:
    unsettled = False

    def __init__(self):
        self.commits = []
        self.clocks = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.begun = asyncio.Event()
        self.error = None

    async def commit(self, output, next_offset):
        self.begun.set()
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        changes = dict(output.changes)
        self.clocks.append(changes.pop(b"clock", None))
        self.commits.append((changes, next_offset))
        return 0


class Bench:
    """A partition and everything around it."""

    def __init__(self, interval=0.01, start=0, processor=None, checkpointer=None, patience=None):
        self.processor = processor or Processor()
        self.checkpointer = checkpointer or Checkpointer()
        self.failures = []
        self.observed = []
        self.partition = Partition(
            3,
            self.processor,
            self.checkpointer,
            start=start,
            interval=interval,
            observer=SimpleNamespace(
                batch=lambda *args: self.observed.append(args), checkpoint=lambda *args: self.observed.append(args)
            ),
            fail=self.failures.append,
            patience=patience,
        )
        self.sequence = 0
        self.offset = start

    @property
    def commits(self):
        return self.checkpointer.commits

    def feed(self, *keys, timestamp=0):
        records = [
            SimpleNamespace(offset=self.offset + n, timestamp=timestamp, key=key, value=b"", headers=())
            for n, key in enumerate(keys)
        ]
        self.partition.apply(Batch(3, records, self.sequence, 1))
        self.sequence += 1
        self.offset += len(keys)

    def at_end(self, answer=1, **changes):
        progress = Progress(self.offset, self.offset, answer, self.sequence)
        self.partition.tick(progress._replace(**changes))


@asynccontextmanager
async def bench(**options):
    one = Bench(**options)
    one.partition.start()
    try:
        yield one
    finally:
        await one.partition.stop()


async def settled(partition, within=2.0):
    async with asyncio.timeout(within):
        while not partition.settled:  # noqa: ASYNC110 - it is a bool to everybody else
            await asyncio.sleep(0.002)


async def test_batches_between_checkpoints_are_one_checkpoint():
    async with bench() as one:
        one.feed(b"a", b"b")
        one.feed(b"a")
        await settled(one.partition)
        assert one.commits == [({b"a": b"2", b"b": b"1"}, 3)]


async def test_a_batch_during_a_checkpoint_is_in_the_next_one():
    async with bench() as one:
        one.checkpointer.may_go_on.clear()
        one.feed(b"a")
        await one.checkpointer.begun.wait()
        one.feed(b"b")
        one.checkpointer.may_go_on.set()
        await settled(one.partition)
        assert one.commits == [({b"a": b"1"}, 1), ({b"b": b"1"}, 2)]


async def test_a_lost_batch_is_noticed():
    async with bench() as one:
        one.feed(b"a")
        one.sequence += 1
        with pytest.raises(InternalError, match=r"Batch 2 of partition 3 \(offset 1\) arrived where 1 was expected"):
            one.feed(b"a")
        assert one.processor.seen == {b"a": 1}


async def test_a_first_batch_that_is_lost_is_noticed_too():
    async with bench() as one:
        one.sequence = 1
        with pytest.raises(InternalError):
            one.feed(b"a")


async def test_a_checkpoint_that_fails_is_reported_and_nothing_more_is_committed():
    async with bench() as one:
        one.checkpointer.error = RuntimeError("no")
        one.feed(b"a")
        await asyncio.sleep(0.05)
        one.checkpointer.error = None
        one.feed(b"a")
        await asyncio.sleep(0.05)
        assert [str(failure) for failure in one.failures] == ["no"]
        assert one.commits == []
        assert not one.partition.settled


async def test_a_checkpoint_that_hangs_is_reported(monkeypatch):
    monkeypatch.setattr(module, "_CHECKPOINT_TIMEOUT", 0.05)
    async with bench() as one:
        one.checkpointer.may_go_on.clear()
        one.feed(b"a")
        await asyncio.sleep(0.15)
        assert [type(failure) for failure in one.failures] == [ClusterError]
        assert "partition 3" in str(one.failures[0])


async def test_a_checkpoint_during_which_the_process_stood_still_is_not_blamed_on_the_brokers(monkeypatch):
    monkeypatch.setattr(module, "_CHECKPOINT_TIMEOUT", 0.05)
    monkeypatch.setattr(module, "_STOOD_STILL", 0.1)
    async with bench() as one:
        one.checkpointer.may_go_on.clear()
        one.feed(b"a")
        await asyncio.sleep(0.02)
        time.sleep(0.4)  # noqa: ASYNC251 - that is what is tried
        await asyncio.sleep(0.05)
        (failure,) = one.failures
        assert "stood still" in str(failure)
        assert "brokers" not in str(failure)


async def test_draining_does_not_wait_for_the_interval():
    async with bench(interval=60) as one:
        one.feed(b"a")
        async with asyncio.timeout(2):
            await one.partition.drain()
        assert one.commits == [({b"a": b"1"}, 1)]


async def test_draining_waits_for_the_checkpoint_that_is_under_way_and_the_one_after_it():
    async with bench() as one:
        one.checkpointer.may_go_on.clear()
        one.feed(b"a")
        await one.checkpointer.begun.wait()
        one.feed(b"b")
        drain = asyncio.create_task(one.partition.drain())
        await asyncio.sleep(0.05)
        assert not drain.done()
        one.checkpointer.may_go_on.set()
        await asyncio.wait_for(drain, 2)
        assert [offset for _, offset in one.commits] == [1, 2]


async def test_draining_ends_when_the_checkpoint_fails():
    async with bench(interval=60) as one:
        one.checkpointer.error = RuntimeError("no")
        one.feed(b"a")
        await asyncio.wait_for(one.partition.drain(), 2)
        assert len(one.failures) == 1
        assert not one.partition.settled


async def test_many_records_do_not_wait_for_the_interval(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 100)
    async with bench(interval=60) as one:
        one.feed(*[b"a"] * 100)
        await settled(one.partition)
        assert one.commits == [({b"a": b"100"}, 100)]


async def test_reading_waits_while_too_much_waits_for_a_checkpoint(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 100)
    async with bench(interval=60) as one:
        one.checkpointer.may_go_on.clear()
        one.feed(*[b"a"] * 100)
        await one.checkpointer.begun.wait()
        await asyncio.wait_for(one.partition.room(), 1)
        one.feed(*[b"a"] * 100)
        waiting = asyncio.create_task(one.partition.room())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        one.checkpointer.may_go_on.set()
        await asyncio.wait_for(waiting, 1)


async def test_a_quiet_partition_closes_what_is_silent():
    async with bench() as one:
        one.feed(b"a", timestamp=1_000_000)
        one.processor.due = 1_000_050
        one.at_end()
        assert one.processor.closed == []
        await asyncio.sleep(0.08)
        one.at_end(answer=2)
        await settled(one.partition)
        assert one.processor.closed[0] >= 1_000_050
        assert one.commits[-1] == ({b"closed": b"1"}, None)


async def test_nothing_is_closed_while_batches_are_on_their_way():
    async with bench() as one:
        one.feed(b"a", timestamp=1_000_000)
        one.processor.due = 1_000_000
        one.at_end(batches=2)
        await asyncio.sleep(0.02)
        one.at_end(batches=2, answered_ms=2)
        assert one.processor.closed == []


async def test_a_record_arrives_at_what_the_clock_is_by_then():
    async with bench() as one:
        one.feed(b"a", timestamp=1_000_000)
        one.at_end()
        await asyncio.sleep(0.1)
        one.feed(b"a", timestamp=1_000_001)
        assert 1_000_080 <= one.processor.clock <= 1_000_900


async def test_the_clock_never_goes_back():
    async with bench() as one:
        one.feed(b"a", timestamp=1_000_000)
        one.at_end()
        await asyncio.sleep(0.03)
        one.feed(b"a", timestamp=5)
        assert one.processor.clock >= 1_000_020


async def test_the_clock_is_written_while_something_waits_for_it(monkeypatch):
    monkeypatch.setattr(module, "_CLOCK_WRITTEN_EVERY", 0.05)
    async with bench() as one:
        one.feed(b"a", timestamp=1_000_000)
        await settled(one.partition)
        one.at_end()
        await asyncio.sleep(0.08)
        one.at_end(answer=2)
        assert len(one.commits) == 1  # nothing waits for the clock
        one.processor.due = 2_000_000
        one.at_end(answer=3)
        await settled(one.partition)
        assert one.commits[1:] == [({}, None)]
        clock, next_offset = one.checkpointer.clocks[-1]
        assert clock >= 1_000_080
        assert next_offset == 1


async def test_the_state_says_which_offset_it_is_committed_with():
    async with bench(start=7) as one:
        one.feed(b"a", b"b")
        await settled(one.partition)
        one.processor.changed.clear()
        one.feed(b"c")
        one.processor.changed.clear()  # a record that changes nothing
        await settled(one.partition)
        assert [offset for _, offset in one.commits] == [9, 10]
        assert [next_offset for _, next_offset in one.checkpointer.clocks] == [9, 10]


async def test_where_it_starts_can_be_committed_before_anything_comes():
    async with bench(start=7) as one:
        one.partition.record_start()
        await settled(one.partition)
        assert one.commits == [({}, 7)]
        assert one.checkpointer.clocks == [(0, 7)]
        one.feed(b"a")
        await settled(one.partition)
        assert one.commits[-1] == ({b"a": b"1"}, 8)


async def test_a_position_that_has_gone_back_is_noticed():
    async with bench(start=7) as one:
        one.feed(b"a", b"b")
        one.offset = 8
        with pytest.raises(
            InternalError, match=r"partition 3 begins at offset 8, and what is before offset 9 has been"
        ):
            one.feed(b"a")
        assert one.processor.seen == {b"a": 1, b"b": 1}


async def test_a_position_before_the_start_is_noticed():
    async with bench(start=7) as one:
        one.offset = 6
        with pytest.raises(InternalError, match="gone back"):
            one.feed(b"a")


async def test_offsets_without_records_are_no_gap():
    async with bench(start=7) as one:
        one.offset = 12  # markers of transactions, or compacted
        one.feed(b"a")
        await settled(one.partition)
        assert one.commits == [({b"a": b"1"}, 13)]


async def test_how_long_records_wait_is_known():
    async with bench() as one:
        assert one.partition.waiting_since() is None
        before = time.monotonic()
        one.checkpointer.may_go_on.clear()
        one.feed(b"a")
        first = one.partition.waiting_since()
        assert before <= first <= time.monotonic()
        await one.checkpointer.begun.wait()
        await asyncio.sleep(0.01)
        one.feed(b"b")
        assert one.partition.waiting_since() == first  # still in the checkpoint that is under way
        one.checkpointer.begun.clear()
        one.checkpointer.may_go_on.set()
        await one.checkpointer.begun.wait()
        assert one.partition.waiting_since() is None or one.partition.waiting_since() > first
        await settled(one.partition)
        assert one.partition.waiting_since() is None


async def test_it_can_be_stopped_at_the_very_moment_when_its_interval_ends():
    """A cancellation that meets the end of a wait must not get lost: nobody would stop."""
    for delay in range(40):
        one = Bench(interval=0.002)
        one.partition.start()
        one.feed(b"a")
        await asyncio.sleep(delay / 10_000)
        one.partition._hurry.set()
        async with asyncio.timeout(1):
            await one.partition.stop()


async def test_lag_is_what_is_not_committed():
    async with bench() as one:
        assert one.partition.lag is None
        one.partition.tick(Progress(position=0, end=5, answered_ms=1, batches=0))
        assert one.partition.lag == 5
        one.feed(b"a", b"a", b"a")
        one.partition.tick(Progress(position=3, end=5, answered_ms=1, batches=1))
        assert one.partition.lag == 5
        await settled(one.partition)
        one.partition.tick(Progress(position=3, end=5, answered_ms=1, batches=1))
        assert one.partition.lag == 2
        # The last two offsets are transaction markers.
        one.partition.tick(Progress(position=5, end=5, answered_ms=1, batches=1))
        assert one.partition.lag == 0


async def test_while_there_is_much_to_read_checkpoints_are_fewer(monkeypatch):
    monkeypatch.setattr(module, "_BACKLOG_INTERVAL", 0.3)
    async with bench() as one:
        one.at_end(end=one.offset + 100_000)
        for key in (b"a", b"b", b"c"):
            one.feed(key)
            await asyncio.sleep(0.03)
        assert one.commits == []
        await settled(one.partition)
        assert [next_offset for _, next_offset in one.commits] == [3]
        one.at_end()
        one.feed(b"a")
        await asyncio.sleep(0.1)
        assert len(one.commits) == 2


class Owing(Processor):
    """Each key is announced; what was announced is owed until the next take."""

    def process(self, records):
        super().process(records)
        self.announcing = True

    def take(self):
        output = super().take()
        if self.owed:
            output.changes.setdefault(b"settled", b"")
        self.owed, self.announcing = int(self.announcing), False
        return output


class Unsettled(Checkpointer):
    async def commit(self, output, next_offset):
        await super().commit(output, next_offset)
        self.unsettled = next_offset is not None
        return 0


@asynccontextmanager
async def announcing(**options):
    one = Bench(processor=Owing(), checkpointer=Unsettled(), **options)
    one.partition.start()
    try:
        yield one
    finally:
        await one.partition.stop()


async def test_a_checkpoint_that_announces_begins_at_once_and_the_one_that_settles_it_has_patience():
    async with announcing(interval=60, patience=0.3) as one:
        began = time.monotonic()
        one.feed(b"a")
        await asyncio.wait_for(one.checkpointer.begun.wait(), 0.2)
        assert not one.partition.settled
        await settled(one.partition)
        assert time.monotonic() - began > 0.25
        assert one.commits == [({b"a": b"1"}, 1), ({b"settled": b""}, None)]


async def test_of_many_checkpoints_that_announce_the_last_ones_wait(monkeypatch):
    monkeypatch.setattr(module, "_IN_A_ROW", 2)
    async with announcing(interval=0.6, patience=60) as one:
        for number in range(1, 4):
            one.checkpointer.begun.clear()
            one.feed(b"a")
            if number == 3:
                await asyncio.sleep(0.1)
                assert len(one.commits) == 2
            await asyncio.wait_for(one.checkpointer.begun.wait(), 0.5)
            await asyncio.sleep(0)
        assert [offset for _, offset in one.commits] == [1, 2, 3]


async def test_where_checkpoints_take_long_those_that_announce_leave_as_much_time_between_them(monkeypatch):
    monkeypatch.setattr(module, "_IN_A_ROW", 1)
    monkeypatch.setattr(module, "_OF_LATE", 1)
    async with announcing(interval=0.01, patience=60) as one:
        one.checkpointer.may_go_on.clear()
        one.feed(b"a")
        await asyncio.sleep(0.3)  # so long, and while it goes on the time for it is half over
        one.checkpointer.may_go_on.set()
        await asyncio.sleep(0.02)
        one.feed(b"a")
        await asyncio.sleep(0.1)
        assert [offset for _, offset in one.commits] == [1]
        await asyncio.sleep(0.6)
        assert [offset for _, offset in one.commits] == [1, 2]


async def test_with_a_backlog_there_is_no_hurry(monkeypatch):
    monkeypatch.setattr(module, "_BACKLOG_INTERVAL", 0.3)
    async with announcing() as one:
        one.at_end(end=1_000_000)
        one.feed(b"a")
        await asyncio.sleep(0.1)
        assert one.commits == []
        one.feed(b"b")
        await settled(one.partition)
        assert one.commits[0] == ({b"a": b"1", b"b": b"1"}, 2)


async def test_draining_settles_what_is_owed_at_once():
    async with announcing(interval=60) as one:
        one.feed(b"a")
        await asyncio.wait_for(one.partition.drain(), 2)
        assert one.partition.settled
        assert one.commits == [({b"a": b"1"}, 1), ({b"settled": b""}, None)]


async def test_what_is_owed_by_whoever_had_it_before_is_delivered_without_a_record():
    one = Bench()
    one.processor.owed = 1
    one.processor.changed.add(b"a")
    one.processor.seen[b"a"] = 1
    one.partition.start()
    one.processor.owed = 0  # as of its next take
    await settled(one.partition)
    await one.partition.stop()
    assert one.commits == [({b"a": b"1"}, None)]
