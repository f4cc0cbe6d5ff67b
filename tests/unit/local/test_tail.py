"""Reading a topic to its end."""

import pytest
from aiokafka import TopicPartition

from streams.errors import ClusterError
from streams.local import tail


class Consumer:
    """Of two partitions: the first is read, the brokers of the second do not answer."""

    places = (TopicPartition("trips", 0), TopicPartition("trips", 1))
    read = 0

    def assignment(self):
        return set(self.places)

    async def end_offsets(self, places):
        return dict.fromkeys(places, 3)

    async def position(self, place):
        return self.read if place == self.places[0] else 0

    async def getmany(self, **_):
        if self.read == 3:
            return {}
        self.read += 1
        return {self.places[0]: [self.read]}


async def test_an_end_that_is_not_reached_is_not_taken_for_reached(monkeypatch):
    monkeypatch.setattr(tail, "_NOTHING_WITHIN", 0.0)
    records = []

    async def read():
        async for record in tail.read_to_end(Consumer()):
            records.append(record)  # noqa: PERF401 - those before the error count

    with pytest.raises(ClusterError, match="trips partition 1"):
        await read()
    assert records == [1, 2, 3]
