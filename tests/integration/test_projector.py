"""The projector on a real Kafka: what it begins with, what it refuses, and what it does beside others of its kind."""

import asyncio
import contextlib
import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.structs import TopicPartition
from serve_world import DAY, announcement, trip_id
from sqlalchemy import select

from streams.errors import StateError
from streams.serve.database import open_database, reading, writing
from streams.serve.metrics import ServeMetrics
from streams.serve.projection import begin_anew, read_positions
from streams.serve.projector import Projector
from streams.serve.tables import announcements, trips, vehicles
from streams.settings import Settings
from streams.topics import create_topics

pytestmark = pytest.mark.kafka

MINUTE = 60_000


@pytest.fixture
def engine(tmp_path):
    engine = open_database(Settings.given(serve_database=f"sqlite:///{tmp_path}/a.db"))
    yield engine
    engine.dispose()


@contextlib.asynccontextmanager
async def projecting(settings, engine):
    """A projector at work, and caught up; whatever it fails with is raised here."""
    metrics = ServeMetrics()
    projector = Projector(settings, engine, metrics)
    work = asyncio.create_task(projector.run())
    try:
        await until(lambda: projector.ready, work)
        yield projector, work, metrics
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def until(condition, work, within=30.0):
    deadline = time.monotonic() + within
    while not condition():
        if work.done():
            work.result()
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.05)


async def say(settings, *payloads, latest=(), partition=None, transaction=None):
    """Announcements, and records of `trips` as (trip id, payload)."""
    producer = AIOKafkaProducer(**settings.client(), transactional_id=transaction)
    await producer.start()
    try:
        if transaction:
            await producer.begin_transaction()
        for payload in payloads:
            await producer.send_and_wait(settings.topics.events, payload, key=b"v", partition=partition)
        for name, payload in latest:
            await producer.send_and_wait(settings.topics.trips, payload, key=name.encode())
        if transaction:
            await producer.commit_transaction()
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def administrator(settings):
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def expire(settings, topic, partition, before):
    async with administrator(settings) as admin:
        await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})


def statuses(engine):
    with reading(engine) as connection:
        return {row.id: (row.status, row.revision) for row in connection.execute(select(trips))}


def everything(engine):
    with reading(engine) as connection:
        return [sorted(map(tuple, connection.execute(select(one)))) for one in (trips, announcements, vehicles)]


async def test_trips_whose_announcements_have_expired_are_there_all_the_same(created_topics, engine):
    settings = created_topics
    old, gone, back, new = (DAY + number * MINUTE for number in range(4))
    ready = {start: announcement("TripDataReady", "v", start, 1) for start in (old, gone, back)}
    latest = [(trip_id("v", start), payload) for start, payload in ready.items()]
    await say(settings, *ready.values(), partition=0, latest=latest)
    await expire(settings, settings.topics.events, 0, 3)
    on_again = announcement("TripStarted", "v", back, 2)
    await say(
        settings,
        announcement("TripDeleted", "v", gone, 1),
        on_again,
        announcement("TripStarted", "v", new, 3),
        partition=0,
        latest=[(trip_id("v", gone), None), (trip_id("v", back), None)],
        transaction=f"{settings.application_id}-test",
    )
    async with projecting(settings, engine):
        assert statuses(engine) == {
            trip_id("v", old): ("FINISHED", 1),
            trip_id("v", gone): ("DELETED", 1),
            trip_id("v", back): ("ONGOING", 2),
            trip_id("v", new): ("ONGOING", 3),
        }
        before = everything(engine)
        # Begun anew by another process, while this one is at work: it notices, and ends the same.
        with writing(engine) as (connection, generation):
            begin_anew(connection)
        deadline = time.monotonic() + 20
        while everything(engine) != before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    assert generation == 1


async def test_what_an_aborted_checkpoint_said_is_never_projected_and_rubbish_is_passed_over(created_topics, engine):
    settings = created_topics
    aborted = AIOKafkaProducer(**settings.client(), transactional_id=f"{settings.application_id}-aborted")
    await aborted.start()
    await aborted.begin_transaction()
    await aborted.send_and_wait(settings.topics.events, announcement("TripStarted", "aborted"), partition=0)
    await aborted.abort_transaction()
    await aborted.stop()
    await say(settings, b"rubbish", b"{}", None, announcement("TripStarted", "v"), partition=0)
    await say(settings, latest=[("x", b"rubbish"), ("y", None)])
    async with projecting(settings, engine) as (_, _, metrics):
        assert statuses(engine) == {trip_id("v", DAY): ("ONGOING", 1)}
        assert metrics.registry.get_sample_value("trips_projection_skipped_records_total") == 3
        assert metrics.lag == {(settings.topics.events, number): 0 for number in range(2)}


async def test_several_on_one_database_do_not_disturb_each_other(created_topics, engine):
    settings = created_topics
    await say(settings, *(announcement("TripStarted", f"v{number}") for number in range(50)), partition=0)
    async with projecting(settings, engine), projecting(settings, engine) as (_, work, _):
        for number in range(40):
            kind = ("TripStarted", "TripEnded", "TripDataReady")[number % 3]
            await say(settings, announcement(kind, "w", DAY + number // 3 * MINUTE, number), partition=number % 2)
        await until(lambda: len(statuses(engine)) == 50 + 14, work)
    with reading(engine) as connection:
        assert len(connection.execute(select(announcements)).all()) == 90


async def test_partitions_that_are_added_are_read_from_their_beginning(created_topics, engine, monkeypatch):
    settings = created_topics
    monkeypatch.setattr("streams.serve.projector._CHECK_TOPICS_EVERY", 1.0)
    async with projecting(settings, engine) as (_, work, _):
        async with administrator(settings) as admin:
            await admin.create_partitions({settings.topics.events: NewPartitions(total_count=3)})
        await asyncio.sleep(1)
        await say(settings, announcement("TripStarted", "v"), partition=2)
        await until(lambda: statuses(engine) == {trip_id("v", DAY): ("ONGOING", 1)}, work)


async def refused(settings, engine):
    with pytest.raises(StateError) as error:
        async with projecting(settings, engine):
            raise AssertionError("it goes on as if nothing had happened")
    assert "`trips serve --rebuild`" in str(error.value)
    return str(error.value)


async def test_records_that_were_deleted_before_they_were_projected_are_missed(created_topics, engine):
    settings = created_topics
    await say(settings, announcement("TripStarted", "v"), partition=0)
    async with projecting(settings, engine):
        pass
    await say(settings, announcement("TripEnded", "v"), announcement("TripDataReady", "v"), partition=0)
    await expire(settings, settings.topics.events, 0, 2)
    told = await refused(settings, engine)
    assert f"{settings.topics.events} partition 0 begins at offset 2: records 1 to 1 were deleted" in told
    with writing(engine) as (connection, _):
        begin_anew(connection)
    async with projecting(settings, engine):
        assert statuses(engine) == {trip_id("v", DAY): ("FINISHED", 1)}


async def test_a_topic_that_is_another_one_is_refused(created_topics, engine):
    settings = created_topics
    await say(settings, announcement("TripStarted", "v"), announcement("TripEnded", "v"), partition=0)
    async with projecting(settings, engine) as (_, work, _):
        async with administrator(settings) as admin:
            await admin.delete_topics([settings.topics.events])
            await asyncio.sleep(0.5)
            await create_topics(settings)
        await say(settings, *[announcement("TripStarted", "w")] * 5, partition=0)
        with pytest.raises(StateError, match="has been deleted and created anew"):
            await until(lambda: False, work)
    assert "is not the topic that the projection was made from" in await refused(settings, engine)


async def test_a_topic_that_ends_too_early_is_refused(created_topics, engine):
    settings = created_topics
    async with projecting(settings, engine):
        pass
    with writing(engine) as (connection, _):
        connection.exec_driver_sql("UPDATE positions SET next_offset = 7 WHERE topic LIKE '%trip-events'")
        assert len(read_positions(connection)) == 4
    assert "ends at offset 0, but the projection goes on from 7" in await refused(settings, engine)
