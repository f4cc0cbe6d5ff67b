"""The page about the trip status: its example is what is answered, its tables are whole."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from unit.status.direct import DirectEngine, client_of

import schemas
from streams.status.book import read_trip
from streams.trips.identity import identify

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "status.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.split("## A worked example")[1].split("\n## ")[0]
START, END = 1_772_345_100_000, 1_772_347_800_000  # 06:05 and 06:50


def load_transitions():
    spec = importlib.util.spec_from_file_location("transitions", DOCS / "transitions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drive(engine):
    """The vehicle's trip, as the worker announces it."""
    trip = {"id": identify("JQ7RP", START).id, "vehicle_id": "JQ7RP", "start": {"timestamp": "2026-03-01T06:05:00Z"}}
    started = {"metadata": {"type": "TripStarted"}, "data": {"trip": trip | {"revision": 48123}}}
    ended = trip | {"revision": 48125, "end": {"timestamp": "2026-03-01T06:50:00Z"}}
    for announcement, heard in ((started, START), ({"metadata": {"type": "TripEnded"}, "data": {"trip": ended}}, END)):
        engine.book.note(read_trip(announcement, heard))
        engine.take()


def test_the_worked_example_is_what_is_answered():
    engine = DirectEngine()
    ask = client_of(engine)
    steps = re.findall(r"```sh\n([^`]*)```\n```json\n([^`]*)```", re.sub(r"'\$PLAN'|\$PLAN", "1", EXAMPLE))
    assert len(steps) == 7
    for command, expected in steps:
        method, path, body = re.fullmatch(
            r"curl -H \"\$KEY\" (?:-X (POST) )?\$API(\S+)(?: -d '(.*)')?\n", command, re.DOTALL
        ).groups()
        if method is None:
            drive(engine)
        answer = ask(method or "GET", path, content=body)
        assert answer.json() == json.loads(expected), command
    (linked,) = [event for event in engine.events if event["metadata"]["type"] == "TripLinked"]
    (sample,) = re.findall(r"```json\n(.*?)```", PAGE.split("## The events")[1], re.DOTALL)
    assert json.loads(sample) == linked
    assert isinstance(schemas.read_status_event(sample), schemas.TripLinked)


def test_the_table_is_that_of_the_code():
    transitions = load_transitions()
    assert transitions.drawn(PAGE) == PAGE, "docs/status.md is out of date: `make docs`"
    with pytest.raises(ValueError, match=r"status\.md must hold"):
        transitions.drawn("# no markers\n")


def test_every_metric_is_explained():
    engine = DirectEngine()
    engine.metrics.show(lambda: None, lambda: 0)
    there = set(re.findall(r"^# HELP (\w+)", generate_latest(engine.metrics.registry).decode(), flags=re.MULTILINE))
    there = {name for name in there if not name.endswith("_created")}
    assert set(re.findall(r"^\| `(trips_status_\w+)` \|", PAGE, flags=re.MULTILINE)) == there


def test_every_event_is_in_the_table():
    named = re.findall(r"^\| \[`(\w+)`\]", PAGE, flags=re.MULTILINE)
    assert named == [
        "TripPlanned",
        "TripStatusUpdated",
        "TripLinked",
        "TripLinkCorrected",
        "TripUnlinked",
        "TripPlanExpired",
    ]
