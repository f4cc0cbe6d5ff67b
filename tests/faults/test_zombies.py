"""Workers that are away without knowing it: frozen, slow, forgotten by the broker."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from faults.conftest import FAULTS
from faults.faulty_worker import AROUND, steps_of

from streams.local.broker import LocalKafka
from streams.settings import Settings

COMPACTING = {
    "log.cleaner.backoff.ms": "100",
    "log.cleaner.min.cleanable.ratio": "0.001",
    "log.cleaner.max.compaction.lag.ms": "200",
    "log.segment.bytes": "1048576",
    "log.roll.ms": "500",
}
FORGETFUL = {
    "producer.id.expiration.ms": "2000",
    "producer.id.expiration.check.interval.ms": "200",
    "transactional.id.expiration.ms": "4000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
}


@pytest.fixture
def broker(tmp_path):
    """Starts a broker of its own with more properties; its settings."""
    brokers = []

    def start(properties, **changes):
        one = LocalKafka(properties=properties)
        brokers.append(one)
        one.start()
        values = {**FAULTS, "bootstrap_servers": one.bootstrap_servers, "http_port": 0, **changes}
        return Settings.load(**values)

    yield start
    for one in brokers:
        one.stop()


async def frozen(run, within=60.0):
    """The worker that has frozen itself."""
    async with asyncio.timeout(within):
        while True:
            for worker in run.workers:
                if worker.alive and worker.frozen:
                    return worker
            await asyncio.sleep(0.02)


async def let_it_wake_up(run, zombie):
    """After the other has taken over and gone on, it may go on too; it must notice, or have nothing to do."""
    await run.recovered(time.monotonic())
    zombie.thaw()
    thawed = time.monotonic()
    while zombie.alive and time.monotonic() < thawed + 20:
        await run.pause(0.5, 1.5)
        if (await zombie.probe("/health/ready"))[0] == 200 and time.monotonic() > thawed + 1:
            break


async def freeze_at_steps(run, steps):
    left = [f"freeze:{step}:{1 if step in AROUND[:2] else run.chance.randrange(2, 30)}" for step in steps]
    plans = list(left)
    await run.start_workers(1)  # without a plan: the one that takes over
    run.plan = lambda: {"TRIPS_TEST_FAULT": left.pop(0)} if left else {}
    zombies = run.add_worker()
    run.load.start(rate=600)
    fenced = 0
    for _ in plans:
        zombie = await frozen(run)
        run.repetitions += 1
        await let_it_wake_up(run, zombie)
        fenced += any("Fenced" in line for line in zombie.critical())
        if zombie.alive:
            zombie.kill()  # it has noticed without ending; the next one has another plan
    await zombies.running()
    run.row.note = f"{fenced} found themselves fenced and ended"
    return fenced


async def test_frozen_in_a_checkpoint(drill, settings, every_fault):
    run = await drill("zombie: frozen in a checkpoint until another worker has gone on", settings)
    every = steps_of(settings.processing_guarantee)
    steps = [*every, *every, *AROUND] if every_fault else ["deliver", "commit"]
    fenced = await freeze_at_steps(run, steps)
    await run.finish()
    # Those that were frozen outside of a transaction join again.
    assert fenced >= len(steps) // 3


@pytest.mark.all_faults
async def test_frozen_in_a_checkpoint_while_the_changelog_is_compacted(drill, broker):
    settings = broker(COMPACTING)
    run = await drill("zombie: the same, while the log cleaner compacts", settings)
    steps = ["add", "send", "deliver", "commit", "committed", "send", "deliver", "commit"]
    fenced = await freeze_at_steps(run, steps)
    await run.finish()
    assert fenced >= len(steps) // 2
    assert await compacted(settings) > 100


async def compacted(settings):
    """How many records the log cleaner has taken out of the changelog, at least."""
    consumer = AIOKafkaConsumer(**settings.client(), isolation_level="read_uncommitted")
    await consumer.start()
    try:
        places = [TopicPartition(settings.topics.changelog, number) for number in range(settings.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        there = 0
        while got := await consumer.getmany(timeout_ms=2_000):
            there += sum(map(len, got.values()))
        # Each checkpoint leaves at least a record and one marker: without a cleaner, half of the offsets have records.
        return sum(ends.values()) - 2 * there
    finally:
        await consumer.stop()


@pytest.mark.all_faults
async def test_frozen_at_random_moments(drill, settings):
    run = await drill("zombie: SIGSTOP at a random moment", settings)
    await run.start_workers(2)
    run.load.start(rate=600)
    for _ in range(8):
        await run.pause(0.2, 2.0)
        zombie = await run.chance.choice(run.places).running()
        zombie.freeze()
        run.repetitions += 1
        await let_it_wake_up(run, zombie)
        await asyncio.gather(*(place.running() for place in run.places))
    await run.finish()


@pytest.mark.all_faults
async def test_frozen_while_a_silence_is_due(drill, settings):
    settings = settings.model_copy(update={"silence_timeout": type(settings.silence_timeout)(seconds=4)})
    run = await drill("zombie: frozen when the silence of vehicles is due", settings)
    await run.start_workers(2)
    for _ in range(3):
        run.load.start(rate=500)
        await run.pause(2.0, 4.0)
        await run.load.stop()
        await run.pause(1.0, 3.5)  # the silence is over 4 s after the last record
        zombie = run.chance.choice(run.workers)
        (other,) = (worker for worker in run.workers if worker is not zombie)
        began = time.monotonic()
        zombie.freeze()
        run.repetitions += 1
        # The other takes all over; the quiet of the zombie's vehicles runs out with it.
        async with asyncio.timeout(60):
            while "trips_partitions 4.0" not in (await other.probe("/metrics"))[1]:  # noqa: ASYNC110 - processes
                await asyncio.sleep(0.1)
        await asyncio.sleep(5)
        run.row.recovery.append(round(time.monotonic() - began, 2))
        await let_it_wake_up(run, zombie)
        await asyncio.gather(*(place.running() for place in run.places))
    await asyncio.sleep(7)  # the last silence, and its checkpoint
    await run.finish(quiet=True)


@pytest.mark.all_faults
async def test_slower_than_the_transaction_timeout(drill, settings):
    # The session lives: nobody takes over, but the coordinator has aborted what it waited for.
    settings = settings.model_copy(update={"session_timeout": type(settings.session_timeout)(seconds=60)})
    run = await drill(
        "zombie: frozen in a checkpoint for longer than the transaction timeout, still a member", settings
    )
    left = ["freeze:commit:5", "freeze:send:9"]
    run.plan = lambda: {"TRIPS_TEST_FAULT": left.pop(0)} if left else {}
    run.add_worker()
    run.load.start(rate=200)
    for _ in range(2):
        worker = await frozen(run)
        run.repetitions += 1
        await asyncio.sleep(43)  # the transaction's timeout is 30 s, and the coordinator looks every 10 s
        worker.thaw()
        since = time.monotonic()
        await worker.ended()
    await run.recovered(since)
    await run.finish()


@pytest.mark.all_faults
async def test_forgotten_by_the_broker(drill, broker):
    run = await drill("zombie: producer ids and transactional ids expire while nothing comes in", broker(FORGETFUL))
    await run.start_workers(2)
    for pause in (3, 8, 12, 5):
        run.load.start(rate=500)
        await run.pause(1.5, 3.0)
        await run.load.stop()
        await run.recovered(time.monotonic())
        await asyncio.sleep(pause)
        run.repetitions += 1
    run.load.start(rate=500)
    since = time.monotonic()
    await run.pause(1.5, 3.0)
    await run.recovered(since)
    run.row.note = f"{sum(1 for _ in run.ends())} workers ended and were started again"
    await run.finish()


async def held_up(settings, seconds):
    """For how long at most no reader of committed announcements has got any, while there were new ones."""
    consumer = AIOKafkaConsumer(settings.topics.events, **settings.client(), isolation_level="read_committed")
    await consumer.start()
    longest = 0.0
    try:
        last = time.monotonic()
        until = last + seconds
        while time.monotonic() < until:
            if await consumer.getmany(timeout_ms=100):
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return max(longest, time.monotonic() - last)
    finally:
        await consumer.stop()


@pytest.mark.all_faults
@pytest.mark.transactions_only("announcements are in no transaction")
async def test_an_abandoned_transaction_holds_readers_up_until_a_successor_ends_it(drill, settings):
    run = await drill("zombie: killed in a transaction; how long readers wait for its successor", settings)
    run.expect_exit.add(-9)
    left: list[str] = []
    run.plan = lambda: {"TRIPS_TEST_FAULT": left.pop(0)} if left else {}
    await run.start_workers(1)
    run.load.start(rate=600)
    waits = []
    for number in range(1, 4):
        left.append("kill:commit:12")
        place = run.add_worker()
        watching = asyncio.create_task(held_up(settings, 9))
        await run.ended(number)
        run.repetitions += 1
        await run.recovered(time.monotonic())
        waits.append(await watching)
        await run.remove_worker(place)
    run.row.note = f"a reader of committed announcements waited for {max(waits):.1f} s at most"
    await run.finish()


@pytest.mark.all_faults
@pytest.mark.transactions_only("announcements are in no transaction")
async def test_an_abandoned_transaction_without_a_successor_holds_readers_up_until_it_times_out(drill, settings):
    run = await drill("zombie: killed in a transaction, nobody takes over", settings)
    run.expect_exit.add(-9)
    left = ["kill:commit:12"]
    run.plan = lambda: {"TRIPS_TEST_FAULT": left.pop(0)} if left else {}
    place = run.add_worker()
    run.load.start(rate=300)
    await run.ended(1)
    run.repetitions += 1
    since = time.monotonic()
    place.destroy()
    await asyncio.to_thread(place.worker.process.wait, 10)
    waited = await until_readable(settings, since)
    run.row.note = f"readers of what others write into the same partitions would wait for {waited:.1f} s"
    await run.start_workers(1)
    await run.recovered(time.monotonic())
    await run.finish()


async def until_readable(settings, since, within=90.0):
    """Seconds until the last stable offset of every partition of announcements is its end again."""
    readers = [
        AIOKafkaConsumer(settings.topics.events, **settings.client(), isolation_level=level)
        for level in ("read_committed", "read_uncommitted")
    ]
    try:
        for reader in readers:
            await reader.start()
        async with asyncio.timeout(within):
            while True:
                stable, ends = [await reader.end_offsets(list(reader.assignment())) for reader in readers]
                if stable == ends:
                    return time.monotonic() - since
                await asyncio.sleep(0.1)
    finally:
        for reader in readers:
            await reader.stop()
