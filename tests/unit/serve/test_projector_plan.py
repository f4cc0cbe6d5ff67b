"""Where the projector reads on, with others at work on the same database."""

import asyncio

import pytest

from streams.serve.database import writing
from streams.serve.metrics import ServeMetrics
from streams.serve.projection import Position, advance, put_positions
from streams.serve.projector import Projector


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


@pytest.fixture
def projector(read_side, monkeypatch):
    async def no_ids(*_):
        return {}

    monkeypatch.setattr("streams.serve.projector.topic_ids", no_ids)
    return Projector(read_side.settings, read_side.engine, ServeMetrics())


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_another_process_has_just_projected_is_not_taken_for_lost(read_side, projector):
    topic = read_side.settings.topics.events
    with writing(read_side.engine) as (connection, _):
        put_positions(connection, {(topic, 0): Position("", 5)})
    consumer = Consumer(read_side.engine, topic)
    plan = asyncio.run(projector._plan(consumer, topic, {topic: 1}))
    assert plan.read[topic, 0] == 6
