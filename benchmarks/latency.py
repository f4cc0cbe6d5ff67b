"""How long it takes from a message that ends a trip to the announcement that its data are ready.

    python benchmarks/latency.py [--rate 2000] [--seconds 30] [--vehicles 5000] [--rounds 3] [--json FILE]

Starts a local Kafka and, for each guarantee in turns, an application of its own: `trips worker` as shipped, with
default settings but for names of topics. It first works off the past of the fleet, so that there is state. Then the
fleet goes on at the given rate, and readers of `trip-events` note when each TripDataReady arrives: one that reads
committed and, with at_least_once, one that reads uncommitted. The time runs from just before the OFF is handed to the
producer until a reader has the record. A first round is not counted (--warm-up): a broker that has just been started is
busy with compiling itself. In the end every trip that ended must have come out: once, or with at_least_once at least
once. For high rates there is a loader in C (--loader confluent), beside which more of the machine is left.
"""
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import pickle
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from fleet import recent
from measuring import PARTITIONS, Cluster, Worker, arguments, at_pace, emit, markdown, send
from peers.environments import python_with
from peers.runners import CONFLUENT

Ended = tuple[str, str]
"""A vehicle, and the end of one of its trips."""

GUARANTEES: Final = {
    "exactly_once": ("read_committed",),
    "at_least_once": ("read_committed", "read_uncommitted"),
}
PAST: Final = 60
"""Messages of each vehicle before anything is measured: about one trip."""
LATE: Final = 30.0
"""Seconds after the last message; what has not come by then is missing."""
SHOWN: Final = (50, 90, 99)
OFF: Final = '"ignition":"OFF"'
LOADER: Final = str(Path(__file__).parent / "peers" / "loader.py")
TOO_SLOW: Final = 1.02
"""Times as long as it ought to be; then it is not the rate that was asked for."""


@dataclass
class Reader:
    """What one reader has got: for each trip that ended, when it was said how (monotonic seconds)."""

    isolation: str
    arrived: dict[Ended, float] = field(default_factory=dict)
    ready: set[Ended] = field(default_factory=set)
    ids: Counter[str] = field(default_factory=Counter)

    async def read(self, cluster: Cluster, topic: str) -> None:
        """From the beginning, until it is cancelled."""
        async with cluster.reading(topic, self.isolation) as consumer:
            while True:
                fetched = await consumer.getmany(timeout_ms=500)
                now = time.monotonic()
                for records in fetched.values():
                    for record in records:
                        self._take(json.loads(record.value), now)

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


async def pace(
    producer: AIOKafkaProducer, topic: str, load: Sequence[tuple[bytes, bytes]], rate: float
) -> dict[Ended, float]:
    """Send messages at a rate. Returns when each OFF was handed over."""
    sent: dict[Ended, float] = {}
    deliveries: list[asyncio.Future[Any]] = []
    async for due in at_pace(load, rate):
        now = time.monotonic()
        for key, value in due:
            if OFF.encode() in value:
                sent[key.decode(), json.loads(value)["timestamp"]] = now
        deliveries += await send(producer, topic, due)
    await asyncio.gather(*deliveries)
    return sent


async def pace_with_confluent(
    cluster: Cluster, topic: str, load: Sequence[tuple[bytes, bytes]], rate: float
) -> dict[Ended, float]:
    """The same with a loader in C, beside which more of the machine is left."""
    python = await asyncio.to_thread(python_with, "confluent", CONFLUENT)
    command = (python, LOADER, cluster.servers, topic, str(rate), OFF)
    done = await asyncio.to_thread(
        subprocess.run, command, input=pickle.dumps(load), stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    if found["seconds"] > len(load) / rate * TOO_SLOW:
        raise SystemExit(f"{rate:,.0f} records/s could not be offered: they took {found['seconds']:.1f} s")
    return {(load[number][0].decode(), json.loads(load[number][1])["timestamp"]): at for number, at in found["handed"]}


async def one_round(cluster: Cluster, number: int, guarantee: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """An application of its own: a row for each reader."""
    past, present = PAST * options.vehicles, int(options.rate * options.seconds)
    fleet = recent(past + present, options.vehicles, seed=number + 1)
    readers = [Reader(isolation) for isolation in GUARANTEES[guarantee]]
    name = f"latency-{guarantee.replace('_', '-')}-{number}"
    async with (
        cluster.application(name, processing_guarantee=guarantee) as settings,
        AIOKafkaProducer(bootstrap_servers=cluster.servers, max_batch_size=2**18, linger_ms=0) as producer,
    ):
        topic = settings.topics.telemetry
        with Worker(settings, cluster.folder) as worker:
            await asyncio.gather(*await send(producer, topic, islice(fleet, past)))
            load = list(fleet)
            await cluster.until_committed(settings, past, worker)
            tasks = [asyncio.create_task(reader.read(cluster, settings.topics.events)) for reader in readers]
            await asyncio.sleep(1)  # until they have read what there is
            gc.collect()
            gc.freeze()  # or Python looks through the whole load now and then, and the messages are late
            if options.loader == "confluent":
                sent = await pace_with_confluent(cluster, topic, load, options.rate)
            else:
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
    async with Cluster.at() as cluster:
        for number in range(options.warm_up + options.rounds):
            for guarantee in options.guarantee or GUARANTEES:
                found = await one_round(cluster, number, guarantee, options)
                rows += found if number >= options.warm_up else []
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each guarantee and reader, medians of the rounds."""
    columns = [*(f"p{percent}_ms" for percent in SHOWN), "max_ms"]
    lines = []
    for guarantee, reader in dict.fromkeys((one["guarantee"], one["reader"]) for one in rows):
        these = [one for one in rows if (one["guarantee"], one["reader"]) == (guarantee, reader)]
        cells = (f"{statistics.median(one[column] for one in these):.1f}" for column in columns)
        lines.append((guarantee, reader, f"{sum(one['ready'] for one in these):,}", *cells))
    return markdown(("guarantee", "reader", "trips", *(f"p{percent}" for percent in SHOWN), "most"), lines)


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=int, default=2_000, help="records a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--vehicles", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before them, which are not counted")
    parser.add_argument("--loader", choices=("aiokafka", "confluent"), default="aiokafka", help="who sends the records")
    parser.add_argument("--guarantee", action="append", choices=list(GUARANTEES), help="only this one")
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    title = (
        f"{options.rate:,} records/s, {options.vehicles:,} vehicles, {PARTITIONS} partitions, {options.seconds} s, "
        f"medians of {options.rounds} rounds; OFF produced to TripDataReady readable, ms"
    )
    emit(title, table(rows), {"rounds": rows}, options.json)


if __name__ == "__main__":
    main()
