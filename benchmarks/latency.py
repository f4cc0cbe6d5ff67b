"""How long it takes from a message that ends a trip to the announcement that its data are ready.

    python benchmarks/latency.py [--rate 2000] [--seconds 30] [--vehicles 5000] [--rounds 3] [--json FILE]

Starts a local Kafka and, for each guarantee in turns, an application of its own: `trips worker` as shipped, with
default settings but for names of topics. It first works off the past of the fleet, so that there is state. Then the
fleet goes on at the given rate, and readers of `trip-events` note when each TripDataReady arrives: one that reads
committed and, with at_least_once, one that reads uncommitted. The time runs from just before the OFF is handed to the
producer until a reader has the record. In the end every trip that ended must have come out: once, or with at_least_once
at least once.
"""
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import DefaultPartitioner
from fleet import messages, span_ms
from measuring import broker

from streams.settings import Settings
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Ended = tuple[str, str]
    """A vehicle, and the end of one of its trips."""

PARTITIONS: Final = 8
GUARANTEES: Final = {
    "exactly_once": ("read_committed",),
    "at_least_once": ("read_committed", "read_uncommitted"),
}
PAST: Final = 60
"""Messages of each vehicle before anything is measured: about one trip."""
TICK: Final = 0.005
"""Seconds; what is due by then is sent together."""
LATE: Final = 30.0
"""Seconds after the last message; what has not come by then is missing."""
SHOWN: Final = (50, 90, 99)


@dataclass
class Reader:
    """What one reader has got: for each trip that ended, when it was said how (monotonic seconds)."""

    isolation: str
    arrived: dict[Ended, float] = field(default_factory=dict)
    ready: set[Ended] = field(default_factory=set)
    ids: Counter[str] = field(default_factory=Counter)

    async def read(self, settings: Settings) -> None:
        """From the beginning, until it is cancelled."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers, isolation_level=self.isolation, enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = [TopicPartition(settings.topics.events, number) for number in range(PARTITIONS)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            while True:
                fetched = await consumer.getmany(timeout_ms=500)
                now = time.monotonic()
                for records in fetched.values():
                    for record in records:
                        self._take(json.loads(record.value), now)
        finally:
            await consumer.stop()

    def _take(self, announcement: dict[str, Any], now: float) -> None:
        event, trip = announcement["metadata"]["type"], announcement["data"]["trip"]
        if event in {"TripDataReady", "TripDiscarded"}:
            ended = trip["vehicle_id"], trip["end"]["timestamp"]
            self.arrived.setdefault(ended, now)
            self.ids[announcement["metadata"]["id"]] += 1
            if event == "TripDataReady":
                self.ready.add(ended)

    def latencies_ms(self, sent: dict[Ended, float]) -> list[float]:
        """Of the trips that were ready, in order."""
        return sorted((self.arrived[ended] - at) * 1000 for ended, at in sent.items() if ended in self.ready)


def chunks(fleet: Iterator[tuple[bytes, bytes]], count: int) -> Iterator[tuple[int, bytes, bytes]]:
    """So many messages: partition, key and value."""
    choose, numbers = DefaultPartitioner(), list(range(PARTITIONS))
    places: dict[bytes, int] = {}
    for _ in range(count):
        key, value = next(fleet)
        if key not in places:
            places[key] = choose(key, numbers, numbers)
        yield places[key], key, value


async def send(
    producer: AIOKafkaProducer, topic: str, these: Iterable[tuple[int, bytes, bytes]]
) -> list[asyncio.Future[Any]]:
    """Messages, in batches of their partitions."""
    batches: dict[int, Any] = {}
    sent = []
    for number, key, value in these:
        if number not in batches:
            batches[number] = producer.create_batch()
        if batches[number].append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batches[number], topic, partition=number))
            batches[number] = producer.create_batch()
            batches[number].append(key=key, value=value, timestamp=None)
    return sent + [await producer.send_batch(batch, topic, partition=number) for number, batch in batches.items()]


async def pace(
    producer: AIOKafkaProducer, topic: str, load: list[tuple[int, bytes, bytes]], rate: float
) -> dict[Ended, float]:
    """Send messages at a rate. Returns when each OFF was handed over."""
    sent: dict[Ended, float] = {}
    deliveries: list[asyncio.Future[Any]] = []
    began, done = time.monotonic(), 0
    while done < len(load):
        await asyncio.sleep(TICK)
        now = time.monotonic()
        due = min(len(load), int((now - began) * rate))
        these, done = load[done:due], due
        for _, key, value in these:
            if b'"ignition":"OFF"' in value:
                sent[key.decode(), json.loads(value)["timestamp"]] = now
        deliveries += await send(producer, topic, these)
    await asyncio.gather(*deliveries)
    return sent


def start_worker(settings: Settings, guarantee: str, log: Path) -> subprocess.Popen[bytes]:
    """As shipped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")}
    names = {
        "TRIPS_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "TRIPS_APPLICATION_ID": settings.application_id,
        "TRIPS_TOPIC_PREFIX": settings.topic_prefix,
        "TRIPS_PARTITIONS": str(PARTITIONS),
        "TRIPS_PROCESSING_GUARANTEE": guarantee,
        "TRIPS_HTTP_PORT": "0",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "worker"], env=kept | names, stdout=output, stderr=subprocess.STDOUT
        )


async def worked_off(settings: Settings, count: int, worker: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until so many messages are committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        done = 0
        while done < count:
            if worker.poll() is not None:
                raise SystemExit(f"the worker has ended; its log:\n{_text(log)}")
            await asyncio.sleep(0.1)
            with suppress(Exception):  # the group is not there yet
                offsets = await admin.list_consumer_group_offsets(settings.application_id)
                done = sum(max(0, at.offset) for at in offsets.values())
    finally:
        await admin.close()


def _text(log: Path) -> str:
    return log.read_text()


async def one_round(servers: str, folder: Path, number: int, guarantee: str, options: argparse.Namespace) -> list[Any]:
    """An application of its own: a row for each reader."""
    name = f"latency-{guarantee.replace('_', '-')}-{number}"
    settings = Settings.load(
        bootstrap_servers=servers, application_id=name, topic_prefix=f"{name}-", partitions=PARTITIONS
    )
    await create_topics(settings)
    past, present = PAST * options.vehicles, int(options.rate * options.seconds)
    since = int(time.time() * 1000) - span_ms(past + present, options.vehicles)
    fleet = messages(past + present, options.vehicles, since, seed=number + 1)
    readers = [Reader(isolation) for isolation in GUARANTEES[guarantee]]
    log = folder / f"{name}.log"
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=2**18, linger_ms=0)
        await producer.start()
        stack.push_async_callback(producer.stop)
        worker = start_worker(settings, guarantee, log)
        stack.callback(worker.wait, 40)
        stack.callback(worker.send_signal, signal.SIGTERM)
        topic = settings.topics.telemetry
        await asyncio.gather(*await send(producer, topic, chunks(fleet, past)))
        load = list(chunks(fleet, present))
        await worked_off(settings, past, worker, log)
        tasks = [asyncio.create_task(reader.read(settings)) for reader in readers]
        await asyncio.sleep(1)  # until they have read what there is
        sent = await pace(producer, topic, load, options.rate)
        deadline = time.monotonic() + LATE
        while time.monotonic() < deadline and any(sent.keys() - reader.arrived.keys() for reader in readers):  # noqa: ASYNC110 - records, not tasks
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [row(guarantee, number, reader, sent) for reader in readers]


def row(guarantee: str, number: int, reader: Reader, sent: dict[Ended, float]) -> dict[str, Any]:
    """What one reader has seen."""
    missing = sent.keys() - reader.arrived.keys()
    twice = sum(count - 1 for count in reader.ids.values())
    if missing or (twice and guarantee == "exactly_once"):
        raise SystemExit(f"{guarantee}, {reader.isolation}: {len(missing)} trips are missing, {twice} came twice")
    found = reader.latencies_ms(sent)
    if len(found) < 2:
        raise SystemExit("no trip was ready: more seconds, or a higher rate")
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    percentiles = {f"p{percent}_ms": round(cuts[percent - 1], 1) for percent in SHOWN}
    return {
        "guarantee": guarantee,
        "reader": reader.isolation,
        "round": number + 1,
        "ended": len(sent),
        "ready": len(found),
        "repeated": twice,
        **percentiles,
        "max_ms": round(found[-1], 1),
    }


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rounds, interleaved."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, broker() as kafka:
        for number in range(options.rounds):
            for guarantee in options.guarantee or GUARANTEES:
                rows += await one_round(kafka.bootstrap_servers, Path(folder), number, guarantee, options)
    return rows


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """One table: a row for each guarantee and reader, medians of the rounds."""
    print(
        f"{options.rate:,} records/s, {options.vehicles:,} vehicles, {PARTITIONS} partitions, {options.seconds} s, "
        f"medians of {options.rounds} rounds; OFF produced to TripDataReady readable, ms"
    )
    columns = [*(f"p{percent}_ms" for percent in SHOWN), "max_ms"]
    print("| guarantee | reader | trips | p50 | p90 | p99 | most |\n|---|---|--:|--:|--:|--:|--:|")
    for guarantee, reader in dict.fromkeys((one["guarantee"], one["reader"]) for one in rows):
        these = [one for one in rows if (one["guarantee"], one["reader"]) == (guarantee, reader)]
        cells = " | ".join(f"{statistics.median(one[column] for one in these):.1f}" for column in columns)
        print(f"| {guarantee} | {reader} | {sum(one['ready'] for one in these):,} | {cells} |")


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=2_000, help="records a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--vehicles", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guarantee", action="append", choices=list(GUARANTEES), help="only this one")
    parser.add_argument("--json", type=Path, help="where the single rounds go")
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    show(rows, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
