"""What we rely on of the insides of Faust, mode and aiokafka, which no version promises to keep.

A failure here says: read what has changed, and what of ``streams/runtime`` and ``streams/delivery`` builds on it. Only
then is the digest replaced; the note beside it says what to look at.
"""

import asyncio
import hashlib
import inspect
from importlib.metadata import version
from pathlib import Path

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher, group_coordinator, subscription_state
from aiokafka.consumer.consumer import AIOKafkaConsumer as ConsumerClass
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    InvalidProducerEpoch,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    ProducerFenced,
)
from aiokafka.producer import message_accumulator, sender, transaction_manager
from aiokafka.protocol import api
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record import default_records
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.app import base as app_base
from faust.tables import manager, recovery
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage
from mode import services

from streams.delivery.checkpoint import OFFSET_MARK, begin, transact
from streams.delivery.producer import CheckpointProducer
from streams.errors import StateError
from streams.runtime.batches import BatchConsumer
from streams.runtime.changelog import read_changelog
from streams.runtime.fences import Fences
from streams.runtime.recovery import PartitionRecovery, PartitionTableManager
from streams.runtime.source import log_bounds
from streams.runtime.topic_ids import _MetadataRequest, topic_ids

PINNED = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}

# What is replaced by us, imitated, or called in a way that depends on what it does inside.
DIGESTS = {
    # Replaced by BatchConsumer.getmany; it must still be what feeds _drain_messages.
    faust_consumer.Consumer.getmany: "4b168d84882a70d6",
    faust_consumer.Consumer._wait_next_records: "6218e1969a636b3f",
    # Takes what getmany yields; drops what is older than _read_offset; waits with stopped flow.
    faust_consumer.Consumer._drain_messages: "44a2500309e83c63",
    # Sets _read_offset from what our seek_to_committed returns.
    faust_consumer.Consumer.perform_seek: "0e8c130ff4b0afd8",
    # Replaced: nothing is acknowledged or committed by Faust.
    faust_consumer.Consumer.ack: "5fcf41cf45153475",
    faust_consumer.Consumer.commit: "a354437baaa08bf8",
    faust_consumer.Consumer.wait_empty: "e4662fe24f094819",
    faust_consumer.Consumer.on_stop: "45b1d2210ce2b526",
    faust_consumer.Consumer._add_gap: "4df2573ded7c1c2c",
    faust_consumer.Consumer.verify_all_partitions_active: "4e0e46f5c297305d",
    faust_consumer.Consumer.on_partitions_revoked: "d04b7ae72c6fc206",
    faust_consumer.Consumer.on_partitions_assigned: "29ce96596f05a18c",
    # Which partitions are read; the set is changed in place while a fetch is under way.
    faust_consumer.Consumer.pause_partitions: "27a1c94bdacd54de",
    faust_consumer.Consumer.resume_partitions: "afe6b7c02a41d63c",
    faust_consumer.Consumer._set_active_tps: "401f4dc883191950",
    faust_consumer.ThreadDelegateConsumer.seek_to_committed: "f1d483b861b0328b",
    # Replaced by _ConsumerThread, with our settings.
    driver.AIOKafkaConsumerThread._create_worker_consumer: "c2701bfc3e6f6cad",
    driver.AIOKafkaConsumerThread.getmany: "26fc5fc9f3b667e1",
    driver.AIOKafkaConsumerThread._fetch_records: "39a2c6c79fc1455a",
    # Sets the generation that batches carry.
    driver.ConsumerRebalanceListener.on_partitions_assigned: "1c1f8406ad3698a6",
    driver.ConsumerRebalanceListener.on_partitions_revoked: "348c3aec879faf80",
    # Replaced by PartitionRecovery, in another order.
    recovery.Recovery.on_recovery_completed: "6ef567acf072e46d",
    recovery.Recovery.on_rebalance: "aa4d997a1795ceae",
    recovery.Recovery._wait: "ec7429b70176f8c6",
    # Replaced by PartitionTableManager.
    manager.TableManager.on_start: "365dd25fbc0e0684",
    manager.TableManager._update_channels: "88e3941facc934d6",
    manager.TableManager.on_rebalance: "2d2c23a07bf54328",
    manager.TableManager.wait_until_recovery_completed: "e0f224aba177e99d",
    # Stop the flow, empty the queues, and call wait_empty before partitions are given up.
    app_base.App._on_partitions_revoked: "d5c895bbe57dc73a",
    app_base.App._on_partitions_assigned: "de932b7927db85b3",
    app_base.App._stop_consumer: "55854a5de12c3f52",
    app_base.App.on_stop: "bfe5a933defb2324",
    app_base.App.on_started: "c03627f2dc44a1dd",
    app_base.App.on_first_start: "ec655d9c223403cc",
    app_base.App.on_rebalance_end: "b7ff69e1e3772f30",
    # How a failure anywhere in Faust reaches App._crash.
    services.Service.crash: "14980000465df0af",
    services.Service._crash: "7bc0c709a151d556",
    # Our class attribute `logger`, and service tasks that replace those of the base by their name.
    services.ServiceBase._init_subclass_logger: "afc28a85967c21d8",
    services.Service._init_subclass_tasks: "00f556deddf901c4",
    services.Service._get_tasks: "96fd6ab8850dba68",
    # An empty set of partitions means all; what is drained moves the position.
    fetcher.Fetcher.fetched_records: "be4348896b9b66af",
    fetcher.FetchResult.getall: "3e717e30de5068d5",
    # Read again, leniently, where it fails over a header's name.
    fetcher.PartitionRecords.__init__: "8ec1c2ae6ea1af87",
    fetcher.PartitionRecords.__next__: "63ac34a08c309098",
    fetcher.PartitionRecords._unpack_records: "b803e6d46480732c",
    default_records._DefaultRecordBatchPy._read_msg: "0997ab7a58505c93",
    default_records._DefaultRecordBatchPy._maybe_uncompress: "c9d0dc2bed50cc86",
    default_records._DefaultRecordBatchPy.__iter__: "492967e59f459124",
    default_records._DefaultRecordBatchPy.__next__: "d05784bae3cbcfb9",
    # Sets lso and timestamp of a partition at each answer, also an empty one. It reads answers as our fetches of a
    # changelog do.
    fetcher.Fetcher._proc_fetch_request: "59bf948fff47eed5",
    # Sets a position at once, and forgets what was fetched of the one before; also an error.
    ConsumerClass.seek: "a9430f1f3b9ac419",
    fetcher.Fetcher.seek_to: "f0ba6aba6c22ef83",
    subscription_state.SubscriptionState.seek: "3d5e6754e47e3e4f",
    # Without a way to reset it, a position that is not there is an error that getmany raises; and does not wait.
    fetcher.Fetcher._update_fetch_positions: "d7774d8241dc6a7e",
    fetcher.Fetcher._set_error: "d29810f3f509481f",
    ConsumerClass.position: "2512259a90a2ebd7",
    # Offsets with their metadata; asks for ever.
    group_coordinator.GroupCoordinator.fetch_committed_offsets: "6c049c7379165952",
    group_coordinator.GroupCoordinator._do_fetch_commit_offsets: "b0f3598132715552",
    # No coordinator is known as soon as a heartbeat has failed.
    group_coordinator.GroupCoordinator.coordinator_dead: "ba1eda0254af8dfe",
    group_coordinator.GroupCoordinator._send_req: "fa4b12e914ce9fcf",
    # Called by us, for fetches and metadata; what they raise while brokers are away.
    AIOKafkaClient.send: "246b277687d7b687",
    AIOKafkaClient.set_topics: "9f9b55d6d8997834",
    AIOKafkaClient.force_metadata_update: "cb7befef21c8f3f9",
    FetchRequest.build: "952ef0f41192efc3",
    # How a request of our own is written, and its answer read.
    api.Request.prepare: "3a65d9fdefe34d3f",
    api.RequestStruct.build_request_header: "a3b54a5d4d46a09d",
    api.RequestStruct.parse_response_header: "fe83e2edecbb44b2",
    # All pending partitions in one request, before the offsets, before the end. Replaced by CheckpointProducer.
    sender.Sender._maybe_do_transactional_request: "71227a8a4d9ca80d",
    transaction_manager.TransactionManager.maybe_add_partition_to_txn: "e0a118be379a7f75",
    # The requests of a transaction, and what their answers mean; sent by CheckpointProducer.
    sender.Sender._find_coordinator: "33001a36bf6a0ae0",
    sender.BaseHandler.do: "1106439a38fe7943",
    sender.AddPartitionsToTxnHandler.handle_response: "67266db24da2dfaf",
    sender.AddOffsetsToTxnHandler.handle_response: "d9a23120e688bca8",
    sender.TxnOffsetCommitHandler.handle_response: "c3fed3a5540f2ab6",
    sender.EndTxnHandler.handle_response: "89bd9721c28ec792",
    sender.Sender._do_txn_commit: "8263eaebb7c30ea1",
    transaction_manager.TransactionManager.complete_transaction: "a889064973b32b84",
    transaction_manager.TransactionManager.fatal_error: "8e9fd08dc50042c4",
    transaction_manager.TransactionManager.offset_committed: "820c05639677ee14",
    transaction_manager.TransactionManager.partition_added: "fa545b6995db15ce",
    # Sequence numbers are given when it is a batch's turn; one that is to be sent again waits in front of the others.
    sender.Sender._send_produce_req: "aea01ae4b6c794cc",
    sender.SendProduceReqHandler.do: "2dccd3d56b1607fb",
    sender.SendProduceReqHandler.handle_response: "850323cc8f77abc3",
    message_accumulator.MessageAccumulator._pop_batch: "41cc98a298ef2628",
    message_accumulator.MessageAccumulator.reenqueue: "f75f518a1ae27ade",
    message_accumulator.MessageAccumulator._append_batch: "4762abfc42cbaa15",
    # Batches made, failed, and handed to aiokafka's loop as CheckpointProducer does it; what a commit waits for.
    message_accumulator.MessageBatch.__init__: "6fd2fe1c2df19a7e",
    message_accumulator.MessageBatch.failure: "719b2122c318e955",
    message_accumulator.MessageAccumulator.drain_by_nodes: "fc995afbfc5718e2",
    message_accumulator.MessageAccumulator.flush_for_commit: "39683730fcffc2a4",
    sender.SendProduceReqHandler._can_retry: "7ff5d491d977aacf",
    transaction_manager.TransactionManager.add_offsets_to_txn: "676aa6235be5748e",
    transaction_manager.TransactionManager.offsets_to_commit: "d4556af2cbdff835",
    transaction_manager.TransactionManager.consumer_group_added: "63e353ab5f2d98b1",
    transaction_manager.TransactionManager.committing_transaction: "5ae7fe54e6a73af6",
    transaction_manager.TransactionManager.error_transaction: "5c72d40ab25eadfc",
    transaction_manager.TransactionManager.is_empty_transaction: "124ac059b2a77809",
    # What its start replaces is replaced before the loop's first turn: nothing is awaited in between.
    sender.Sender.start: "ef0a0cbbf1f69e7d",
    AIOKafkaProducer.start: "bae900a5e83a6d97",
    # One opening, one epoch; asks for ever.
    sender.Sender._maybe_wait_for_pid: "577189636b56f6d9",
    # Mutes partitions until they are part of the transaction.
    sender.Sender._sender_routine: "2380dc5e333d9ebd",
    message_accumulator.MessageAccumulator.add_batch: "5ed1c5b1367ad854",
    message_accumulator.BatchBuilder.append: "657d76f55157d9ca",
}

COMPILED = {
    # The stream skips events of an older generation, and yields one at a time.
    "faust/_cython/streams.pyx": "0041622f4a251188",
    # Waits for flow control and hands the message to the agent's queue.
    "faust/transport/_cython/conductor.pyx": "dde1f974267881cf",
}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name_of(function):
    return f"{function.__module__}.{function.__qualname__}"


def source_of(function):
    return inspect.getsource(inspect.unwrap(getattr(function, "fun", function)))


@pytest.mark.parametrize(("distribution", "expected"), PINNED.items())
def test_versions_are_the_ones_that_were_read(distribution, expected):
    assert version(distribution) == expected


@pytest.mark.parametrize("function", DIGESTS, ids=name_of)
def test_what_is_replaced_or_imitated_is_as_it_was_read(function):
    assert digest(source_of(function)) == DIGESTS[function], f"{name_of(function)} has changed: read it again"


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_parts_are_as_they_were_read(name):
    path = Path(faust.__file__).parent.parent / name
    assert digest(path.read_text()) == COMPILED[name], f"{name} has changed: read it again"


def test_service_tasks_of_recovery_are_the_ones_that_are_replaced():
    ours, fausts = (
        {name for name, value in vars(cls).items() if isinstance(value, services.ServiceTask)}
        for cls in (PartitionRecovery, recovery.Recovery)
    )
    assert ours == fausts == {"_restart_recovery", "_slurp_changelogs", "_publish_stats"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (BatchConsumer, driver.Consumer),
        (PartitionRecovery, recovery.Recovery),
        (PartitionTableManager, manager.TableManager),
    ],
)
def test_what_is_overridden_exists_with_the_same_parameters(ours, theirs):
    new = {
        "progress",
        "partition_count",
        "_fetch",
        "_batches",
        "_message",
        "_take_over",
        "_interrupted",
        "_set_positions",
    }
    new |= {"committed", "_committed", "in_touch", "_another_assignment"}
    for name, value in vars(ours).items():
        if name in new:
            assert not hasattr(theirs, name), f"{theirs.__name__} has a {name} of its own"
        if not inspect.isfunction(value) or name in {*new, "__init__"}:
            continue
        assert hasattr(theirs, name), f"{theirs.__name__}.{name} is gone"
        assert list(inspect.signature(value).parameters) == list(inspect.signature(getattr(theirs, name)).parameters)


def test_a_message_takes_what_we_make_it_of():
    assert list(inspect.signature(ConsumerMessage.__init__).parameters)[1:] == [
        "topic",
        "partition",
        "offset",
        "timestamp",
        "timestamp_type",
        "headers",
        "key",
        "value",
        "checksum",
        "serialized_key_size",
        "serialized_value_size",
        "tp",
        "time_in",
        "time_out",
        "time_total",
        "generation_id",
    ]


async def test_the_state_of_a_partition_tells_position_end_and_time_of_answer():
    state = subscription_state.TopicPartitionState(None)
    assert state.has_valid_position is False
    assert (state.lso, state.timestamp) == (None, None)
    state.reset_to(7)
    assert state.position == 7


async def test_asserts_are_on():
    """aiokafka checks the states of a transaction with them."""
    with pytest.raises(AssertionError):
        transaction_manager.TransactionManager("id", 1000).maybe_add_partition_to_txn(TopicPartition("topic", 0))


def test_bootstrap_starts_neither_fausts_producer_nor_its_web_server():
    assert app_base.BootStrategy.enable_kafka_producer is None
    assert app_base.BootStrategy.enable_web is None


# -- on a real broker --------------------------------------------------------------------------------------------------


def producer_settings(kafka):
    return {"bootstrap_servers": kafka, "transaction_timeout_ms": 30_000, "acks": "all", "retry_backoff_ms": 20}


async def start_producer(kafka, transactional_id, kind=AIOKafkaProducer):
    producer = kind(transactional_id=transactional_id, **producer_settings(kafka))
    await producer.start()
    return producer


async def test_each_opening_of_a_producer_raises_its_epoch_by_one(kafka, unique):
    fences = Fences(unique, producer_settings(kafka))
    try:
        first = (await fences.renew({0}))[0]
        second = (await fences.renew({0}))[0]
        assert first.unbroken is False
        assert second.unbroken is True
        assert second.identity == (first.identity[0], first.identity[1] + 1)
    finally:
        await fences.close()


async def test_a_partition_that_another_had_in_between_is_known_by_its_epoch(kafka, unique):
    ours, theirs = Fences(unique, producer_settings(kafka)), Fences(unique, producer_settings(kafka))
    try:
        await ours.renew({0, 1})
        await theirs.renew({1})
        again = await ours.renew({0, 1})
        assert (again[0].unbroken, again[1].unbroken) == (True, False)
    finally:
        await ours.close()
        await theirs.close()


async def test_a_checkpoint_of_our_own_does_not_break_the_fence(kafka, unique, created_topics):
    changelog = created_topics.topics.changelog
    fences = Fences(unique, producer_settings(kafka))
    try:
        fence = (await fences.renew({0}))[0]
        for _ in range(3):
            batch = fence.producer.create_batch()
            batch.append(key=b"key", value=b"value", timestamp=None)
            await transact(fence.producer, {TopicPartition(changelog, 0): [batch]}, None, unique)
        assert (await fences.renew({0}))[0].unbroken
    finally:
        await fences.close()


async def test_whoever_had_the_partition_cannot_commit_any_more(kafka, unique, created_topics):
    changelog = created_topics.topics.changelog
    old = await start_producer(kafka, unique)
    await old.begin_transaction()
    await old.send_and_wait(changelog, b"old", b"key", partition=0)
    new = await start_producer(kafka, unique)
    with pytest.raises((ProducerFenced, InvalidProducerEpoch)):
        await old.commit_transaction()
    await old.stop()
    assert await read(kafka, changelog) == []
    async with new.transaction():
        await new.send_and_wait(changelog, b"new", b"key", partition=0)
    await new.stop()
    assert await read(kafka, changelog) == [(b"key", b"new")]


async def test_opening_a_producer_makes_the_offset_of_its_last_commit_stable(kafka, unique, created_topics):
    source = TopicPartition(created_topics.topics.telemetry, 0)
    old = await start_producer(kafka, unique)
    for offset in (5, 6):
        await old.begin_transaction()
        await old.send_offsets_to_transaction({source: OffsetAndMetadata(offset, "")}, unique)
        if offset == 5:
            await old.commit_transaction()
    new = await start_producer(kafka, unique)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=unique, enable_auto_commit=False)
    await consumer.start()
    assert await consumer.committed(source) == 5
    for one in (consumer, new, old):
        await one.stop()


async def read(kafka, topic, partitions=(0,)):
    records = []
    count = await read_changelog(
        topic, partitions, {"bootstrap_servers": kafka}, lambda _, some: records.extend((r.key, r.value) for r in some)
    )
    assert count == len(records)
    return records


async def write(kafka, topic, transactional_id, transactions):
    """Each transaction: its records and whether it is committed."""
    producer = await start_producer(kafka, transactional_id)
    for records, committed in transactions:
        await producer.begin_transaction()
        for key, value in records:
            await producer.send_and_wait(topic, value, key, partition=0)
        await (producer.commit_transaction() if committed else producer.abort_transaction())
    await producer.stop()


async def test_an_empty_changelog_ends(kafka, created_topics):
    async with asyncio.timeout(10):
        assert await read(kafka, created_topics.topics.changelog, (0, 1)) == []


async def test_a_changelog_ends_behind_the_marker_of_its_last_transaction(kafka, unique, created_topics):
    changelog = created_topics.topics.changelog
    await write(kafka, changelog, unique, [([(b"a", b"1"), (b"b", b"2")], True), ([(b"a", b"3")], True)])
    async with asyncio.timeout(10):
        assert await read(kafka, changelog, (0, 1)) == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]


async def test_a_changelog_ends_where_the_last_transactions_were_aborted(kafka, unique, created_topics):
    changelog = created_topics.topics.changelog
    await write(kafka, changelog, unique, [([(b"a", b"1")], True), *[([(b"a", b"2")], False)] * 3])
    async with asyncio.timeout(10):
        assert await read(kafka, changelog) == [(b"a", b"1")]


async def test_a_changelog_of_nothing_but_markers_ends(kafka, unique, created_topics):
    changelog = created_topics.topics.changelog
    await write(kafka, changelog, unique, [([(b"a", b"1")], False)] * 4)
    async with asyncio.timeout(10):
        assert await read(kafka, changelog) == []


async def test_a_changelog_that_ends_in_tombstones_ends(kafka, unique, created_topics):
    changelog = created_topics.topics.changelog
    await write(kafka, changelog, unique, [([(b"a", b"1")], True), ([(b"a", None)], True)])
    async with asyncio.timeout(10):
        assert await read(kafka, changelog) == [(b"a", b"1"), (b"a", None)]


async def test_a_changelog_longer_than_a_fetch_is_read_whole_and_in_order(kafka, created_topics):
    changelog = created_topics.topics.changelog
    producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=5, max_batch_size=100_000)
    await producer.start()
    for n in range(30_000):
        await producer.send(changelog, b"%06d" % n, b"key", partition=n % 2)
    await producer.stop()
    seen = {0: [], 1: []}
    count = await read_changelog(
        changelog, (0, 1), {"bootstrap_servers": kafka}, lambda p, some: seen[p].extend(int(r.value) for r in some)
    )
    assert count == 30_000
    assert seen == {0: list(range(0, 30_000, 2)), 1: list(range(1, 30_000, 2))}


# -- where the source stands -------------------------------------------------------------------------------------------


async def with_records(kafka, topic, count):
    """A topic of one partition with so many records."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    for n in range(count):
        await producer.send_and_wait(topic, b"%d" % n, b"key", partition=0)
    await producer.stop()


@pytest.fixture
async def admin(kafka):
    one = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await one.start()
    yield one
    await one.close()


async def test_deleted_records_move_the_beginning_of_a_log(kafka, created_topics, admin):
    topic = created_topics.topics.telemetry
    await with_records(kafka, topic, 5)
    assert await log_bounds(topic, (0, 1), {"bootstrap_servers": kafka}) == {0: (0, 5), 1: (0, 0)}
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
    assert await log_bounds(topic, (0, 1), {"bootstrap_servers": kafka}) == {0: (3, 5), 1: (0, 0)}


async def test_the_end_of_a_log_is_behind_transactions_that_are_open(kafka, unique, created_topics):
    topic = created_topics.topics.telemetry
    producer = await start_producer(kafka, unique)
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"open", b"key", partition=0)
    assert await log_bounds(topic, (0,), {"bootstrap_servers": kafka}) == {0: (0, 1)}
    await producer.abort_transaction()
    await producer.stop()


async def test_a_changelog_that_does_not_begin_at_its_beginning_is_refused(kafka, unique, created_topics, admin):
    topic = created_topics.topics.telemetry  # records of a topic that is only compacted cannot be deleted
    await write(kafka, topic, unique, [([(b"a", b"1"), (b"b", b"2")], True)])
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=1)})
    with pytest.raises(StateError, match=rf"{topic} partition 0 begins at offset 1: records have been deleted"):
        await read(kafka, topic)


async def test_a_topic_that_is_created_anew_has_another_id(kafka, unique, created_topics, admin):
    names = [created_topics.topics.telemetry, created_topics.topics.changelog]
    producer = await start_producer(kafka, unique)
    try:
        first = await topic_ids(producer.client, names)
        assert set(first) == set(names)
        assert [len(id_) for id_ in first.values()] == [16, 16]
        assert await topic_ids(producer.client, names) == first
        await admin.delete_topics(names[:1])
        async with asyncio.timeout(20):
            while names[0] in await topic_ids(producer.client, names):  # noqa: ASYNC110 - it happens in Kafka
                await asyncio.sleep(0.1)
            await admin.create_topics([NewTopic(names[0], 2, 1)])
            while names[0] not in (second := await topic_ids(producer.client, names)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert second[names[0]] != first[names[0]]
        assert second[names[1]] == first[names[1]]
    finally:
        await producer.stop()


async def test_topic_ids_that_nobody_tells_are_not_known(kafka, unique, monkeypatch):
    producer = await start_producer(kafka, unique)
    try:
        assert await topic_ids(producer.client, [f"{unique}-none"]) == {}
        connection = next(iter(producer.client._conns.values()))
        versions = dict(connection._versions)
        for known, error in ((versions | {3: (0, 9)}, NotImplementedError), ({}, IncompatibleBrokerVersion)):
            for one in producer.client._conns.values():
                monkeypatch.setattr(one, "_versions", known)
            with pytest.raises(error):
                await producer.client.send(producer.client.get_random_node(), _MetadataRequest([]))
            assert await topic_ids(producer.client, [f"{unique}-none"]) == {}
        monkeypatch.undo()
    finally:
        await producer.stop()


async def test_a_transaction_that_is_opened_ahead_holds_no_reader_up_and_commits_what_is_added_later(
    kafka, unique, created_topics
):
    source = TopicPartition(created_topics.topics.telemetry, 0)
    place = TopicPartition(created_topics.topics.events, 0)
    producer = await start_producer(kafka, unique, CheckpointProducer)
    plain = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    await plain.start()
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest")
    await reader.start()
    reader.assign([place])
    try:
        await begin(producer, [place])
        await producer.send_offsets_to_transaction({source: OffsetAndMetadata(5, OFFSET_MARK)}, unique)
        await plain.send_and_wait(place.topic, b"plain", partition=0)
        assert (await asyncio.wait_for(reader.getone(), 5)).value == b"plain"
        batch = producer.create_batch()
        batch.append(key=None, value=b"in it", timestamp=None)
        await transact(producer, {place: [batch]}, None, unique, begun=True)
        assert (await asyncio.wait_for(reader.getone(), 5)).value == b"in it"
    finally:
        for client in (producer, plain, reader):
            await client.stop()


def test_aiokafka_looks_up_how_long_it_waits_between_transactions():
    assert sender.BACKOFF_OVERRIDE == 0.005
    assert "return BACKOFF_OVERRIDE" in inspect.getsource(sender.AddPartitionsToTxnHandler.handle_response)


async def test_metadata_of_a_committed_offset_is_told(kafka, unique, created_topics):
    source = TopicPartition(created_topics.topics.telemetry, 0)
    producer = await start_producer(kafka, unique)
    async with producer.transaction():
        await producer.send_offsets_to_transaction({source: OffsetAndMetadata(5, OFFSET_MARK)}, unique)
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=unique, enable_auto_commit=False)
    await consumer.start()
    other = TopicPartition(source.topic, 1)
    assert await consumer._coordinator.fetch_committed_offsets([source, other]) == {
        source: OffsetAndMetadata(5, OFFSET_MARK)
    }
    await consumer.stop()


async def test_a_position_that_is_gone_is_an_error_and_one_that_is_set_is_not(kafka, unique, created_topics, admin):
    source = TopicPartition(created_topics.topics.telemetry, 0)
    await with_records(kafka, source.topic, 5)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=unique, auto_offset_reset="none", enable_auto_commit=False
    )
    consumer.subscribe([source.topic])
    await consumer.start()
    try:
        with pytest.raises(NoOffsetForPartitionError):  # nothing is committed, and no position is set
            await consumer.getmany(timeout_ms=5_000)
        for number in (0, 1):
            consumer.seek(TopicPartition(source.topic, number), 0)
        assert [record.value for record in (await consumer.getmany(timeout_ms=5_000))[source]] == [
            b"%d" % n for n in range(5)
        ]
        consumer.seek(source, 9)
        with pytest.raises(OffsetOutOfRangeError) as info:
            await consumer.getmany(timeout_ms=5_000)
        assert info.value.args[0] == {source: 9}
        await admin.delete_records({source: RecordsToDelete(before_offset=3)})
        consumer.seek(source, 2)
        with pytest.raises(OffsetOutOfRangeError):
            await consumer.getmany(timeout_ms=5_000)
        consumer.seek(source, 3)
        assert [record.value for record in (await consumer.getmany(timeout_ms=5_000))[source]] == [b"3", b"4"]
    finally:
        await consumer.stop()
