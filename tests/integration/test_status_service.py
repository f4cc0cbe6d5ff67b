"""The trip status on a real Kafka: asked over HTTP, decided by one process, read back from the topics."""

import asyncio
import json
from datetime import datetime

import httpx
from aiokafka import AIOKafkaProducer
from integration.cluster import read
from status_server import status_app

import schemas
from schemas.headers import StatusHeaders
from streams.status.engine import StatusEngine
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
                trips = [(time(one["start"]), time(one["end"])) for one in (await self.shown(plan_id))["trips"]]
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
                "lastUpdate": None,
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
