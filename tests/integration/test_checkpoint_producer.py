"""The producer of the checkpoints, on a real Kafka: what it sends by itself is aiokafka's, in the same order."""

import asyncio
import contextlib
import gc

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import InvalidProducerEpoch, KafkaError, NotEnoughReplicasError, ProducerFenced
from aiokafka.producer import sender
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.app import producer_settings
from streams.delivery.checkpoint import begin, transact
from streams.delivery.producer import CheckpointProducer


@contextlib.asynccontextmanager
async def producer_of(settings, **options):
    producer = CheckpointProducer(**producer_settings(settings.client()) | options)
    await producer.start()
    try:
        for topic in (settings.topics.events, settings.topics.trips):
            await producer.partitions_for(topic)
        yield producer
    finally:
        await asyncio.wait_for(producer.stop(), 5)


def batch(producer, *values):
    made = producer.create_batch()
    for value in values:
        made.append(key=b"key", value=value, timestamp=None)
    return made


async def committed(settings, topic, count, within=5.0):
    """The values that a reader of committed records sees: so many, and what comes within half a second after them."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        values = []
        async with asyncio.timeout(within):
            while len(values) < count:
                values += values_of(await consumer.getmany(timeout_ms=200))
        return values + values_of(await consumer.getmany(timeout_ms=500))
    finally:
        await consumer.stop()


def values_of(fetched):
    return [record.value for some in fetched.values() for record in some]


async def test_transactions_one_after_the_other_are_all_committed_in_order(created_topics, unique):
    events = TopicPartition(created_topics.topics.events, 0)
    trips = TopicPartition(created_topics.topics.trips, 0)
    source = TopicPartition(created_topics.topics.telemetry, 0)
    async with producer_of(created_topics, transactional_id=unique) as producer:
        for number in range(5):
            batches = {events: [batch(producer, b"%d" % number)], trips: [batch(producer, b"a%d" % number)]}
            await transact(producer, batches, {source: OffsetAndMetadata(number + 1, "")}, unique)
        await transact(producer, {}, {source: OffsetAndMetadata(7, "")}, unique)
        await transact(producer, {}, None, unique)
    assert await committed(created_topics, events.topic, 5) == [b"0", b"1", b"2", b"3", b"4"]
    assert await committed(created_topics, trips.topic, 5) == [b"a0", b"a1", b"a2", b"a3", b"a4"]
    consumer = AIOKafkaConsumer(bootstrap_servers=created_topics.bootstrap_servers, group_id=unique)
    await consumer.start()
    assert await consumer.committed(source) == 7
    await consumer.stop()


@pytest.mark.parametrize("options", [{"enable_idempotence": True}, {"transactional_id": "one"}])
async def test_several_batches_of_a_partition_are_delivered_in_order(created_topics, unique, options):
    events = TopicPartition(created_topics.topics.events, 0)
    trips = TopicPartition(created_topics.topics.trips, 0)
    options = {name: unique if value == "one" else value for name, value in options.items()}
    async with producer_of(created_topics, **options) as producer:
        for first in (0, 3, 4):
            several = [batch(producer, b"%d" % number) for number in range(first, 3 if first == 0 else first + 1)]
            batches = {events: several, trips: [batch(producer, b"a%d" % first)]}
            if "transactional_id" in options:
                await transact(producer, batches, None, unique)
            else:
                await producer.deliver(batches)
    assert await committed(created_topics, events.topic, 5) == [b"0", b"1", b"2", b"3", b"4"]
    assert await committed(created_topics, trips.topic, 3) == [b"a0", b"a3", b"a4"]


async def test_deliveries_to_one_partition_at_a_time_go_behind_each_other(created_topics):
    events = TopicPartition(created_topics.topics.events, 0)
    async with producer_of(created_topics, enable_idempotence=True) as producer:
        await asyncio.gather(*(producer.deliver({events: [batch(producer, b"%d" % number)]}) for number in range(6)))
    assert await committed(created_topics, events.topic, 6) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_deliveries_of_several_requests_go_behind_each_other_too(created_topics):
    events = TopicPartition(created_topics.topics.events, 0)
    trips = TopicPartition(created_topics.topics.trips, 0)
    async with producer_of(created_topics, enable_idempotence=True) as producer:
        both = {events: [batch(producer, b"0")], trips: [batch(producer, b"a"), batch(producer, b"b")]}
        others = ({events: [batch(producer, b"%d" % number)]} for number in (1, 2))
        await asyncio.gather(producer.deliver(both), *map(producer.deliver, others))
    assert await committed(created_topics, events.topic, 3) == [b"0", b"1", b"2"]
    assert await committed(created_topics, trips.topic, 2) == [b"a", b"b"]


async def test_what_a_broker_does_not_take_at_once_is_sent_again(created_topics, unique, monkeypatch):
    events = TopicPartition(created_topics.topics.events, 0)
    handle, refused = sender.SendProduceReqHandler.handle_response, []

    def refusing(handler, response):
        if len(refused) < 2:  # as if the answer had said so; the broker has the records, and knows their numbers
            refused.append(response)
            error = NotEnoughReplicasError.errno
            for topic, partitions in response.topics:
                partitions[:] = [(one[0], error, *one[2:]) for one in partitions]
                assert topic == events.topic
        handle(handler, response)

    monkeypatch.setattr(sender.SendProduceReqHandler, "handle_response", refusing)
    async with producer_of(created_topics, transactional_id=unique) as producer:
        await transact(producer, {events: [batch(producer, b"1")]}, None, unique)
        await transact(producer, {events: [batch(producer, b"2")]}, None, unique)
    assert len(refused) == 2
    assert await committed(created_topics, events.topic, 2) == [b"1", b"2"]


async def test_partitions_and_group_are_asked_for_at_once_and_before_anything_is_sent(
    created_topics, unique, monkeypatch
):
    events = TopicPartition(created_topics.topics.events, 0)
    source = TopicPartition(created_topics.topics.telemetry, 0)
    happened, send = [], AIOKafkaClient.send

    async def sending(client, node, request, **options):
        happened.append(type(request))
        answer = await send(client, node, request, **options)
        happened.append("answer")
        return answer

    async with producer_of(created_topics, transactional_id=unique) as producer:
        batches = {events: [batch(producer, b"1")]}
        await transact(producer, {}, {source: OffsetAndMetadata(1, "")}, unique)  # the coordinators are known then
        await asyncio.sleep(0.2)  # and its end is written down
        monkeypatch.setattr(AIOKafkaClient, "send", sending)
        await transact(producer, batches, {source: OffsetAndMetadata(2, "")}, unique)
        monkeypatch.undo()
    assert happened[:2] == [AddPartitionsToTxnRequest, AddOffsetsToTxnRequest]
    assert happened[2:4] == ["answer", "answer"]
    assert happened.index(ProduceRequest) > 4


async def test_who_was_fenced_off_cannot_go_on_and_has_committed_nothing(created_topics, unique):
    events = TopicPartition(created_topics.topics.events, 0)
    async with (
        producer_of(created_topics, transactional_id=unique) as old,
        producer_of(created_topics, transactional_id=unique) as new,
    ):
        with pytest.raises((ProducerFenced, InvalidProducerEpoch)):
            await transact(old, {events: [batch(old, b"old")]}, None, unique)
        with pytest.raises(AssertionError):
            await transact(old, {events: [batch(old, b"old")]}, None, unique)
        await transact(new, {events: [batch(new, b"new")]}, None, unique)
    assert await committed(created_topics, events.topic, 1) == [b"new"]


async def test_who_was_fenced_off_behind_an_opened_transaction_finds_out(created_topics, unique):
    events = TopicPartition(created_topics.topics.events, 0)
    async with producer_of(created_topics, transactional_id=unique) as old:
        await begin(old, [events])
        await asyncio.sleep(0.2)
        async with producer_of(created_topics, transactional_id=unique):
            with pytest.raises((ProducerFenced, InvalidProducerEpoch)):
                await transact(old, {events: [batch(old, b"old")]}, None, unique, begun=True)


async def test_a_delivery_that_is_given_up_does_not_hold_the_end_up(created_topics, unique, monkeypatch):
    events = TopicPartition(created_topics.topics.events, 0)
    asked = asyncio.Event()

    async def silent(_client, _node, request, **_options):
        assert isinstance(request, ProduceRequest)
        asked.set()
        await asyncio.sleep(60)

    async with producer_of(created_topics, enable_idempotence=True) as producer:
        monkeypatch.setattr(AIOKafkaClient, "send", silent)
        delivery = asyncio.create_task(producer.deliver({events: [batch(producer, b"1")]}))
        await asyncio.wait_for(asked.wait(), 5)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        monkeypatch.undo()


def refuse(monkeypatch):
    """No broker takes anything, for now. Returns the answers, which grow."""
    refused = []

    def refusing(handler, response):
        refused.append(response)
        handler._to_reenqueue += handler._batches.values()

    monkeypatch.setattr(sender.SendProduceReqHandler, "handle_response", refusing)
    return refused


@pytest.fixture
async def complaints():
    """What the loop had to say of tasks and futures that nobody looked after."""
    said = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    yield said
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)


@pytest.mark.parametrize("tries", [0, 1, 3])
@pytest.mark.parametrize("several", [False, True])
async def test_a_delivery_that_is_given_up_leaves_nothing_behind(
    created_topics, monkeypatch, complaints, tries, several
):
    events = TopicPartition(created_topics.topics.events, 0)
    trips = TopicPartition(created_topics.topics.trips, 0)
    refused = refuse(monkeypatch)
    async with producer_of(created_topics, enable_idempotence=True) as producer:
        batches = {events: [batch(producer, b"1")]}
        if several:
            batches[trips] = [batch(producer, b"a")]
            monkeypatch.setattr(producer.client.cluster, "leader_for_partition", {events: 1, trips: 2}.get)
        delivery = asyncio.create_task(producer.deliver(batches))
        await asyncio.sleep(0)
        while len(refused) < tries:  # noqa: ASYNC110 - answers, not tasks
            await asyncio.sleep(0.001)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        before = len(refused)
        await asyncio.sleep(0.2)
        assert tries > 1 or len(refused) <= before + several  # aiokafka's loop goes on with what it has begun to send
        monkeypatch.undo()
    gc.collect()
    assert complaints == []


async def test_an_error_of_a_broker_that_no_other_try_helps_is_raised(created_topics, unique):
    events = TopicPartition(created_topics.topics.events, 0)
    async with producer_of(created_topics, transactional_id=unique, max_batch_size=4 * 2**20) as producer:
        with pytest.raises(KafkaError):
            await transact(producer, {events: [batch(producer, b"x" * 3 * 2**20)]}, None, unique)
