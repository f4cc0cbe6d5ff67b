"""All of it on one machine, as `trips demo --full` shows it: what it tells, and that nothing is left."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from streams.local.words import in_words
from streams.settings import Settings
from streams.topics import connect

pytestmark = pytest.mark.kafka

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LINKED, DELETED = "TJHF0", "NK3YT"  # the keys of two of the recorded drives


async def topics(servers):
    async with connect(Settings.given(bootstrap_servers=servers)) as admin:
        return set(await admin.list_topics()) - {"__consumer_offsets", "__transaction_state"}


def timeless(text):
    """A line without what is another time at each run."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?", "(time)", text)
    return re.sub(r" *\b[\d.]+ s\b", " (seconds)", " ".join(text.split()))


def lines_of(announcements):
    """As they are told without --json."""
    return [in_words(one) for one in announcements]


@pytest.mark.timeout(120)
async def test_all_of_it_comes_true_and_nothing_is_left(tmp_path, kafka):
    before = await topics(kafka)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")}
    demo = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "streams.cli", "demo", "--full", "--json", "--speed", "0", "--bootstrap-servers", kafka],
        cwd=tmp_path,
        env={**clean, "TMPDIR": str(tmp_path), "TRIPS_PARTITIONS": "3"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert demo.returncode == 0, demo.stderr

    # On stdout announcements, and nothing else.
    announcements = [json.loads(line) for line in demo.stdout.splitlines()]
    assert Counter(one["metadata"]["type"] for one in announcements) == {
        "TripStarted": 7,
        "TripEnded": 7,
        "TripDataReady": 6,
        "TripDiscarded": 1,
        "TripDeleted": 1,
    }
    ids = {one["data"]["trip"]["key"]: one["data"]["trip"]["id"] for one in announcements}
    (deleted,) = [one["data"]["trip"] for one in announcements if one["metadata"]["type"] == "TripDeleted"]
    assert deleted["id"] == ids[DELETED]

    told = [" ".join(line.split()) for line in demo.stderr.splitlines()]

    def line(beginning, number=0):
        found = [text.removeprefix(beginning).strip() for text in told if text.startswith(beginning)]
        assert len(found) > number, f"{beginning}: {demo.stderr}"
        return found[number]

    # A plan is accepted, and linked to the drive once it has been driven.
    assert line("POST /trip/plan") == "TOUR-4711 is tripId 1, Planned"
    assert line("POST /trip/tripStatus") == "status 1 (Accepted): success"
    assert line("GET /trip/plan/1") == "InProgress, no trip yet"
    drive = f"InProgress, linked to trip {LINKED}, 2019-05-28 00:39:39 to 00:56:12"
    assert line("GET /trip/plan/1", 1) == drive
    assert f"Plan TOUR-4711: {drive}." in told

    # Trips are looked up.
    assert line("GET /trips?status=FINISHED") == "6 trips: 2 of omaha-1, 2 of omaha-2, 2 of omaha-3"
    events = "TripStarted, TripEnded, TripDataReady"
    assert line("GET /trips/{trip_id}") == f"trip {LINKED}: 12.734 km, InProgress as TOUR-4711; {events}"
    route = re.fullmatch(r"a line of (\d+) positions \(ROUTE\)", line("GET /trips/{trip_id}/route"))
    assert 60 <= int(route[1]) <= 256  # of 12.7 km, 100 m apart
    assert line("GET /vehicles/omaha-3/state") == "on a trip: no, parked since 2019-06-19 23:31:48"

    # One is deleted; its pushes come, of one of them the first attempt is refused; and it is gone.
    assert line("Standard Webhooks", 0) == "6 TripDataReady: each is signed as it must be, and taken"
    assert line("DELETE /trips/{trip_id}").startswith("DELETED, requested at 2")
    assert line("Standard Webhooks, 1st attempt") == "TripDeleted: HTTP 503"
    again = re.fullmatch(r"TripDeleted: HTTP 204, (\S+) s later, with the same webhook-id", line("2nd attempt"))
    assert float(again[1]) >= 0.4  # a tenth of 5 s, give or take a tenth
    drivequant = line("DriveQuant").removesuffix(": HTTP 204")
    assert json.loads(drivequant)["itinId"] == ids[DELETED]
    assert json.loads(drivequant)["event"] == "TRIP_DELETION"
    assert line("trips push report") == "8 delivered, 0 waiting"
    assert line("GET /trips/{trip_id}", 2) == "HTTP 410: This trip was deleted."
    assert line("GET /trips?status=FINISHED", 1) == "5 trips"

    # The README shows it as it is.
    (shown,) = [
        block for block in re.findall(r"^```\w*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE) if "410" in block
    ]
    there = {timeless(text) for text in demo.stderr.splitlines() + lines_of(announcements)}
    assert [text for text in shown.splitlines() if text.strip() != "…" and timeless(text) not in there] == []

    # No process, no folder, no topic; and no secret was told.
    assert "whsec_" not in demo.stdout + demo.stderr
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while await topics(kafka) - before:
        assert time.monotonic() < deadline
