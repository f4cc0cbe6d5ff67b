"""How many records a second one worker gets through on this machine, alone and with pushes beside it.

    python benchmarks/throughput.py [--messages 1000000] [--vehicles 5000] [--rounds 3] [--push]

Starts a local Kafka, fills the telemetry topic, and has `trips worker` work it off, as shipped, with default settings
but for names of topics and a silence timeout of 12 h (the vehicles would else be closed by the clock). Each round is
an application of its own that reads all from the first record. Measured is from the first commit that is seen to the
last, at the group's offsets. With ``--push``, rounds alternate with such where a push worker delivers all announcements
to an endpoint on this machine: processor time of the worker for each record is what to compare then, because all
processes, brokers and all, share the machine.
"""
# ruff: noqa: INP001, T201, S603

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
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import DefaultPartitioner
from fleet import messages, span_ms

from streams.local.broker import LocalKafka, free_ports
from streams.settings import Settings
from streams.topics import create_topics

PARTITIONS = 8
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


async def fill(servers: str, count: int, vehicles: int) -> None:
    """Put the telemetry into its topic, newest message from now."""
    since = int(time.time() * 1000) - span_ms(count, vehicles)
    choose = DefaultPartitioner()
    numbers = list(range(PARTITIONS))
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=2**17, linger_ms=5)
    await producer.start()
    batches = {number: producer.create_batch() for number in numbers}
    sent = []
    for key, value in messages(count, vehicles, since):
        number = choose(key, numbers, numbers)
        if batches[number].append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batches[number], TELEMETRY, partition=number))
            batches[number] = producer.create_batch()
            batches[number].append(key=key, value=value, timestamp=None)
    sent += [await producer.send_batch(batch, TELEMETRY, partition=number) for number, batch in batches.items()]
    await asyncio.gather(*sent)
    await producer.stop()


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


def environment(settings: Settings, port: int) -> dict[str, str]:
    """Of a process with these settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")}
    return kept | {
        "TRIPS_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "TRIPS_APPLICATION_ID": settings.application_id,
        "TRIPS_TELEMETRY_TOPIC": TELEMETRY,
        "TRIPS_EVENTS_TOPIC": settings.events_topic,
        "TRIPS_TRIPS_TOPIC": settings.trips_topic,
        "TRIPS_PARTITIONS": str(PARTITIONS),
        "TRIPS_SILENCE_TIMEOUT": "43200",
        "TRIPS_HTTP_PORT": str(port),
        "TRIPS_PUSH_ALLOWED_NETWORKS": "127.0.0.0/8",
    }


def start(settings: Settings, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """A process of the product."""
    (port,) = free_ports(1)
    with (folder / f"{settings.application_id}-{command[0]}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "streams.cli", *command],
            env=environment(settings, port),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system, of all threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def committed(admin: AIOKafkaAdminClient, group: str) -> int:
    """Offsets of the group, summed up."""
    places = [TopicPartition(TELEMETRY, number) for number in range(PARTITIONS)]
    with suppress(Exception):  # the group is not there yet
        offsets = await admin.list_consumer_group_offsets(group, partitions=places)
        return sum(max(0, found.offset) for found in offsets.values())
    return 0


async def work(settings: Settings, folder: Path, count: int) -> tuple[float, float]:
    """A worker from the first record to the last: records a second, and µs of processor time a record."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    worker = start(settings, folder, "worker")
    try:
        done = 0
        while not done:
            if worker.poll() is not None:
                raise SystemExit(f"the worker has ended; its log:\n{_log(settings, folder)}")
            done = await committed(admin, settings.application_id)
            await asyncio.sleep(0.02)
        first, began, cpu = done, time.monotonic(), cpu_seconds(worker)
        while done < count:
            await asyncio.sleep(0.02)
            done = await committed(admin, settings.application_id)
        seconds, cpu = time.monotonic() - began, cpu_seconds(worker) - cpu
        return (count - first) / seconds, cpu / (count - first) * 1e6
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        await admin.close()


def _log(settings: Settings, folder: Path) -> str:
    return (folder / f"{settings.application_id}-worker.log").read_text()


async def one_round(servers: str, folder: Path, number: int, count: int, *, push: bool) -> Run:
    """An application of its own."""
    name = f"benchmark-{number}{'-push' if push else ''}"
    settings = Settings.load(
        bootstrap_servers=servers,
        application_id=name,
        events_topic=f"{name}-events",
        trips_topic=f"{name}-trips",
        telemetry_topic=TELEMETRY,
        partitions=PARTITIONS,
    )
    await create_topics(settings)
    async with AsyncExitStack() as stack:
        endpoint = Endpoint()
        if push:
            url = await endpoint.listen(stack)
            pushing = start(settings, folder, "push", "worker")
            stack.callback(pushing.wait, 30)
            stack.callback(pushing.send_signal, signal.SIGTERM)
            await _subscribe(settings, url)
        rate, cpu_us = await work(settings, folder, count)
        return Run(rate, cpu_us, endpoint.taken)


async def _subscribe(settings: Settings, url: str) -> None:
    command = ["push", "add", settings.application_id, url, "--profile", "standard"]
    command += ["--secret", "env:PUSH_SECRET_BENCHMARK", "--rate", "1000", "--concurrency", "16"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams.cli", *command, env=environment(settings, 0)
    )
    if await process.wait():
        raise SystemExit("the subscription was refused")
    await asyncio.sleep(3)  # until the push worker is ready and knows of it


async def measure(arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """All rounds, interleaved."""
    runs: dict[str, list[Run]] = {"worker": []} | ({"worker, pushes beside it": []} if arguments.push else {})
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        filler = Settings.load(
            bootstrap_servers=kafka.bootstrap_servers, telemetry_topic=TELEMETRY, partitions=PARTITIONS
        )
        await create_topics(filler)
        await fill(kafka.bootstrap_servers, arguments.messages, arguments.vehicles)
        for number in range(arguments.rounds):
            for name, found in runs.items():
                run = await one_round(
                    kafka.bootstrap_servers, Path(folder), number, arguments.messages, push="push" in name
                )
                print(f"round {number + 1}, {name}: {run.records_a_second:,.0f} records/s, {run.cpu_us:.1f} us CPU")
                found.append(run)
    return runs


def show(runs: dict[str, list[Run]], arguments: argparse.Namespace) -> None:
    """One table."""
    print(f"\n{arguments.messages:,} messages of {arguments.vehicles:,} vehicles, medians of {arguments.rounds} rounds")
    print("| | records/s | CPU of the worker, us a record | pushed meanwhile |\n|---|--:|--:|--:|")
    for name, found in runs.items():
        rate, cpu_us, pushed = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {rate:,.0f} | {cpu_us:.1f} | {pushed:,.0f} |")


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--vehicles", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--push", action="store_true")
    parser.add_argument("--json", type=Path, help="where the single runs go")
    arguments = parser.parse_args()
    os.environ["PUSH_SECRET_BENCHMARK"] = "whsec_YmVuY2htYXJrLWJlbmNobWFyay1iZW5jaG1hcms="  # noqa: S105
    runs: dict[str, Any] = asyncio.run(measure(arguments))
    show(runs, arguments)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({name: [run._asdict() for run in found] for name, found in runs.items()}, indent=1)
        )


if __name__ == "__main__":
    main()
