"""The rights that docs/operating.md lists are all that a worker needs: on a broker that gives it exactly those."""

import json
import re
import shlex
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from streams.local.broker import LocalKafka, free_ports
from streams.settings import Settings
from streams.topics import create_topics

pytestmark = pytest.mark.kafka

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
PATTERNS = {"literal": 3, "prefixed": 4}
OPERATIONS = {"Read": 3, "Write": 4, "DescribeConfigs": 10}
ALLOW = 3
PASSWORD = "not-a-secret"


def rights_of_the_commands():
    """(resource, name, pattern, operation) of each ACL that the page's commands add."""
    block = re.search(r"```sh\n(# kafka-acls\.sh.*?)```", PAGE, flags=re.DOTALL)[1].replace("\\\n", " ")
    rights = set()
    for line in re.findall(r"^kafka-acls\.sh \$worker (.*)$", block, flags=re.MULTILINE):
        words = shlex.split(line)
        options = [(option.removeprefix("--"), value) for option, value in zip(words[::2], words[1::2], strict=True)]
        pattern = dict(options).get("resource-pattern-type", "literal")
        rights |= {
            (resource, name, pattern, operation)
            for resource, name in options
            if resource in RESOURCES
            for option, operation in options
            if option == "operation"
        }
    return rights


def rights_of_the_table():
    rights = set()
    for resource, names, pattern, operations in re.findall(
        r"^\| (Topic|Group|TransactionalId) \| (.*?) \| \W*(literal|prefixed)\W* \| (.*?) \|", PAGE, flags=re.MULTILINE
    ):
        kind = {"TransactionalId": "transactional-id"}.get(resource, resource.lower())
        for name in re.findall(r"`(.*?)`", names):
            rights |= {(kind, name, pattern, operation) for operation in operations.split(", ")}
    return rights


@pytest.fixture
def guarded_kafka():
    """A broker that lets nobody do anything without a right, but for us: (servers for us, servers for the worker)."""
    ours, theirs, controller = free_ports(3)
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{ours},SASL_PLAINTEXT://127.0.0.1:{theirs},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ours},SASL_PLAINTEXT://127.0.0.1:{theirs}",
        "listener.security.protocol.map": ("PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{plain} user_ignition-trips="{PASSWORD}";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with LocalKafka(port=ours, properties=properties) as kafka:
        yield kafka.bootstrap_servers, f"127.0.0.1:{theirs}"


async def allow(servers, rights):
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        for resource, name, pattern, operation in rights:
            answer = await admin._send_request(
                CreateAclsRequest(
                    RESOURCES[resource],
                    name,
                    PATTERNS[pattern],
                    "User:ignition-trips",
                    "*",
                    OPERATIONS[operation],
                    ALLOW,
                )
            )
            assert answer.creation_responses[0][0] == 0, answer
    finally:
        await admin.close()


async def send(servers, *messages):
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for message in messages:
            await producer.send_and_wait("vehicle-telemetry", message, key=b"JQ7RP")


async def read(servers, topic, count):
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with consumer:
        return [await anext(consumer) for _ in range(count)]


def message(timestamp, ignition):
    return json.dumps({"vehicle_id": "JQ7RP", "timestamp": timestamp, "ignition": ignition}).encode()


def test_the_table_and_the_commands_give_the_same_rights():
    assert rights_of_the_table() == rights_of_the_commands()
    assert len(rights_of_the_table()) == 12


@pytest.mark.timeout(120)
async def test_the_rights_of_the_page_are_enough_for_everything_that_a_worker_does(guarded_kafka, start_worker):
    ours, theirs = guarded_kafka
    await create_topics(Settings.load(bootstrap_servers=ours, partitions=2))
    await allow(ours, rights_of_the_commands())
    settings = Settings.load(
        bootstrap_servers=theirs,
        security_protocol="SASL_PLAINTEXT",
        sasl_username="ignition-trips",
        sasl_password=PASSWORD,
    )
    worker = start_worker(settings, TRIPS_SASL_PASSWORD=PASSWORD)
    await send(
        ours,
        message("2026-03-05T08:00:00Z", "OFF"),
        message("2026-03-05T08:01:00Z", "ON"),
        message("2026-03-05T08:31:00Z", "OFF"),
        b"not JSON",
        message("2026-03-01T08:00:00Z", "ON"),
    )
    events = [json.loads(one.value)["metadata"]["type"] for one in await read(ours, "trip-events", 3)]
    assert events == ["TripStarted", "TripEnded", "TripDataReady"]
    assert len(await read(ours, "trips", 1)) == 1
    assert [one.value for one in await read(ours, "vehicle-telemetry-dead-letters", 1)] == [b"not JSON"]
    assert len(await read(ours, "late-telemetry", 1)) == 1
    assert worker.stop() == 0
    assert "cannot read max.message.bytes" not in worker.output()
    # Another takes over: it reads the state back.
    successor = start_worker(settings, TRIPS_SASL_PASSWORD=PASSWORD)
    assert "trips_vehicles 1.0" in successor.get("/metrics")[1]
    assert PASSWORD not in worker.output() + successor.output()
