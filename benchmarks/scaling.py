"""How the cost of a record changes with the fleet, the load, the number of workers and the time between checkpoints.

    python benchmarks/scaling.py fleets [--vehicles 1000,10000,100000,1000000] [--each 4] [--every 5]
    python benchmarks/scaling.py loads [--messages 200000]
    python benchmarks/scaling.py live [--messages 200000] [--rounds 3]
    python benchmarks/scaling.py workers [--messages 400000] [--rounds 3] [--counts 1,2]
    python benchmarks/scaling.py commits [--rate 2000] [--seconds 20] [--intervals 0.1,0.5,1,10]

*fleets* and *loads* are the core without Kafka, in one partition, beside plain parsing of the same messages. A
checkpoint of *fleets* is 1,000 records, so that whatever the fleet, each record has its vehicle's state written. Of a
vehicle there is a message every so many seconds (--every): one that is silent for two minutes is put to rest, and has
to be woken up.

*live*, *workers* and *commits* are `trips worker` on a local Kafka, all workers together, started before the first
record is sent. *live*: each vehicle sends one message, as fast as it goes, so that each record has its vehicle's state
written; *workers*: a backlog of 5,000 vehicles, where it is written once for several; *commits*: at a pace. The
processor time of a worker that has nothing to do is not taken off.
"""
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import islice
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaProducer
from core import KafkaRecord, new_processor
from fleet import SINCE, Message, late, recent, repeated, shuffled, telemetry
from measuring import (
    PARTITIONS,
    Cluster,
    Worker,
    arguments,
    at_pace,
    cpu_seconds,
    emit,
    markdown,
    median_and_range,
    numbers,
)

from streams.settings import Settings

_BATCH: Final = 1_000
_LOAD_BATCH: Final = 4_000
_VEHICLES: Final = 625
_FLEET: Final = 5_000
_CHUNK: Final = 10_000

Rows = list[tuple[object, ...]]


# -- the core ----------------------------------------------------------------------------------------------------------


class Cost:
    """Of records that are handed in one batch after the other."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self.records = 0
        self.core = 0.0
        self.parsing = 0.0
        self.renew()

    def renew(self) -> None:
        """Begin with no vehicle."""
        self._processor = new_processor()
        self._offset = 0

    def add(self, load: Iterable[Message], *, counts: bool = True) -> None:
        """Process messages, with a checkpoint after each batch; and parse them, beside it."""
        load = iter(load)
        while chunk := list(islice(load, _CHUNK)):
            records = [
                KafkaRecord(0, self._offset + number, message.at, message.key, message.value)
                for number, message in enumerate(chunk)
            ]
            self._offset += len(records)
            began = time.process_time()
            for start in range(0, len(records), self._batch):
                self._processor.process(records[start : start + self._batch])
                self._processor.take()
            between = time.process_time()
            for record in records:
                orjson.loads(record.value)
            if counts:
                self.records += len(records)
                self.core += between - began
                self.parsing += time.process_time() - between

    def row(self, *name: object) -> tuple[object, ...]:
        """Of the table."""
        core, parsing = self.core / self.records * 1e6, self.parsing / self.records * 1e6
        return *name, f"{self.records:,}", f"{core:.2f}", f"{parsing:.2f}", f"{core / parsing:.1f}"


def fleets(options: argparse.Namespace) -> tuple[str, str, Any]:
    """The same of each vehicle, of ever larger fleets; small ones several times."""
    rows: Rows = []
    raw = {}
    for vehicles in options.vehicles:
        cost = Cost(_BATCH)
        for number in range(max(1, options.messages // (vehicles * options.each))):
            cost.renew()
            # Every vehicle has been there twice before: what a new one costs is another matter.
            before = 2 * vehicles
            load = in_turns(
                telemetry(before + options.each * vehicles, vehicles, SINCE, number), vehicles, options.every
            )
            cost.add(islice(load, before), counts=False)
            cost.add(load)
        rows.append(cost.row(f"{vehicles:,}"))
        raw[vehicles] = cost.core / cost.parsing
    times = max(raw.values()) / min(raw.values())
    title = (
        f"the core, {options.each} messages of each vehicle, {options.every} s apart, a checkpoint for {_BATCH:,} "
        f"records; beside the parsing, the dearest fleet costs {times:.2f} times the cheapest"
    )
    return title, markdown(("vehicles", "records", "us a record", "parsing, us", "times parsing"), rows), raw


def in_turns(load: Iterable[Message], vehicles: int, every_s: int) -> Iterator[Message]:
    """The messages arrive when it is their turn: by its own time, a vehicle that has paused is ahead of the others."""
    for number, message in enumerate(load):
        yield message._replace(at=SINCE + number * every_s * 1000 // vehicles)


def loads(options: argparse.Namespace) -> tuple[str, str, Any]:
    """All kinds of input."""
    count = options.messages
    kinds: dict[str, Callable[[], Iterable[Message]]] = {
        "as it comes: every 5 s, 255 bytes": lambda: telemetry(count, _VEHICLES, SINCE),
        "shuffled within 10 minutes": lambda: shuffled(telemetry(count, _VEHICLES, SINCE)),
        "20 % repeated within 10 minutes": lambda: repeated(telemetry(count, _VEHICLES, SINCE)),
        "5 % late by an hour": lambda: late(telemetry(count, _VEHICLES, SINCE)),
        "every second": lambda: telemetry(count, _VEHICLES, SINCE, every_ms=1_000),
        "every 30 s": lambda: telemetry(count, _VEHICLES, SINCE, every_ms=30_000),
        "1 vehicle": lambda: telemetry(min(count, 50_000), 1, SINCE),
        "every second message of one vehicle": lambda: telemetry(min(count, 50_000), _VEHICLES, SINCE, skewed=True),
        "150 bytes: switch and position": lambda: telemetry(count, _VEHICLES, SINCE, size=150),
        "1 KiB": lambda: telemetry(count, _VEHICLES, SINCE, size=1_024),
        "4 KiB": lambda: telemetry(count, _VEHICLES, SINCE, size=4_096),
    }
    rows: Rows = []
    raw = {}
    for name, load in kinds.items():
        cost = Cost(_LOAD_BATCH)
        cost.add(load())
        rows.append(cost.row(name))
        raw[name] = cost.core / cost.records * 1e6
    title = f"the core, {_VEHICLES} vehicles where nothing else is said, a checkpoint for {_LOAD_BATCH:,} records"
    return title, markdown(("load", "records", "us a record", "parsing, us", "times parsing"), rows), raw


# -- workers -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(
    cluster: Cluster, name: str, workers: int, **changes: Any
) -> AsyncIterator[tuple[Settings, list[Worker]]]:
    """An application of its own with so many workers, all ready, each with its share of the partitions."""
    async with cluster.application(name, silence_timeout="PT12H", **changes) as settings:
        with ExitStack() as stack:
            started = [stack.enter_context(Worker(settings, cluster.folder)) for _ in range(workers)]
            await _until_shared(started)
            yield settings, started


async def _until_shared(workers: list[Worker]) -> None:
    """Until the partitions are shared out evenly."""
    while True:
        for worker in workers:
            await worker.until_ready()
        shares = [worker.metrics()["trips_partitions"] for worker in workers]
        if sum(shares) == PARTITIONS and max(shares) - min(shares) <= 1:
            return
        await asyncio.sleep(0.1)


async def _backlog(cluster: Cluster, name: str, workers: int, count: int) -> float:
    async with running(cluster, name, workers) as (settings, started):
        load = list(recent(count, _FLEET))
        before = sum(cpu_seconds(worker.pid) for worker in started)
        await cluster.fill(settings.topics.telemetry, load)
        await cluster.until_committed(settings, count, *started)
        return (sum(cpu_seconds(worker.pid) for worker in started) - before) / count * 1e6


async def live(options: argparse.Namespace) -> tuple[str, str, Any]:
    """What a message costs of which no other of its vehicle is near."""
    found = []
    async with Cluster.at(options.bootstrap_servers) as cluster:
        for number in range(options.rounds):
            async with running(cluster, f"live-{number}", 1) as (settings, (worker,)):
                vehicles, cpu = options.messages, 0.0
                load = recent(3 * vehicles, vehicles)
                for turn in range(3):  # twice for the vehicles to be known
                    before = cpu_seconds(worker.pid)
                    await cluster.fill(settings.topics.telemetry, list(islice(load, vehicles)))
                    await cluster.until_committed(settings, (turn + 1) * vehicles, worker)
                    cpu = cpu_seconds(worker.pid) - before
                found.append(cpu / vehicles * 1e6)
    title = f"`trips worker`, a message of each of {options.messages:,} vehicles, medians of {options.rounds} rounds"
    return title, markdown(("", "CPU, us a record"), [("live", median_and_range(found, ".1f"))]), found


async def workers(options: argparse.Namespace) -> tuple[str, str, Any]:
    """Several workers beside one."""
    found: dict[int, list[float]] = {count: [] for count in options.counts}
    async with Cluster.at(options.bootstrap_servers) as cluster:
        for number in range(options.rounds):
            for count, costs in found.items():
                costs.append(await _backlog(cluster, f"scaling-{number}-{count}", count, options.messages))
    rows: Rows = [
        (
            count,
            median_and_range(costs, ".1f"),
            f"{statistics.median(costs) / statistics.median(found[options.counts[0]]):.2f}",
        )
        for count, costs in found.items()
    ]
    title = f"`trips worker`, {options.messages:,} messages of 5,000 vehicles, medians of {options.rounds} rounds"
    return title, markdown(("workers", "CPU, us a record, all together", f"times {options.counts[0]}"), rows), found


async def _paced(cluster: Cluster, interval: float, options: argparse.Namespace) -> tuple[float, float, float]:
    """Processor time of a record in us, checkpoints a second, and processor time of a second without work."""
    async with running(cluster, f"commits-{interval}", 1, commit_interval=interval) as (settings, (worker,)):
        count, known = int(options.rate * options.seconds), 2 * _FLEET
        load = list(recent(known + count, _FLEET))
        await cluster.fill(settings.topics.telemetry, load[:known])
        await cluster.until_committed(settings, known, worker)
        idle, began = cpu_seconds(worker.pid), time.monotonic()
        await asyncio.sleep(2)
        idle = (cpu_seconds(worker.pid) - idle) / (time.monotonic() - began)
        async with AIOKafkaProducer(bootstrap_servers=cluster.servers, linger_ms=2) as producer:
            before, began = worker.metrics()["trips_checkpoint_seconds_count"], time.monotonic()
            cpu = cpu_seconds(worker.pid)
            async for due in at_pace(load[known:], options.rate):
                for key, value in due:
                    await producer.send(settings.topics.telemetry, value, key=key)
        await cluster.until_committed(settings, known + count, worker)
        seconds = time.monotonic() - began
        cpu = cpu_seconds(worker.pid) - cpu
        checkpoints = worker.metrics()["trips_checkpoint_seconds_count"] - before
        return cpu / count * 1e6, checkpoints / seconds, idle


async def commits(options: argparse.Namespace) -> tuple[str, str, Any]:
    """Checkpoints seldom and often."""
    found = {}
    async with Cluster.at(options.bootstrap_servers) as cluster:
        for interval in options.intervals:
            found[interval] = await _paced(cluster, interval, options)
    rows: Rows = [
        (f"{interval:g} s", f"{cpu:.1f}", f"{checkpoints:.1f}", f"{idle * 100:.1f}")
        for interval, (cpu, checkpoints, idle) in found.items()
    ]
    title = f"`trips worker` at {options.rate:,} messages a second for {options.seconds:g} s, {_FLEET:,} vehicles"
    (cpu, checkpoints, _), (less_cpu, fewer, _) = found[options.intervals[0]], found[options.intervals[-1]]
    if checkpoints > fewer:
        each = (cpu - less_cpu) * options.rate / (checkpoints - fewer) / 1e3
        title += f"; from the first and the last line, a checkpoint costs {each:.1f} ms"
    head = ("TRIPS_COMMIT_INTERVAL", "CPU, us a record", "checkpoints a second", "CPU without work, % of a core")
    return title, markdown(head, rows), found


# -- from the command line ---------------------------------------------------------------------------------------------


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__, kafka=True)
    parser.add_argument("what", choices=("fleets", "loads", "live", "workers", "commits"))
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--vehicles", type=numbers(int), default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--intervals", type=numbers(float), default=[0.1, 0.5, 1.0, 10.0])
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--every", type=int, default=5, help="seconds from one message of a vehicle to its next")
    parser.add_argument("--counts", type=numbers(int), default=[1, 2])
    options = parser.parse_args()
    match options.what:
        case "fleets":
            title, table, raw = fleets(options)
        case "loads":
            title, table, raw = loads(options)
        case "live":
            title, table, raw = asyncio.run(live(options))
        case "workers":
            title, table, raw = asyncio.run(workers(options))
        case _:
            title, table, raw = asyncio.run(commits(options))
    emit(title, table, {options.what: raw}, options.json)


if __name__ == "__main__":
    main()
