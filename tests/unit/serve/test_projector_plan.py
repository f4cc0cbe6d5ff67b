"""Where the projector reads on, with others at work on the same database."""

import asyncio
from types import SimpleNamespace

import pytest
from serve_world import DAY, announcement, trip_id

from streams.serve.database import reading, writing
from streams.serve.metrics import ServeMetrics
from streams.serve.projection import Position, advance, put_positions, read_positions
from streams.serve.projector import Projector, _Plan


class Consumer:
    """Brokers whose log grows, and another process that projects what comes at once."""

    _client = None

    def __init__(self, engine, topic):
        self.engine, self.topic, self.end = engine, topic, 5

    async def end_offsets(self, places):
        told = dict.fromkeys(places, self.end)
        self.end += 1
        with writing(self.engine) as (connection, _):
            advance(connection, {(self.topic, 0): self.end})
        return told

    async def beginning_offsets(self, places):
        return dict.fromkeys(places, 0)

    async def getmany(self, **_):
        return {}

    async def position(self, _):
        return 9

    def last_stable_offset(self, _):
        return 9


@pytest.fixture
def read_side(tmp_path, make_read_side):
    return make_read_side(f"sqlite:///{tmp_path}/a.db", projected=False)


@pytest.fixture
def projector(read_side, monkeypatch):
    async def no_ids(*_):
        return {}

    monkeypatch.setattr("streams.serve.projector.topic_ids", no_ids)
    return Projector(read_side.settings, read_side.engine, ServeMetrics())


def test_what_another_process_has_just_projected_is_not_taken_for_lost(read_side, projector):
    topic = read_side.settings.topics.events
    with writing(read_side.engine) as (connection, _):
        put_positions(connection, {(topic, 0): Position("", 5)})
    consumer = Consumer(read_side.engine, topic)
    plan = asyncio.run(projector._plan(consumer, topic, {topic: 1}))
    assert plan.read[topic, 0] == 6


def test_when_nothing_comes_markers_are_written_too_because_what_is_before_them_expires(
    read_side, projector, monkeypatch
):
    place = (read_side.settings.topics.events, 0)
    position = Position("", 8)
    with writing(read_side.engine) as (connection, generation):
        put_positions(connection, {place: position})
    consumer, plan = Consumer(read_side.engine, place[0]), _Plan(generation, {place: position}, {place: 8})

    def written():
        asyncio.run(projector._round(consumer, plan, [place]))
        with reading(read_side.engine) as connection:
            return read_positions(connection)[place].next_offset

    assert written() == 8  # not after every checkpoint
    monkeypatch.setattr("streams.serve.projector._MARKERS_AFTER", 0.0)
    assert written() == 9


def test_a_projection_begins_unfinished_and_is_finished_once(read_side, projector):
    topic = read_side.settings.topics.events
    consumer = Consumer(read_side.engine, topic)
    plan = asyncio.run(projector._plan(consumer, topic, {topic: 1}))
    assert plan.positions[topic, 0] == Position("", 0, 5)
    assert plan.positions[topic, 0].unfinished
    more = asyncio.run(projector._plan(consumer, topic, {topic: 2}))  # a partition that is added empties nothing
    assert not more.positions[topic, 0].unfinished
    assert more.positions[topic, 1] == Position("", 0)


def test_who_is_behind_with_trips_takes_nothing_back_that_another_has_projected_since(read_side, projector):
    finished, events = ((name, 0) for name in (read_side.settings.topics.trips, read_side.settings.topics.events))
    before = {finished: Position("", 4, 10)}
    with writing(read_side.engine) as (connection, generation):
        put_positions(connection, before)
    plan = _Plan(generation, before, {finished: 4})
    with writing(read_side.engine) as (connection, _):  # the other one
        advance(connection, {finished: 10})
        put_positions(connection, {events: Position("", 2, 2)})
    read_side.say(announcement("TripDataReady", revision=5), announcement("TripDeleted", revision=8))
    name = trip_id("v1", DAY)

    def record(offset, value):
        return SimpleNamespace(topic=finished[0], partition=0, offset=offset, key=name.encode(), value=value)

    records = [record(4, announcement("TripDataReady", revision=5)), record(11, None)]
    assert projector._write(plan, records, {finished: 12}) == {finished: 10}
    assert read_side.client("read").get(f"/trips/{name}").status_code == 410
