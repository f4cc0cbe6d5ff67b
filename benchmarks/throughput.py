"""How many records a second one worker gets through on this machine, alone and with pushes beside it.

    python benchmarks/throughput.py [--messages 1000000] [--vehicles 5000] [--rounds 3] [--push]

Starts a local Kafka, fills the telemetry topic, and has `trips worker` work it off, as shipped, with default settings
but for names of topics and a silence timeout of 12 h (the vehicles would else be closed by the clock). Each round is
an application of its own that reads all from the first record. Measured is from the first commit that is seen to the
last, at the group's offsets. With ``--push``, rounds alternate with such where a push worker delivers all announcements
to an endpoint on this machine: processor time of the worker for each record is what to compare then, because all
processes, brokers and all, share the machine.
"""
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import NamedTuple

from aiohttp import web
from fleet import recent
from measuring import Cluster, Worker, arguments, cpu_seconds, emit, environment, markdown

from streams.local.broker import free_ports
from streams.settings import Settings

TELEMETRY = "benchmark-telemetry"


class Run(NamedTuple):
    """One round.

    Attributes:
        records_a_second: of telemetry.
        cpu_us: processor time of the worker, µs a record.
        pushed: deliveries that the endpoint has taken while it went on.
    """

    records_a_second: float
    cpu_us: float
    pushed: int


class Endpoint:
    """Takes whatever is pushed."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self, request: web.Request) -> web.Response:
        """One delivery."""
        await request.read()
        self.taken += 1
        return web.Response()

    async def listen(self, stack: AsyncExitStack) -> str:
        """Until the stack ends. Returns the URL."""
        application = web.Application()
        application.router.add_post("/", self.take)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        (port,) = free_ports(1)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{port}/"


async def work(cluster: Cluster, settings: Settings, count: int) -> tuple[float, float]:
    """A worker from the first record to the last: records a second, and µs of processor time a record."""
    with Worker(settings, cluster.folder) as worker:
        first = await cluster.until_committed(settings, 1, worker)
        began, cpu = time.monotonic(), cpu_seconds(worker.pid)
        await cluster.until_committed(settings, count, worker)
        seconds, cpu = time.monotonic() - began, cpu_seconds(worker.pid) - cpu
        if first == count:
            raise SystemExit("all was done between two looks: too few messages to measure anything")
        return (count - first) / seconds, cpu / (count - first) * 1e6


async def one_round(cluster: Cluster, number: int, count: int, *, push: bool) -> Run:
    """An application of its own."""
    name = f"benchmark-{number}{'-push' if push else ''}"
    changes = {"telemetry_topic": TELEMETRY, "silence_timeout": "PT12H", "push_allowed_networks": "127.0.0.0/8"}
    async with cluster.application(name, **changes) as settings, AsyncExitStack() as stack:
        endpoint = Endpoint()
        if push:
            url = await endpoint.listen(stack)
            stack.enter_context(Worker(settings, cluster.folder, "push", "worker"))
            await _subscribe(settings, url)
        rate, cpu_us = await work(cluster, settings, count)
        return Run(rate, cpu_us, endpoint.taken)


async def _subscribe(settings: Settings, url: str) -> None:
    command = ["push", "add", settings.application_id, url, "--profile", "standard"]
    command += ["--secret", "env:PUSH_SECRET_BENCHMARK", "--rate", "1000", "--concurrency", "16"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "streams.cli", *command, env=environment(settings)
    )
    if await process.wait():
        raise SystemExit("the subscription was refused")
    await asyncio.sleep(3)  # until the push worker is ready and knows of it


async def measure(options: argparse.Namespace) -> dict[str, list[Run]]:
    """All rounds, interleaved."""
    runs: dict[str, list[Run]] = {"worker": []}
    if options.push:
        runs["worker, pushes beside it"] = []
    async with Cluster.at() as cluster:
        await cluster.create(TELEMETRY)
        await cluster.fill(TELEMETRY, recent(options.messages, options.vehicles))
        for number in range(options.rounds):
            for name, found in runs.items():
                run = await one_round(cluster, number, options.messages, push="push" in name)
                print(f"round {number + 1}, {name}: {run.records_a_second:,.0f} records/s, {run.cpu_us:.1f} us CPU")
                found.append(run)
    return runs


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--vehicles", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--push", action="store_true")
    options = parser.parse_args()
    os.environ["PUSH_SECRET_BENCHMARK"] = "whsec_YmVuY2htYXJrLWJlbmNobWFyay1iZW5jaG1hcms="  # noqa: S105
    runs = asyncio.run(measure(options))
    rows = []
    for name, found in runs.items():
        rate, cpu_us, pushed = (statistics.median(column) for column in zip(*found, strict=True))
        rows.append((name, f"{rate:,.0f}", f"{cpu_us:.1f}", f"{pushed:,.0f}"))
    head = ("", "records/s", "CPU of the worker, us a record", "pushed meanwhile")
    title = f"{options.messages:,} messages of {options.vehicles:,} vehicles, medians of {options.rounds} rounds"
    raw = {name: [run._asdict() for run in found] for name, found in runs.items()}
    emit(title, markdown(head, rows), {"runs": raw}, options.json)


if __name__ == "__main__":
    main()
