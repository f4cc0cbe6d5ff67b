"""How long it takes until `trips --help` is there, and until a worker is ready that has no state.

python benchmarks/startup.py [--rounds 5] [--no-kafka] [--json FILE]
"""
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from measuring import Cluster, Worker, arguments, emit, markdown, median_and_range, resident_bytes, run

COMMANDS = {
    "python alone": (sys.executable, "-c", "pass"),
    "trips --help": (sys.executable, "-P", "-m", "streams.cli", "--help"),
}


async def ready(cluster: Cluster, number: int) -> tuple[float, float]:
    """Seconds from the start of a worker's process until its readiness probe says yes, and its memory then, MiB."""
    async with cluster.application(f"startup-{number}") as settings:
        began = time.monotonic()
        with Worker(settings, cluster.folder) as worker:
            await worker.until_ready()
            return time.monotonic() - began, resident_bytes(worker.pid) / 2**20


async def workers(options: argparse.Namespace) -> list[tuple[float, float]]:
    """One after the other."""
    async with Cluster.at(options.bootstrap_servers) as cluster:
        return [await ready(cluster, number) for number in range(options.rounds)]


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__, kafka=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-kafka", action="store_true", help="leave the worker out")
    options = parser.parse_args()
    for command in COMMANDS.values():
        run(*command)  # compiles, and brings the files into memory
    took = {name: [run(*command).wall for _ in range(options.rounds)] for name, command in COMMANDS.items()}
    memory: list[float] = []
    if not options.no_kafka:
        found = asyncio.run(workers(options))
        took["worker ready, empty state"] = [until for until, _ in found]
        memory = [mebibytes for _, mebibytes in found]
    rows = [(name, median_and_range(times, ".2f")) for name, times in took.items()]
    rows += [("its memory then, MiB", median_and_range(memory))] if memory else []
    raw = {"seconds": took, "memory_mib": memory}
    emit(f"{options.rounds} rounds, medians", markdown(("", "seconds"), rows), raw, options.json)


if __name__ == "__main__":
    main()
