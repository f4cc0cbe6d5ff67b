"""docker-compose.yml without Docker: its broker's settings make a broker, and its commands do their work on that.

The settings go through the class that the official image itself uses to turn its environment into a configuration, and
to format the storage. Only ports, host names and the data folder are other ones.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from aiokafka import AIOKafkaConsumer

from streams.local import broker
from streams.local.broker import LocalKafka, fetch_kafka, free_ports
from streams.settings import Settings

pytestmark = pytest.mark.kafka

TOP = Path(__file__).parents[2]
SERVICES = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
DRIVES = TOP / "streams" / "local" / "data" / "drives.jsonl.gz"


def properties_as_in_the_image(environment, folder):
    """What the image makes of its environment; formats the storage as it does."""
    for name in ("default", "mounted", "final"):
        (folder / name).mkdir()
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (folder / "default" / name).touch()
    folders = [f"--{name}-configs-dir={folder / name}" for name in ("default", "mounted", "final")]
    subprocess.run(
        [*broker._java(fetch_kafka() / "jars"), "kafka.docker.KafkaDockerWrapper", "setup", *folders],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        check=True,
    )
    lines = (folder / "final" / "server.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line)


@pytest.fixture
def composed_kafka(tmp_path):
    """The broker of docker-compose.yml on this machine."""
    host, inside, controller = free_ports(3)
    moved = {
        "//:9092": f"//127.0.0.1:{host}",
        "//localhost:9092": f"//127.0.0.1:{host}",
        "//:19092": f"//127.0.0.1:{inside}",
        "//kafka:19092": f"//127.0.0.1:{inside}",
        "//:29093": f"//127.0.0.1:{controller}",
        "@kafka:29093": f"@127.0.0.1:{controller}",
        "/var/lib/kafka/data": str(tmp_path / "storage"),
    }
    environment = dict(SERVICES["kafka"]["environment"])
    for old, new in moved.items():
        assert any(old in value for value in environment.values()), f"{old} is not in docker-compose.yml any more"
        environment = {name: value.replace(old, new) for name, value in environment.items()}
    (tmp_path / "image").mkdir()
    properties = properties_as_in_the_image(environment, tmp_path / "image")
    assert properties["log.dirs"] == str(tmp_path / "storage")
    with LocalKafka(port=host, properties=properties):
        yield f"127.0.0.1:{inside}"


def trips(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )


async def read(servers, count):
    consumer = AIOKafkaConsumer(
        "trip-events", bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with consumer:
        return [json.loads((await anext(consumer)).value)["metadata"]["type"] for _ in range(count)]


@pytest.mark.timeout(120)
def test_the_services_do_their_work_on_the_broker_of_the_file(composed_kafka, start_worker, monkeypatch):
    moved = {"TRIPS_BOOTSTRAP_SERVERS": composed_kafka}
    topics, worker = SERVICES["topics"], SERVICES["worker"]
    assert trips(topics["environment"] | moved, *topics["command"]).stdout.count("created  ") == 6
    assert worker["command"] == ["worker"]  # which is what start_worker starts
    for name, value in (worker["environment"] | moved).items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    for _ in range(worker["deploy"]["replicas"]):
        start_worker(settings)
    trips(moved, "replay", "--speed", "0", str(DRIVES))
    events = Counter(asyncio.run(read(composed_kafka, 21)))
    assert events == {"TripStarted": 7, "TripEnded": 7, "TripDataReady": 6, "TripDiscarded": 1}
