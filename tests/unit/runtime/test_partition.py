import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from streams.errors import ClusterError, InternalError
from streams.records import Output
from streams.runtime import partition as module
from streams.runtime.batches import Batch, Progress
from streams.runtime.partition import Partition


class Processor:
    """State is how often each key was seen."""

    def __init__(self):
        self.clock = 0
        self.seen = {}
        self.changed = set()
        self.due = None
        self.closed = []
        self.touched = 0

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
        self.touched += 1
        self.changed.add(b"clock")
        self.seen[b"clock"] = self.clock

    def take(self):
        changed, self.changed = self.changed, set()
        return Output(changes={key: str(self.seen[key]).encode() for key in changed})


class Checkpointer:
    def __init__(self):
        self.commits = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.begun = asyncio.Event()
        self.error = None

    async def commit(self, output, next_offset):
        self.begun.set()
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        self.commits.append((output.changes, next_offset))
        return 0


class Bench:
    """A partition and everything around it."""

    def __init__(self, interval=0.01):
        self.processor = Processor()
        self.checkpointer = Checkpointer()
        self.failures = []
        self.observed = []
        self.partition = Partition(
            3,
            self.processor,
            self.checkpointer,
            interval=interval,
            observer=SimpleNamespace(
                batch=lambda *args: self.observed.append(args), checkpoint=lambda *args: self.observed.append(args)
            ),
            fail=self.failures.append,
        )
        self.sequence = 0
        self.offset = 0

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
        assert one.processor.touched == 0  # nothing waits for the clock
        one.processor.due = 2_000_000
        one.at_end(answer=3)
        await settled(one.partition)
        assert one.processor.touched == 1
        assert one.commits[-1][1] is None
        assert int(one.commits[-1][0][b"clock"]) >= 1_000_080


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
