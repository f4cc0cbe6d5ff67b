"""`trips serve` on a real Kafka: drives go in at one end, HTTP comes out at the other."""

import asyncio
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cluster import feed

from streams.topics import create_topics

pytestmark = pytest.mark.kafka

DRIVES = Path(__file__).parents[2] / "streams" / "local" / "data" / "drives.jsonl.gz"


def drives():
    with gzip.open(DRIVES) as lines:
        return [(json.loads(line)["vehicle_id"].encode(), line) for line in lines]


def until(condition, within=30.0):
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


def run_trips(*arguments, **extra):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRIPS_")} | extra
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.timeout(180)
def test_recorded_drives_are_looked_up_exported_and_deleted(
    make_settings, start_worker, start_serve, postgres, tmp_path
):
    settings = make_settings()
    asyncio.run(create_topics(settings))
    start_worker(settings)
    asyncio.run(feed(settings, drives()))
    sqlite = start_serve(settings)
    postgresql = start_serve(settings, TRIPS_SERVE_DATABASE=postgres())
    with httpx.Client(base_url=sqlite.url) as client, httpx.Client(base_url=postgresql.url) as other:

        def same(path, **params):
            """The answer, which both databases must give."""
            answers = [one.get(path, params=params) for one in (client, other)]
            assert answers[0].content == answers[1].content
            assert answers[0].status_code == answers[1].status_code == 200
            return answers[0]

        for one in (client, other):
            until(lambda one=one: len(one.get("/trips").json()["items"]) == 6)
        assert len(same("/trips", status="DISCARDED").json()["items"]) == 1
        items = same("/trips").json()["items"]
        assert [item["key"] for item in items] == ["NK3YT", "KT1C3", "TJHF0", "NSEP6", "TH7GA", "GYKQJ"]
        assert [item["key"] for item in same("/trips", flagged=True).json()["items"]] == ["TJHF0", "NSEP6", "GYKQJ"]
        page = same("/trips", limit=4).json()
        rest = same("/trips", limit=4, cursor=page["next_cursor"]).json()
        assert page["items"] + rest["items"] == items
        assert "next_cursor" not in rest

        trip = next(item for item in items if item["key"] == "TH7GA")
        detail = same(f"/trips/{trip['id']}").json()
        assert detail["trip"] == trip
        assert [one["metadata"]["type"] for one in detail["history"]] == ["TripStarted", "TripEnded", "TripDataReady"]
        assert detail["history"][-1]["data"]["trip"] == trip
        route = same(f"/trips/{trip['id']}/route")
        assert route.headers["content-type"] == "application/geo+json"
        assert route.json()["geometry"]["coordinates"] == [[-96.025787, 41.245296], [-96.029922, 41.248524]]
        state = same("/vehicles/omaha-1/state").json()
        assert (state["on_trip"], state["last_end"]["trip_id"]) == (False, trip["id"])
        assert state["last_announcement"]["type"] == "TripDiscarded"
        rows = list(csv.DictReader(io.StringIO(same("/trips/export.csv", order="asc").text)))
        assert [row["id"] for row in rows] == [item["id"] for item in reversed(items)]
        assert rows[1]["distance_in_km"] == "1.215"

        deleted = client.delete(f"/trips/{trip['id']}")
        assert (deleted.status_code, deleted.json()["state"]) == (200, "DELETED")
        assert client.get(f"/trips/{trip['id']}").status_code == 410  # at once, where it was asked for
        for one in (client, other):
            gone = until(lambda one=one: (answer := one.get(f"/trips/{trip['id']}")).status_code == 410 and answer)
            assert gone.json()["type"] == "urn:ignition-trips:problem:trip-deleted"
            assert len(one.get("/vehicles/omaha-1/trips").json()["items"]) == 1
        again = client.delete(f"/trips/{trip['id']}")
        assert (again.status_code, again.json()) == (200, deleted.json())

    for process in (sqlite, postgresql):
        assert process.stop() == 0
        assert "Traceback" not in process.output()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("trips.sqlite3*"))
    assert trip["id"].encode() in content  # that it was deleted
    assert b"41.245296" not in content  # where it began: not in the file's free pages either
