"""How long it takes until `trips --help` is there, and until a worker is ready that has no state.

python benchmarks/startup.py [--rounds 5] [--no-kafka] [--json FILE]
"""
# ruff: noqa: INP001, S603

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Worker, arguments, broker, emit, markdown, median_and_range, resident_bytes

from streams.settings import Settings
from streams.topics import create_topics


def seconds(*command: str) -> float:
    """Of a command from start to end."""
    began = time.monotonic()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


async def ready(servers: str, folder: Path, number: int) -> tuple[float, float]:
    """Seconds from the start of a worker's process until its readiness probe says yes, and its memory then, MiB."""
    name = f"startup-{os.getpid()}-{number}"
    settings = Settings.load(bootstrap_servers=servers, application_id=name, topic_prefix=f"{name}.")
    await create_topics(settings)
    began = time.monotonic()
    with Worker(settings, folder) as worker:
        await worker.until_ready()
        return time.monotonic() - began, resident_bytes(worker.pid) / 2**20


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__, kafka=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-kafka", action="store_true", help="leave the worker out")
    options = parser.parse_args()
    commands = {"python alone": ("-c", "pass"), "trips --help": ("-m", "streams.cli", "--help")}
    for command in commands.values():
        seconds(*command)  # compiles, and brings the files into memory
    took = {name: [seconds(*command) for _ in range(options.rounds)] for name, command in commands.items()}
    memory: list[float] = []
    if not options.no_kafka:
        with tempfile.TemporaryDirectory() as folder, broker(options.bootstrap_servers) as kafka:
            found = [
                asyncio.run(ready(kafka.bootstrap_servers, Path(folder), number)) for number in range(options.rounds)
            ]
            took["worker ready, empty state"] = [until for until, _ in found]
            memory = [mebibytes for _, mebibytes in found]
    rows = [(name, median_and_range(times, ".2f")) for name, times in took.items()]
    rows += [("its memory then, MiB", median_and_range(memory))] if memory else []
    raw = {"seconds": took, "memory_mib": memory}
    emit(f"{options.rounds} rounds, medians", markdown(("", "seconds"), rows), raw, options.json)


if __name__ == "__main__":
    main()
