"""Push workers that are killed, stopped, frozen and joined by others while endpoints fail at random.

Judged is what counts to a subscriber: everything that was due is delivered or in the dead letters, under one id and
with one body, or erased because its trip was deleted; and the workers' own totals, which are state, add up exactly.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import signal
import time
from collections import defaultdict

import pytest
from endpoint import HttpEndpoint, announcement, publish
from faults.drill import Row
from integration.cluster import read
from worker_process import WorkerProcess

from streams import topics
from streams.local.broker import free_ports
from streams.push import book
from streams.push.report import report, request_retries
from streams.push.subscriptions import Subscription

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
EVENTS = ("TripStarted", "TripEnded", "TripDataReady", "TripDeleted")


def event_of(number):
    """(key, value, headers). Each fourth one deletes the trip of the one before it."""
    of = number - (number % 4 == 3)
    return announcement(number, event=EVENTS[number % 4], vehicle=f"V{of % 40}", trip=f"01TRIP{of:020d}")


def name_of(number):
    return dict(event_of(number)[2])["ce_id"].decode()


class Bench:
    """Endpoints, workers, and what was to be pushed."""

    def __init__(self, settings, folder, row):
        self.settings = settings
        self.folder = folder
        self.row = row
        self.chance = random.Random(f"{row.seed} {row.fault}")
        self.workers = []
        self.started = 0
        self.published = 0
        self.answered = defaultdict(list)  # delivery: (status, body)
        self.wants = {}
        self.dead = self.gone = True

    def answer(self, request):
        """Half of the attempts fail, each in its own way."""
        delivery = request.headers.get("webhook-id")
        if delivery is None:  # drivequant
            delivery = f"{name_of(int(request.json['itinId'][6:]) + 1)}-dq"
        status = self.chance.choice([200, 200, 200, 204, 500, 503, "close", "hang", "cut"])
        match delivery.rpartition("-")[2]:
            case "dead" if self.dead:
                status = 503
            case "gone" if self.gone:
                status = 410
            case "dead" | "gone":
                status = 200
        self.answered[delivery].append((status, request.body))
        return status

    async def subscribe(self, endpoint):
        quick = {"concurrency": 16, "rate": 2000, "timeout": 0.3}
        standard = {"profile": "standard", "secrets": ("env:PUSH_SECRET_ONE",)}
        for name, events, more in (
            ("good", EVENTS, {**standard, "limits": quick}),
            ("slow", ("TripDataReady",), {**standard, "limits": {"concurrency": 2, "rate": 30, "timeout": 0.3}}),
            ("dead", ("TripStarted",), {**standard, "limits": quick}),
            ("gone", ("TripStarted",), {**standard, "limits": quick}),
            ("dq", ("TripDeleted",), {"profile": "drivequant", "limits": quick}),
        ):
            self.wants[name] = events
            await book.add(self.settings, Subscription(id=name, url=endpoint.url, events=events, **more))

    def start(self):
        self.started += 1
        (port,) = free_ports(1)
        worker = WorkerProcess(
            self.settings,
            self.folder,
            f"push-{self.started}",
            port,
            extra={"TRIPS_PUSH_HTTP_PORT": str(port), "PUSH_SECRET_ONE": SECRET},
            command=("-m", "streams.cli", "push", "worker"),
        )
        self.workers.append(worker)
        return worker

    async def ready(self, worker):
        await asyncio.to_thread(worker.wait_until_ready)

    async def publish(self, seconds, rate):
        """Announcements of many vehicles, for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            some = []
            for _ in range(rate // 5):
                some.append(event_of(self.published))
                self.published += 1
            await publish(self.settings, *some)
            await asyncio.sleep(0.2)

    async def settled(self, within=120):
        """Wait until nothing is to be done any more."""
        deadline = time.monotonic() + within
        due = len(self.wanted())
        while True:
            lines = await report(self.settings)
            done = sum(line.delivered + line.discarded + line.erased for line in lines)
            if done >= due and not sum(line.waiting for line in lines):
                return lines
            tails = "\n".join(worker.output()[-2000:] for worker in self.workers)
            assert time.monotonic() < deadline, f"{done} of {due} after {within} s: {lines}\n{tails}"
            await asyncio.sleep(0.3)

    def wanted(self):
        """All that is due: the delivery's id, and the number of the announcement."""
        return {
            f"{name_of(number)}-{name}": number
            for number in range(self.published)
            for name, events in self.wants.items()
            if EVENTS[number % 4] in events
        }

    async def pause_and_resume(self):
        """In the middle of it all."""
        assert await book.switch(self.settings, "slow", "paused")
        await asyncio.sleep(self.chance.uniform(0.2, 1))
        assert await book.switch(self.settings, "slow", None)

    async def come_back(self):
        """The endpoint that said that it was gone is there again, and somebody says so."""
        async with asyncio.timeout(30):
            while (await book.read_book(self.settings)).entries["gone"].off is None:  # noqa: ASYNC110 - in Kafka
                await asyncio.sleep(0.2)
        await asyncio.sleep(2)  # workers know of it
        before = self.asked("gone")
        await asyncio.sleep(1)
        assert self.asked("gone") == before
        self.gone = False
        assert await book.switch(self.settings, "gone", None)

    def asked(self, name):
        """How often."""
        return sum(len(answers) for one, answers in self.answered.items() if one.endswith(f"-{name}"))

    async def deliver_again(self):
        """What the dead one has not taken, once it is back, while workers die."""
        self.dead = False
        (before,) = await report(self.settings, "dead")
        assert await request_retries(self.settings, subscription="dead", ids=()) == (before.discarded, [])
        victim = next(worker for worker in self.workers if worker.process.poll() is None)
        victim.kill()
        await self.ready(self.start())
        async with asyncio.timeout(60):
            while (await report(self.settings, "dead"))[0].delivered < before.discarded:  # noqa: ASYNC110 - in Kafka
                await asyncio.sleep(0.3)
        (line,) = await report(self.settings, "dead")
        assert (line.delivered, line.waiting, line.discarded) == (before.discarded, 0, before.discarded)
        assert await request_retries(self.settings, subscription="dead", ids=()) == (0, [])
        self.row.clean = True

    async def judge(self):
        lines = {line.subscription: line for line in await self.settled()}
        letters = [json.loads(one.value) for one in await read(self.settings, self.settings.topics.push_dead_letters)]
        discarded = [letter["id"] for letter in letters]
        wanted = self.wanted()
        taken = {one for one, answers in self.answered.items() if any(status in (200, 204) for status, _ in answers)}
        # Of a trip that was deleted nothing else needs to be told.
        erasable = {one for one, number in wanted.items() if number % 4 == 2}
        missing = set(wanted) - taken - set(discarded) - erasable
        strangers = (set(self.answered) | set(discarded)) - set(wanted)
        bodies = {one: b"" if one.endswith("-dq") else event_of(number)[1] for one, number in wanted.items()}
        changed = [
            one
            for one, answers in self.answered.items()
            if {b"" if b"itinId" in body else body for _, body in answers} != {bodies[one]}
        ]
        self.row.messages, self.row.trips = len(wanted), self.published
        self.row.missing, self.row.extra, self.row.different = len(missing), len(strangers), len(changed)
        self.row.duplicates = sum(
            max(0, sum(status in (200, 204) for status, _ in answers) - 1) for answers in self.answered.values()
        )
        assert not missing, f"{len(missing)} were neither taken nor given up, such as {sorted(missing)[:3]}"
        assert not strangers
        assert not changed
        # What workers say of it is state, committed with the outcome: exact, whatever was killed.
        count = {name: sum(one.endswith(f"-{name}") for one in wanted) for name in self.wants}
        told = {name: line.delivered + line.discarded + line.erased for name, line in lines.items()}
        assert told == count
        assert sum(line.erased for line in lines.values()) <= len(erasable)
        assert len(discarded) == len(set(discarded)) == sum(line.discarded for line in lines.values())
        assert lines["dead"].discarded == count["dead"]
        for letter in letters:
            assert len(letter["attempts"]) == (30 if letter["subscription"] == "dq" else 10)


@pytest.fixture
async def bench(make_settings, add_row, seed, tmp_path):
    made = []

    async def make(fault):
        row = Row(fault, seed)
        add_row(row)
        settings = make_settings(
            partitions=3,
            session_timeout=2,
            push_allowed_networks="127.0.0.0/8",
            push_retry_scale=0.00001,
            push_secrets_folder=str(tmp_path),
        )
        await topics.create_topics(settings)
        made.append(Bench(settings, tmp_path, row))
        return made[-1]

    yield make
    for one in made:
        for worker in one.workers:
            if worker.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.kill()


async def test_killed_while_endpoints_fail_at_random(bench, every_fault):
    one = await bench("push: kill -9 of workers while endpoints fail at random")
    async with HttpEndpoint(one.answer) as endpoint:
        await one.subscribe(endpoint)
        await asyncio.gather(*(one.ready(one.start()) for _ in range(2)))
        kills = 20 if every_fault else 2
        publishing = asyncio.create_task(one.publish(2.5 * kills, rate=30))
        for _ in range(kills):
            await asyncio.sleep(one.chance.uniform(0.2, 2.0))
            victim = one.chance.choice([worker for worker in one.workers if worker.process.poll() is None])
            victim.kill()
            began = time.monotonic()
            await one.ready(one.start())
            one.row.repetitions += 1
            one.row.recovery.append(round(time.monotonic() - began, 2))
            await one.pause_and_resume()
        await one.come_back()
        await publishing
        await one.judge()
        await one.deliver_again()


@pytest.mark.all_faults
async def test_workers_that_come_and_go(bench):
    one = await bench("push: workers join, stop and are frozen while endpoints fail at random")
    async with HttpEndpoint(one.answer) as endpoint:
        await one.subscribe(endpoint)
        await one.ready(one.start())
        publishing = asyncio.create_task(one.publish(45, rate=30))
        for number in range(9):
            alive = [worker for worker in one.workers if worker.process.poll() is None]
            match number % 3:
                case 0:
                    await one.ready(one.start())
                case 1:
                    assert await asyncio.to_thread(alive[0].stop) == 0
                case 2:  # frozen for longer than the group waits: it wakes up to find its partitions gone
                    alive[0].send(signal.SIGSTOP)
                    await one.ready(one.start())
                    await asyncio.sleep(4)
                    alive[0].send(signal.SIGCONT)
            one.row.repetitions += 1
            await asyncio.sleep(one.chance.uniform(0.5, 2))
        await publishing
        if not any(worker.process.poll() is None for worker in one.workers):
            await one.ready(one.start())
        await one.come_back()
        await one.judge()
        await one.deliver_again()
