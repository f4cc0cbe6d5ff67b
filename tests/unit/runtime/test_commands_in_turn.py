"""Commands of a partition: each in its turn and once, or held until the telemetry before them is read."""

import asyncio
from types import SimpleNamespace

import pytest

from streams.errors import InternalError
from streams.records import Output, Standing
from streams.runtime.batches import Batch, Progress
from streams.runtime.commands import Plan
from streams.runtime.partition import Partition


class Processor:
    def __init__(self):
        self.clock = self.owed = 0
        self.announcing = False
        self.standing = Standing()
        self.done = []
        self.held = []
        self.touched = False

    def process(self, records):
        self.done += [f"record {record.offset}" for record in records]

    def command(self, record, *, own=True):
        self.done.append(f"command {record.offset}" if own else f"command {record.offset} of another partition")

    def hold(self, commands):
        self.held = list(commands)

    def release(self):
        for record, own in self.held:
            self.command(record, own=own)
        self.held = []

    def wake_at(self):
        return None

    def touch_clock(self):
        self.touched = True

    def take(self):
        touched, self.touched = self.touched, False
        return Output(changes={b"k": self.standing} if touched else {})


def records(*offsets):
    return [SimpleNamespace(offset=offset, timestamp=0, key=b"", value=b"", headers=()) for offset in offsets]


class Bench:
    def __init__(self, plan, *, start=0):
        self.processor = Processor()
        self.processor.hold(plan.held if plan is not None else [])
        self.commits = []
        self.partition = Partition(
            3,
            self.processor,
            self,
            start=start,
            interval=0.001,
            observer=SimpleNamespace(batch=lambda *_: None, checkpoint=lambda *_: None),
            fail=pytest.fail,
            plan=plan,
        )
        self.partition.start()

    unsettled = False

    async def commit(self, output, next_offset):
        standing = output.changes.get(b"k")
        self.commits.append((next_offset, standing and standing.next_offset, standing and standing.next_command))
        return 0

    async def end(self):
        await self.partition.drain()


async def test_a_command_is_done_at_once_and_its_place_is_committed_with_it():
    bench = Bench(Plan(7), start=40)
    bench.partition.command(records(7, 8))
    assert bench.processor.done == ["command 7", "command 8"]
    await bench.end()
    # A state says where in the source it goes on, also if nothing of that was read.
    assert bench.commits == [(40, 40, 9)]


async def test_a_command_that_comes_twice_is_done_once():
    bench = Bench(Plan(7))
    bench.partition.command(records(7, 8))
    bench.partition.command(records(7, 8))
    bench.partition.command(records(8, 9))
    assert bench.processor.done == ["command 7", "command 8", "command 9"]
    await bench.end()


async def test_commands_are_held_until_the_source_is_read_that_far():
    (foreign,), (own,) = records(0), records(1)
    bench = Bench(Plan(2, [(foreign, False), (own, True)], until=12), start=10)
    bench.partition.command(records(2))  # one that comes meanwhile waits with them
    bench.partition.apply(Batch(3, records(10), 0, 1))
    assert bench.processor.done == ["record 10"]
    await asyncio.sleep(0.01)
    assert bench.processor.standing.next_command is None
    bench.partition.apply(Batch(3, records(11), 1, 1))
    assert bench.processor.done == [
        "record 10",
        "record 11",
        "command 0 of another partition",
        "command 1",
        "command 2",
    ]
    await bench.end()
    assert bench.commits[-1] == (12, 12, 3)


async def test_they_are_not_held_for_records_that_there_are_not():
    bench = Bench(Plan(1, [(records(0)[0], True)], until=5), start=3)
    # What is left of the log are the markers of a transaction.
    bench.partition.tick(Progress(position=5, end=5, answered_ms=1, batches=0))
    assert bench.processor.done == ["command 0"]
    await bench.end()


async def test_with_nothing_to_hold_nothing_is_written():
    bench = Bench(Plan(0, [], until=3), start=3)
    assert bench.processor.standing.next_command == 0
    await bench.end()
    assert bench.commits == []


async def test_a_partition_without_commands_takes_none():
    bench = Bench(None)
    with pytest.raises(InternalError, match="takes no commands"):
        bench.partition.command(records(0))
    await bench.end()
