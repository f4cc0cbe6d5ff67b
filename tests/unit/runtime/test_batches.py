from types import SimpleNamespace

import pytest
from aiokafka.structs import TopicPartition

from streams.runtime import batches as module
from streams.runtime.batches import BatchConsumer
from streams.runtime.decoding import Portion

PLACES = [TopicPartition("telemetry", number) for number in range(3)]


def portion(*offsets):
    return Portion(offsets[-1], [SimpleNamespace(offset=offset, timestamp=1_000) for offset in offsets])


@pytest.fixture
def events_of(monkeypatch):
    """Of what a fetch brought, for each event: partition, offsets and sequence of its batches."""
    monkeypatch.setattr(module, "_EVENT_RECORDS", 4)
    app = SimpleNamespace(worker=SimpleNamespace(topics=SimpleNamespace(telemetry="telemetry")))
    consumer = SimpleNamespace(_sequences={}, app=app)

    def events(fetched):
        batches = BatchConsumer._batches(consumer, fetched, 7)
        messages = [BatchConsumer._message(consumer, some) for some in module._events(batches)]
        for message in messages:
            # To Faust it is the last record of its first batch.
            first = message.value[0]
            assert (message.tp, message.offset) == (PLACES[first.partition], first.records[-1].offset)
            assert (message.topic, message.partition, message.timestamp) == (*message.tp, 1.0)
            assert all(batch.generation == message.generation_id == 7 for batch in message.value)
        return [
            [(one.partition, [record.offset for record in one.records], one.sequence) for one in message.value]
            for message in messages
        ]

    return events


def test_all_that_a_fetch_brought_is_one_event(events_of):
    fetched = {PLACES[2]: [portion(5)], PLACES[0]: [portion(8, 9)], PLACES[1]: []}
    assert events_of(fetched) == [[(2, [5], 0), (0, [8, 9], 0)]]


def test_many_records_are_several_events_and_batches_count_on(events_of):
    fetched = {
        PLACES[0]: [portion(0, 1, 2), portion(3, 4, 5, 6, 7), portion(8)],
        PLACES[1]: [portion(3, 4, 5)],
        PLACES[2]: [portion(1)],
    }
    assert events_of(fetched) == [
        [(0, [0, 1, 2], 0)],
        [(0, [3, 4, 5, 6, 7], 1)],
        [(0, [8], 2), (1, [3, 4, 5], 0)],
        [(2, [1], 0)],
    ]
    assert events_of({PLACES[0]: [portion(9)]}) == [[(0, [9], 3)]]


def test_a_fetch_that_brought_nothing_is_no_event(events_of):
    assert events_of({}) == []
