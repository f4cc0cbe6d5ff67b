"""How the cost of a record changes with the fleet, the load, the number of workers and the time between checkpoints.

    python benchmarks/scaling.py fleets [--vehicles 1000,10000,100000,1000000] [--each 2]
    python benchmarks/scaling.py loads [--messages 200000]
    python benchmarks/scaling.py live [--messages 200000] [--rounds 3]
    python benchmarks/scaling.py workers [--messages 400000] [--rounds 3] [--counts 1,2]
    python benchmarks/scaling.py commits [--rate 2000] [--seconds 20] [--intervals 0.1,0.5,1,10]

*fleets* and *loads* are the core without Kafka, in one partition, beside plain parsing of the same messages. A
checkpoint of *fleets* is 1,000 records, so that whatever the fleet, each record has its vehicle's state written.

*live*, *workers* and *commits* are `trips worker` on a local Kafka, all workers together, started before the first
record is sent. *live*: each vehicle sends one message, as fast as it goes, so that each record has its vehicle's state
written; *workers*: a backlog of 5,000 vehicles, where it is written once for several; *commits*: at a pace. The
processor time of a worker that has nothing to do is not taken off.
"""
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaProducer
from core import SINCE, KafkaRecord
from fleet import Message, late, messages, repeated, shuffled, span_ms, telemetry
from measuring import Cluster, Worker, arguments, broker, cpu_seconds, emit, markdown, median_and_range

from streams.processor import Processor
from streams.settings import Settings
from streams.telemetry.reader import Reader
from streams.topics import create_topics

PARTITIONS: Final = 8
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
        settings = Settings.load()
        self._processor = Processor(settings.rules(), Reader(max_clock_skew_ms=settings.max_clock_skew_ms))
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
            load = telemetry(before + options.each * vehicles, vehicles, SINCE, number)
            cost.add(islice(load, before), counts=False)
            cost.add(load)
        rows.append(cost.row(f"{vehicles:,}"))
        raw[vehicles] = cost.core / cost.records * 1e6
    times = max(raw.values()) / min(raw.values())
    title = (
        f"the core, {options.each} messages of each vehicle, a checkpoint for {_BATCH:,} records; "
        f"the dearest fleet costs {times:.2f} times the cheapest"
    )
    return title, markdown(("vehicles", "records", "us a record", "parsing, us", "times parsing"), rows), raw


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
    servers: str, folder: Path, name: str, workers: int, **changes: Any
) -> AsyncIterator[tuple[Cluster, Settings, list[Worker]]]:
    """An application of its own with so many workers, all ready, each with its share of the partitions."""
    name = f"{name}-{os.getpid()}"
    settings = Settings.load(
        bootstrap_servers=servers,
        application_id=name,
        topic_prefix=f"{name}.",
        partitions=PARTITIONS,
        silence_timeout="PT12H",
        **changes,
    )
    await create_topics(settings)
    async with Cluster.at(servers) as cluster:
        with ExitStack() as stack:
            started = [stack.enter_context(Worker(settings, folder)) for _ in range(workers)]
            await _until_shared(started)
            yield cluster, settings, started
        await cluster.drop(name)


async def _until_shared(workers: list[Worker]) -> None:
    """Until the partitions are shared out evenly."""
    while True:
        for worker in workers:
            await worker.until_ready()
        shares = [worker.metrics()["trips_partitions"] for worker in workers]
        if sum(shares) == PARTITIONS and max(shares) - min(shares) <= 1:
            return
        await asyncio.sleep(0.1)


async def _until_done(cluster: Cluster, settings: Settings, workers: list[Worker], count: int) -> None:
    while await cluster.committed(settings.application_id, settings.topics.telemetry, PARTITIONS) < count:
        for worker in workers:
            worker.check()
        await asyncio.sleep(0.02)


async def _backlog(servers: str, folder: Path, name: str, workers: int, count: int) -> float:
    async with running(servers, folder, name, workers) as (cluster, settings, started):
        since = int(time.time() * 1000) - span_ms(count, 5_000)
        load = list(messages(count, 5_000, since))
        before = sum(cpu_seconds(worker.pid) for worker in started)
        await cluster.fill(settings.topics.telemetry, PARTITIONS, load)
        await _until_done(cluster, settings, started, count)
        return (sum(cpu_seconds(worker.pid) for worker in started) - before) / count * 1e6


async def live(options: argparse.Namespace) -> tuple[str, str, Any]:
    """What a message costs of which no other of its vehicle is near."""
    found = []
    with tempfile.TemporaryDirectory() as folder, broker(options.bootstrap_servers) as kafka:
        for number in range(options.rounds):
            name = f"live-{number}"
            async with running(kafka.bootstrap_servers, Path(folder), name, 1) as (cluster, settings, started):
                vehicles, done, cpu = options.messages, 0, 0.0
                load = messages(3 * vehicles, vehicles, int(time.time() * 1000) - span_ms(3 * vehicles, vehicles))
                for _ in range(3):  # twice for the vehicles to be known
                    before = cpu_seconds(started[0].pid)
                    await cluster.fill(settings.topics.telemetry, PARTITIONS, list(islice(load, vehicles)))
                    done += vehicles
                    await _until_done(cluster, settings, started, done)
                    cpu = cpu_seconds(started[0].pid) - before
                found.append(cpu / vehicles * 1e6)
    title = f"`trips worker`, a message of each of {options.messages:,} vehicles, medians of {options.rounds} rounds"
    return title, markdown(("", "CPU, us a record"), [("live", median_and_range(found, ".1f"))]), found


async def workers(options: argparse.Namespace) -> tuple[str, str, Any]:
    """Several workers beside one."""
    found: dict[int, list[float]] = {count: [] for count in options.counts}
    with tempfile.TemporaryDirectory() as folder, broker(options.bootstrap_servers) as kafka:
        for number in range(options.rounds):
            for count, costs in found.items():
                name = f"scaling-{number}-{count}"
                costs.append(await _backlog(kafka.bootstrap_servers, Path(folder), name, count, options.messages))
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


async def _paced(
    servers: str, folder: Path, interval: float, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Processor time of a record in us, checkpoints a second, and processor time of a second without work."""
    async with running(servers, folder, f"commits-{interval}", 1, commit_interval=interval) as (
        cluster,
        settings,
        (worker,),
    ):
        count, known = int(options.rate * options.seconds), 2 * _FLEET
        load = iter(list(messages(known + count, _FLEET, int(time.time() * 1000) - span_ms(known + count, _FLEET))))
        await cluster.fill(settings.topics.telemetry, PARTITIONS, islice(load, known))
        await _until_done(cluster, settings, [worker], known)
        idle, began = cpu_seconds(worker.pid), time.monotonic()
        await asyncio.sleep(2)
        idle = (cpu_seconds(worker.pid) - idle) / (time.monotonic() - began)
        producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=2)
        await producer.start()
        before, began = worker.metrics()["trips_checkpoint_seconds_count"], time.monotonic()
        cpu, sent = cpu_seconds(worker.pid), 0
        while sent < count:
            due = min(count, int((time.monotonic() - began) * options.rate) + 1)
            for key, value in islice(load, due - sent):
                await producer.send(settings.topics.telemetry, value, key=key)
            sent = due
            await asyncio.sleep(0.005)
        await producer.stop()
        await _until_done(cluster, settings, [worker], known + count)
        seconds = time.monotonic() - began
        cpu = cpu_seconds(worker.pid) - cpu
        checkpoints = worker.metrics()["trips_checkpoint_seconds_count"] - before
        return cpu / count * 1e6, checkpoints / seconds, idle


async def commits(options: argparse.Namespace) -> tuple[str, str, Any]:
    """Checkpoints seldom and often."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, broker(options.bootstrap_servers) as kafka:
        for interval in options.intervals:
            found[interval] = await _paced(kafka.bootstrap_servers, Path(folder), interval, options)
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


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(one) for one in text.split(",")]


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__, kafka=True)
    parser.add_argument("what", choices=("fleets", "loads", "live", "workers", "commits"))
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--vehicles",
        type=_numbers(int),
        default=[1_000, 10_000, 100_000, 1_000_000],
    )
    parser.add_argument("--intervals", type=_numbers(float), default=[0.1, 0.5, 1.0, 10.0])
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--counts", type=_numbers(int), default=[1, 2])
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
