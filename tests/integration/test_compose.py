"""docker-compose.yml without Docker: its broker's settings make a broker, and its commands do their work on that.

The settings go through the class that the official image itself uses to turn its environment into a configuration, and
to format the storage. Only ports, host names and the data folder are other ones.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import yaml
from aiokafka import AIOKafkaConsumer

from streams.local import broker
from streams.local.broker import LocalKafka, fetch_kafka, free_ports
from streams.local.processes import Process, running
from streams.settings import Settings
from streams.topics import all_topics

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


def ask(port, key, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.timeout(120)
def test_the_services_do_their_work_on_the_broker_of_the_file(composed_kafka, start_worker, monkeypatch, tmp_path):
    moved = {"TRIPS_BOOTSTRAP_SERVERS": composed_kafka}
    topics, worker = SERVICES["topics"], SERVICES["worker"]
    created = trips(topics["environment"] | moved, *topics["command"]).stdout.count("created  ")
    assert created == len(all_topics(Settings.given()))
    assert worker["command"] == ["worker"]  # which is what start_worker starts
    for name, value in (worker["environment"] | moved).items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    for _ in range(worker["deploy"]["replicas"]):
        start_worker(settings)
    asyncio.run(push_and_serve(settings, tmp_path))


async def push_and_serve(settings, folder):
    pushing, serving, served = free_ports(3)
    push, serve = SERVICES["push"], SERVICES["serve"]
    (mounted,) = serve["volumes"]
    here = {
        **serve["environment"],
        "TRIPS_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "TRIPS_SERVE_PORT": str(served),
        "TRIPS_SERVE_HTTP_PORT": str(serving),
        "TRIPS_SERVE_DATABASE": serve["environment"]["TRIPS_SERVE_DATABASE"].replace(
            mounted.partition(":")[2], str(folder)
        ),
    }
    # As the file says: without a key it does not serve, and its own image makes one.
    key = trips(here, "keys", "create", "me", "--scope", "admin").stdout.strip()
    processes = [
        Process(
            "push",
            push["command"],
            settings,
            port=pushing,
            environment={
                **push["environment"],
                "TRIPS_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
                "TRIPS_PUSH_HTTP_PORT": str(pushing),
            },
        ),
        Process("serve", serve["command"], settings, port=serving, environment=here),
    ]
    async with running(processes):
        for process in processes:
            await process.until_ready()
        trips({"TRIPS_BOOTSTRAP_SERVERS": settings.bootstrap_servers}, "replay", "--speed", "0", str(DRIVES))
        events = Counter(await read(settings.bootstrap_servers, 21))
        assert events == {"TripStarted": 7, "TripEnded": 7, "TripDataReady": 6, "TripDiscarded": 1}
        deadline = time.monotonic() + 20
        while len((await asyncio.to_thread(ask, served, key, "/trips"))["items"]) < 6:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
