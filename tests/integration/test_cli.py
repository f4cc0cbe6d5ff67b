"""The commands against a real Kafka, as processes."""

import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from worker_process import environment_of

from streams.local.broker import free_ports
from streams.topics import all_topics, create_topics


@pytest.fixture
def trips(tmp_path):
    """Runs `trips` with settings, in a folder without any."""

    def run(*arguments, settings=None, timeout=60, stdin=None, **environment):
        return subprocess.run(
            [sys.executable, "-m", "streams.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")},
                **(environment_of(settings) if settings else {}),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            check=False,
        )

    return run


@contextlib.contextmanager
def running(folder, *arguments, settings=None, **environment):
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", *map(str, arguments)],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")},
            **(environment_of(settings) if settings else {}),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_topics_are_created_and_checked(trips, settings):
    before = trips("topics", "check", settings=settings)
    assert before.returncode == 1
    assert before.stderr == "trips: the topics are not as they must be\n"
    assert before.stdout.count("missing  ") == len(all_topics(settings))

    created = trips("topics", "create", settings=settings)
    assert (created.returncode, created.stderr) == (0, "")
    line = f"created  {settings.topics.trips}: 2 partitions, 1 replica, cleanup compact"
    assert line in created.stdout.splitlines()

    again = trips("topics", "create", settings=settings)
    assert again.returncode == 0
    assert again.stdout.count("ok       ") == len(all_topics(settings))
    after = trips("topics", "check", settings=settings)
    assert (after.returncode, after.stderr) == (0, "")


async def test_create_names_what_differs_and_exits_0_check_exits_1(trips, kafka, settings):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(settings.topics.trips, 2, 1)])
    await admin.close()
    created = trips("topics", "create", settings=settings)
    assert created.returncode == 0
    assert f"differs  {settings.topics.trips}: cleanup.policy is delete, not compact: " in created.stdout
    checked = trips("topics", "check", settings=settings)
    assert checked.returncode == 1


def test_check_tells_a_right_cluster(trips, settings):
    assert trips("topics", "create", settings=settings).returncode == 0
    checked = trips("check", settings=settings)
    assert (checked.returncode, checked.stderr) == (0, "")
    lines = checked.stdout.splitlines()
    assert lines[0].startswith("ok       settings: TRIPS_BOOTSTRAP_SERVERS=")
    assert lines[1] == f"ok       broker: {settings.bootstrap_servers} answers: 1 broker"
    assert len([line for line in lines if line.startswith("ok       topic: ")]) == len(all_topics(settings))
    assert lines[-1] == "ok       revisions: nothing is published yet: they start from TRIPS_REVISION_BASE"


async def test_what_other_parts_need_is_missed_in_a_note(trips, kafka, settings):
    await create_topics(settings)
    name = settings.topics.push_changelog
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.delete_topics([name])
    await admin.close()
    checked = trips("check", settings=settings)
    assert checked.returncode == 0, checked.stdout
    assert f"note     topic: {name} is missing: create it with `trips topics create` (pushes need it" in checked.stdout


def test_check_tells_a_wrong_cluster(trips, settings):
    checked = trips("check", settings=settings, TRIPS_SESSION_TIMEOUT="1.5", TRIPS_MIN_DURATON="7")
    assert checked.returncode == 1
    assert checked.stderr == "trips: a worker could not do its job like this\n"
    assert "note     settings: TRIPS_MIN_DURATON is no setting: is TRIPS_MIN_DURATION meant?" in checked.stdout
    assert (
        f"wrong    topic: {settings.topics.telemetry} is missing: create it with `trips topics create`"
        in checked.stdout
    )


def test_nobody_there_is_one_line_and_exit_1(trips):
    (port,) = free_ports(1)
    for command in (["topics", "check"], ["topics", "create", "--wait", "0"], ["tail"], ["replay", "-"]):
        begun = time.monotonic()
        result = trips(*command, "--bootstrap-servers", f"127.0.0.1:{port}", stdin="")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            f"trips: No Kafka broker answers at 127.0.0.1:{port}. Check TRIPS_BOOTSTRAP_SERVERS and the security "
            "settings, or start a local one with `trips broker`.\n"
        )
        assert time.monotonic() - begun < 15
    begun = time.monotonic()
    waited = trips("topics", "create", "--wait", "2", "--bootstrap-servers", f"127.0.0.1:{port}")
    assert waited.stderr.startswith(f"Waiting for Kafka at 127.0.0.1:{port}\ntrips: No Kafka broker answers at ")
    assert time.monotonic() - begun >= 2
    checked = trips("check", TRIPS_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    assert checked.returncode == 1
    assert f"wrong    broker: No Kafka broker answers at 127.0.0.1:{port}" in checked.stdout


def test_a_missing_topic_is_one_line_and_exit_1(trips, settings):
    for command, topic in ((["tail"], settings.topics.events), (["replay", "-"], settings.topics.telemetry)):
        result = trips(*command, settings=settings, stdin='{"vehicle_id": "A"}\n')
        assert result.returncode == 1
        assert result.stderr == f"trips: Topic {topic} is missing. Create it with `trips topics create`.\n"


def announcement(revision):
    trip = {"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "key": "H5XAV", "revision": revision, "vehicle_id": "A"}
    return json.dumps(
        {
            "metadata": {"type": "TripStarted"},
            "data": {"occurred_at": "2026-03-01T08:00:00Z", "trip": trip},
        }
    ).encode()


async def test_check_asks_for_a_revision_base_where_announcements_are_published_but_no_state_is_there(
    trips, make_settings
):
    settings = make_settings()
    await create_topics(settings)
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, transactional_id=settings.application_id)
    await producer.start()
    async with producer.transaction():
        for revision in (7, 4711, 12):
            await producer.send(settings.topics.events, announcement(revision), key=b"A")
    await producer.begin_transaction()
    await producer.send(settings.topics.events, announcement(9999), key=b"A")
    await producer.abort_transaction()
    await producer.stop()

    checked = trips("check", settings=settings)
    assert checked.returncode == 1
    assert "set TRIPS_REVISION_BASE=4712 or more" in checked.stdout

    enough = trips("check", settings=settings, TRIPS_REVISION_BASE="4712")
    assert enough.returncode == 0
    assert "TRIPS_REVISION_BASE=4712 is above all that is published (up to 4711)" in enough.stdout


async def test_replay_sends_every_line_as_it_is_with_the_vehicle_as_key(trips, created_topics, tmp_path):
    lines = [
        '{"vehicle_id": "A", "timestamp": "2026-03-01T08:00:00Z", "ignition": "ON"}',
        "not JSON",
        "",
        '{"vehicle_id": "B", "timestamp": "2026-03-01T09:00:00Z", "ignition": "ON"}',
    ]
    file = tmp_path / "lines.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    begun = time.monotonic()
    result = trips("replay", file, "--speed", "10", "--max-gap", "20", settings=created_topics)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"3 messages sent to {created_topics.topics.telemetry}\n"
    assert time.monotonic() - begun > 2.0  # an hour, cut to 20 s, ten times as fast

    consumer = AIOKafkaConsumer(
        created_topics.topics.telemetry,
        bootstrap_servers=created_topics.bootstrap_servers,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    records = [await consumer.getone() for _ in range(3)]
    await consumer.stop()
    assert {(record.key, record.value.decode()) for record in records} == {
        (b"A", lines[0]),
        (None, lines[1]),
        (b"B", lines[3]),
    }


async def test_tail_follows_what_is_committed(created_topics, tmp_path):
    settings = created_topics
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, transactional_id=settings.application_id)
    await producer.start()
    async with producer.transaction():
        await producer.send(settings.topics.events, announcement(1), key=b"A")
    with (
        running(tmp_path, "tail", "--from-beginning", settings=settings) as words,
        running(tmp_path, "tail", "--from-beginning", "--json", settings=settings) as as_json,
    ):
        assert words.stdout.readline() == "2026-03-01 08:00:00  A             trip H5XAV  started\n"
        assert json.loads(as_json.stdout.readline())["data"]["trip"]["revision"] == 1
        await producer.begin_transaction()
        await producer.send(settings.topics.events, announcement(2), key=b"A")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send(settings.topics.events, announcement(3), key=b"A")
        assert json.loads(as_json.stdout.readline())["data"]["trip"]["revision"] == 3
        for process, number in ((words, signal.SIGINT), (as_json, signal.SIGTERM)):
            process.send_signal(number)
            assert process.wait(15) == 0
            assert process.stderr.read() == ""
    await producer.stop()


@pytest.mark.kafka
def test_broker_stays_in_the_foreground_until_it_is_asked_to_end(trips, tmp_path):
    (port,) = free_ports(1)
    with running(tmp_path, "broker", "--port", port) as process:
        created = trips("topics", "create", TRIPS_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")  # waits for it
        assert created.returncode == 0
        lines = [process.stderr.readline() for _ in range(3)]
        assert f"Apache Kafka 4.1.1 answers at 127.0.0.1:{port}\n" in lines
        taken = trips("broker", "--port", port)
        assert taken.returncode == 2
        assert re.search(rf"^trips: port {port} is taken", taken.stderr, re.MULTILINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    gone = trips("topics", "check", TRIPS_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    assert gone.returncode == 1
