"""What a worker says when it cannot work, and how it is seen from outside when it can."""

import asyncio
import json
import os
import socket
import sys
import time
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from integration.cluster import caught_up, feed, read

from streams import topics
from streams.errors import ClusterError
from streams.local.broker import LocalKafka, free_ports
from streams.runtime.cluster import look_at_cluster


def started(start_worker, settings, **extra):
    return start_worker(settings, wait=False, **extra)


def ended(worker, within=60.0):
    """Exit code, and what was said on purpose: the one line of an error."""
    code = worker.process.wait(within)
    output = worker.output()
    assert "Traceback" not in output
    return code, [line for line in output.splitlines() if line.startswith("trips:")]


async def add_partitions(settings, topic, total):
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    await admin.create_partitions({topic: NewPartitions(total)})
    await admin.close()


def test_without_topics_it_names_them_and_what_to_do(settings, start_worker):
    code, lines = ended(started(start_worker, settings))
    assert code == 1
    (line,) = lines
    assert all(
        name in line
        for name in (
            settings.topics.telemetry,
            settings.topics.events,
            settings.topics.trips,
            settings.topics.dead_letters,
            settings.topics.late,
            settings.topics.changelog,
        )
    )
    assert "trips topics create" in line


async def test_with_another_number_of_partitions_than_its_state_it_does_not_start(created_topics, start_worker):
    settings = created_topics
    await add_partitions(settings, settings.topics.telemetry, 3)
    code, lines = ended(started(start_worker, settings))
    assert code == 1
    (line,) = lines
    assert f"{settings.topics.telemetry} has 3 partitions" in line
    assert f"{settings.topics.changelog} is of 2" in line
    assert "TRIPS_REVISION_BASE" in line


async def test_partitions_that_are_added_while_it_runs_end_it(created_topics, start_worker):
    settings = created_topics
    worker = start_worker(settings)
    await add_partitions(settings, settings.topics.telemetry, 3)
    code = worker.process.wait(90)
    assert code == 1
    critical = [json.loads(line) for line in worker.output().splitlines() if '"critical"' in line]
    assert [f"{settings.topics.telemetry} has 3 partitions" in line["event"] for line in critical] == [True]


async def test_a_cluster_that_is_away_is_waited_for_and_then_named(settings):
    (port,) = free_ports(1)
    settings = settings.model_copy(update={"bootstrap_servers": f"127.0.0.1:{port}"})
    began = time.monotonic()
    with pytest.raises(ClusterError, match=rf"No Kafka broker answers at 127\.0\.0\.1:{port}.*Tried for 2 s"):
        await look_at_cluster(settings, patience=2)
    assert 2 <= time.monotonic() - began < 10


def test_asked_to_stop_while_it_waits_for_a_cluster_it_ends_with_0(settings, start_worker):
    (port,) = free_ports(1)
    worker = started(start_worker, settings.model_copy(update={"bootstrap_servers": f"127.0.0.1:{port}"}))
    deadline = time.monotonic() + 30
    while "waiting for Kafka" not in worker.output():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert worker.stop() == 0


async def test_a_port_that_is_taken_is_named(created_topics, start_worker):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = ended(started(start_worker, created_topics, TRIPS_HTTP_PORT=str(port)))
    assert code == 2
    (line,) = lines
    assert f"TRIPS_HTTP_PORT={port}: cannot listen on 127.0.0.1:{port} (Address already in use)" in line


def test_wrong_settings_are_all_named(settings, start_worker):
    code, lines = ended(started(start_worker, settings, TRIPS_MIN_DURATION="soon", TRIPS_COMMIT_INTERVAL="0"))
    assert code == 2
    assert len(lines) == 2


async def test_state_that_it_cannot_read_ends_it(created_topics, start_worker):
    settings = created_topics
    producer = AIOKafkaProducer(**settings.client())
    await producer.start()
    await producer.send_and_wait(settings.topics.changelog, b"not ours", b"h-vehicle", partition=1)
    await producer.stop()
    worker = started(start_worker, settings)
    assert worker.process.wait(60) == 1
    assert "Traceback" not in worker.output()
    critical = [json.loads(line)["event"] for line in worker.output().splitlines() if '"critical"' in line]
    assert len(critical) == 1


async def test_health_and_metrics_tell_how_it_is(created_topics, start_worker):
    settings = created_topics
    worker = start_worker(settings)
    assert worker.get("/health/live") == (200, "live\n")
    assert worker.get("/health/ready") == (200, "ready\n")
    message = b'{"vehicle_id":"A","timestamp":"2026-03-01T08:%02d:00Z","ignition":"%s"}'
    await feed(
        settings,
        [(b"A", message % (0, b"ON")), (b"A", message % (5, b"OFF")), (b"A", message % (9, b"ON")), (b"A", b"{")],
    )
    await caught_up(settings, 4)
    await asyncio.sleep(1)
    status, body = worker.get("/metrics")
    assert status == 200
    measured = dict(line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
    assert measured["trips_messages_total"] == "4.0"
    assert measured["trips_applied_records_total"] == "3.0"
    assert measured['trips_announcements_total{event="TripStarted"}'] == "2.0"
    assert measured['trips_announcements_total{event="TripEnded"}'] == "1.0"
    assert measured['trips_announcements_total{event="TripDataReady"}'] == "1.0"
    assert measured['trips_dead_letters_total{kind="whole"}'] == "1.0"
    assert measured['trips_problems_total{reason="not_json"}'] == "1.0"
    assert measured["trips_open_trips"] == "1.0"
    assert measured["trips_vehicles"] == "1.0"
    assert measured["trips_partitions"] == "2.0"
    assert measured["trips_ready"] == "1.0"
    assert [measured[f'trips_lag_records{{partition="{n}"}}'] for n in (0, 1)] == ["0.0", "0.0"]
    assert float(measured["trips_state_written_bytes_total"]) > 0
    assert float(measured["trips_checkpoint_seconds_count"]) >= 1


SEND_A_BAD_HEADER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class NotUtf8(str):
    def encode(self, *_):
        return b"caf\\xe9"

async def main(servers, topic, value):
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    await producer.send_and_wait(topic, value.encode(), key=b"A", headers=[(NotUtf8("x"), b"1")])
    await producer.stop()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_header_name_that_is_not_utf_8_stops_nothing(created_topics, start_worker):
    settings = created_topics
    worker = start_worker(settings)
    message = '{"vehicle_id":"A","timestamp":"2026-03-01T08:00:00Z","ignition":"ON"}'
    for value in (message, "{"):
        sender = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SEND_A_BAD_HEADER,
            settings.bootstrap_servers,
            settings.topics.telemetry,
            value,
            env={**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"},  # the compiled encoder knows better
        )
        assert await sender.wait() == 0
    await caught_up(settings, 2)
    assert worker.process.poll() is None
    assert len(await read(settings, settings.topics.events)) == 1
    (letter,) = await read(settings, settings.topics.dead_letters)
    assert letter.headers[0] == ("caf\\xe9", b"1")


async def test_its_log_tells_the_story_as_json_lines(created_topics, start_worker):
    worker = start_worker(created_topics)
    assert worker.stop() == 0
    lines = [json.loads(line) for line in worker.output().splitlines()]
    assert [line["event"] for line in lines if line["logger"].startswith("streams")] == [
        "starting",
        "serving health and metrics",
        "partitions assigned",
        "state recovered",
        "worker ready",
        "stopping",
        "partitions given up",
        "stopped",
    ]


async def test_a_broker_that_starts_after_the_worker_and_is_restarted_is_waited_for(settings, start_worker, tmp_path):
    (port,) = free_ports(1)
    settings = settings.model_copy(update={"bootstrap_servers": f"127.0.0.1:{port}"})
    message = b'{"vehicle_id":"A","timestamp":"2026-03-01T08:%02d:00Z","ignition":"%s"}'

    @asynccontextmanager
    async def broker():
        kafka = LocalKafka(port=port, data=tmp_path / "data")
        await asyncio.to_thread(kafka.start)
        try:
            yield
        finally:
            await asyncio.to_thread(kafka.stop)

    async with broker():
        await topics.create_topics(settings)
    worker = started(start_worker, settings)
    async with asyncio.timeout(30):
        while "waiting for Kafka" not in worker.output():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.1)
    async with broker():
        await asyncio.to_thread(worker.wait_until_ready)
        await feed(settings, [(b"A", message % (0, b"ON"))])
        await caught_up(settings, 1)
    async with broker():
        await feed(settings, [(b"A", message % (5, b"OFF"))])
        await caught_up(settings, 2)
        events = [
            json.loads(record.value)["metadata"]["type"] for record in await read(settings, settings.topics.events)
        ]
        assert events == ["TripStarted", "TripEnded", "TripDataReady"]
        assert worker.process.poll() is None
        assert await asyncio.to_thread(worker.stop) == 0
