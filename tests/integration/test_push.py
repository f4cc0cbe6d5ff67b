"""Pushes from `trip-events` to a real endpoint, through a real Kafka and a worker in a process of its own."""

import asyncio
import base64
import contextlib
import json
from datetime import datetime
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from endpoint import HttpEndpoint, announcement, publish
from integration.cluster import feed, read
from standardwebhooks import Webhook
from worker_process import WorkerProcess, environment_of

from streams import cli, topics
from streams.deletion import request_deletion
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
        assert await request_retries(settings, subscription=None, ids=()) == (0, [])  # it was asked for
        assert (line.discarded, line.waiting) == (1, 0)
        assert worker.stop() == 0
    assert AUTHORIZATION not in worker.output()


async def test_subscriptions_change_in_a_running_worker(push):
    settings, start = push
    async with HttpEndpoint(lambda _: answer) as endpoint:
        answer = 200
        worker = start()
        await ready(worker)
        await book.add(settings, standard("one", endpoint.url))
        await subscribed(worker, 1)
        await publish(settings, announcement(1))
        await endpoint.received(1)

        # Paused: what comes waits.
        assert await book.switch(settings, "one", "paused")
        assert not await book.switch(settings, "one", "paused")
        await asyncio.sleep(1)
        await publish(settings, announcement(2))
        await waiting(settings, 1)
        assert len(endpoint.requests) == 1
        assert await book.switch(settings, "one", None)
        await endpoint.received(2)

        # 410: the endpoint is gone, and so says the book; what waits goes on when somebody lets it.
        answer = 410
        await publish(settings, announcement(3))
        off = await until(lambda: switched_off(settings, "one"))
        assert off.reason == "the endpoint says that it is gone (HTTP 410)"
        answer = 200
        (line,) = await report(settings, "one")
        assert (line.state, line.waiting, line.errors[0]["error"]) == ("off", 1, "HTTP 410")
        await book.switch(settings, "one", None)
        await endpoint.received(4)

        # Removed: what waits is dropped and counted; one that is added later does not get it.
        answer = 500
        await publish(settings, announcement(4))
        await waiting(settings, 1)
        await book.remove(settings, "one")
        await book.add(settings, standard("one", endpoint.url))
        await until(lambda: dropped(settings, 1))
        lines = await report(settings, "one")
        assert [(line.state, line.delivered, line.dropped) for line in lines] == [("on", 0, 0), ("removed", 3, 1)]
        assert worker.stop() == 0


async def subscribed(worker, count):
    async def are():
        return f"trips_push_subscriptions {count}.0" in worker.get("/metrics")[1]

    await until(are)


async def waiting(settings, count):
    async def are():
        return sum(line.waiting for line in await report(settings)) == count

    await until(are)


async def dropped(settings, count):
    return sum(line.dropped for line in await report(settings)) == count


async def switched_off(settings, name):
    return (await book.read_book(settings)).entries[name].off


FILE = """
[tenants]
acme = ["ACME-*"]

[[subscriptions]]
id = "acme"
url = "{url}"
profile = "standard"
tenant = "acme"
secrets = ["env:PUSH_SECRET_ONE"]
"""


async def test_subscriptions_of_a_file_come_change_and_go_with_it(push, tmp_path):
    settings, start = push
    async with HttpEndpoint() as endpoint:
        path = tmp_path / "push.toml"
        path.write_text(FILE.format(url=endpoint.url))
        await book.add(settings, standard("other", endpoint.url, vehicles=("NONE",)))
        worker = start(TRIPS_PUSH_FILE=str(path))
        await ready(worker)
        await publish(settings, announcement(1, vehicle="ACME-1"), announcement(2, vehicle="BUS-1"))
        await endpoint.received(1)
        path.write_text(FILE.format(url=endpoint.url).replace("ACME-*", "BUS-*"))
        await until(lambda: tenant(settings, ("BUS-*",)))
        path.write_text("not TOML")  # changes nothing
        await asyncio.sleep(3)
        await publish(settings, announcement(3, vehicle="ACME-1"), announcement(4, vehicle="BUS-1"))
        requests = await endpoint.received(2)
        assert [one.json["data"]["trip"]["vehicle_id"] for one in requests] == ["ACME-1", "BUS-1"]
        path.write_text("")
        await subscribed(worker, 1)  # the one that a command has added stays
        assert worker.stop() == 0
    assert "the file of subscriptions changes nothing" in worker.output()


async def tenant(settings, patterns):
    return (await book.read_book(settings)).tenants.get("acme") == patterns


async def run(settings, *arguments):
    """A command in this process: many of them, and each would be a second's imports."""

    def invoke():
        return CliRunner().invoke(cli.trips, arguments, env=environment_of(settings))

    result = await asyncio.to_thread(invoke)
    assert SECRET not in result.output
    code = getattr(result.exception, "exit_code", result.exit_code)
    return SimpleNamespace(returncode=code, stdout=result.stdout, stderr=result.stderr + str(result.exception or ""))


async def test_the_commands(push):
    settings, _ = push
    async with HttpEndpoint(lambda _: answer) as endpoint:
        answer = 200
        secret = ("--secret", "env:PUSH_SECRET_ONE")
        added = await run(
            settings,
            "push",
            "add",
            "one",
            endpoint.url + "?key=k",
            "--profile",
            "standard",
            *secret,
            "--vehicle",
            "V-*",
        )
        assert (added.returncode, added.stdout) == (0, ""), added.stderr
        again = await run(settings, "push", "add", "one", endpoint.url, "--profile", "standard", *secret)
        assert again.returncode == 2
        assert again.stderr.startswith("there is a subscription one already")
        shown = await run(settings, "push", "list")
        host = endpoint.url.removesuffix("/push")
        assert shown.stdout == f"one  standard  {host}/…  (all events; vehicles V-*)  on\n"
        assert json.loads((await run(settings, "push", "list", "--json")).stdout)["secrets"] == ["env:PUSH_SECRET_ONE"]

        tested = await run(settings, "push", "test", "one")
        assert tested.returncode == 0, tested.stderr
        assert tested.stdout.startswith("taken: HTTP 200 after ")
        (request,) = endpoint.requests
        assert request.json["metadata"]["type"] == "PushTest"
        assert request.headers["x-ignition-trips-test"] == "true"
        Webhook(SECRET).verify(request.body, request.headers)
        answer = 404
        refused = await run(settings, "push", "test", "one")
        assert refused.returncode == 1
        assert refused.stderr.endswith(": HTTP 404")

        assert (await run(settings, "push", "pause", "one")).returncode == 0
        assert (await run(settings, "push", "report")).stdout.startswith("one (off: paused, since 20")
        assert (await run(settings, "push", "resume", "one")).returncode == 0
        assert (await run(settings, "push", "report")).stdout == "one (on): 0 delivered, 0 waiting, 0 discarded\n"
        assert json.loads((await run(settings, "push", "report", "one", "--json")).stdout)["state"] == "on"
        assert (await run(settings, "push", "retry", "--all")).stderr == "0 to be delivered again\n"
        missing = await run(settings, "push", "retry", "01E-one")
        assert missing.returncode == 1
        assert (await run(settings, "push", "remove", "one")).returncode == 0
        gone = await run(settings, "push", "remove", "one")
        assert (gone.returncode, gone.stderr) == (2, "there is no subscription one (there are: none)")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://example.com/"], "this URL is refused: only https goes to public addresses"),
        (["https://169.254.169.254/latest"], "this URL is refused: 169.254.169.254 is link-local"),
        (["https://example.com/", "--authorization", "Bearer hidden"], "the secret itself is never stored"),
        (["https://example.com/", "--tenant", "acme"], "there is no tenant acme (there are: none)"),
        (["https://example.com/", "--event", "TripStarted"], "tells of TripDeleted only"),
    ],
)
async def test_what_cannot_be_added(make_settings, created_topics, arguments, says):
    done = await run(created_topics, "push", "add", "one", *arguments, "--profile", "drivequant")
    assert done.returncode == 2
    assert says in done.stderr
    assert "hidden" not in done.stderr


async def test_two_that_change_the_book_at_once_are_one_after_the_other(created_topics):
    names = [f"s{number}" for number in range(3)]
    await asyncio.gather(*(book.add(created_topics, standard(name, "https://example.com/")) for name in names))
    assert sorted((await book.read_book(created_topics)).entries) == names


async def test_a_trip_that_is_deleted_is_pushed_and_nothing_else_of_it_any_more(push, start_worker):
    settings, start = push
    async with HttpEndpoint(lambda request: 200 if b"itinId" in request.body else 503) as endpoint:
        await book.add(settings, Subscription(id="dq", url=endpoint.url, profile="drivequant"))
        await book.add(settings, standard("trips", endpoint.url, events=("TripDataReady",)))
        await ready(start(TRIPS_PUSH_RETRY_SCALE="1"))
        worker = await asyncio.to_thread(start_worker, settings)
        telemetry = [("2026-03-05T08:00:00Z", "OFF"), ("2026-03-05T08:01:00Z", "ON"), ("2026-03-05T08:31:00Z", "OFF")]
        await feed(
            settings,
            [
                (b"JQ7RP", json.dumps({"vehicle_id": "JQ7RP", "timestamp": at, "ignition": state}).encode())
                for at, state in telemetry
            ],
        )
        (ended,) = await endpoint.received(1)
        trip = ended.json["data"]["trip"]["id"]
        await waiting(settings, 1)
        deletion = await request_deletion(settings, trip)
        assert deletion.state == "deleted"
        pushed = (await endpoint.received(2))[1].json
        assert pushed["itinId"] == trip
        assert pushed["event"] == "TRIP_DELETION"
        date = datetime.strptime(pushed["date"], "%Y-%m-%dT%H:%M:%S.%f%z")
        assert date == datetime.fromisoformat(deletion.requested_at)
        # What was still to be told of the trip is told no more.
        await waiting(settings, 0)
        (dq, told) = await report(settings)
        assert (dq.delivered, told.delivered, told.erased) == (1, 0, 1)
        assert worker.stop() == 0
