"""How soon a worker that is started again has its state back.

    python benchmarks/recovery.py [--vehicles 100000,500000] [--each 1] [--json FILE]

For each fleet: a worker on a local Kafka works off some messages of each vehicle, and is stopped. Another one is
started, and reads the state back from the changelog. What it says of that in its metrics is shown, and the time from
the start of its process until it is ready. All partitions are its own, and the changelog holds all that was written,
not only what is left after compaction: with one message of each vehicle, those are the same.
"""
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import asdict, dataclass

from fleet import recent
from measuring import PARTITIONS, Cluster, Worker, arguments, emit, markdown, numbers, resident_bytes


@dataclass(frozen=True)
class Recovery:
    """Of one fleet.

    Attributes:
        records: of the changelog; ``bytes`` of their keys and values.
        seconds: that it took to read them.
        ready_s: from the start of the process.
        memory: of the worker when it was ready, bytes.
    """

    vehicles: int
    records: int
    bytes: int
    seconds: float
    ready_s: float
    memory: int


async def recover(cluster: Cluster, vehicles: int, each: int) -> Recovery:
    """Let a worker make the state, and another read it back."""
    count = vehicles * each
    async with cluster.application(f"recovery-{vehicles}", silence_timeout="PT12H") as settings:
        await cluster.fill(settings.topics.telemetry, recent(count, vehicles))
        with Worker(settings, cluster.folder) as worker:
            await cluster.until_committed(settings, count, worker)
        began = time.monotonic()
        with Worker(settings, cluster.folder) as worker:
            await worker.until_ready()
            ready_s = time.monotonic() - began
            metrics = worker.metrics()
            memory = resident_bytes(worker.pid)
        changelog = await cluster.records(settings.topics.changelog)
    return Recovery(
        vehicles,
        int(metrics["trips_recovery_records"]),
        sum(len(key or b"") + len(value or b"") for key, value in changelog),
        metrics["trips_recovery_seconds"],
        ready_s,
        memory,
    )


async def measure(options: argparse.Namespace) -> list[Recovery]:
    """All fleets, on one broker."""
    async with Cluster.at(options.bootstrap_servers) as cluster:
        return [await recover(cluster, vehicles, options.each) for vehicles in options.vehicles]


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__, kafka=True)
    parser.add_argument("--vehicles", type=numbers(int), default=[100_000, 500_000])
    parser.add_argument("--each", type=int, default=1, help="messages of each vehicle")
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    rows = [
        (
            f"{one.vehicles:,}",
            f"{one.records:,}",
            f"{one.bytes / 1e6:,.0f}",
            f"{one.seconds:.2f}",
            f"{one.vehicles / one.seconds:,.0f}",
            f"{one.records / one.seconds:,.0f}",
            f"{one.bytes / one.seconds / 1e6:,.0f}",
            f"{one.ready_s:.1f}",
            f"{one.memory / 2**20:,.0f}",
        )
        for one in found
    ]
    head = (
        "vehicles",
        "records",
        "MB",
        "read back, s",
        "vehicles/s",
        "records/s",
        "MB/s",
        "start to ready, s",
        "RSS, MiB",
    )
    title = f"{options.each} messages of each vehicle, {PARTITIONS} partitions, one worker"
    emit(title, markdown(head, rows), {"recoveries": [asdict(one) for one in found]}, options.json)


if __name__ == "__main__":
    main()
