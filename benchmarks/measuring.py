"""What the benchmarks have in common: a Kafka, applications on it, processes and what they use, tables.

Processor time and memory are read from ``/proc``: Linux.
"""
# ruff: noqa: INP001, S603, T201

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from streams.local.broker import KAFKA_VERSION, LocalKafka, free_ports
from streams.settings import Settings
from streams.topics import create_topics

__all__ = [
    "PARTITIONS",
    "Cluster",
    "Took",
    "Worker",
    "about",
    "arguments",
    "at_pace",
    "busy_seconds",
    "cpu_seconds",
    "emit",
    "environment",
    "markdown",
    "median_and_range",
    "numbers",
    "resident_bytes",
    "run",
    "send",
]

PARTITIONS: Final = 8
"""Of every topic."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# It tells of every topic that is gone, and of every group that is not there yet.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_READY_WITHIN_S: Final = 120.0
_STOP_WITHIN_S: Final = 30.0
# A broker that is measured beside others is not to be what holds them up: Java's own compiler and collector.
_SERVER_JVM: Final = ("-Xms512m", "-XX:+UseG1GC", "-Xshare:auto")
_SERVER_HEAP_MB: Final = 1024
_POLL_S: Final = 0.02
# What is due by then is sent together.
_TICK_S: Final = 0.005
# Keys whose partition is remembered: aiokafka works it out in Python.
_KEYS: Final = 100_000

T = TypeVar("T")


# -- processes ---------------------------------------------------------------------------------------------------------


def _family(pid: int) -> Iterator[int]:
    """The process and all that it has started."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system, all threads, all children that still run; 0 for a process that has ended."""
    ticks = 0
    for member in _family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_bytes(pid: int) -> int:
    """Of the process and its children."""
    pages = 0
    for member in _family(pid):
        with suppress(OSError, IndexError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return pages * _PAGE


def busy_seconds() -> float:
    """Processor time of the whole machine, by everybody."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def environment(settings: Settings, **extra: str) -> dict[str, str]:
    """Of a process with these settings, and none of the developer's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")}
    for name, value in settings:
        if value is None or value == type(settings).model_fields[name].default:
            continue
        plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        kept[f"TRIPS_{name.upper()}"] = str(plain.total_seconds() if hasattr(plain, "total_seconds") else plain)
    return kept | extra


class Took(NamedTuple):
    """Seconds, by the wall and of processor time."""

    wall: float
    cpu: float


def run(*command: str) -> Took:
    """Run a program from start to end, with default settings; what it prints is thrown away."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment(Settings.given()), check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


class Worker:
    """``trips worker``, or another command of the product, in a process of its own.

    A context manager: at its end the process is told to stop, and waited for.
    """

    def __init__(self, settings: Settings, folder: Path, *command: str, **extra: str) -> None:
        (self._port,) = free_ports(1)
        self.log = folder / f"{settings.application_id}-{'-'.join(command)}-{self._port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", *(command or ("worker",))],
                cwd=folder,
                env=environment(settings, **{"TRIPS_HTTP_PORT": str(self._port)} | extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def until_ready(self) -> None:
        """Wait until its readiness probe says so."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self.is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"the worker is not ready after {_READY_WITHIN_S:.0f} s; its log:\n{self.tail()}")
            await asyncio.sleep(0.01)

    def is_ready(self) -> bool:
        """What its readiness probe says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> dict[str, float]:
        """What ``/metrics`` says, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def check(self) -> None:
        """End the benchmark if it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(f"the worker has ended; its log:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help; safe to repeat."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


# -- Kafka -------------------------------------------------------------------------------------------------------------


class Cluster:
    """A Kafka, and what the benchmarks ask of it.

    Attributes:
        servers: where it answers.
        broker: the process of the broker; 0: it is not ours.
        folder: for what processes leave behind; it goes with the cluster.
    """

    def __init__(
        self, servers: str, broker: int, folder: Path, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer
    ) -> None:
        self.servers = servers
        self.broker = broker
        self.folder = folder
        self._admin = admin
        self._consumer = consumer

    @classmethod
    @asynccontextmanager
    async def at(cls, servers: str | None = None) -> AsyncIterator[Cluster]:
        """The one given. None: a local one as a server has it, compiled fully, with more memory than the demo's."""
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ignition-trips-benchmark-"))
            broker = 0
            if servers is None:
                kafka = stack.enter_context(LocalKafka(heap=_SERVER_HEAP_MB, jvm=_SERVER_JVM))
                servers, broker = kafka.bootstrap_servers, kafka.pid
            admin = AIOKafkaAdminClient(bootstrap_servers=servers)
            await admin.start()
            stack.push_async_callback(admin.close)
            consumer = await stack.enter_async_context(
                AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
            )
            yield cls(servers, broker, Path(folder), admin, consumer)

    def settings(self, name: str, **changes: Any) -> Settings:
        """The default but for these changes, and for topics: their names begin with the application's."""
        topics = {
            setting: f"{name}.{field.default}"
            for setting, field in Settings.model_fields.items()
            if setting.endswith("_topic")
        }
        here = {"bootstrap_servers": self.servers, "application_id": name, "partitions": PARTITIONS, "topic_prefix": ""}
        return Settings.load(**{**here, **topics, **changes})

    @asynccontextmanager
    async def application(self, name: str, **changes: Any) -> AsyncIterator[Settings]:
        """An application of such settings, the process id behind its name; its topics are gone afterwards."""
        settings = self.settings(f"{name}-{os.getpid()}", **changes)
        await create_topics(settings)
        yield settings
        await self.drop(settings.application_id)

    async def create(self, name: str, *, compacted: bool = False) -> None:
        """A topic, and wait until it is there."""
        config = {"cleanup.policy": "compact"} if compacted else {}
        await self._admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config)])
        while name not in await self._admin.list_topics():  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def drop(self, prefix: str) -> None:
        """All topics that begin so."""
        names = [name for name in await self._admin.list_topics() if name.startswith(prefix)]
        if names:
            await self._admin.delete_topics(names)

    async def end(self, topic: str) -> int:
        """The end offsets of a topic, summed up."""
        return sum((await self._consumer.end_offsets(_partitions(topic))).values())

    async def committed(self, settings: Settings) -> int:
        """The offsets of an application in its telemetry, summed up; 0 while there is no such group."""
        places = _partitions(settings.topics.telemetry)
        with suppress(KafkaError):
            offsets = await self._admin.list_consumer_group_offsets(settings.application_id, partitions=places)
            return sum(max(0, found.offset) for found in offsets.values())
        return 0

    async def until_committed(self, settings: Settings, count: int, *workers: Worker) -> int:
        """Wait until so many records are committed, at least; returns how many are. The workers must not end."""
        while (done := await self.committed(settings)) < count:
            for worker in workers:
                worker.check()
            await asyncio.sleep(_POLL_S)
        return done

    async def fill(self, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Send messages, and wait until they are there."""
        async with AIOKafkaProducer(bootstrap_servers=self.servers, max_batch_size=2**17, linger_ms=5) as producer:
            await asyncio.gather(*await send(producer, topic, messages))

    @asynccontextmanager
    async def reading(self, topic: str, isolation: str = "read_committed") -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer of a whole topic, at its beginning."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.servers, enable_auto_commit=False, isolation_level=isolation
        ) as consumer:
            consumer.assign(_partitions(topic))
            await consumer.seek_to_beginning()
            yield consumer

    async def records(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        """All committed records of a topic, as key and value."""
        found: list[tuple[bytes | None, bytes | None]] = []
        async with self.reading(topic) as consumer:
            ends = await consumer.end_offsets(_partitions(topic))
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [(record.key, record.value) for record in batch]
        return found


def _partitions(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(PARTITIONS)]


@lru_cache(_KEYS)
def _partition_of(key: bytes) -> int:
    """Where every client of Kafka would send it."""
    numbers = list(range(PARTITIONS))
    return int(DefaultPartitioner()(key, numbers, numbers))


async def send(
    producer: AIOKafkaProducer, topic: str, messages: Iterable[tuple[bytes, bytes]]
) -> list[asyncio.Future[Any]]:
    """Send messages, keys and values, in batches of their partitions; returns what tells that they are there."""
    batches: dict[int, Any] = {}
    sent = []
    for key, value in messages:
        number = _partition_of(key)
        if number not in batches:
            batches[number] = producer.create_batch()
        if batches[number].append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batches[number], topic, partition=number))
            batches[number] = producer.create_batch()
            batches[number].append(key=key, value=value, timestamp=None)
    return sent + [await producer.send_batch(batch, topic, partition=number) for number, batch in batches.items()]


async def at_pace(messages: Sequence[T], rate: float) -> AsyncIterator[Sequence[T]]:
    """All messages, so many a second: time and again those that are due."""
    began, done = time.monotonic(), 0
    while done < len(messages):
        await asyncio.sleep(_TICK_S)
        due = int((time.monotonic() - began) * rate)
        yield messages[done:due]
        done = due


# -- what is told ------------------------------------------------------------------------------------------------------


def arguments(about_it: str, *, kafka: bool = False) -> argparse.ArgumentParser:
    """A command line that begins with what all have; with ``kafka``, what all have that need one."""
    parser = argparse.ArgumentParser(description=about_it.splitlines()[0])
    if kafka:
        parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="a Kafka to use instead of a local one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the raw figures go")
    return parser


def numbers(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """The type of an option that takes several, separated by commas."""
    return lambda text: [kind(one) for one in text.split(",")]


def about() -> dict[str, str]:
    """When and where this was measured."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
    }


def median_and_range(values: Sequence[float], form: str = ",.0f") -> str:
    """``median [least to most]``; a dash for none, the value alone for one."""
    if not values:
        return "-"
    ordered = sorted(values)
    half = len(ordered) // 2
    middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    if len(ordered) == 1:
        return format(middle, form)
    return f"{middle:{form}} [{ordered[0]:{form}}..{ordered[-1]:{form}}]"


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def emit(title: str, table: str, raw: Mapping[str, Any], where: Path | None) -> None:
    """Print the table under what was measured and where; keep the figures behind it."""
    place = about()
    print(f"{place['date']}, Python {place['python']}, Apache Kafka {place['kafka']}, {place['cores']} cores")
    print(f"{title}\n\n{table}")
    if where is not None:
        where.write_text(json.dumps({"about": place, **raw}, indent=1), encoding="utf-8")
