"""What the benchmarks have in common: a broker, topics, processes and what they use, tables.

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
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from streams.local.broker import KAFKA_VERSION, LocalKafka, free_ports
from streams.settings import Settings

__all__ = [
    "Broker",
    "Cluster",
    "Worker",
    "about",
    "arguments",
    "broker",
    "busy_seconds",
    "cpu_seconds",
    "emit",
    "environment",
    "markdown",
    "median_and_range",
    "resident_bytes",
]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# It tells of every topic that is gone, and of every group that is not there yet.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_READY_WITHIN_S: Final = 120.0
_STOP_WITHIN_S: Final = 30.0
# A broker that is measured beside others is not to be what holds them up: Java's own compiler and collector.
_SERVER_JVM: Final = ("-Xms512m", "-XX:+UseG1GC", "-Xshare:auto")
_SERVER_HEAP_MB: Final = 1024


class Broker(NamedTuple):
    """Where it answers, and its process; 0: it is not ours."""

    bootstrap_servers: str
    pid: int


@contextmanager
def broker(servers: str | None = None) -> Iterator[Broker]:
    """A local Kafka as a server has it: compiled fully, more memory than the one of the demo. Or the one given."""
    if servers is not None:
        yield Broker(servers, 0)
        return
    with LocalKafka(heap=_SERVER_HEAP_MB, jvm=_SERVER_JVM) as kafka:
        yield Broker(kafka.bootstrap_servers, kafka.pid)


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
    """What the benchmarks ask a cluster."""

    def __init__(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, servers: str) -> None:
        self.servers = servers
        self._admin = admin
        self._consumer = consumer

    @classmethod
    @asynccontextmanager
    async def at(cls, servers: str) -> AsyncIterator[Cluster]:
        """Connected."""
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
        await admin.start()
        await consumer.start()
        try:
            yield cls(admin, consumer, servers)
        finally:
            await consumer.stop()
            await admin.close()

    async def create(self, name: str, partitions: int, *, compacted: bool = False) -> None:
        """A topic, and wait until it is there."""
        config = {"cleanup.policy": "compact"} if compacted else {}
        await self._admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        while name not in await self._admin.list_topics():  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def drop(self, prefix: str) -> None:
        """All topics that begin so."""
        names = [name for name in await self._admin.list_topics() if name.startswith(prefix)]
        if names:
            await self._admin.delete_topics(names)

    async def end(self, topic: str, partitions: int) -> int:
        """The end offsets of a topic, summed up."""
        places = [TopicPartition(topic, number) for number in range(partitions)]
        return sum((await self._consumer.end_offsets(places)).values())

    async def committed(self, group: str, topic: str, partitions: int) -> int:
        """The offsets of a group, summed up; 0 while there is no such group."""
        places = [TopicPartition(topic, number) for number in range(partitions)]
        with suppress(KafkaError):
            offsets = await self._admin.list_consumer_group_offsets(group, partitions=places)
            return sum(max(0, found.offset) for found in offsets.values())
        return 0

    async def fill(self, topic: str, partitions: int, messages: Iterable[tuple[bytes, bytes]]) -> int:
        """Send messages, by their keys as every client of Kafka would; returns their bytes."""
        choose, numbers = DefaultPartitioner(), list(range(partitions))
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, max_batch_size=2**17, linger_ms=5)
        await producer.start()
        batches = {number: producer.create_batch() for number in numbers}
        sent, size = [], 0
        for key, value in messages:
            size += len(key) + len(value)
            number = choose(key, numbers, numbers)
            if batches[number].append(key=key, value=value, timestamp=None) is None:
                sent.append(await producer.send_batch(batches[number], topic, partition=number))
                batches[number] = producer.create_batch()
                batches[number].append(key=key, value=value, timestamp=None)
        for number, batch in batches.items():
            if batch.record_count():
                sent.append(await producer.send_batch(batch, topic, partition=number))
        await asyncio.gather(*sent)
        await producer.stop()
        return size

    async def values(self, topic: str, partitions: int) -> list[bytes]:
        """All committed records of a topic."""
        return [value for _, value in await self.records(topic, partitions) if value is not None]

    async def records(self, topic: str, partitions: int) -> list[tuple[bytes | None, bytes | None]]:
        """The same, as key and value."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.servers, enable_auto_commit=False, isolation_level="read_committed"
        )
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            found: list[tuple[bytes | None, bytes | None]] = []
            while any([await consumer.position(place) < ends[place] for place in places]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [(record.key, record.value) for record in batch]
            return found
        finally:
            await consumer.stop()


# -- what is told ------------------------------------------------------------------------------------------------------


def arguments(about_it: str, *, kafka: bool = False) -> argparse.ArgumentParser:
    """A command line that begins with what all have; with ``kafka``, what all have that need one."""
    parser = argparse.ArgumentParser(description=about_it.splitlines()[0])
    if kafka:
        parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="a Kafka to use instead of a local one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the raw figures go")
    return parser


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
