"""Brokers that a test may stop, kill and start again, three of them in a cluster, and a disk that is too small.

Everything here ends with the test's process, however that ends: brokers are run by :mod:`streams.local.guarded`, and so
is whatever keeps a folder or a mount.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.local.broker import LocalKafka, fetch_kafka, free_ports
from streams.local.guarded import Guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

__all__ = ["Cluster", "Node", "SmallDisk", "scratch_folder"]

_HOST: Final = "127.0.0.1"
_HEAP_MB: Final = 384
_ANSWER_TIMEOUT_S: Final = 60.0

# A node that was killed is taken for alive for so long, and is not let in again meanwhile (Kafka: 9 s).
_EVERY_NODE: Final = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
# A topic's records have three homes, and are only taken when two of them have them.
_THREE_NODES: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A follower that does not follow is out of the way after this (Kafka: 30 s).
    "replica.lag.time.max.ms": "5000",
    "unclean.leader.election.enable": "false",
}

# Is told to end when this process does; waits for brokers that are still closing their logs, unless all is done.
_KEEP: Final = """
trap 'kill $!; test -e "$1" || sleep 25; exit 0' TERM
sleep 1000000 & wait $!
"""
# Keeps a mount for as long as it is not told to end.
_MOUNT: Final = """
trap 'umount -l "$1"; kill $!; exit 0' TERM
mount -t tmpfs -o "size=$2" none "$1" && touch "$3" || exit 1
sleep 1000000 & wait $!
"""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone at the end, also if this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix="ignition-trips-faults-"))
    log = folder / "keeper.log"
    done = folder / "done"
    keeper = Guarded(["sh", "-c", _KEEP, "sh", str(done)], log=log, remove=folder, grace=30.0)
    try:
        yield folder
    finally:
        done.touch()
        keeper.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Node:
    """One broker (and controller) that comes back with its data on its port, whatever has happened to it.

    Its calls block for seconds; in an event loop use :func:`asyncio.to_thread`.

    Args:
        folder: of its data.
        number: its node.id.
        proxy_port: where clients of its second listener are sent by its metadata: a proxy's port.
        voters: (number, port) of all controllers. None: it is the only one.
        properties: server properties on top of ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        number: int = 1,
        proxy_port: int | None = None,
        voters: Sequence[tuple[int, int]] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self.number = number
        self.folder = folder
        self.port, self.behind_proxy, controller = free_ports(3)
        if voters is None:
            voters = [(number, controller)]
        controller = dict(voters)[number]
        listeners = [f"PLAINTEXT://{_HOST}:{self.port}"]
        advertised = list(listeners)
        if proxy_port is not None:
            listeners.append(f"PROXIED://{_HOST}:{self.behind_proxy}")
            advertised.append(f"PROXIED://{_HOST}:{proxy_port}")
        self._properties = {
            "node.id": str(number),
            "listeners": ",".join([*listeners, f"CONTROLLER://{_HOST}:{controller}"]),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": ",".join(f"{one}@{_HOST}:{port}" for one, port in voters),
            **_EVERY_NODE,
            **(properties or {}),
        }
        self._kafka: LocalKafka | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def servers(self) -> str:
        """Where it answers; not through the proxy."""
        return f"{_HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process; 0: it does not run."""
        return self._kafka.pid if self._kafka is not None else 0

    @property
    def data(self) -> Path:
        """Where its log is (the one that holds the topics)."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it, with the data of before, and wait until it answers."""
        self._format()
        kafka = LocalKafka(port=self.port, data=self.folder, properties=self._properties, heap=_HEAP_MB)
        kafka.start()
        self._kafka = kafka

    def stop(self) -> None:
        """End it as an operator does (SIGTERM). Safe to repeat."""
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            kafka.stop()

    def kill(self) -> None:
        """kill -9. Safe to repeat."""
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            if kafka.wait(0) is None:
                os.kill(kafka.pid, signal.SIGKILL)
                kafka.wait(10.0)
            kafka.stop()

    def ended(self, within: float = 0.0) -> bool:
        """Whether it has ended by itself (or is not started), perhaps after some seconds."""
        return self._kafka is None or self._kafka.wait(within) is not None

    def log_text(self) -> str:
        """What it has logged since it was first started."""
        log = self.folder / "broker.log"
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def _format(self) -> None:
        """An empty log with this node's number, unless there is one already."""
        properties = self.data / "meta.properties"
        if properties.exists():
            return
        # A folder that is there and empty may be a mount: filled, not replaced.
        shutil.copytree(fetch_kafka() / "formatted", self.data, dirs_exist_ok=True)
        text = properties.read_text(encoding="utf-8")
        text = re.sub(r"^node\.id=.*$", f"node.id={self.number}", text, flags=re.MULTILINE)
        # Kafka wants a folder of a cluster to be known by a name of its own: 16 bytes in base64.
        text = re.sub(r"^directory\.id=.*$", f"directory.id=A{secrets.token_urlsafe(16)[1:]}", text, flags=re.MULTILINE)
        properties.write_text(text, encoding="utf-8")


class Cluster:
    """Three nodes, each a broker and a controller: any one of them can be away. A context manager.

    Args:
        folder: of their data.
        properties: server properties on top of ours.
    """

    def __init__(self, folder: Path, properties: Mapping[str, str] | None = None) -> None:
        voters = list(zip((1, 2, 3), free_ports(3), strict=True))
        self.nodes = {
            number: Node(
                folder / f"node-{number}",
                number=number,
                voters=voters,
                properties={**_THREE_NODES, **(properties or {})},
            )
            for number, _ in voters
        }

    @property
    def servers(self) -> str:
        """All of them."""
        return ",".join(node.servers for node in self.nodes.values())

    async def __aenter__(self) -> Self:
        try:
            # Side by side: the first answers when a second is there.
            await asyncio.gather(*(asyncio.to_thread(node.start) for node in self.nodes.values()))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Nobody needs the data any more, and a node that is stopped in order waits for the others.
        await asyncio.gather(*(asyncio.to_thread(node.kill) for node in self.nodes.values()))

    async def leader(self, topic: str, partition: int) -> Node:
        """Who leads a partition."""

        async def ask(admin: AIOKafkaAdminClient) -> int:
            (found,) = await admin.describe_topics([topic])
            return next(one["leader"] for one in found["partitions"] if one["partition"] == partition)

        return self.nodes[await self._ask(ask)]

    async def group_coordinator(self, group: str) -> Node:
        """Who coordinates a consumer group."""
        return self.nodes[await self._ask(lambda admin: admin.find_coordinator(group, 0))]

    async def transaction_coordinator(self, transactional_id: str) -> Node:
        """Who coordinates the transactions of an id."""
        return self.nodes[await self._ask(lambda admin: admin.find_coordinator(transactional_id, 1))]

    async def whole(self, within: float = 60.0) -> None:
        """Wait until every replica of every partition, Kafka's own topics included, is in sync again."""

        async def ask(admin: AIOKafkaAdminClient) -> int:
            topics = await admin.describe_topics()
            missing = [
                f"{topic['topic']}-{one['partition']}"
                for topic in topics
                for one in topic["partitions"]
                if len(one["isr"]) < len(one["replicas"]) or one["leader"] < 0
            ]
            return 1 if not missing else -1

        async with asyncio.timeout(within):
            await self._ask(ask)

    async def _ask(self, question: Callable[[AIOKafkaAdminClient], Awaitable[int]]) -> int:
        """Ask again until the answer is no -1: a cluster that is just choosing anew does not know for a while."""
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        while True:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.servers, request_timeout_ms=5_000)
            answer, error = -1, None
            try:
                await admin.start()
                answer = await question(admin)
            except (KafkaError, OSError, StopIteration) as problem:
                error = problem
            finally:
                await admin.close()
            if answer >= 0:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer of the cluster within {_ANSWER_TIMEOUT_S:.0f} s: {error!r}")
            await asyncio.sleep(0.2)


class SmallDisk:
    """A disk for a node's log that can be filled up and freed. A context manager.

    A file system of its own where this process may mount one; else a limit on the size of the broker's files, which
    to the broker looks much the same: every write fails.

    Args:
        folder: becomes the disk; must be empty.
        megabytes: its size.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self.mounted = False
        self._megabytes = megabytes
        self._keeper: Guarded | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0 and not os.environ.get("TRIPS_TEST_NO_MOUNT"):
            done = self.folder.with_name(f"{self.folder.name}.mounted")
            self._keeper = Guarded(
                ["sh", "-c", _MOUNT, "sh", str(self.folder), f"{self._megabytes}m", str(done)],
                log=self.folder.with_name(f"{self.folder.name}.log"),
                grace=5.0,
            )
            while not done.exists() and self._keeper.wait(0.05) is None:
                pass
            self.mounted = done.exists()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def fill(self, node: Node) -> None:
        """Leave no room for anything."""
        if self.mounted:
            with (self.folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(1024))
        else:
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def free(self, node: Node) -> None:
        """Make room again."""
        if self.mounted:
            (self.folder / "filler").unlink(missing_ok=True)
        elif node.pid and not node.ended():
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
