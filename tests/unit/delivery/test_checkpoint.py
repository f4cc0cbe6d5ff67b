import asyncio
import time
from dataclasses import replace

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from unit.trips.records import record

from streams.delivery import at_least_once as module
from streams.delivery.at_least_once import AtLeastOnceCheckpointer
from streams.delivery.checkpoint import Checkpointer, Destinations, partition_for
from streams.records import Announcement, Output, Rejected, TripsRecord
from streams.telemetry.reader import Problem, Reason

DESTINATIONS = Destinations(
    application_id="app",
    telemetry="telemetry",
    events="events",
    trips="trips",
    dead_letters="dead",
    late="late",
    changelog="changelog",
    max_bytes=dict.fromkeys(("dead", "late"), 1_100_000),
)


class Producer:
    """Writes down what it is asked to do."""

    def __init__(self, batch_size=512 * 1024, failing=None, calls=None):
        self.calls = [] if calls is None else calls
        self.sizes = []
        self.batch_size = batch_size
        self.failing = failing

    async def partitions_for(self, topic):
        return set(range({"events": 8, "trips": 3, "dead": 1}[topic]))

    def create_batch(self):
        return BatchBuilder(self.batch_size, 0, is_transactional=1)

    async def begin_transaction(self):
        self.calls.append(("begin",))

    async def join(self, places, group=None):
        self.calls += [("add", place) for place in places]
        if group is not None:
            self.calls.append(("add", group))

    def join_ahead(self, places):
        self.calls += [("add", place) for place in places]

    async def tell(self, offsets, group):
        self.calls.append(("offset", offsets, group))

    async def send_offsets_to_transaction(self, offsets, group):
        await self.join((), group)
        await self.tell(offsets, group)

    async def deliver(self, batches):
        for place, builders in batches.items():
            for batch in builders:
                self.sizes.append(batch.size())
                self.calls.append(("send", place, batch.record_count()))
        await asyncio.sleep(0)
        for place in batches:
            if place.topic == self.failing:
                raise MessageSizeTooLargeError
            self.calls.append(("delivered", place))

    async def commit_transaction(self):
        self.calls.append(("commit",))


def output(count=1, changes=()):
    said = [
        Announcement("JQ7RP", f"trip-{n}", "TripDataReady", "E", n, 0, None, b"{}", TripsRecord.PUT)
        for n in range(count)
    ]
    return Output(announcements=said, changes=dict(changes))


async def test_the_steps_of_a_checkpoint_come_in_the_order_that_makes_them_one():
    producer = Producer()
    written = await Checkpointer(producer, 5, DESTINATIONS).commit(output(changes=[(b"key", b"value")]), 18)
    events = TopicPartition("events", partition_for(b"JQ7RP", 8, 0))
    trips = TopicPartition("trips", partition_for(b"trip-0", 3, 0))
    changelog = TopicPartition("changelog", 5)
    assert producer.calls == [
        ("begin",),
        ("add", events),
        ("add", trips),
        ("add", changelog),
        ("add", "app"),
        ("offset", {TopicPartition("telemetry", 5): OffsetAndMetadata(18, "state:2")}, "app"),
        ("send", events, 1),
        ("send", trips, 1),
        ("send", changelog, 1),
        ("delivered", events),
        ("delivered", trips),
        ("delivered", changelog),
        ("commit",),
    ]
    assert written == len(b"key" + b"value")


async def test_a_delivery_that_fails_is_not_committed():
    producer = Producer(failing="trips")
    with pytest.raises(MessageSizeTooLargeError):
        await Checkpointer(producer, 5, DESTINATIONS).commit(output(), 18)
    assert ("commit",) not in producer.calls


async def test_a_checkpoint_of_the_timer_has_no_offset():
    producer = Producer()
    await Checkpointer(producer, 5, DESTINATIONS).commit(output(), None)
    assert not [call for call in producer.calls if call[0] == "offset"]
    assert producer.calls[-1] == ("commit",)


async def test_an_offset_alone_is_a_checkpoint():
    producer = Producer()
    await Checkpointer(producer, 5, DESTINATIONS).commit(Output(), 18)
    assert [call[0] for call in producer.calls] == ["begin", "add", "offset", "commit"]


async def test_records_are_sent_in_batches_of_at_most_the_batch_size_in_order():
    producer = Producer(batch_size=1000)
    changes = [(b"%03d" % n, b"x" * 100) for n in range(20)]
    await Checkpointer(producer, 5, DESTINATIONS).commit(output(0, changes), 18)
    sizes = [call[2] for call in producer.calls if call[0] == "send"]
    assert sum(sizes) == 20
    assert len(sizes) == 3


async def test_a_record_larger_than_a_batch_is_a_batch_of_its_own():
    producer = Producer(batch_size=1000)
    changes = [(b"a", b"x"), (b"b", b"x" * 5000), (b"c", b"x")]
    await Checkpointer(producer, 5, DESTINATIONS).commit(output(0, changes), 18)
    assert [call[2] for call in producer.calls if call[0] == "send"] == [1, 1, 1]


@pytest.mark.parametrize("partitions", [1, 2, 7, 8, 100])
def test_a_key_goes_where_kafkas_default_partitioner_puts_it(partitions):
    kafkas = DefaultPartitioner()
    everything = list(range(partitions))
    for key in (b"", b"a", b"JQ7RP", "Übergröße".encode(), b"\x00" * 33):
        assert partition_for(key, partitions, 0) == kafkas(key, everything, everything)


def test_a_record_without_a_key_stays_near_its_source():
    assert partition_for(None, 4, 6) == 2


async def test_letters_are_sent_in_batches_that_their_topic_takes():
    """max.message.bytes of a topic limits a batch, not only a record."""
    producer = Producer()
    small = replace(DESTINATIONS, max_bytes={"dead": 20_000})
    letters = [
        Rejected(record(offset, b"x" * 500, 0), [Problem(Reason.NOT_JSON, None, "not JSON")], partial=False)
        for offset in range(200)
    ]
    await Checkpointer(producer, 0, small).commit(Output(rejected=letters), 200)
    assert sum(call[2] for call in producer.calls if call[0] == "send") == 200
    assert 5 <= len(producer.sizes) <= 20
    assert max(producer.sizes) <= 20_000


class Pair:
    """The two producers of a partition; what they are asked to do, the plain one's marked, is in one list."""

    def __init__(self, **options):
        self.calls = []
        self.transactional = Producer(calls=self.calls, **options)
        self.plain = Plain(self.calls, **options)
        self.checkpointer = AtLeastOnceCheckpointer(self.transactional, self.plain, 5, DESTINATIONS)

    async def commit(self, *arguments):
        self.calls.clear()
        await self.checkpointer.commit(*arguments)
        return [call[:2] for call in self.calls if call[0] not in {"add", "send"}]


class Plain(Producer):
    def __init__(self, calls, **options):
        super().__init__(calls=self, **options)
        self._all = calls

    def append(self, call):
        self._all.append((f"plain {call[0]}", *call[1:]))


EVENTS = TopicPartition("events", partition_for(b"JQ7RP", 8, 0))
TRIPS = TopicPartition("trips", partition_for(b"trip-0", 3, 0))
CHANGELOG = TopicPartition("changelog", 5)


def offset(number):
    return "offset", {TopicPartition("telemetry", 5): OffsetAndMetadata(number, "state:2")}


async def test_at_least_once_announces_behind_the_state_and_settles_it_in_the_next_transaction(monkeypatch):
    monkeypatch.setattr(module, "_TELL_EVERY", 60)
    pair = Pair()
    pair.checkpointer._told = time.monotonic()
    changes = [(b"key", b"value")]
    letter = Rejected(record(17, b"x", 0), [Problem(Reason.NOT_JSON, None, "not JSON")], partial=False)
    first = output(changes=changes)
    first.rejected.append(letter)
    assert await pair.commit(first, 18) == [
        ("plain send", TopicPartition("dead", 0)),
        ("plain delivered", TopicPartition("dead", 0)),
        ("begin",),
        ("delivered", CHANGELOG),
        ("commit",),
        ("plain send", EVENTS),
        ("plain delivered", EVENTS),
        ("begin",),
    ]
    assert pair.calls[-2:] == [("add", CHANGELOG), ("add", TRIPS)]
    assert pair.checkpointer.unsettled
    assert await pair.commit(Output(changes={b"key": b"again"}), None) == [
        offset(18),
        ("delivered", TRIPS),
        ("delivered", CHANGELOG),
        ("commit",),
    ]
    assert not pair.checkpointer.unsettled
    assert await pair.commit(Output(changes={b"key": b"and again"}), 20) == [
        ("begin",),
        offset(20),
        ("delivered", CHANGELOG),
        ("commit",),
    ]


async def test_at_least_once_the_offset_goes_along_behind_announcements_now_and_then():
    pair = Pair()
    assert (await pair.commit(output(changes=[(b"key", b"1")]), 18))[-2:] == [("begin",), offset(18)]
    said = [await pair.commit(output(changes=[(b"key", b"%d" % n)]), n) for n in range(19, 22)]
    assert not [call for calls in said for call in calls if call[0] == "offset"]
    assert offset(21) in await pair.commit(Output(changes={b"key": b"3"}), None)  # the timer's


async def test_at_least_once_what_the_fence_refuses_is_not_announced():
    pair = Pair(failing="changelog")
    with pytest.raises(MessageSizeTooLargeError):
        await pair.commit(output(changes=[(b"key", b"value")]), 18)
    assert not [call for call in pair.calls if call[0].startswith("plain")]
