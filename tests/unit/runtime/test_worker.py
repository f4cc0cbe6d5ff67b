import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, ProducerFenced, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

from streams.delivery.checkpoint import OFFSET_MARK, Destinations
from streams.errors import ClusterError, InternalError, StateError, TripsError
from streams.processor import Counts
from streams.records import Output, Standing
from streams.runtime import worker as module
from streams.runtime.batches import Batch
from streams.runtime.commands import Plan
from streams.runtime.metrics import Metrics
from streams.runtime.positions import Start
from streams.runtime.source import Bounds
from streams.runtime.worker import Worker, explain
from streams.settings import Settings

TOPICS = replace(Settings.given().topics, telemetry="telemetry", changelog="changelog")


class Processor:
    def __init__(self):
        self.clock = 0
        self.standing = Standing()
        self.open_trips = self.vehicles = self.state_bytes = self.owed = 0
        self.announcing = False
        self.counts = Counts()
        self.records = []
        self.restored_from = []
        self.is_restored = False

    def process(self, records):
        self.records += records

    def wake_at(self):
        return None

    def take(self):
        return Output()

    def restore(self, items):
        for key, value in items:
            if key == b"bad":
                raise StateError("the record with key b'bad' is damaged")
            if key == b"standing":
                self.standing = value
                continue
            self.vehicles += 1
            self.restored_from.append((key, value))

    def touch_clock(self):
        pass

    def restored(self):
        self.is_restored = True


class Fences:
    def __init__(self):
        self.unbroken = set()
        self.asked = []

    async def renew(self, partitions):
        self.asked.append(set(partitions))
        return {
            number: SimpleNamespace(producer=Producer(), plain=None, unbroken=number in self.unbroken)
            for number in partitions
        }

    async def close(self):
        pass


class Producer:
    """Takes everything."""

    client = None

    async def begin_transaction(self):
        pass

    async def join(self, places, group=None):
        pass

    async def tell(self, offsets, group):
        pass

    async def deliver(self, batches):
        pass

    async def commit_transaction(self):
        pass


class Consumer:
    partitions = 4
    in_touch = True

    def __init__(self, committed=None):
        self.offsets = committed or {}

    async def partition_count(self, _):
        return self.partitions

    async def committed(self, places):
        return {place: self.offsets[place.partition] for place in places if place.partition in self.offsets}

    def progress(self, _):
        return None


@pytest.fixture
def changelog(monkeypatch):
    """What is in the changelog, by partition; and which of them were read."""
    content, reads = {}, []

    async def read_changelog(topic, partitions, settings, take, anew):
        reads.append(list(partitions))
        for number in partitions:
            records = [
                SimpleNamespace(offset=offset, key=key, value=value)
                for offset, (key, value) in enumerate(content.get(number, {}).items(), 40)
            ]
            take(number, records)
        return sum(len(content.get(number, {})) for number in partitions)

    monkeypatch.setattr(module, "read_changelog", read_changelog)
    return SimpleNamespace(content=content, reads=reads)


@pytest.fixture
def cluster(monkeypatch):
    """What the brokers say of the source: bounds by partition, ids by topic."""
    says = SimpleNamespace(bounds={}, ids={})

    async def log_bounds(topic, partitions, settings):
        return {number: says.bounds.get(number, Bounds(0, 1000)) for number in partitions}

    async def topic_ids(client, topics):
        return {topic: says.ids[topic] for topic in topics if topic in says.ids}

    monkeypatch.setattr(module, "log_bounds", log_bounds)
    monkeypatch.setattr(module, "topic_ids", topic_ids)
    return says


@pytest.fixture
async def worker(changelog, cluster, monkeypatch):
    monkeypatch.setattr(module.os, "_exit", lambda _: None)
    one = Worker(
        topics=TOPICS,
        destinations=Destinations(
            application_id="app",
            telemetry="telemetry",
            events="events",
            trips="trips",
            dead_letters="dead",
            late="late",
            changelog="changelog",
            max_bytes={},
        ),
        client={},
        consumer_settings={"bootstrap_servers": ["localhost:9092"]},
        fences=Fences(),
        new_processor=lambda _: Processor(),
        partition_count=4,
        commit_interval=0.01,
        metrics=Metrics(),
    )
    yield one
    one.stand_down()
    await one.close()


def batch(partition=0, sequence=0, generation=1, offset=0):
    record = SimpleNamespace(offset=offset, timestamp=0, key=b"a", value=b"", headers=())
    return Batch(partition, [record], sequence, generation)


async def take_over(worker, numbers, generation, committed=None):
    await worker.take_over(set(numbers), generation, Consumer(committed))
    worker.open(generation)


async def test_it_is_ready_when_state_is_recovered_and_not_before(worker, changelog):
    changelog.content[1] = {b"key": b"value"}
    assert not worker.ready
    await worker.take_over({0, 1}, 1, Consumer())
    assert not worker.ready
    worker.open(1)
    assert worker.ready
    assert sorted(worker.partitions) == [0, 1]
    assert worker.partitions[1].processor.restored_from == [(b"key", b"value")]
    assert all(partition.processor.is_restored for partition in worker.partitions.values())


async def test_without_partitions_it_is_ready_too(worker):
    await take_over(worker, (), 1)
    assert worker.ready


async def test_it_is_not_ready_while_no_broker_answers(worker, monkeypatch):
    await take_over(worker, {0}, 1)
    monkeypatch.setattr(module, "_NOT_READY_AFTER", 0.01)
    await asyncio.sleep(0.03)
    assert not worker.ready


async def test_batches_are_applied_while_it_is_open(worker):
    await worker.handle(batch())
    await take_over(worker, {0}, 1)
    await worker.handle(batch())
    assert len(worker.partitions[0].processor.records) == 1
    await worker.drain()
    await worker.handle(batch(sequence=1))
    assert worker.failure is None


async def test_a_batch_of_an_older_assignment_is_refused(worker):
    await take_over(worker, {0}, 1)
    await worker.drain()
    await take_over(worker, {0}, 2)
    await worker.handle(batch(generation=1))
    assert worker.partitions[0].processor.records == []
    assert worker.failure is None


async def test_a_batch_that_waited_for_room_while_its_assignment_ended_is_refused(worker):
    await take_over(worker, {0}, 1)
    partition = worker.partitions[0]
    partition._room.clear()
    handling = asyncio.create_task(worker.handle(batch()))
    await asyncio.sleep(0.01)
    await worker.drain()
    await asyncio.wait_for(handling, 1)
    assert partition.processor.records == []


async def test_a_partition_that_nobody_else_had_in_between_is_not_read_back(worker, changelog):
    await take_over(worker, {0, 1, 2}, 1)
    kept, broken = worker.partitions[0].processor, worker.partitions[1].processor
    await worker.drain()
    worker._fences.unbroken = {0}
    await take_over(worker, {0, 1}, 2)
    assert worker.partitions[0].processor is kept
    assert worker.partitions[1].processor is not broken
    assert changelog.reads == [[0, 1, 2], [1]]


async def test_what_is_kept_through_an_assignment_that_is_cut_short_is_dropped_if_its_fence_was_broken(
    worker, changelog, monkeypatch
):
    await take_over(worker, {0}, 1)
    first = worker.partitions[0].processor
    await worker.drain()
    never = asyncio.Event()

    async def hang(*_):
        await never.wait()

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_changelog", hang)
        cut_short = asyncio.create_task(worker.take_over({0}, 2, Consumer()))  # another had it: broken
        await asyncio.sleep(0.01)
        cut_short.cancel()
        await asyncio.gather(cut_short, return_exceptions=True)
    worker._fences.unbroken = {0}  # nobody had it since
    monkeypatch.setattr(module, "read_changelog", _reads_nothing)
    await take_over(worker, {0}, 3)
    assert worker.partitions[0].processor is not first


async def _reads_nothing(*_):
    return 0


async def test_more_partitions_than_the_state_is_of_are_refused(worker):
    consumer = Consumer()
    consumer.partitions = 5
    with pytest.raises(ClusterError, match=r"telemetry has 5 partitions, but the state in changelog is of 4"):
        await worker.take_over({0}, 1, consumer)


async def test_a_topic_that_is_gone_is_an_error_and_not_an_empty_assignment(worker):
    consumer = Consumer()
    consumer.partitions = 0
    with pytest.raises(ClusterError, match="do not know of telemetry"):
        await worker.take_over(set(), 1, consumer)


OLD, NEW = b"o" * 16, b"n" * 16


def committed(offset, metadata=OFFSET_MARK):
    return {0: OffsetAndMetadata(offset, metadata)}


async def refused(worker, numbers=(0,), consumer=None):
    with pytest.raises(TripsError) as info:
        await worker.take_over(set(numbers), 1, consumer or Consumer())
    return str(info.value)


async def test_it_goes_on_where_the_state_says(worker, changelog):
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, None, None)}
    await take_over(worker, {0}, 1, committed(70))
    assert worker.starts == {0: Start(70)}
    await worker.handle(batch(offset=69))
    assert "begins at offset 69, and what is before offset 70" in str(worker.failure)


async def test_ids_of_the_topics_become_part_of_the_state(worker, changelog, cluster):
    cluster.ids = {"telemetry": OLD, "changelog": NEW}
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, None, None)}
    await take_over(worker, {0, 1}, 1, committed(70))
    standings = [worker.partitions[number].processor.standing for number in (0, 1)]
    # The second begins from nothing, and 1000 is where its source ends.
    assert standings == [Standing(70, OLD, NEW), Standing(None, OLD, NEW, backlog_end=1000)]


async def test_brokers_that_do_not_tell_ids_change_nothing_in_the_state(worker, changelog):
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, OLD, NEW)}
    await take_over(worker, {0}, 1, committed(70))
    assert worker.partitions[0].processor.standing == Standing(70, OLD, NEW)


async def test_state_of_another_topic_of_the_same_name_is_refused(worker, changelog, cluster):
    cluster.ids = {"telemetry": NEW, "changelog": OLD}
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, OLD, OLD)}
    assert "telemetry partition 0 is not the topic that the state" in await refused(worker)


async def test_what_stands_against_several_partitions_is_one_line(worker, changelog, cluster):
    cluster.ids = {"telemetry": NEW}
    for number in (3, 1, 0):
        changelog.content[number] = {b"a": b"1", b"standing": Standing(70, OLD if number else NEW, OLD)}
    line = await refused(worker, {0, 1, 2, 3}, Consumer(committed(70)))
    assert line.startswith("telemetry partition 1 is not")
    assert line.endswith("(Partition 1 is not the only one: 3 too.)")


async def test_a_record_that_is_no_state_is_named(worker, changelog):
    changelog.content[0] = {b"a": b"1", b"bad": b"1"}
    line = await refused(worker)
    assert line == "changelog partition 0 offset 41: the record with key b'bad' is damaged"


async def test_state_that_is_not_whole_is_named(worker, changelog, monkeypatch):
    def restored(_):
        raise StateError("records are missing")

    monkeypatch.setattr(Processor, "restored", restored)
    line = await refused(worker, {2})
    assert line.startswith("changelog partition 2: records are missing. To go on, start with empty state")


async def test_a_start_that_is_not_committed_yet_is(worker, changelog):
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, None, None)}
    await take_over(worker, {0, 1}, 1)  # the group's offset has expired
    assert worker.partitions[0].processor.standing == Standing(70, None, None)
    assert not worker.partitions[0].settled
    assert worker.partitions[1].settled  # there is nothing to say


async def test_what_is_lost_is_counted_and_told(worker, changelog, cluster, capsys):
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, None, None)}
    cluster.bounds[0] = Bounds(90, 1000)
    await take_over(worker, {0}, 1, committed(90, ""))
    assert worker.metrics.registry.get_sample_value("trips_lost_records_total") == 20
    assert "records 70 to 89 are lost" in capsys.readouterr().out


async def test_topics_that_are_replaced_while_it_works_end_it(worker, changelog, cluster, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(module, "_TICK", 0.005)
    cluster.ids = {"telemetry": OLD}
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, None, None)}
    await take_over(worker, {0}, 1, committed(70))
    clock = asyncio.create_task(worker.keep_time())
    await asyncio.sleep(0.1)
    assert worker.failure is None
    cluster.ids = {}  # deleted, or nobody answers: that is seen elsewhere
    await asyncio.sleep(0.05)
    assert worker.failure is None
    cluster.ids = {"telemetry": NEW}
    await asyncio.wait_for(clock, 2)
    assert "telemetry partition 0 is not the topic" in str(worker.failure)


class Commands:
    """Of a topic that has held two, of which none was done in this partition."""

    topic = "commands"

    async def plan(self, standings, _, topic_id):
        return {
            number: Plan(2, [], 1000) if standing.commands_id != topic_id else Plan(standing.next_command)
            for number, standing in standings.items()
        }

    def start(self, *_):
        pass

    async def stop(self):
        pass


@pytest.fixture
def commanded(worker, monkeypatch):
    monkeypatch.setattr(Processor, "hold", lambda *_: None, raising=False)
    monkeypatch.setattr(Processor, "release", lambda *_: None, raising=False)
    worker._commands = Commands()
    return worker


async def test_of_another_topic_of_commands_nothing_is_done_while_they_are_held(commanded, changelog, cluster):
    cluster.ids = {"commands": NEW}
    for number, known in ((0, OLD), (1, NEW)):
        standing = Standing(70, None, None, next_command=9, commands_id=known)
        changelog.content[number] = {b"a": b"1", b"standing": standing}
    await take_over(commanded, {0, 1}, 1, committed(70))
    standings = [commanded.partitions[number].processor.standing for number in (0, 1)]
    assert [(one.next_command, one.commands_id) for one in standings] == [(None, NEW), (9, NEW)]


async def test_another_topic_of_commands_ends_it_while_it_works(commanded, changelog, cluster, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(module, "_TICK", 0.005)
    cluster.ids = {"commands": OLD}
    changelog.content[0] = {b"a": b"1", b"standing": Standing(70, None, None, next_command=9, commands_id=OLD)}
    await take_over(commanded, {0}, 1, committed(70))
    clock = asyncio.create_task(commanded.keep_time())
    await asyncio.sleep(0.1)
    assert commanded.failure is None
    cluster.ids = {"commands": NEW}
    await asyncio.wait_for(clock, 2)
    assert "commands has been deleted and created anew" in str(commanded.failure)


async def test_without_partitions_it_is_ready_as_long_as_the_group_answers(worker, monkeypatch):
    monkeypatch.setattr(module, "_NOT_READY_AFTER", 0.1)
    monkeypatch.setattr(module, "_TICK", 0.005)
    consumer = Consumer()
    await worker.take_over(set(), 1, consumer)
    worker.open(1)
    clock = asyncio.create_task(worker.keep_time())
    await asyncio.sleep(0.3)
    assert worker.ready
    consumer.in_touch = False
    await asyncio.sleep(0.2)
    assert not worker.ready
    consumer.in_touch = True
    await asyncio.sleep(0.05)
    assert worker.ready
    clock.cancel()
    await asyncio.gather(clock, return_exceptions=True)


def measured(worker, name):
    return worker.metrics.registry.get_sample_value(name)


async def test_rebalances_silence_and_waiting_are_measured(worker):
    assert measured(worker, "trips_rebalances_total") == 0
    await take_over(worker, {0}, 1)
    await worker.drain()
    await take_over(worker, {0}, 2)
    assert measured(worker, "trips_rebalances_total") == 2
    assert measured(worker, "trips_waiting_seconds") == 0
    worker.answered -= 5
    assert 5 <= measured(worker, "trips_broker_silence_seconds") < 6
    worker.partitions[0]._waits_since = worker.answered
    assert 5 <= measured(worker, "trips_waiting_seconds") < 6


async def test_a_failure_is_final(worker):
    await take_over(worker, {0}, 1)
    await worker.handle(batch(sequence=5))
    assert isinstance(worker.failure, InternalError)
    assert worker.failed.is_set()
    assert not worker.ready
    first = worker.failure
    worker.fail(RuntimeError("another"))
    assert worker.failure is first
    await worker.handle(batch())
    assert worker.partitions[0].processor.records == []


async def test_after_a_failure_nothing_is_drained(worker, monkeypatch):
    await take_over(worker, {0}, 1)
    await worker.handle(batch())
    worker.fail(RuntimeError("no"))
    partition = worker.partitions[0]
    monkeypatch.setattr(partition, "drain", None)  # calling it would raise
    await worker.drain()
    await partition.stop()


async def test_a_drain_that_takes_too_long_is_a_failure(worker, monkeypatch):
    monkeypatch.setattr(module, "_DRAIN_TIMEOUT", 0.05)
    await take_over(worker, {0}, 1)

    async def hang():
        await asyncio.Event().wait()

    monkeypatch.setattr(worker.partitions[0], "drain", hang)
    await worker.drain()
    assert isinstance(worker.failure, ClusterError)


async def test_a_failure_in_another_thread_is_told_to_the_loop(worker):
    clock = asyncio.create_task(worker.keep_time())
    await asyncio.sleep(0)
    thread = threading.Thread(target=worker.fail, args=(RuntimeError("there"),))
    thread.start()
    thread.join()
    await asyncio.wait_for(worker.failed.wait(), 1)
    assert str(worker.failure) == "there"
    clock.cancel()
    await asyncio.gather(clock, return_exceptions=True)


async def test_a_worker_that_cannot_stop_is_ended_by_force(worker, monkeypatch):
    codes = []
    monkeypatch.setattr(module.os, "_exit", codes.append)
    monkeypatch.setattr(module, "_GRACE", 0.02)
    worker.fail(RuntimeError("no"))
    await asyncio.sleep(0.1)
    assert codes == [1]


async def test_a_worker_that_stops_by_itself_is_not(worker, monkeypatch):
    codes = []
    monkeypatch.setattr(module.os, "_exit", codes.append)
    monkeypatch.setattr(module, "_GRACE", 0.05)
    worker.fail(RuntimeError("no"))
    worker.stand_down()
    await asyncio.sleep(0.1)
    assert codes == []


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (StateError("newer"), "newer"),
        (ValueError("of two\nlines"), "ValueError: of two lines"),
    ],
)
def test_the_reason_is_one_line(reason, line):
    assert explain(reason) == line


def test_the_reason_is_what_broke_and_not_only_that_something_did():
    reason = KafkaError("Unexpected error during batch delivery")
    reason.__cause__ = KafkaError("lookup")
    reason.__cause__.__cause__ = KafkaConnectionError("Connection at kafka:9092 closed")
    assert explain(reason) == "KafkaConnectionError: Connection at kafka:9092 closed"


def test_a_topic_that_nobody_tells_of_may_be_gone_or_the_brokers_away():
    assert explain(UnknownTopicOrPartitionError()).startswith("The brokers do not tell of a topic")


def test_being_fenced_is_explained():
    assert explain(ProducerFenced()).startswith("Fenced: another worker has taken partitions over")


@pytest.mark.parametrize(
    ("numbers", "text"), [((), "none"), ((3,), "3"), ((0, 1, 2, 5), "0-2,5"), ((7, 6, 0), "0,6-7")]
)
def test_partitions_are_told_briefly(numbers, text):
    assert module._ranges(numbers) == text


async def test_a_silence_of_the_brokers_is_told_once_and_so_is_its_end(worker, capsys):
    consumer = Consumer()
    await worker.take_over(set(), 1, consumer)
    worker.open(1)
    consumer.in_touch = False
    worker.answered -= module._SILENT_AFTER + 1
    worker._tick()
    worker._tick()
    consumer.in_touch = True
    worker._tick()
    worker._tick()
    told = capsys.readouterr().out
    assert told.count("the brokers do not answer") == 1
    assert told.count("the brokers answer again") == 1


def test_a_connection_that_is_cut_in_an_answer_is_explained():
    assert explain(asyncio.IncompleteReadError(b"", 4)).startswith("A Kafka broker has ended the connection")
