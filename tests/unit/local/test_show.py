import io
import json

import pytest
from rich.console import Console

from streams.local.replay import Paced
from streams.local.show import JsonView, LiveView, PlainView, Story, choose_view, trip_table


def announcement(kind, revision=1, *, key="H5XAV", trip_id="T1", reason=None, **trip):
    data = {"occurred_at": "2026-03-01T08:00:00Z", **({"reason": reason} if reason else {})}
    data["trip"] = {
        "id": trip_id,
        "key": key,
        "revision": revision,
        "vehicle_id": "JQ7RP",
        "start": {"timestamp": "2026-03-01T08:00:00Z"},
        **trip,
    }
    return {"metadata": {"type": kind}, "data": data}


READY = {
    "end": {"timestamp": "2026-03-01T08:31:05Z"},
    "flags": ["DATA_GAP"],
    "metrics": {
        "duration_in_ms": 1_865_000,
        "distance_in_km": 23.4,
        "distance_source": "GPS",
        "max_speed_in_kmh": 92.0,
    },
}


def render(story, width=140):
    console = Console(file=io.StringIO(), width=width)
    console.print(trip_table(story, "Summary", width))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("first", "then", "last_word"),
    [
        (("TripStarted", 5), ("TripEnded", 5), "TripEnded"),
        (("TripEnded", 5), ("TripStarted", 5), "TripEnded"),
        (("TripDataReady", 5), ("TripStarted", 6), "TripStarted"),
        (("TripDataReady", 5), ("TripEnded", 4), "TripDataReady"),
        (("TripDeleted", 5), ("TripDataReady", 6), "TripDeleted"),
    ],
)
def test_the_consumers_rule_decides_what_is_shown(first, then, last_word):
    story = Story()
    for kind, revision in (first, then):
        story.announced(announcement(kind, revision))
    assert story.trips["T1"]["metadata"]["type"] == last_word
    assert story.counts.total() == 2


def test_a_finished_trip_shows_start_end_duration_distance_speed_and_flags():
    story = Story()
    story.announced(announcement("TripDataReady", **READY))
    text = render(story)
    for part in (
        "H5XAV",
        "JQ7RP",
        "2026-03-01 08:00:00",
        "08:31:05",
        "31:05 min",
        "23.400 km (GPS)",
        "92 km/h",
        "ready",
        "DATA_GAP",
    ):
        assert part in text


def test_a_discarded_trip_shows_why():
    story = Story()
    story.announced(announcement("TripDiscarded", reason="TOO_SHORT", metrics={"duration_in_ms": 53_000}))
    text = render(story)
    assert "discarded" in text
    assert "TOO_SHORT" in text
    assert "53 s" in text


def test_a_superseded_trip_has_no_more_than_its_start():
    story = Story()
    story.announced(announcement("TripDiscarded", reason="SUPERSEDED"))
    assert "SUPERSEDED" in render(story)


def test_a_trip_that_is_on_shows_how_long_it_has_been():
    story = Story(time_ms=1_772_352_090_000)
    story.announced(announcement("TripStarted"))
    text = render(story)
    assert "driving" in text
    assert "1:30 min" in text


@pytest.mark.parametrize("width", [80, 140])
def test_a_table_fits_its_terminal(width):
    story = Story()
    story.announced(announcement("TripDataReady", **READY))
    text = render(story, width)
    assert max(map(len, text.splitlines())) <= width
    assert "23.400 km" in text
    assert "08:31:05" in text


MESSAGE = Paced(
    b'{"vehicle_id": "JQ7RP", "timestamp": "2026-03-01T08:00:30Z", "speed_in_kmh": 42, "mileage_in_kilometers": 7.25}',
    b"JQ7RP",
    0.0,
    1_772_352_030_000,
)


def test_the_live_view_shows_vehicles_trips_and_progress():
    story = Story(total=2)
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    with LiveView(story, console) as view:
        view.step("Starting a worker")
        view.step("Replaying")
        story.sent_one(MESSAGE)
        view.sent()
        story.announced(announcement("TripStarted"))
        view.announced(b"", announcement("TripStarted"))
        console.print(view._picture())
        live = console.file.getvalue()
        view.finished(["That was it.", "  a command"])
        view.announced(b"", announcement("TripEnded"))
    for part in ("✓ Starting a worker", "1 of 2 messages", "● driving", "42 km/h", "7.2 km", "08:00:30", "Trips"):
        assert part in live
    after = console.file.getvalue().removeprefix(live)
    for part in ("✓ Replaying", "Summary", "That was it.", "2026-03-01 08:00:00  JQ7RP         trip H5XAV  ended"):
        assert part in after


def test_a_fact_comes_below_its_step_also_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    with LiveView(Story(), console) as view:
        view.step("Looking trips up")
        view.fact("GET /trips  6 trips")
        view.fact("GET /vehicles/JQ7RP/state  parked")
    text = console.file.getvalue()
    assert text.count("✓ Looking trips up") == 1
    assert text.index("✓ Looking trips up") < text.index("  GET /trips  6 trips") < text.index("  GET /vehicles")


def test_the_plain_view_says_a_line_each():
    story = Story()
    console = Console(file=io.StringIO(), width=140)
    with PlainView(story, console) as view:
        view.step("Starting a worker")
        story.announced(announcement("TripDataReady", **READY))
        view.announced(b"", announcement("TripDataReady", **READY))
        view.fact("GET /trips  6 trips")
        view.finished(["That was it."])
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "[  0.0 s] Starting a worker"
    assert " ".join(lines[1].split()) == (
        "2026-03-01 08:00:00 JQ7RP trip H5XAV ready 31:05 min 23.400 km (GPS) up to 92 km/h [DATA_GAP]"
    )
    assert lines[2] == "          GET /trips  6 trips"
    assert lines[-1] == "That was it."


def test_the_json_view_prints_announcements_on_stdout_and_nothing_else(capfdbinary):
    story = Story()
    payload = json.dumps(announcement("TripStarted")).encode()
    with JsonView(story) as view:
        view.step("Starting a worker")
        view.announced(payload, announcement("TripStarted"))
        view.fact("GET /trips  6 trips")
        view.finished(["That was it."])
    out, err = capfdbinary.readouterr()
    assert out == payload + b"\n"
    assert b"Starting a worker" in err
    assert b"GET /trips  6 trips" in err
    assert b"That was it." in err


def test_no_terminal_gets_plain_lines(monkeypatch):
    assert isinstance(choose_view(Story(), as_json=False), PlainView)
    assert isinstance(choose_view(Story(), as_json=True), JsonView)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(choose_view(Story(), as_json=False), LiveView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_view(Story(), as_json=False), PlainView)
