"""The trip status on a real Kafka: asked over HTTP, decided by one process, read back from the topics."""

import asyncio
import json
import time
from datetime import datetime

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from integration.cluster import read
from status_server import status_app

import schemas
from schemas.headers import StatusHeaders
from streams.errors import ClusterError
from streams.status.engine import StatusEngine
from streams.topics import connect, create_topics
from streams.trips.identity import event_id, identify

LOC = {"Coords": {"Lat": "42.364551", "Lon": "-71.180604"}}
DAY = "2026-03-01T"


def plan(tms="T-1", vehicle="JQ7RP", start="06:00:00Z", end="18:00:00Z"):
    return {"tmsTripId": tms, "vehicleId": vehicle, "windowStart": DAY + start, "windowEnd": DAY + end}


def update(status, time, **ids):
    return {**(ids or {"tmsTripId": "T-1"}), "status": status, "timeStamp": DAY + time, "loc": LOC}


def milliseconds(time):
    return int(datetime.fromisoformat(DAY + time).timestamp() * 1000)


def announcement(kind, start, *, end=None, revision=1, vehicle="JQ7RP", reason=None):
    """As a worker publishes it, without what nobody looks at here."""
    names = identify(vehicle, milliseconds(start))
    trip = {"id": names.id, "key": names.key, "revision": revision, "vehicle_id": vehicle}
    if kind != "TripDeleted":
        trip["start"] = {"timestamp": DAY + start}
    if end is not None:
        trip["end"] = {"timestamp": DAY + end}
    data = {"occurred_at": DAY + start, "trip": trip}
    if reason is not None:
        data["reason"] = reason
    name = event_id(milliseconds(start), names.id, kind, revision)
    return {"metadata": {"id": name, "type": kind, "schema_major_version": 1, "occurred_at": DAY + start}, "data": data}


def trip_id(start, vehicle="JQ7RP"):
    return identify(vehicle, milliseconds(start)).id


class Service:
    """An engine and its routes, in this process."""

    def __init__(self, settings):
        self.settings = settings
        self.engine = StatusEngine(settings)
        transport = httpx.ASGITransport(status_app(self.engine))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def __aenter__(self):
        await self.engine.start()
        async with asyncio.timeout(30):
            while not self.engine.ready and self.engine.failure is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_):
        await self.engine.stop()
        await self.http.aclose()

    async def deciding(self):
        async with asyncio.timeout(30):
            while not self.engine.deciding:  # noqa: ASYNC110 - it is asked as a probe asks
                await asyncio.sleep(0.02)
        return self

    async def post(self, path, body):
        answer = await self.http.post(path, json=body)
        return answer.status_code, answer.json()

    async def update(self, *arguments, **ids):
        return await self.post("/trip/tripStatus", update(*arguments, **ids))

    async def shown(self, plan_id=1):
        return (await self.http.get(f"/trip/plan/{plan_id}")).json()

    async def trips_of(self, expected, plan_id=1):
        """Wait until these trips are linked: (start, end) each."""

        def time(written):
            return written.removeprefix(DAY) if written else None

        async with asyncio.timeout(20):
            while True:
                trips = [(time(one["start"]), time(one.get("end"))) for one in (await self.shown(plan_id))["trips"]]
                if trips == expected:
                    return
                await asyncio.sleep(0.02)


async def announce(settings, *announcements):
    async with AIOKafkaProducer(**settings.client()) as producer:
        for one in announcements:
            key = one["data"]["trip"]["vehicle_id"].encode()
            await producer.send_and_wait(settings.topics.events, json.dumps(one).encode(), key=key)


async def events_of(settings):
    """(type, plan, revision, what) of each event, in order for each plan."""
    told = []
    for record in await read(settings, settings.topics.status_events):
        event = json.loads(record.value)
        schemas.read_status_event(record.value)
        headers = StatusHeaders.of(record.headers)
        assert (headers.ce_type, headers.ce_subject) == (event["metadata"]["type"], str(event["data"]["plan"]["id"]))
        assert record.key.decode() == event["data"]["plan"]["vehicle_id"]
        told.append(event)
    return sorted(told, key=lambda one: (one["data"]["plan"]["id"], one["data"]["plan"]["revision"]))


def kinds(events):
    return [one["metadata"]["type"] for one in events]


OK = (200, {"success": True, "errorCode": 0})


async def test_a_plan_from_beginning_to_end(created_topics):
    settings = created_topics
    async with Service(settings) as service:
        await service.deciding()
        status, planned = await service.post("/trip/plan", plan())
        assert (status, planned) == (
            200,
            {
                "tripId": 1,
                "tmsTripId": "T-1",
                "vehicleId": "JQ7RP",
                "windowStart": "2026-03-01T06:00:00Z",
                "windowEnd": "2026-03-01T18:00:00Z",
                "tripStatus": "Planned",
                "trips": [],
            },
        )
        assert await service.post("/trip/plan", plan()) == (200, planned)
        status, problem = await service.post("/trip/plan", plan(vehicle="OTHER"))
        assert (status, problem["title"]) == (409, "Conflict")
        assert "another vehicleId." in problem["detail"]

        assert await service.update(4, "07:00:00Z") == OK
        assert (await service.shown())["tripStatus"] == "Received"
        assert await service.update(1, "07:05:00Z", tripId=1) == OK
        assert await service.update(4, "07:04:59.999Z") == (200, {"success": False, "errorCode": -3})
        assert await service.update(1, "07:05:00Z", tripId=1) == OK
        assert await service.update(1, "07:05:00Z", tripId=2) == (200, {"success": False, "errorCode": -1})
        await announce(settings, announcement("TripStarted", "08:00:00Z"))
        await service.trips_of([("08:00:00Z", None)])
        await announce(settings, announcement("TripEnded", "08:00:00Z", end="08:30:00Z", revision=2))
        await service.trips_of([("08:00:00Z", "08:30:00Z")])
        assert await service.update(2, "09:00:00Z") == OK
        assert (await service.shown())["tripStatus"] == "Completed"
        assert await service.update(3, "09:01:00Z") == (
            400,
            {
                "ErrorType": "ArgumentException",
                "Description": "Can't perform modification action 'Canceled' if a trip has been 'Completed'.",
                "ErrorCode": None,
            },
        )
    events = await events_of(settings)
    assert kinds(events) == [
        "TripPlanned",
        "TripStatusUpdated",
        "TripStatusUpdated",
        "TripLinked",
        "TripLinkCorrected",
        "TripStatusUpdated",
    ]
    linked = events[3]["data"]
    assert (linked["plan"]["id"], linked["plan"]["status"], linked["trip"]) == (
        1,
        "InProgress",
        {"id": trip_id("08:00:00Z"), "revision": 1, "start": {"timestamp": "2026-03-01T08:00:00Z"}},
    )


async def test_two_updates_at_once_are_decided_by_timestamp_wherever_they_are_sent(created_topics):
    settings = created_topics
    async with Service(settings) as one, Service(settings) as other:
        for number in range(1, 21):
            assert (await one.post("/trip/plan", plan(f"T-{number}")))[1]["tripId"] == number
        ids = [{"tmsTripId": f"T-{number}"} for number in range(1, 21)]
        answers = await asyncio.gather(
            *(one.update(1, "07:00:00Z", **names) for names in ids),
            *(other.update(3, "07:00:00.001Z", **names) for names in ids),
        )
        for number in range(1, 21):
            (accepted, _), canceled = answers[number - 1], answers[number + 19]
            assert canceled == OK
            assert accepted == 200  # true, or -3: never refused because of the cancellation, which is the later one
            for service in (one, other):
                async with asyncio.timeout(5):
                    while (await service.shown(number))["tripStatus"] != "Canceled":  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        async with asyncio.timeout(10):  # there is none while the group is sharing out
            while not (one.engine.deciding or other.engine.deciding):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert [one.engine.deciding, other.engine.deciding].count(True) == 1


async def test_another_process_goes_on_where_one_has_stopped(created_topics):
    settings = created_topics
    async with Service(settings) as first:
        await first.deciding()
        await first.post("/trip/plan", plan())
        assert await first.update(1, "07:00:00Z") == OK
        await announce(settings, announcement("TripStarted", "08:00:00Z"))
        await first.trips_of([("08:00:00Z", None)])
    # While nobody is there, the trip is corrected.
    await announce(
        settings,
        announcement("TripStarted", "07:30:00Z", revision=2),
        announcement("TripDiscarded", "08:00:00Z", revision=2, reason="SUPERSEDED"),
        announcement("TripEnded", "07:30:00Z", end="08:30:00Z", revision=3),
    )
    async with Service(settings) as second:
        assert (await second.shown())["tripStatus"] == "InProgress"  # looked up before anybody decides
        await second.deciding()
        await second.trips_of([("07:30:00Z", "08:30:00Z")])
        assert await second.update(1, "07:00:00Z") == OK  # what the first has applied is not applied twice
        assert await second.update(2, "09:00:00Z") == OK
        assert (await second.post("/trip/plan", plan("T-2")))[1]["tripId"] == 2
        assert second.engine.plan_of(trip_id("07:30:00Z")).id == 1
    events = await events_of(settings)
    assert kinds(one for one in events if one["data"]["plan"]["id"] == 1) == [
        "TripPlanned",
        "TripStatusUpdated",
        "TripLinked",
        "TripLinked",
        "TripUnlinked",
        "TripLinkCorrected",
        "TripStatusUpdated",
    ]
    assert [one["data"]["plan"]["revision"] for one in events] == [1, 2, 3, 4, 5, 6, 7, 1]


async def test_a_plan_that_is_late_gets_the_trips_that_were_there_before_it(created_topics):
    settings = created_topics
    await announce(
        settings,
        announcement("TripStarted", "08:00:00Z"),
        announcement("TripEnded", "08:00:00Z", end="08:30:00Z", revision=2),
        announcement("TripStarted", "10:00:00Z", revision=3),
        announcement("TripStarted", "08:00:00Z", vehicle="OTHER"),
    )
    async with Service(settings) as service:
        await service.deciding()
        await service.post("/trip/plan", plan())
        assert await service.update(1, "11:00:00Z") == OK
        await service.trips_of([("08:00:00Z", "08:30:00Z"), ("10:00:00Z", None)])
        await announce(settings, announcement("TripDeleted", "10:00:00Z", revision=3))
        await service.trips_of([("08:00:00Z", "08:30:00Z")])


async def test_a_request_that_nobody_decides_in_time_is_decided_later_and_once(make_settings):
    settings = make_settings(status_answer_timeout=1)
    await create_topics(settings)
    async with Service(settings) as service:
        await service.deciding()
        await service.post("/trip/plan", plan())
        # Nobody decides any more, as while the process that did is gone and its session lasts.
        decide = service.engine._tasks.pop()
        decide.cancel()
        await asyncio.wait([decide])
        answer = await service.http.post("/trip/tripStatus", json=update(1, "07:00:00Z"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "may yet be applied" in answer.json()["Description"]
        assert (await service.shown())["tripStatus"] == "Planned"
    async with Service(settings) as service:
        await service.deciding()
        assert await service.update(1, "07:00:00Z") == OK
        assert (await service.shown())["tripStatus"] == "InProgress"
    assert kinds(await events_of(settings)) == ["TripPlanned", "TripStatusUpdated"]


async def test_what_was_kept_for_long_enough_expires(created_topics, monkeypatch):
    monkeypatch.setattr("streams.status.owner._SWEEP_EVERY", 0.2)
    settings = created_topics
    async with Service(settings) as service:
        await service.deciding()
        await service.post("/trip/plan", plan())
        assert await service.update(2, "07:00:00Z") == OK
        service.engine._term._now = lambda: time.time() + 30 * 86_400 + 60
        async with asyncio.timeout(20):
            while (await service.http.get("/trip/plan/1")).status_code != 404:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await service.update(1, "08:00:00Z") == (200, {"success": False, "errorCode": -1})
    assert kinds(await events_of(settings)) == ["TripPlanned", "TripStatusUpdated", "TripPlanExpired"]


async def test_records_that_are_none_are_left_out(created_topics):
    settings = created_topics
    async with AIOKafkaProducer(**settings.client()) as producer:
        for value in (b"", b"{", b"[]", b'{"kind":"update","id":"x","body":{}}', None):
            await producer.send_and_wait(settings.topics.status_requests, value, partition=0, key=b"x")
            await producer.send_and_wait(settings.topics.events, value, key=b"x")
    async with Service(settings) as service:
        await service.deciding()
        assert (await service.post("/trip/plan", plan()))[0] == 200
        assert service.engine.metrics.registry.get_sample_value("trips_status_unreadable_records_total") == 10


async def test_a_cluster_that_is_not_as_it_must_be_is_refused(kafka, make_settings):
    settings = make_settings()
    engine = StatusEngine(settings)
    with pytest.raises(ClusterError, match=r"Topics are missing .*trip-status-events.*`trips topics create`"):
        await engine.start()
    async with connect(settings) as admin:
        await admin.create_topics([NewTopic(settings.topics.status_requests, 2, 1)])
    await create_topics(settings)
    with pytest.raises(ClusterError, match=r"-status-requests has 2 partitions, and must have 1"):
        await engine.start()


async def test_a_changelog_that_is_gone_is_noticed(created_topics):
    settings = created_topics
    async with Service(settings) as service:
        await service.deciding()
        await service.post("/trip/plan", plan())
    async with connect(settings) as admin:
        await admin.delete_topics([settings.topics.status_changelog])
        async with asyncio.timeout(20):
            while settings.topics.status_changelog in await admin.list_topics():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await create_topics(settings)
    async with Service(settings) as service:
        async with asyncio.timeout(30):
            await service.engine.failed.wait()
        assert "the changelog has been deleted or cut off" in str(service.engine.failure)
        assert not service.engine.ready
