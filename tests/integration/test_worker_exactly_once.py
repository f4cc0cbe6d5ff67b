"""Workers that are killed, stopped, frozen and joined by others, with a job that shows every lost or doubled record.

The job announces how many records of a key it has seen: see ``counting_worker.py``.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from integration.cluster import read
from worker_process import environment_of

PARTITIONS = 4
RATE = 1500


class Drill:
    """Records coming in all the time, workers that come and go, and the count at the end."""

    def __init__(self, settings, folder):
        self.settings = settings
        self.folder = folder
        self.sent = Counter()
        self.processes = []
        self.logs = []

    def start(self):
        log = self.folder / f"worker-{len(self.logs) + 1}.log"
        self.logs.append(log)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("counting_worker.py"))],
                env={**os.environ, **environment_of(self.settings)},
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
        self.processes.append(process)
        return process

    async def ready(self, process, within=30.0):
        log = self.logs[self.processes.index(process)]
        async with asyncio.timeout(within):
            while "worker ready" not in log.read_text():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.1)

    async def feed(self, seconds):
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap_servers, enable_idempotence=True, linger_ms=5
        )
        await producer.start()
        began, count, chance = time.monotonic(), 0, random.Random(7)
        while (passed := time.monotonic() - began) < seconds:
            while count < passed * RATE:
                key = f"k{chance.randrange(300)}"
                self.sent[key] += 1
                count += 1
                await producer.send(self.settings.topics.telemetry, b"x" * 100, key=key.encode())
            await asyncio.sleep(0.01)
        await producer.stop()

    async def counted(self, event=b"Counted"):
        """What a consumer that reads committed sees: the counts of each key, in order."""
        counts = defaultdict(list)
        for record in await self.announced(event):
            counts[record.key.decode()].append(int(record.value.split()[0]))
        return counts

    async def saw(self, count, event, within=30.0):
        async with asyncio.timeout(within):
            while len(await self.announced(event)) < count:  # noqa: ASYNC110 - it happens in Kafka
                await asyncio.sleep(0.05)

    async def times(self, event):
        """What the clock was at each announcement of a kind, in epoch ms."""
        texts = [dict(record.headers)["ce_time"].decode() for record in await self.announced(event)]
        return [int(datetime.fromisoformat(text).timestamp() * 1000) for text in texts]

    async def announced(self, event):
        return [
            record
            for record in await read(self.settings, self.settings.topics.events)
            if dict(record.headers)["ce_type"] == event
        ]

    async def everything_counted_once(self, within=60.0):
        deadline = time.monotonic() + within
        while True:
            counts = await self.counted()
            if sum(map(len, counts.values())) >= self.sent.total() or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)  # for what should not come
        wrong = {key: counts[key] for key, sent in self.sent.items() if counts[key] != list(range(1, sent + 1))}
        assert not wrong, f"{len(wrong)} keys are wrong, such as {next(iter(wrong.items()))}"
        assert sum(map(len, counts.values())) == self.sent.total()


@pytest.fixture
async def drill(make_settings, tmp_path):
    from streams import topics

    settings = make_settings(partitions=PARTITIONS)
    await topics.create_topics(settings)
    one = Drill(settings, tmp_path)
    yield one
    for process in one.processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(10)


async def stopped(process, within=30.0):
    """The exit code."""
    async with asyncio.timeout(within):
        while process.poll() is None:  # noqa: ASYNC110 - nobody tells when a process ends
            await asyncio.sleep(0.05)
    return process.returncode


async def test_killed_twice_and_every_record_counts_once(drill):
    worker = drill.start()
    await drill.ready(worker)
    feeding = asyncio.create_task(drill.feed(14))
    for _ in range(2):
        await asyncio.sleep(2.3)
        worker.kill()
        await stopped(worker)
        worker = drill.start()
        await drill.ready(worker)
    await feeding
    await drill.everything_counted_once()
    recovered = [log.read_text() for log in drill.logs[1:]]
    assert all('"state recovered"' in text and '"records": 0' not in text for text in recovered)


async def test_stopped_with_sigterm_it_finishes_ends_with_0_and_every_record_counts_once(drill):
    worker = drill.start()
    await drill.ready(worker)
    feeding = asyncio.create_task(drill.feed(7))
    for number in (signal.SIGTERM, signal.SIGINT):
        await asyncio.sleep(1.7)
        worker.send_signal(number)
        began = time.monotonic()
        assert await stopped(worker) == 0
        assert time.monotonic() - began < 10
        worker = drill.start()
        await drill.ready(worker)
    await feeding
    await drill.everything_counted_once()


async def test_of_two_workers_one_is_killed_and_the_other_takes_over(drill):
    first, second = drill.start(), drill.start()
    await asyncio.gather(drill.ready(first), drill.ready(second))
    feeding = asyncio.create_task(drill.feed(10))
    await asyncio.sleep(3)
    first.kill()
    await feeding
    await drill.everything_counted_once()
    assert second.poll() is None


async def test_workers_that_join_and_leave_move_partitions_without_loss(drill):
    first = drill.start()
    await drill.ready(first)
    feeding = asyncio.create_task(drill.feed(12))
    await asyncio.sleep(1)
    second = drill.start()
    await drill.ready(second)
    await asyncio.sleep(1)
    third = drill.start()
    await drill.ready(third)
    await asyncio.sleep(1)
    second.terminate()
    assert await stopped(second) == 0
    await feeding
    await drill.everything_counted_once()
    assert (first.poll(), third.poll()) == (None, None)


async def test_a_frozen_worker_that_wakes_up_after_its_partitions_moved_spoils_nothing(drill):
    first, second = drill.start(), drill.start()
    await asyncio.gather(drill.ready(first), drill.ready(second))
    feeding = asyncio.create_task(drill.feed(14))
    await asyncio.sleep(2)
    first.send_signal(signal.SIGSTOP)
    await asyncio.sleep(9)  # the session ends after 6 s
    first.send_signal(signal.SIGCONT)
    await feeding
    await drill.everything_counted_once()
    # It has noticed at its next checkpoint, or had none under way and has joined again.
    assert first.poll() in (None, 1)
    if first.poll() == 1:
        assert "Fenced" in drill.logs[0].read_text()


async def test_the_clock_of_a_quiet_partition_goes_on_after_a_restart_from_what_is_stored(drill):
    worker = drill.start()
    await drill.ready(worker)
    producer = AIOKafkaProducer(bootstrap_servers=drill.settings.bootstrap_servers)
    await producer.start()
    last_year = 1_740_000_000_000
    for n in range(3):
        await producer.send_and_wait(
            drill.settings.topics.telemetry, b"x", key=b"quiet-car", timestamp_ms=last_year + n * 100
        )
    await producer.stop()
    await drill.saw(3, b"Counted")
    worker.kill()
    await stopped(worker)
    await drill.ready(drill.start())
    await drill.saw(1, b"Quiet")
    await asyncio.sleep(2)
    assert await drill.counted(b"Quiet") == {"quiet-car": [3]}
    # Quiet is 1.5 s by the clock of last year: the wall clock alone would have said so at once, hours ago.
    (time_ms,) = await drill.times(b"Quiet")
    assert last_year + 200 + 1500 <= time_ms < last_year + 200 + 1500 + 2500


async def test_a_bug_ends_the_worker_and_commits_nothing_of_its_batch(drill):
    worker = drill.start()
    await drill.ready(worker)
    producer = AIOKafkaProducer(bootstrap_servers=drill.settings.bootstrap_servers)
    await producer.start()
    await producer.send_and_wait(drill.settings.topics.telemetry, b"poison", key=b"k1")
    await producer.stop()
    assert await stopped(worker) == 1
    log = drill.logs[0].read_text()
    assert "ValueError: a bug of the job" in log
    assert "Traceback" not in log
    again = drill.start()
    assert await stopped(again) == 1  # it is still there: nothing was committed over it
    assert await drill.counted() == {}
