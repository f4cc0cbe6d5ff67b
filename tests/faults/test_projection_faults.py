"""`trips serve` that is killed while it projects: in the end the database is what the topics say."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import urllib.request

import psycopg
import pytest
from integration.cluster import read
from oracle.consumer import final_view

STATUS = {
    "on": "ONGOING",
    "ended": "PENDING",
    "ready": "FINISHED",
    "discarded": "DISCARDED",
    "superseded": "DISCARDED",
    "deleted": "DELETED",
}


def query(url, statement):
    """The rows of a database, without any of our code."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def projected(url):
    """What the database holds: trips, announcements, and the newest announcement of each vehicle."""
    trips = {
        name: (status, revision, json.loads(bytes(view)))
        for name, status, revision, view in query(url, "SELECT id, status, revision, view FROM trips")
    }
    history = sorted(
        (name, revision, kind, bytes(payload))
        for name, revision, kind, payload in query(url, "SELECT trip_id, revision, type, payload FROM announcements")
    )
    newest = {name: json.loads(bytes(last))["id"] for name, last in query(url, "SELECT id, last FROM vehicles")}
    return trips, history, newest


async def expected(settings):
    """The same, from the topics."""
    said = [(record.key.decode(), record.value) for record in await read(settings, settings.topics.events)]
    latest = {record.key: record.value for record in await read(settings, settings.topics.trips)}
    events = [json.loads(payload) for _, payload in said]
    views = final_view([*events, *(json.loads(value) for value in latest.values() if value is not None)])
    trips = {}
    for name, view in views.items():
        shown = dict(view.trip)
        if view.status == "deleted":
            shown["deleted_at"] = view.data["occurred_at"]
        if "reason" in view.data:
            shown["discard_reason"] = view.data["reason"]
        if "superseded_by" in view.data:
            shown["superseded_by"] = view.data["superseded_by"]
        trips[name] = (STATUS[view.status], view.revision, shown)
    history = sorted(
        {
            (event["data"]["trip"]["id"], event["data"]["trip"]["revision"], event["metadata"]["type"], payload)
            for event, (_, payload) in zip(events, said, strict=True)
            if views[event["data"]["trip"]["id"]].status != "deleted"
        }
    )
    newest = {vehicle: json.loads(payload)["metadata"]["id"] for vehicle, payload in said}
    return trips, history, newest


def ask(process, path, method="GET"):
    request = urllib.request.Request(f"{process.url}{path}", method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def delete_one(process, chance):
    """Have a trip deleted, any that is shown."""
    trip = chance.choice(ask(process, "/trips?limit=1000")["items"])
    assert ask(process, f"/trips/{trip['id']}", "DELETE")["state"] in {"DELETED", "REQUESTED"}


async def ready(process, within=60.0):
    async with asyncio.timeout(within):
        while (await asyncio.to_thread(process.get, "/health/ready"))[0] != 200:
            assert process.process.poll() is None, process.output()
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "database",
    [("sqlite", 1), pytest.param(("postgresql", 2), marks=pytest.mark.all_faults)],
    ids=["one on SQLite", "two on one PostgreSQL"],
)
async def test_killed_while_projecting(drill, settings, every_fault, start_serve, request, tmp_path, database):
    kind, side_by_side = database
    url = request.getfixturevalue("postgres")() if kind == "postgresql" else f"sqlite:///{tmp_path}/projection.db"
    run = await drill(f"serve: kill -9 while projecting ({kind}, {side_by_side} at once)", settings)

    def serve(*arguments):
        return start_serve(settings, *arguments, wait=False, TRIPS_SERVE_DATABASE=url)

    await run.start_workers(1)
    run.load.start(rate=500 if every_fault else 250)
    serving = [serve() for _ in range(side_by_side)]
    deleted = 0
    for number in range(12 if every_fault else 2):
        victim = run.chance.randrange(side_by_side)
        if number % 2:
            await ready(serving[victim])
            await asyncio.to_thread(delete_one, serving[victim], run.chance)
            deleted += 1
        await run.pause(0.2, 3.0)
        serving[victim].kill()
        since = time.monotonic()
        serving[victim] = serve()
        await ready(serving[victim])
        run.row.recovery.append(round(time.monotonic() - since, 2))
        run.repetitions += 1
    await run.load.stop()
    await run.recovered(time.monotonic())
    run.row.recovery.pop()
    for place in run.places:
        await place.stop()

    right = await expected(settings)
    assert sum(status == "DELETED" for status, _, _ in right[0].values()) == deleted > 0
    async with asyncio.timeout(30):
        while projected(url) != right:  # noqa: ASYNC110 - it is on its way
            await asyncio.sleep(0.2)
    for process in serving:
        assert await asyncio.to_thread(process.stop) == 0
    assert projected(url) == right

    again = serve("--rebuild")
    await ready(again)
    assert await asyncio.to_thread(again.stop) == 0
    assert "Traceback" not in again.output()
    assert projected(url) == right
    run.row.messages, run.row.trips, run.row.clean = run.load.sent, len(right[0]), True
    run.row.note = f"{deleted} deleted; rebuilt: the same"
