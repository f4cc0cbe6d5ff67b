"""One fault, with the load running all the while: what is in the log afterwards is judged, and is a row of a table."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faults.judge import collect, judge
from faults.load import Load
from faults.recovered import judge_recovered_state
from faults.workers import Supervised, Worker, tail

from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Drill", "Row"]

_PROGRESS = 90.0
"""Seconds after which a worker that has not caught up counts as stuck."""


@dataclass
class Row:
    """A line of the table."""

    fault: str
    seed: int
    repetitions: int = 0
    messages: int = 0
    trips: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    duplicates: int = 0
    recovery: list[float] = field(default_factory=list)
    """Seconds, a repetition each."""
    note: str = ""
    took: float = 0.0
    clean: bool = False
    judged: bool = True
    """False: it ends in a refusal, and there is nothing to compare."""

    @property
    def recovery_text(self) -> str:
        if not self.recovery:
            return "-"
        return f"{statistics.median(self.recovery):.1f} / {max(self.recovery):.1f}"


class Drill:
    """What a test of a fault has in its hands.

    Args:
        row: to be filled in.
        settings: the workers'.
        feed: the load's and the judge's: the same cluster, perhaps by another way.
        folder: for logs.
        load: what comes in.
    """

    def __init__(self, row: Row, settings: Any, feed: Any, folder: Path, load: Load) -> None:
        self.row = row
        self.settings = settings
        self.feed = feed
        self.load = load
        self.chance = random.Random(f"{row.seed} {row.fault}")
        self.expect_exit = {1}
        self.plan: Callable[[], dict[str, str]] = dict
        """The environment of each worker that is started, on top of the settings."""
        self._folder = folder
        self._places: list[Supervised] = []
        self._gone: list[Supervised] = []
        self._began = time.monotonic()

    # -- workers ---------------------------------------------------------------------------------------------------

    @property
    def places(self) -> list[Supervised]:
        """Where workers are kept running."""
        return self._places

    @property
    def workers(self) -> list[Worker]:
        """The present ones."""
        return [place.worker for place in self._places if place.worker is not None]

    def _environment(self) -> dict[str, str]:
        return self.plan()

    def add_worker(self) -> Supervised:
        """One more, not ready yet."""
        number = len(self._places) + len(self._gone) + 1
        place = Supervised(self.settings, self._folder, number, plan=self._environment, expect_exit=self.expect_exit)
        self._places.append(place)
        return place

    async def start_workers(self, count: int) -> list[Worker]:
        """So many more, until they are ready."""
        return await asyncio.gather(*(self.add_worker().running() for _ in range(count)))

    async def remove_worker(self, place: Supervised) -> None:
        """One less, by SIGTERM."""
        self._places.remove(place)
        self._gone.append(place)
        await place.stop()

    async def pause(self, least: float, most: float) -> None:
        """Wait for a random time of so many seconds."""
        await asyncio.sleep(self.chance.uniform(least, most))

    # -- recovery --------------------------------------------------------------------------------------------------

    @property
    def repetitions(self) -> int:
        return self.row.repetitions

    @repetitions.setter
    def repetitions(self, count: int) -> None:
        self.row.repetitions = count

    async def recovered(self, since: float, *, within: float = _PROGRESS) -> float:
        """Wait until all that is in the log by now is committed, and note the seconds.

        Args:
            since: when it broke, or was mended (monotonic).
            within: seconds from now.
        """
        deadline = time.monotonic() + within
        async with _Offsets(self.feed) as offsets:
            ends = await offsets.ends(deadline)
            await self._until_committed(offsets, ends, deadline)
        seconds = time.monotonic() - since
        self.row.recovery.append(round(seconds, 2))
        return seconds

    async def longest_pause(self) -> float:
        """For how many seconds at most a partition has committed nothing, until this is cancelled."""
        longest, committed, moved = 0.0, dict[int, int](), dict[int, float]()
        async with _Offsets(self.feed) as offsets:
            with contextlib.suppress(asyncio.CancelledError):
                while True:
                    now = time.monotonic()
                    for number, offset in (await offsets.committed(now + 60)).items():
                        if committed.get(number) != offset:
                            longest = max(longest, now - moved.get(number, now))
                            committed[number], moved[number] = offset, now
                    await asyncio.sleep(0.02)
        return longest

    async def _until_committed(self, offsets: _Offsets, ends: dict[int, int], deadline: float) -> None:
        committed: dict[int, int] = {}
        while any(committed.get(number, 0) < end for number, end in ends.items()):
            if time.monotonic() > deadline:
                state = "\n".join(f"--- {worker.name}\n{tail(worker)}" for worker in self.workers)
                raise AssertionError(f"no progress: {committed} of {ends} are committed\n{state}")
            await asyncio.sleep(0.05)
            committed = await offsets.committed(deadline)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def finish(self, *, quiet: bool = False, workers: int = 1, more: list[Any] | None = None) -> None:
        """Stop the load, wait until all of it is committed, stop the workers, and judge.

        Args:
            quiet: all vehicles have been silent for as long as anything waits for.
            workers: so many at least are there for the rest, if the fault has left none.
            more: findings of the test itself.
        """
        await self.load.stop()
        for worker in self.workers:
            worker.thaw()
        while len(self._places) < workers:
            self.add_worker()
        deadline = time.monotonic() + _PROGRESS
        async with _Offsets(self.feed) as offsets:
            await self._until_committed(offsets, await offsets.ends(deadline), deadline)
        await asyncio.gather(*(place.stop() for place in self._places))
        await self.judge(quiet=quiet, more=more)

    async def judge(self, *, quiet: bool = False, more: list[Any] | None = None) -> None:
        """Judge what is there, with nobody at work any more."""
        logs = await collect(self.feed)
        verdict = judge(logs, self.settings, quiet=quiet)
        findings = list(verdict.findings)
        if not findings:
            findings += await judge_recovered_state(self.feed, logs, self.chance, quiet=quiet)
        findings += more or []
        findings += [failure for place in [*self._gone, *self._places] for failure in place.failures]
        row = self.row
        row.messages, row.trips = verdict.messages, verdict.trips
        row.missing, row.extra, row.different = verdict.missing, verdict.extra, verdict.different
        row.duplicates = verdict.duplicates
        row.took = time.monotonic() - self._began
        row.clean = not findings
        assert not findings, f"{row.fault} (seed {row.seed}):\n" + "\n".join(map(str, findings))
        assert row.messages > 0
        assert row.trips > 0

    async def destroy(self) -> None:
        """Nothing is left running, whatever has happened."""
        for place in [*self._gone, *self._places]:
            place.destroy()
        await self.load.cancel()

    async def ended(self, count: int, within: float = 60.0) -> None:
        """Wait until so many workers have ended by themselves."""
        async with asyncio.timeout(within):
            while sum(1 for _ in self.ends()) < count:  # noqa: ASYNC110 - processes
                await asyncio.sleep(0.05)

    def ends(self) -> Iterator[tuple[int, list[str]]]:
        """How workers have ended by themselves: exit code and reason."""
        for place in [*self._gone, *self._places]:
            yield from place.ends


class _Offsets:
    """The ends of the source and what is committed of it, as soon as a broker tells."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close()

    async def ends(self, deadline: float) -> dict[int, int]:
        return await self._ask(self._ends, deadline)

    async def committed(self, deadline: float) -> dict[int, int]:
        return await self._ask(self._committed, deadline)

    async def _ask(self, question: Any, deadline: float) -> Any:
        while True:
            try:
                async with asyncio.timeout(10):
                    return await question()
            except (KafkaError, OSError, TimeoutError, AssertionError):
                await self._close()
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)

    async def _ends(self) -> dict[int, int]:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(**self._settings.client())
            self._consumer = consumer
            await consumer.start()
        topic = self._settings.topics.telemetry
        numbers = await self._consumer._client._wait_on_metadata(topic)
        ends = await self._consumer.end_offsets([TopicPartition(topic, number) for number in numbers])
        return {place.partition: end for place, end in ends.items()}

    async def _committed(self) -> dict[int, int]:
        if self._admin is None:
            admin = AIOKafkaAdminClient(**self._settings.client(), request_timeout_ms=5_000)
            self._admin = admin
            await admin.start()
        offsets = await self._admin.list_consumer_group_offsets(self._settings.application_id)
        topic = self._settings.topics.telemetry
        return {place.partition: at.offset for place, at in offsets.items() if place.topic == topic}

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        with contextlib.suppress(Exception):
            if consumer is not None:
                await asyncio.wait_for(consumer.stop(), 5)
        with contextlib.suppress(Exception):
            if admin is not None:
                await asyncio.wait_for(admin.close(), 5)


async def prepare(settings: Any) -> None:
    """All topics."""
    reports = await create_topics(settings)
    assert all(report.is_right for report in reports), reports
