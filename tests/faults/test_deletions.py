"""Trips that are deleted all the while, as workers are killed, frozen and replaced: once each, and for good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faults.judge import collect
from ulid import ULID

from streams.settings import Settings
from streams.trips.content import iso


class Deleter:
    """Has trips deleted that were just announced, now and then twice, and sends late telemetry of them afterwards."""

    def __init__(self, run, *, every: float = 0.15) -> None:
        self.sent = 0
        self._run = run
        self._every = every
        self._task = asyncio.create_task(self._work(), name="deleter")

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _work(self) -> None:
        settings, chance = self._run.feed, self._run.chance
        names = settings.topics
        consumer = AIOKafkaConsumer(
            names.events, **settings.client(), isolation_level="read_committed", auto_offset_reset="latest"
        )
        producer = AIOKafkaProducer(**settings.client(), acks="all", enable_idempotence=True)
        async with consumer, producer:
            asked, last = set(), 0.0
            async for record in consumer:
                trip = json.loads(record.value)["data"]["trip"]
                if time.monotonic() - last < self._every or trip["id"] in asked or chance.random() < 0.5:
                    continue
                last = time.monotonic()
                asked.add(trip["id"])
                partition = int(dict(record.headers)["ignition-trips.partition"])
                key = trip["vehicle_id"].encode()
                for _ in range(chance.choice([1, 1, 1, 2])):
                    body = json.dumps(command(trip)).encode()
                    await producer.send_and_wait(names.commands, body, key=key, partition=partition)
                self.sent += 1
                late = {"vehicle_id": trip["vehicle_id"], "ignition": "ON", "speed_in_kmh": 33}
                late["timestamp"] = int.from_bytes(ULID.from_str(trip["id"]).bytes[:6], "big") + chance.choice(
                    [0, 1_000]
                )
                await producer.send_and_wait(names.telemetry, json.dumps(late).encode(), key=key)


def command(trip):
    body = {
        "type": "DeleteTrip",
        "id": str(ULID.from_bytes(os.urandom(16))),
        "trip_id": trip["id"],
        "vehicle_id": trip["vehicle_id"],
        "requested_at": iso(time.time_ns() // 1_000_000),
        "revision": trip["revision"],
    }
    return body | ({"end": trip["end"]["timestamp"]} if "end" in trip else {})


async def test_trips_are_deleted_while_workers_are_killed(drill, settings, every_fault):
    run = await drill("deletions: kill -9 at a random moment", settings)
    await run.start_workers(2)
    run.load.start(rate=500)
    deleter = Deleter(run)
    for _ in range(15 if every_fault else 3):
        await run.pause(0.5, 2.5)
        run.chance.choice([worker for worker in run.workers if worker.alive]).kill()
        run.repetitions += 1
        await run.recovered(time.monotonic())
    await deleter.stop()
    await commands_are_answered(run)
    await run.finish()
    assert deleter.sent > 5
    run.row.note = f"{deleter.sent} trips deleted"


@pytest.mark.all_faults
async def test_trips_are_deleted_while_workers_are_frozen(drill, settings):
    run = await drill("deletions: frozen until others have taken over", settings)
    await run.start_workers(2)
    run.load.start(rate=500)
    deleter = Deleter(run)
    for _ in range(6):
        await run.pause(1.0, 2.0)
        zombie = run.chance.choice([worker for worker in run.workers if worker.alive])
        zombie.freeze()
        run.repetitions += 1
        await run.recovered(time.monotonic())
        zombie.thaw()
        await run.pause(0.5, 1.5)
    await deleter.stop()
    await commands_are_answered(run)
    await run.finish()
    assert deleter.sent > 5
    run.row.note = f"{deleter.sent} trips deleted"


@pytest.mark.all_faults
async def test_a_rebuild_after_deletions_brings_nothing_back(drill, settings, make_settings):
    run = await drill("deletions: a worker that starts anew", settings)
    await run.start_workers(2)
    run.load.start(rate=500)
    deleter = Deleter(run)
    await asyncio.sleep(6)
    await deleter.stop()
    await commands_are_answered(run)
    await run.finish()
    before = await collect(run.feed)
    deleted = {trip_of(record) for record in before.events if event_of(record) == "TripDeleted"}
    assert len(deleted) > 5

    values = {name: getattr(settings, name) for name in Settings.model_fields if name != "application_id"}
    anew = Settings.given(**values | {"application_id": f"{settings.application_id}-anew", "revision_base": 10**6})
    again = await drill("deletions: the worker that has started anew", anew)
    again.load._messages = iter(())
    await again.start_workers(2)
    run.row.repetitions = again.row.repetitions = 1
    await again.recovered(time.monotonic())
    await commands_are_answered(again)
    logs = await collect(anew)
    new = [record for record in logs.events if revision_of(record) >= 10**6]
    assert {trip_of(record) for record in new if event_of(record) == "TripDeleted"} == deleted
    assert not [event_of(record) for record in new if trip_of(record) in deleted and event_of(record) != "TripDeleted"]
    held = {}
    for record in sorted(logs.trips, key=lambda one: (one.partition, one.offset)):
        held[record.key.decode()] = record.value
    assert not {trip_id for trip_id, value in held.items() if value is not None} & deleted
    for place in again.places:
        await place.stop()
    again.row.messages, again.row.judged, again.row.clean = len(logs.telemetry), False, True
    again.row.note = f"{len(deleted)} deleted trips stay deleted"


async def commands_are_answered(run, within=60.0):
    """Wait until each command is carried out or refused."""
    deadline = time.monotonic() + within
    while True:
        logs = await collect(run.feed)
        base = run.settings.revision_base
        said = {trip_of(one) for one in logs.events if event_of(one) == "TripDeleted" and revision_of(one) >= base}
        asked = {json.loads(one.value)["trip_id"] for one in logs.commands}
        if said >= asked:
            return
        assert time.monotonic() < deadline, f"{len(asked - said)} of {len(asked)} commands are not carried out"
        await asyncio.sleep(0.5)


def event_of(record):
    return json.loads(record.value)["metadata"]["type"]


def trip_of(record):
    return json.loads(record.value)["data"]["trip"]["id"]


def revision_of(record):
    return json.loads(record.value)["data"]["trip"]["revision"]
