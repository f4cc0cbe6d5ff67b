"""The local Kafka itself. The marker is by hand: these tests start brokers of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from streams.errors import ClusterError, UsageError
from streams.local import broker
from streams.local.broker import LocalKafka, answers, free_ports

pytestmark = pytest.mark.kafka


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def write(servers, topic, value):
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=f"{topic}-writer")
    await producer.start()
    async with producer.transaction():
        await producer.send(topic, value)
    await producer.stop()


async def read(servers, topic):
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        return (await consumer.getone()).value
    finally:
        await consumer.stop()


async def test_it_starts_works_and_leaves_nothing_behind():
    told = []
    with LocalKafka(progress=told.append) as kafka:
        assert kafka.bootstrap_servers == f"127.0.0.1:{kafka.port}"
        assert kafka.port < 32_768
        folder, pid = kafka.log.parent, kafka.pid
        await write(kafka.bootstrap_servers, "greetings", b"hello")
        assert await read(kafka.bootstrap_servers, "greetings") == b"hello"
        # A misspelt topic is an error, not a new topic.
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        (topic,) = await admin.describe_topics(["greetingz"])
        assert topic["error_code"] == UnknownTopicOrPartitionError.errno
        await admin.close()
    assert told == ["Starting Apache Kafka 4.1.1", f"Apache Kafka 4.1.1 answers at {kafka.bootstrap_servers}"]
    assert not is_running(pid)
    assert not folder.exists()


def test_it_listens_on_the_loopback_interface_only():
    with LocalKafka() as kafka:
        inodes = set()
        for link in Path(f"/proc/{kafka.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(link.readlink()))
        listening = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    listening.append(fields[1].split(":")[0])
        assert len(listening) == 2
        # 127.0.0.1, as IPv4 and as IPv4 in IPv6, in the kernel's byte order.
        assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


STARTER = """
import sys, time
from streams.local import broker
from streams.local.broker import LocalKafka
kafka = LocalKafka()
kafka.start()
print(kafka.pid, kafka.log.parent, kafka.bootstrap_servers, flush=True)
if sys.argv[1] == "crash":
    raise SystemExit("crash")
time.sleep(300)
"""


@pytest.mark.parametrize("end", ["crash", signal.SIGKILL, signal.SIGTERM])
def test_however_its_starter_ends_it_ends_and_its_folder_goes(end):
    command = [sys.executable, "-c", STARTER, str(end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as starter:
        pid, folder, servers = starter.stdout.readline().split()
        assert answers(servers) or end == "crash"
        if end != "crash":
            starter.send_signal(end)
        starter.wait(20)
    wait_until(lambda: not is_running(pid) and not Path(folder).exists())


async def test_kept_data_are_there_at_the_next_start_on_the_same_port(tmp_path):
    (port,) = free_ports(1)
    with LocalKafka(port=port, data=tmp_path / "kafka") as kafka:
        assert kafka.port == port
        await write(kafka.bootstrap_servers, "kept", b"still here")
    with LocalKafka(port=port, data=tmp_path / "kafka") as kafka:
        assert await read(kafka.bootstrap_servers, "kept") == b"still here"
        os.kill(kafka.pid, signal.SIGKILL)  # a broker that crashes: its data are there as well
        wait_until(lambda: kafka.wait(0) == -signal.SIGKILL)
    with LocalKafka(port=port, data=tmp_path / "kafka") as kafka:
        assert await read(kafka.bootstrap_servers, "kept") == b"still here"


def test_a_port_that_is_taken_is_the_callers_mistake():
    with LocalKafka() as kafka, pytest.raises(UsageError, match=f"port {kafka.port} is taken"):
        LocalKafka(port=kafka.port).start()


def test_a_broker_that_does_not_start_says_why_and_leaves_nothing_behind():
    kafka = LocalKafka(properties={"log.retention.check.interval.ms": "often"})
    with pytest.raises(ClusterError, match="ended while starting") as error:
        kafka.start()
    assert "Invalid value often for configuration log.retention.check.interval.ms" in str(error.value)
    assert not kafka.log.parent.exists()


def test_a_port_that_somebody_else_was_quicker_to_take_is_no_failure(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [(taken.getsockname()[1], free_ports(1)[0]), tuple(free_ports(2))]
        monkeypatch.setattr(broker, "_choose_ports", lambda _wanted: ports.pop(0))
        with LocalKafka() as kafka:
            assert answers(kafka.bootstrap_servers)
            assert ports == []
