"""The process that decides about planned trips is killed, frozen, and killed on either side of a commit.

Two processes serve; clients ask either, and send again what is not answered. Afterwards the events say what became of
every update that was ever sent: one that was answered has happened exactly once, one that was not at most once, and in
the order of the timestamps.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from faults.drill import Row
from integration.cluster import read
from integration.test_status_service import LOC
from unit.status.test_status_book import applied_links
from worker_process import WorkerProcess

from streams.local.broker import free_ports
from streams.topics import create_topics
from streams.trips.identity import identify

SERVER = str(Path(__file__).parents[1] / "status_server.py")
MORNING = 1_772_344_800_000  # 2026-03-01T06:00:00Z
CLIENTS = 6
FINAL = (0, 2, 3)  # Rejected, Completed, Canceled
RESTART_AFTER = 0.3


def text(instant):
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(written):
    return int(datetime.fromisoformat(written).timestamp() * 1000)


class Place:
    """Where a process is kept running."""

    def __init__(self, settings, folder, number):
        (self.port,) = free_ports(1)
        self.settings, self.folder, self.number = settings, folder, number
        self.started = itertools.count(1)
        self.plan = {}
        self.held = False
        self.logs = []
        self.task = asyncio.create_task(self.keep())

    async def keep(self):
        while True:
            extra, self.plan = self.plan, {}
            name = f"server-{self.number}.{next(self.started)}"
            self.process = WorkerProcess(self.settings, self.folder, name, self.port, extra=extra, command=(SERVER,))
            self.logs.append(self.process)
            while self.process.process.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(RESTART_AFTER)
            while self.held:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def restarted(self, fault):
        """The next process, which has this fault."""
        before, self.plan = self.process, {"TRIPS_TEST_STATUS_FAULT": fault}
        before.kill()
        while self.process is before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return self.process

    async def ask(self, path):
        return await asyncio.to_thread(self.process.get, path)

    def destroy(self):
        self.task.cancel()
        if self.process.process.poll() is None:
            self.process.kill()


class Run:
    """Processes, clients, and what the clients know."""

    def __init__(self, settings, folder, row):
        self.settings, self.row = settings, row
        self.chance = random.Random(f"{row.seed} {row.fault}")
        self.places = [Place(settings, folder, number) for number in (1, 2)]
        self.http = httpx.AsyncClient(timeout=4)
        self.sent, self.answered = {}, {}
        self.trips = 0
        self.links = {}  # what is to be: trip to plan, start and end
        self.on = True

    async def post(self, path, body):
        """Until it is answered, by whichever process is there."""
        while True:
            port = self.chance.choice(self.places).port
            try:
                answer = await self.http.post(f"http://127.0.0.1:{port}{path}", json=body)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code != 503:
                return answer.status_code, answer.json()
            assert "may yet be applied" in answer.text or "will not be applied" in answer.text
            await asyncio.sleep(0.1)

    async def client(self, number, producer):
        """Plans a trip, says Received and Accepted in turns, and in the end one of the three that are final.

        Its vehicle drives meanwhile, and once more when the plan is closed. The correction of a trip before that comes
        last: when it is there, so is all else.
        """
        name, vehicle = f"T-{number}", f"V-{number}"
        window = {"windowStart": text(MORNING), "windowEnd": text(MORNING + 86_400_000)}
        status, planned = await self.post("/trip/plan", {"tmsTripId": name, "vehicleId": vehicle, **window})
        assert status == 200
        plan = planned["tripId"]
        for step in itertools.count(1):
            instant, is_last = MORNING + step * 1000, not self.on
            await self.update(plan, FINAL[number % 3] if is_last else (4, 1)[step % 2 == 0], instant)
            if is_last:
                break
            if step % 7 == 3:
                drive = instant + 500
                await self.drive(vehicle, drive, step, producer)
                self.links[identify(vehicle, drive).id] = plan, drive, drive + 400
            await asyncio.sleep(0.02)
        body = {"tripId": plan, "status": 1, "timeStamp": text(instant + 1), "loc": LOC}
        status, refused = await self.post("/trip/tripStatus", body)
        assert status == 400
        assert refused["Description"].startswith("Can't perform modification action 'Accepted' if a trip has been ")
        await self.drive(vehicle, instant + 500, step, producer)
        await self.say("TripEnded", vehicle, drive, step, producer, end=drive + 300)
        self.links[identify(vehicle, drive).id] = plan, drive, drive + 300

    async def update(self, plan, status, instant):
        self.sent.setdefault(plan, {})[instant] = status
        body = {"tripId": plan, "status": status, "timeStamp": text(instant), "loc": LOC}
        assert await self.post("/trip/tripStatus", body) == (200, {"success": True, "errorCode": 0})
        self.answered.setdefault(plan, []).append(instant)

    async def drive(self, vehicle, start, revision, producer):
        self.trips += 1
        await self.say("TripStarted", vehicle, start, revision, producer)
        await self.say("TripEnded", vehicle, start, revision, producer, end=start + 400)

    async def say(self, kind, vehicle, start, revision, producer, *, end=None):
        name = identify(vehicle, start).id
        trip = {"id": name, "vehicle_id": vehicle, "revision": revision, "start": {"timestamp": text(start)}}
        if end is not None:
            trip["end"] = {"timestamp": text(end)}
        event = {"metadata": {"type": kind}, "data": {"trip": trip}}
        await producer.send(self.settings.topics.events, json.dumps(event).encode(), key=vehicle.encode())

    async def decider(self):
        """The place whose process decides; there is one within the session timeout."""
        async with asyncio.timeout(60):
            while True:
                for place in self.places:
                    if (await place.ask("/deciding"))[1] == "true":
                        return place
                await asyncio.sleep(0.05)

    async def goes_on(self):
        """Wait until updates are answered again; how long it took is in the table."""
        began, before = time.monotonic(), sum(map(len, self.answered.values()))
        async with asyncio.timeout(60):
            while sum(map(len, self.answered.values())) < before + 2 * CLIENTS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        self.row.recovery.append(time.monotonic() - began)
        self.row.repetitions += 1


async def strike(run, action):
    place = await run.decider()
    process = place.process
    await asyncio.sleep(run.chance.uniform(0.2, 0.8))
    match action:
        case "kill":
            process.kill()
        case "freeze":
            process.send(19)
            await asyncio.sleep(run.settings.session_timeout_s + 2)
            process.send(18)
        case "before commit" | "after commit":
            # The other one is started anew with a fault in its plan, and is then the only one that is left to decide;
            # unless the group makes it decide at once, because it has changed.
            other = next(one for one in run.places if one is not place)
            planned = await other.restarted(f"{action.split()[0]}:{run.chance.randrange(5, 30)}")
            while planned.process.poll() is None and (await other.ask("/health/ready"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            place.held = True
            if planned.process.poll() is None:
                process.kill()
            async with asyncio.timeout(60):
                while planned.process.poll() is None:  # noqa: ASYNC110 - it kills itself
                    await asyncio.sleep(0.05)
            place.held = False
            assert planned.process.returncode == -9
    await run.goes_on()


def judge(run, events):
    """Compare the events with what the clients know."""
    plans = {}
    for event in events:
        plans.setdefault(event["data"]["plan"]["id"], []).append(event)
    row = run.row
    for number, told in plans.items():
        revisions = [one["data"]["plan"]["revision"] for one in told]
        row.duplicates += len(revisions) - len(set(revisions))
        row.missing += revisions[-1] - len(set(revisions))
        assert revisions == sorted(revisions)
        updates = [one["data"]["update"] for one in told if "update" in one["data"]]
        instants = [milliseconds(one["timestamp"]) for one in updates]
        row.duplicates += len(instants) - len(set(instants))
        row.missing += len(set(run.answered[number]) - set(instants))
        row.extra += len(set(instants) - set(run.sent[number]))
        row.different += sum(run.sent[number][at] != one["status"] for at, one in zip(instants, updates, strict=True))
        row.different += instants != sorted(instants)
        before = "Planned"
        for one in told:
            if "update" in one["data"]:
                assert one["data"]["update"]["from"] == before
            before = one["data"]["plan"]["status"]
    row.messages = sum(map(len, run.answered.values()))
    row.trips = run.trips
    assert sorted(told[-1]["data"]["plan"]["status"] for told in plans.values()) == sorted(
        ("Canceled", "Completed", "Rejected") * (CLIENTS // 3)
    )


def links(events):
    """What the events say of links."""
    return {
        trip: (plan, milliseconds(start), end and milliseconds(end))
        for trip, (plan, start, end) in applied_links(events).items()
    }


@pytest.fixture
def settings(make_settings):
    return make_settings(session_timeout=2, status_answer_timeout=3)


async def test_no_update_is_lost_or_applied_twice(settings, tmp_path, add_row, seed, every_fault):
    row = Row("trip status: whoever decides is killed, frozen, killed around a commit", seed)
    add_row(row)
    await create_topics(settings)
    run = Run(settings, tmp_path, row)
    actions = ["kill", "before commit", "after commit", "freeze"] * 4 if every_fault else ["kill", "after commit"]
    try:
        async with AIOKafkaProducer(**settings.client()) as producer:
            await run.decider()
            async with asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(run.client(number, producer))
                await run.goes_on()
                for action in actions:
                    await strike(run, action)
                run.on = False
        await run.http.aclose()
        events = await read(settings, settings.topics.status_events)
        told = [json.loads(one.value) for one in sorted(events, key=lambda one: (one.partition, one.offset))]
        judge(run, told)
        async with asyncio.timeout(20):
            while links(told) != run.links:
                await asyncio.sleep(0.2)
                told = [json.loads(one.value) for one in await read(settings, settings.topics.status_events)]
    finally:
        for place in run.places:
            place.destroy()
    assert (row.missing, row.extra, row.different, row.duplicates) == (0, 0, 0, 0)
    assert run.trips > len(run.links) >= CLIENTS
    ends = [
        line for place in run.places for one in place.logs for line in one.output().splitlines() if "critical" in line
    ]
    assert ends == []
    row.clean = True
