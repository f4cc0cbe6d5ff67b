"""``trips delete`` with a real Kafka and real workers."""

import asyncio
import json

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from schemas import DeadLetterHeaders, TripDeleted, read_announcement
from streams.cli import trips
from streams.deletion import request_deletion
from streams.errors import UnknownTripError, UsageError
from streams.local.tail import open_topic, read_to_end
from streams.topics import create_topics
from streams.trips.identity import identify

T0 = 1_772_352_000_000  # 2026-03-01T08:00:00Z
MINUTE = 60_000


def message(vehicle, minute, **said):
    return json.dumps({"vehicle_id": vehicle, "timestamp": T0 + minute * MINUTE, **said}).encode()


def drive(vehicle, begin, end, lat=50.0):
    """A trip of some minutes with a position a minute."""
    yield message(vehicle, begin, ignition="ON")
    for minute in range(begin + 1, end):
        yield message(vehicle, minute, position={"lat": lat + minute / 1000, "lon": 7})
    yield message(vehicle, end, ignition="OFF")


async def send(settings, messages, key=None, partition=None):
    producer = AIOKafkaProducer(**settings.client(), acks="all")
    await producer.start()
    try:
        for value in messages:
            mine = json.loads(value)["vehicle_id"].encode() if key is None else key
            await producer.send(settings.topics.telemetry, value, key=mine, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


async def read(settings, topic):
    async with open_topic(settings, topic, from_beginning=True) as consumer:
        return [record async for record in read_to_end(consumer)]


async def announced(settings, event, trip_id, within=30):
    """Wait for an announcement."""
    async with asyncio.timeout(within), open_topic(settings, settings.topics.events, from_beginning=True) as consumer:
        async for record in consumer:
            headers = dict(record.headers)
            if headers["ce_type"] == event.encode() and headers["ce_subject"] == trip_id.encode():
                return read_announcement(record.value)
    raise AssertionError


async def trips_topic(settings):
    held = {}
    for record in await read(settings, settings.topics.trips):
        held[record.key.decode()] = record.value
    return {trip_id for trip_id, value in held.items() if value is not None}


@pytest.mark.kafka
async def test_a_finished_trip_and_one_that_is_on_are_deleted_for_good(created_topics, start_worker):
    settings = created_topics
    start_worker(settings)
    first, second = identify("V1", T0).id, identify("V1", T0 + 30 * MINUTE).id
    await send(settings, [message("V1", -10, ignition="OFF"), *drive("V1", 0, 10), message("V1", 30, ignition="ON")])
    await announced(settings, "TripDataReady", first)
    await announced(settings, "TripStarted", second)
    assert await trips_topic(settings) == {first}

    done = await request_deletion(settings, first)
    assert (done.state, done.vehicle_id) == ("deleted", "V1")
    assert (await request_deletion(settings, second, vehicle_id="V1")).state == "deleted"
    assert await trips_topic(settings) == set()
    word = await announced(settings, "TripDeleted", first)
    assert isinstance(word, TripDeleted)
    assert word.model_dump(mode="json")["data"]["occurred_at"] == done.requested_at

    again = await request_deletion(settings, first)
    assert (again.state, again.requested_at, again.command_id) == ("already_deleted", done.requested_at, None)

    # Late and repeated telemetry of both, and the drive after them.
    await send(settings, [*drive("V1", 0, 10), message("V1", 31, ignition="ON"), message("V1", 32, ignition="OFF")])
    third = identify("V1", T0 + 40 * MINUTE).id
    await send(settings, drive("V1", 40, 50))
    await announced(settings, "TripDataReady", third)
    words = [dict(record.headers) for record in await read(settings, settings.topics.events)]
    of = [(headers["ce_type"].decode(), headers["ce_subject"].decode()) for headers in words]
    assert [event for event, trip_id in of if trip_id == first] == [
        "TripStarted",
        "TripEnded",
        "TripDataReady",
        "TripDeleted",
    ]
    assert [event for event, trip_id in of if trip_id == second] == ["TripStarted", "TripDeleted"]
    assert await trips_topic(settings) == {third}


@pytest.mark.kafka
async def test_the_partition_of_a_vehicle_is_found_whatever_the_key(created_topics, start_worker):
    settings = created_topics
    start_worker(settings)
    for partition in range(2):
        vehicle = f"V{partition}"
        await send(settings, drive(vehicle, 0, 10), key=b"gateway", partition=partition)
        trip_id = identify(vehicle, T0).id
        await announced(settings, "TripDataReady", trip_id)
        assert (await request_deletion(settings, trip_id)).state == "deleted"


@pytest.mark.kafka
async def test_what_is_not_known_is_said_clearly(created_topics, start_worker):
    settings = created_topics
    with pytest.raises(UnknownTripError, match="There is no trip 01"):
        await request_deletion(settings, identify("V1", T0).id)
    with pytest.raises(UsageError, match="'nonsense' is no trip id"):
        await request_deletion(settings, "nonsense")
    with pytest.raises(UsageError, match="is not a trip of vehicle 'V2'"):
        await request_deletion(settings, identify("V1", T0).id, vehicle_id="V2")
    # With the vehicle named only its worker can tell; there is none yet, and then there is one.
    waiting = await request_deletion(settings, identify("V1", T0).id, vehicle_id="V1", within=0.2)
    assert waiting.state == "requested"
    start_worker(settings)
    with pytest.raises(UnknownTripError, match="of vehicle 'V1'"):
        await request_deletion(settings, identify("V1", T0).id, vehicle_id="V1")
    letters = await read(settings, settings.topics.dead_letters)
    headers = [DeadLetterHeaders.of(letter.headers) for letter in letters]
    assert {(one.topic, one.reasons) for one in headers} == {(settings.topics.commands, "unknown_trip")}
    assert {json.loads(letter.value)["vehicle_id"] for letter in letters} == {"V1"}


@pytest.mark.kafka
async def test_a_rebuild_from_the_log_does_not_bring_it_back(created_topics, make_settings, start_worker):
    settings = created_topics
    worker = start_worker(settings)
    await send(settings, [message("V1", -10, ignition="OFF"), *drive("V1", 0, 10), *drive("V1", 20, 30)])
    first, second = identify("V1", T0).id, identify("V1", T0 + 20 * MINUTE).id
    await announced(settings, "TripDataReady", second)
    await request_deletion(settings, first)
    worker.kill()
    before = len(await read(settings, settings.topics.events))

    anew = make_settings(application_id=f"{settings.application_id}-anew", revision_base=1_000)
    await create_topics(anew)
    start_worker(anew)
    await send(settings, drive("V1", 40, 50))
    await announced(settings, "TripDataReady", identify("V1", T0 + 40 * MINUTE).id)
    words = [dict(record.headers) for record in await read(settings, settings.topics.events)][before:]
    of = [headers["ce_type"] for headers in words if headers["ce_subject"] == first.encode()]
    assert set(of) == {b"TripDeleted"}
    assert first not in await trips_topic(settings)
    assert second in await trips_topic(settings)


@pytest.mark.kafka
async def test_the_command_line_says_what_has_become_of_it(created_topics, start_worker, monkeypatch):
    settings = created_topics
    trip_id = identify("V1", T0).id
    for name in ("bootstrap_servers", "application_id", "topic_prefix"):
        monkeypatch.setenv(f"TRIPS_{name.upper()}", getattr(settings, name))
    await send(settings, drive("V1", 0, 10))

    def run(*arguments):
        return CliRunner().invoke(trips, ["delete", *arguments])

    worker = start_worker(settings)
    await announced(settings, "TripDataReady", trip_id)
    worker.kill()
    nobody = await asyncio.to_thread(run, trip_id, "--timeout", "0.5")
    assert "no worker has answered within 0.5 s" in str(nobody.exception)
    start_worker(settings)
    await announced(settings, "TripDeleted", trip_id)
    again = await asyncio.to_thread(run, trip_id)
    assert (again.exit_code, again.output) == (0, f"trip {trip_id} of vehicle V1 was deleted before\n")
    told = await asyncio.to_thread(run, trip_id, "--json")
    assert json.loads(told.output)["state"] == "already_deleted"
