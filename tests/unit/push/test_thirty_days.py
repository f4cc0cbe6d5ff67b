"""Thirty days in the life of a push, with the clock in hand: processor, dispatcher and a real server, no Kafka.

``Partition`` here stands for the runtime's: it takes what has changed, and lets what is scheduled go on.
"""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from endpoint import HttpEndpoint, announcement
from pushing import AUTHORIZATION, DAY, LOOPBACK, SECRET, START, HandClock, Record, book_of, entry, subscription

from streams.push.checkpoint import dead_letter
from streams.push.dispatcher import Dispatcher
from streams.push.processor import PushProcessor
from streams.push.sender import Endpoint

TRIP = "6030ebe4ea60426b34e9b3bf"


class Partition:
    def __init__(self, book, clock, folder, *, chance=0.5):
        self.clock = clock
        self.changelog = {}
        self.letters = []
        self.attempts = []
        self.settled = asyncio.Event()
        self._make = lambda: PushProcessor(
            0, book, now=clock.now_ms, chance=lambda: chance, scale=1.0, max_waiting=1000
        )
        self.processor = self._make()
        trust = __import__("ssl").create_default_context()
        self._new = lambda definition: Endpoint(definition, LOOPBACK, folder, trust, clock.now_ms)
        self._book = book
        self.dispatcher = Dispatcher(book, self._new, clock, self._settle, self.failed)

    def apply(self, *records):
        self.processor.process(records)
        self.commit()

    def commit(self):
        output = self.processor.take()
        if not output.changes:
            return  # nor does the runtime commit anything then
        for key, value in output.changes.items():
            if value is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = value
        self.letters += [json.loads(dead_letter(letter, 0, 2**20).value) for letter in output.letters]
        self.dispatcher.schedule(0, output.scheduled)

    def _settle(self, _partition, delivery, one, outcome):
        self.attempts.append(outcome)
        if self.processor.settle(delivery, one.definition.profile, outcome):
            self.dispatcher.schedule(0, [delivery])
        self.commit()
        self.settled.set()

    def failed(self, error):
        raise error

    async def attempted(self):
        await asyncio.wait_for(self.settled.wait(), 20)
        self.settled.clear()

    async def restart(self):
        """kill -9, and a successor that has nothing but the changelog."""
        await self.dispatcher.close()
        self.processor = self._make()
        self.processor.restore(self.changelog.items())
        self.processor.restored()
        self.dispatcher = Dispatcher(self._book, self._new, self.clock, self._settle, self.failed)
        self.dispatcher.schedule(0, self.processor.waiting())

    async def nothing_happens(self):
        before = len(self.attempts)
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert len(self.attempts) == before


@pytest.fixture
async def pushing(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSH_SECRET_ONE", SECRET)
    monkeypatch.setenv("PUSH_SECRET_AUTH", AUTHORIZATION)
    clock, made = HandClock(), []

    def make(definition, **more):
        made.append(Partition(book_of(entry(definition)), clock, tmp_path, **more))
        return made[-1]

    yield clock, make
    for one in made:
        await one.dispatcher.close()


def deleted(offset=0):
    return Record(offset, *announcement(1, event="TripDeleted", trip=TRIP))


def drivequant(url):
    return subscription(url, authorization="env:PUSH_SECRET_AUTH")


async def test_once_a_day_from_the_day_after_thirty_attempts_and_then_it_is_given_up(pushing):
    clock, make = pushing
    statuses = [500, 404, (301, {"Location": "/x"}), 401, 410, (429, {"Retry-After": "1"}), "close", "cut"]
    async with HttpEndpoint(lambda _: statuses[len(server.requests) % len(statuses)]) as server:
        one = make(drivequant(server.url))
        one.apply(deleted())
        await one.attempted()
        for day in range(1, 30):
            clock.move(DAY - 1000)
            await one.nothing_happens()  # not before a day has passed
            if day % 7 == 0:
                await one.restart()
                await one.nothing_happens()
            clock.move(1000)
            await one.attempted()
            assert len(server.requests) == day + 1
        assert len(server.requests) == 30
        assert len({request.body for request in server.requests}) == 1
        assert {request.headers["authorization"] for request in server.requests} == {AUTHORIZATION}
        clock.move(40 * DAY)
        await one.nothing_happens()
        assert len(server.requests) == 30
    (letter,) = one.letters
    assert letter["id"] == f"{deleted().headers[1][1].decode()}-one"
    assert letter["reason"] == "30 attempts failed"
    assert [attempt["at"][:10] for attempt in letter["attempts"]] == [
        datetime.fromtimestamp((START + day * DAY) / 1000, UTC).strftime("%Y-%m-%d") for day in range(30)
    ]
    assert [attempt.get("status") for attempt in letter["attempts"][:7]] == [404, 301, 401, 410, 429, None, 500]
    assert letter["event"]["trip_id"] == TRIP
    # Nothing of it is left in the state but the totals, and that the trip was deleted.
    assert {key[:1] for key in one.changelog} == {b"k", b"s", b"x"}
    totals = next(iter(one.processor.totals.values()))
    assert (totals.attempts, totals.delivered, totals.discarded) == (30, 0, 1)


@pytest.mark.parametrize("day", [1, 29])
async def test_taken_on_a_later_day_and_never_again(pushing, day):
    clock, make = pushing
    async with HttpEndpoint(lambda _: 204 if len(server.requests) > day else 500) as server:
        one = make(drivequant(server.url))
        one.apply(deleted())
        await one.attempted()
        for _ in range(day):
            clock.move(DAY)
            await one.attempted()
        clock.move(40 * DAY)
        await one.nothing_happens()
        assert len(server.requests) == day + 1
    assert one.letters == []
    assert {key[:1] for key in one.changelog} == {b"k", b"s", b"x"}


async def test_a_worker_that_was_away_for_days_goes_on_with_one_attempt_and_a_day_from_there(pushing):
    clock, make = pushing
    async with HttpEndpoint(lambda _: 500) as server:
        one = make(drivequant(server.url))
        one.apply(deleted())
        await one.attempted()
        clock.move(5 * DAY)
        await one.attempted()
        await one.nothing_happens()
        assert len(server.requests) == 2
        clock.move(DAY)
        await one.attempted()
        assert len(server.requests) == 3


async def test_standard_keeps_its_schedule_and_its_id_and_ends_in_the_dead_letters(pushing):
    clock, make = pushing
    async with HttpEndpoint(lambda _: 503) as server:
        one = make(subscription(server.url, profile="standard"))
        one.apply(Record(0, *announcement(1)))
        await one.attempted()
        for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400):
            clock.move(seconds * 1000 - 1000)
            await one.nothing_happens()
            clock.move(1000)
            await one.attempted()
        assert {request.headers["webhook-id"] for request in server.requests} == {"01EVENT0000000000000000001-one"}
        assert len({request.headers["webhook-timestamp"] for request in server.requests}) == 10
    (letter,) = one.letters
    assert letter["reason"] == "10 attempts failed"
    assert letter["payload"].encode() == announcement(1)[1]


async def test_retry_after_puts_the_next_attempt_off(pushing):
    clock, make = pushing
    async with HttpEndpoint(lambda _: (503, {"Retry-After": "3600"})) as server:
        one = make(subscription(server.url, profile="standard"))
        one.apply(Record(0, *announcement(1)))
        await one.attempted()
        clock.move(3_599_000)
        await one.nothing_happens()
        clock.move(1_000)
        await one.attempted()


async def test_a_missing_credential_costs_no_attempt(pushing, monkeypatch):
    clock, make = pushing
    monkeypatch.delenv("PUSH_SECRET_AUTH")
    async with HttpEndpoint() as server:
        one = make(drivequant(server.url))
        one.apply(deleted())
        for _ in range(40):
            await one.attempted()
            clock.move(60_000)
        monkeypatch.setenv("PUSH_SECRET_AUTH", AUTHORIZATION)
        await one.attempted()
        clock.move(60_000)
        while not server.requests:
            await one.attempted()
        assert len(server.requests) == 1
    totals = next(iter(one.processor.totals.values()))
    assert (totals.attempts, totals.delivered) == (1, 1)
    assert totals.errors[0][1] == "env:PUSH_SECRET_AUTH is not set, or empty"
    assert one.letters == []
