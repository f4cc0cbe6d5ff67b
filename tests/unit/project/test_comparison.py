"""The comparison's judge: nothing wrong with what a runner should say, and every kind of wrong is noticed."""

import copy
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from streams.processor import Processor
from streams.settings import Settings
from streams.telemetry.reader import Reader

ROOT = Path(__file__).parents[3]
SINCE = 1_767_225_600_000


@pytest.fixture(scope="module", autouse=True)
def benchmarks_can_be_imported():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def telemetry(benchmarks_can_be_imported):
    from fleet import telemetry

    return list(telemetry(3_000, 20, SINCE))


@pytest.fixture(scope="module")
def reference(telemetry):
    from peers.judge import Reference

    reference = Reference()
    for message in telemetry:
        reference.add(message.value)
    return reference


@pytest.fixture(scope="module")
def announcements(telemetry):
    """What a worker says of it."""
    from core import KafkaRecord

    settings = Settings.given(silence_timeout="PT12H")
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=settings.max_clock_skew_ms))
    processor.process([KafkaRecord(0, offset, SINCE + 86_400_000, *one[1:]) for offset, one in enumerate(telemetry)])
    return [orjson.loads(announcement.payload) for announcement in processor.take().announcements]


def wrong_with(found, reference, *, ours):
    from peers.judge import wrong_with

    return wrong_with([orjson.dumps(one) for one in found], reference, ours=ours)


def test_what_a_worker_and_a_peer_say_is_right(reference, announcements):
    assert len(reference.events) > 100
    assert wrong_with(announcements, reference, ours=True) == ""
    assert wrong_with(reference.events, reference, ours=False) == ""


def one_of(events, kind):
    return next(number for number, one in enumerate(events) if (one.get("metadata") or one)["type"] == kind)


@pytest.mark.parametrize("kind", ["TripStarted", "TripEnded", "TripDataReady", "TripDiscarded"])
def test_what_is_lost_is_noticed(reference, announcements, kind):
    for found, ours in ((announcements, True), (reference.events, False)):
        there = list(found)
        del there[one_of(there, kind)]
        assert wrong_with(there, reference, ours=ours) == "1 missing"


def test_what_is_said_twice_is_noticed(reference, announcements):
    assert wrong_with([*announcements, announcements[0]], reference, ours=True) == "1 repeated"
    assert wrong_with([*reference.events, reference.events[0]], reference, ours=False) == "1 extra"


@pytest.mark.parametrize("metric", ["distance_in_km", "gps_distance_in_km"])
def test_a_wrong_length_is_noticed(reference, announcements, metric):
    found = copy.deepcopy(announcements)
    found[one_of(found, "TripDataReady")]["data"]["trip"]["metrics"][metric] += 0.002
    assert wrong_with(found, reference, ours=True) == "1 far"


def test_an_end_at_another_instant_is_noticed(reference, announcements):
    found = copy.deepcopy(announcements)
    found[one_of(found, "TripEnded")]["data"]["trip"]["end"]["timestamp"] = "2026-01-01T00:00:00Z"
    assert wrong_with(found, reference, ours=True) == "1 missing, 1 extra"
    events = copy.deepcopy(reference.events)
    events[one_of(events, "TripEnded")]["end"] += 1
    assert wrong_with(events, reference, ours=False) == "1 missing, 1 extra"


def test_a_deletion_that_nobody_asked_for_is_noticed(reference, announcements):
    deleted = copy.deepcopy(announcements[0])
    deleted["metadata"]["type"] = "TripDeleted"
    assert wrong_with([*announcements, deleted], reference, ours=True) == "1 extra"


def test_a_runner_that_does_not_exist_is_refused():
    command = [sys.executable, "benchmarks/compare.py", "--runners", "trips,flink"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no such runner: flink; there are trips, " in result.stderr
