"""The recorded drives through a real Kafka and real workers: in order, out of order, broken, interrupted."""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from integration.cluster import caught_up, feed, read
from oracle.consumer import final_view

from streams import topics
from streams.local.files import RECORDED_DRIVES, read_lines
from streams.processor import Processor
from streams.telemetry.reader import Reader

SIXTY_DAYS = 60 * 24 * 3600
DISTANCES = {"8.359", "1.215", "3.340", "12.734", "1.100", "2.257"}  # km by odometer, of the drives as recorded


def recording():
    """(key, value) of each message, as recorded."""
    return [(json.loads(value)["vehicle_id"].encode(), value) for value in read_lines(str(RECORDED_DRIVES))]


def shuffled(seed=20_261_121):
    """Completely shuffled, with 20 % repeated."""
    messages = recording()
    chance = random.Random(seed)
    messages += chance.sample(messages, len(messages) // 5)
    chance.shuffle(messages)
    return messages


@dataclass(frozen=True)
class Line:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple = ()


def offline(settings, messages):
    """What telling trips without Kafka puts out, with offsets from 0."""
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=None), offline=True)
    processor.process([Line(offset, 0, key, value) for offset, (key, value) in enumerate(messages)])
    return processor.take()


def payloads(announcements):
    return [json.loads(announcement.payload) for announcement in announcements]


def trips_of(events):
    """What a consumer holds in the end: by trip id its state and content, but for the revision."""
    return {
        trip_id: (view.status, {name: value for name, value in view.trip.items() if name != "revision"})
        for trip_id, view in final_view(events).items()
        if view.status != "superseded"
    }


def story(events):
    """Per vehicle what was announced, in order."""
    told = {}
    for event in events:
        trip = {name: value for name, value in event["data"]["trip"].items() if name != "revision"}
        told.setdefault(trip["vehicle_id"], []).append((event["metadata"]["type"], trip))
    return told


async def announced(settings, *, isolation="read_committed"):
    records = await read(settings, settings.topics.events, isolation=isolation)
    return [json.loads(record.value) for record in records]


def check_recording(events):
    """The seven drives, each announcement once, with the distances that were driven."""
    kinds = Counter(event["metadata"]["type"] for event in events)
    assert kinds == {"TripStarted": 7, "TripEnded": 7, "TripDataReady": 6, "TripDiscarded": 1}
    assert len({event["metadata"]["id"] for event in events}) == len(events)
    metrics = [event["data"]["trip"]["metrics"] for event in events if event["metadata"]["type"] == "TripDataReady"]
    assert {f"{one['distance_in_km']:.3f}" for one in metrics} == DISTANCES
    assert {one["distance_source"] for one in metrics} == {"ODOMETER"}
    (discarded,) = (event["data"] for event in events if event["metadata"]["type"] == "TripDiscarded")
    assert (discarded["reason"], discarded["trip"]["metrics"]["duration_in_ms"]) == ("TOO_SHORT", 53_000)


async def check_trips_topic(settings, events):
    """The compacted topic, tombstones applied, holds the trips that are ready, with the payload announced last."""
    held = {}
    for record in await read(settings, settings.topics.trips):
        if record.value is None:
            held.pop(record.key, None)
        else:
            held[record.key] = json.loads(record.value)
    ready = {id_.encode(): view for id_, view in final_view(events).items() if view.status == "ready"}
    assert held.keys() == ready.keys()
    assert all(held[key]["data"]["trip"] == view.trip for key, view in ready.items())


async def test_in_order_the_announcements_are_those_of_derive(created_topics, start_worker):
    settings = created_topics
    messages = recording()
    start_worker(settings)
    await feed(settings, messages)
    await caught_up(settings, len(messages))
    events = await announced(settings)
    check_recording(events)
    assert story(events) == story(payloads(offline(settings, messages).announcements))
    await check_trips_topic(settings, events)


async def test_shuffled_and_repeated_the_trips_are_the_same(make_settings, start_worker):
    settings = make_settings(correction_horizon=SIXTY_DAYS)
    await topics.create_topics(settings)
    messages = shuffled()
    start_worker(settings)
    await feed(settings, messages)
    await caught_up(settings, len(messages))
    expected = trips_of(payloads(offline(settings, recording()).announcements))
    assert Counter(status for status, _ in expected.values()) == {"ready": 6, "discarded": 1}
    assert trips_of(payloads(offline(settings, messages).announcements)) == expected
    events = await announced(settings)
    assert trips_of(events) == expected
    await check_trips_topic(settings, events)
    assert await read(settings, settings.topics.late) == []


async def test_with_the_default_horizon_what_is_too_old_is_late_and_all_is_accounted_for(created_topics, start_worker):
    settings = created_topics
    messages = shuffled()
    worker = start_worker(settings)
    await feed(settings, messages)
    await caught_up(settings, len(messages))
    output = offline(settings, messages)
    late = await read(settings, settings.topics.late)
    # Lateness is a matter of the vehicle's records alone, so telling the same order offline finds the same.
    assert Counter(record.value for record in late) == Counter(one.record.value for one in output.late)
    assert len(late) > 1000
    assert all(
        b"behind the correction horizon" in dict(one.headers)["__connect.errors.exception.message"] for one in late
    )
    origins = {
        (dict(one.headers)["__connect.errors.partition"], dict(one.headers)["__connect.errors.offset"]) for one in late
    }
    assert len(origins) == len(late)
    assert trips_of(await announced(settings)) == trips_of(payloads(output.announcements))
    counted = totals(worker.get("/metrics")[1])
    assert counted["trips_messages_total"] == len(messages)
    assert counted["trips_applied_records_total"] + counted["trips_repeated_records_total"] + len(late) >= len(messages)


def totals(exposition):
    """Sums over partitions."""
    sums = Counter()
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            sums[name.partition("{")[0]] += float(value)
    return sums


def broken(chance, good):
    """A record that cannot be read, or not all of it, and whether anything of it counts."""
    kinds = [
        lambda: os.urandom(chance.randint(1, 300)).replace(b"{", b"\xff"),
        lambda: good[: chance.randint(1, len(good) - 2)],
        lambda: b"[" * 10_000,
        lambda: b'{"vehicle_id":"v","timestamp":"2026-03-01T08:00:00Z","x":' + b'{"a":' * 40 + b"1" + b"}" * 41,
        lambda: b'{"vehicle_id":"v","timestamp":"2026-03-01T08:00:00Z","x":"' + b"y" * 1_048_600 + b'"}',
        lambda: b'{"vehicle_id":"","timestamp":"2026-03-01T08:00:00Z","ignition":"ON"}',
        lambda: b'{"vehicle_id":"v","timestamp":"yesterday","ignition":"ON"}',
        lambda: b'{"vehicle_id":"v","ignition":"ON"}',
        lambda: b'{"vehicle_id":7,"timestamp":"2026-03-01T08:00:00Z","ignition":"ON"}',
        lambda: b'{"vehicle_id":"v","timestamp":"2026-03-01T08:00:00Z","ignition":"MAYBE","speed_in_kmh":"fast"}',
        lambda: b"null",
        lambda: b'"text"',
        lambda: b"",
    ]
    heavy = (4,)  # a mebibyte each: a few are enough
    kind = chance.randrange(len(kinds))
    return kinds[kind]() if kind not in heavy or chance.random() < 0.1 else b"{"


async def create_wide_telemetry(settings):
    """A source that takes messages larger than those that are read."""
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        configs = {"max.message.bytes": str(2 * 2**20)}
        await admin.create_topics([NewTopic(settings.topics.telemetry, 2, 1, topic_configs=configs)])
    finally:
        await admin.close()


async def test_a_thousand_broken_records_are_dead_letters_and_the_good_ones_count(make_settings, start_worker):
    settings = make_settings()
    await create_wide_telemetry(settings)
    await topics.create_topics(settings)
    chance = random.Random(7)
    good = recording()
    bad = [
        (None if chance.random() < 0.2 else b"some-key", broken(chance, chance.choice(good)[1])) for _ in range(1000)
    ]
    places = sorted(chance.sample(range(len(good) + 1000), 1000))
    messages = list(good)
    for place, record in zip(places, bad, strict=True):
        messages.insert(place, record)
    worker = start_worker(settings)
    await feed(settings, messages)
    await caught_up(settings, len(messages))
    assert worker.process.poll() is None

    events = [event for event in await announced(settings) if event["data"]["trip"]["vehicle_id"].startswith("omaha")]
    check_recording(events)
    letters = await read(settings, settings.topics.dead_letters)
    of_bad = [
        letter
        for letter in letters
        if not letter.value.startswith(b'{"vehicle_id":"omaha') or letter.value[-1:] != b"}"
    ]
    assert Counter(letter.value for letter in of_bad) == Counter(value for _, value in bad)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["__connect.errors.topic"] == settings.topics.telemetry.encode()
        message = headers["__connect.errors.exception.message"].decode()
        assert " " in message, message  # a sentence
        assert "Traceback" not in message
    assert worker.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_ended_half_way_is_followed_by_another_and_nothing_is_lost_or_doubled(
    created_topics, start_worker, how
):
    settings = created_topics
    messages = recording()
    half = len(messages) // 2
    first = start_worker(settings)
    await feed(settings, messages[:half])
    await caught_up(settings, half // 2)
    first.send(how)
    assert await asyncio.to_thread(first.process.wait, 30) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    second = start_worker(settings)
    await feed(settings, messages[half:])
    await caught_up(settings, len(messages))
    events = await announced(settings)
    check_recording(events)
    assert story(events) == story(payloads(offline(settings, messages).announcements))
    await check_trips_topic(settings, events)
    assert second.stop() == 0


async def test_of_two_workers_one_is_killed_and_the_other_takes_over(created_topics, start_worker):
    settings = created_topics
    messages = recording()
    half = len(messages) // 2
    one, other = start_worker(settings), start_worker(settings)
    await feed(settings, messages[:half])
    await caught_up(settings, half // 2)
    one.kill()
    await feed(settings, messages[half:])
    await caught_up(settings, len(messages))
    events = await announced(settings)
    check_recording(events)
    assert story(events) == story(payloads(offline(settings, messages).announcements))
    assert other.stop() == 0


async def test_a_trip_whose_vehicle_falls_silent_ends_by_the_clock_and_its_late_off_corrects_it(
    make_settings, start_worker
):
    settings = make_settings(silence_timeout=2, min_duration=1)
    await topics.create_topics(settings)
    start_worker(settings)

    def message(second, **properties):
        return b"V1", json.dumps(
            {"vehicle_id": "V1", "timestamp": 1_772_352_000_000 + second * 1000, **properties}
        ).encode()

    await feed(settings, [message(0, ignition="ON"), message(1, speed_in_kmh=50), message(2, speed_in_kmh=50)])
    events = []
    async with asyncio.timeout(30):
        while len(events) < 3:
            await asyncio.sleep(0.2)
            events = await announced(settings)
    assert [event["metadata"]["type"] for event in events] == ["TripStarted", "TripEnded", "TripDataReady"]
    assert events[1]["data"]["trip"]["flags"] == ["START_UNOBSERVED", "END_INFERRED"]
    assert events[1]["data"]["occurred_at"] == "2026-03-01T08:00:02Z"

    await feed(settings, [message(3, ignition="OFF")])
    async with asyncio.timeout(30):
        while len(events) < 5:
            await asyncio.sleep(0.2)
            events = await announced(settings)
    corrected = [(event["metadata"]["type"], event["data"]["occurred_at"]) for event in events[3:]]
    assert corrected == [("TripEnded", "2026-03-01T08:00:03Z"), ("TripDataReady", "2026-03-01T08:00:03Z")]
    assert events[4]["data"]["trip"]["flags"] == ["START_UNOBSERVED"]
    assert events[4]["data"]["trip"]["revision"] == 3
