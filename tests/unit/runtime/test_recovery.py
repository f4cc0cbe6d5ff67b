"""Partitions that are taken away while they are being taken over: the next assignment is waited for, not for ever."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import IllegalStateError
from faust.tables.recovery import Recovery

from streams.errors import ClusterError, InternalError
from streams.runtime import recovery as module
from streams.runtime.recovery import PartitionRecovery


class Worker:
    def __init__(self):
        self.failures = []
        self.failed = asyncio.Event()

    def fail(self, error):
        self.failures.append(error)
        self.failed.set()


@pytest.fixture
async def service(monkeypatch):
    """The recovery service with nothing around it; what taking over does is up to the test."""
    worker = Worker()
    app = SimpleNamespace(
        conf=SimpleNamespace(stream_recovery_delay=0.0), worker=worker, tracer=None, consumer=None, loop=None
    )
    one = PartitionRecovery(app, SimpleNamespace())
    one.outcomes = []
    one.taken = []

    async def take_over(generation):
        one.taken.append(generation)
        outcome = one.outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(one, "_take_over", take_over)
    await one.start()
    yield one
    await one.stop()


def assign(service, generation):
    """As Faust tells of an assignment, in ``Recovery.on_rebalance``."""
    service._generation_id = generation
    service.signal_recovery_start.set()


async def until(condition, within=2.0):
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_partitions_that_are_taken_away_meanwhile_are_left_to_the_next_assignment(service):
    service.outcomes = [IllegalStateError("Partition is not assigned"), None]
    assign(service, 1)
    await until(lambda: service.taken == [1])
    await asyncio.sleep(0.05)
    assign(service, 2)
    await until(lambda: service.taken == [1, 2])
    assert service.app.worker.failures == []


async def test_an_assignment_that_does_not_come_is_a_failure_and_no_endless_wait(service, monkeypatch):
    monkeypatch.setattr(module, "_NEXT_WITHIN", 0.2)
    service.outcomes = [IllegalStateError("Partition is not assigned")]
    assign(service, 1)
    await asyncio.wait_for(service.app.worker.failed.wait(), 2)
    (failure,) = service.app.worker.failures
    assert isinstance(failure, ClusterError)
    assert "no assignment came within" in str(failure)


async def test_stopping_does_not_wait_for_an_assignment(service):
    service.outcomes = [IllegalStateError("Partition is not assigned")]
    assign(service, 1)
    await until(lambda: service.taken == [1])
    await asyncio.wait_for(service.stop(), 2)
    assert service.app.worker.failures == []


async def test_what_fails_otherwise_is_told_at_once(service):
    service.outcomes = [ClusterError("no")]
    assign(service, 1)
    await asyncio.wait_for(service.app.worker.failed.wait(), 2)
    assert [str(failure) for failure in service.app.worker.failures] == ["no"]


async def test_a_cancellation_that_nobody_has_asked_for_is_a_failure_and_no_silence(service):
    service.outcomes = [asyncio.CancelledError()]
    assign(service, 1)
    await asyncio.wait_for(service.app.worker.failed.wait(), 2)
    assert isinstance(service.app.worker.failures[0], InternalError)


async def test_an_assignment_that_is_overtaken_is_cleared_away_before_the_next_one(service, monkeypatch):
    story = []

    async def take_over(generation):
        story.append(f"begins {generation}")
        try:
            await asyncio.sleep(10 if generation == 1 else 0)
        finally:
            await asyncio.sleep(0.1)  # closes what it has opened
            story.append(f"ends {generation}")

    monkeypatch.setattr(service, "_take_over", take_over)
    assign(service, 1)
    await until(lambda: story)
    assign(service, 2)
    await until(lambda: len(story) == 4)
    assert story == ["begins 1", "ends 1", "begins 2", "ends 2"]
    assert service.app.worker.failures == []


def test_an_assignment_is_told_by_what_the_tests_use():
    assert {"signal_recovery_start", "_generation_id"} <= set(Recovery.on_rebalance.__code__.co_names)
