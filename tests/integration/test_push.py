"""Pushes from `trip-events` to a real endpoint, through a real Kafka and a worker in a process of its own."""

import asyncio
import base64
import contextlib
import json

import pytest
from endpoint import HttpEndpoint, announcement, publish
from integration.cluster import read
from standardwebhooks import Webhook
from worker_process import WorkerProcess

from streams import topics
from streams.local.broker import free_ports
from streams.push import book
from streams.push.report import report, request_retries
from streams.push.subscriptions import Subscription

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
AUTHORIZATION = "Bearer of-the-customer"


@pytest.fixture
async def push(make_settings, tmp_path, monkeypatch):
    """Settings, and a starter of push workers."""
    monkeypatch.setenv("PUSH_SECRET_ONE", SECRET)
    monkeypatch.setenv("PUSH_SECRET_AUTH", AUTHORIZATION)
    settings = make_settings(
        push_allowed_networks="127.0.0.0/8", push_retry_scale=0.002, push_secrets_folder=str(tmp_path)
    )
    await topics.create_topics(settings)
    workers = []

    def start(**extra):
        (port,) = free_ports(1)
        worker = WorkerProcess(
            settings,
            tmp_path,
            f"push-{len(workers) + 1}",
            port,
            extra={"TRIPS_PUSH_HTTP_PORT": str(port), **extra},
            command=("-m", "streams.cli", "push", "worker"),
        )
        workers.append(worker)
        return worker

    yield settings, start
    for worker in workers:
        if worker.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()


def standard(name, url, **more):
    return Subscription(id=name, url=url, profile="standard", secrets=("env:PUSH_SECRET_ONE",), **more)


async def until(condition, within=20.0):
    async with asyncio.timeout(within):
        while not (found := await condition()):  # noqa: ASYNC110 - it happens in Kafka
            await asyncio.sleep(0.1)
    return found


async def ready(worker):
    await asyncio.to_thread(worker.wait_until_ready)


async def test_what_is_announced_is_pushed_signed_and_counted(push):
    settings, start = push
    await publish(settings, announcement(0))  # before anybody asked
    async with HttpEndpoint() as endpoint:
        await book.add(settings, standard("all", endpoint.url))
        worker = start()
        await ready(worker)
        sent = [announcement(number) for number in range(1, 4)]
        await publish(settings, *sent)
        requests = await endpoint.received(3)
        for request, (_, value, _) in zip(sorted(requests, key=lambda one: one.body), sent, strict=True):
            assert Webhook(SECRET).verify(request.body, request.headers) == json.loads(value)
            assert request.body == value
            assert request.headers["webhook-id"] == f"{request.json['metadata']['id']}-all"
        (line,) = await until(lambda: delivered(settings, 3))
        assert (line.waiting, line.discarded, line.errors) == (0, 0, [])
        metrics = worker.get("/metrics")[1]
        assert 'trips_push_outcomes_total{outcome="delivered",subscription="all"} 3.0' in metrics
        assert worker.stop() == 0
    assert SECRET not in worker.output()


async def delivered(settings, count):
    lines = await report(settings)
    return lines if sum(line.delivered for line in lines) >= count else None


async def test_killed_in_the_middle_of_attempts_and_each_is_made_again_with_the_same_id(push):
    settings, start = push
    hang = True
    async with HttpEndpoint(lambda _: "hang" if hang else 200) as endpoint:
        await book.add(settings, standard("all", endpoint.url, limits={"concurrency": 8}))
        worker = start()
        await ready(worker)
        await publish(settings, *(announcement(number, vehicle=f"V{number}") for number in range(6)))
        await endpoint.received(6)
        worker.kill()
        hang = False
        await ready(start())
        requests = await endpoint.received(12)
        (line,) = await until(lambda: delivered(settings, 6))
        assert line.waiting == 0
    first, second = ({one.headers["webhook-id"] for one in some} for some in (requests[:6], requests[6:]))
    assert first == second


async def test_a_deleted_trip_is_pushed_as_drivequant_does_and_given_up_after_thirty_attempts(push):
    settings, start = push
    async with HttpEndpoint(lambda _: 200 if len(endpoint.requests) > 30 else 500) as endpoint:
        await book.add(
            settings,
            Subscription(id="dq", url=endpoint.url, profile="drivequant", authorization="env:PUSH_SECRET_AUTH"),
        )
        worker = start(TRIPS_PUSH_RETRY_SCALE="0.000001")
        await ready(worker)
        await publish(settings, announcement(1, trip="01T"), announcement(2, event="TripDeleted", trip="01T"))
        requests = await endpoint.received(30, within=60)
        assert {one.body for one in requests} == {
            b'{"itinId":"01T","event":"TRIP_DELETION","date":"2026-03-01T08:00:00.000+0000"}'
        }
        assert {one.headers["authorization"] for one in requests} == {AUTHORIZATION}
        letters = await until(lambda: read(settings, settings.topics.push_dead_letters))
        (letter,) = [json.loads(one.value) for one in letters]
        assert letter["reason"] == "30 attempts failed"
        assert [(one["status"], one["error"]) for one in letter["attempts"]] == [(500, "HTTP 500")] * 30
        assert len(endpoint.requests) == 30
        # Asked for, it is delivered after all.
        assert await request_retries(settings, subscription="dq", ids=()) == (1, [])
        await endpoint.received(31)
        (line,) = await until(lambda: delivered(settings, 1))
        assert (line.discarded, line.waiting) == (1, 0)
        assert worker.stop() == 0
    assert AUTHORIZATION not in worker.output()
