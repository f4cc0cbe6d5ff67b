"""The pages about input and events: their samples are real, their tables whole, their consumer right."""

import gzip
import itertools
import json
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

import schemas
from schemas.announcements import Flag, Metrics
from schemas.headers import AnnouncementHeaders, DeadLetterHeaders
from streams.processor import Processor
from streams.telemetry.properties import PROPERTIES
from streams.telemetry.reader import Reader, Reason
from streams.trips.rules import Rules

DOCS = Path(__file__).parents[3] / "docs"
INPUT = (DOCS / "input.md").read_text()
EVENTS = (DOCS / "events.md").read_text()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def rows(page, heading):
    """The first column of the table under a heading, its names one by one."""
    section = re.split(rf"^#+ {heading}$", page, flags=re.MULTILINE)[1]
    table = re.search(r"^\|.*?(?=\n\n)", section, re.DOTALL | re.MULTILINE).group()
    return [name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def announcements(messages):
    processor = Processor(Rules(), Reader(max_clock_skew_ms=None), offline=True)
    for number, value in enumerate(messages, start=1):
        processor.process([SimpleNamespace(offset=number, timestamp=0, key=None, value=value, headers=())])
    return [json.loads(announcement.payload) for announcement in processor.take().announcements]


@pytest.mark.parametrize("sample", blocks(INPUT, "json"))
def test_samples_of_input_are_clean(sample):
    reading = Reader(max_clock_skew_ms=None).read(sample.encode(), None, 0)
    assert (reading.vehicle_id, list(reading.problems)) == ("JQ7RP", [])
    assert reading.rows


def test_all_properties_are_in_the_table():
    assert [name for name in rows(INPUT, "Properties") if name in PROPERTIES] == [*PROPERTIES]


def test_all_reasons_are_in_the_table():
    assert rows(INPUT, "The reasons") == [str(reason) for reason in Reason]


def test_all_dead_letter_headers_are_in_the_table():
    named = [name.replace("…", "__connect.errors") for name in rows(INPUT, "What is wrong with a message")]
    assert sorted(named) == sorted(field.alias for field in DeadLetterHeaders.model_fields.values())


def test_the_message_in_the_table_is_the_readers():
    reading = Reader(max_clock_skew_ms=None).read(
        b'{"vehicle_id":"V1","timestamp":1772352000000,"speed_in_kmh":401}', None, 0
    )
    assert f"`{reading.problems[0].message}`" in INPUT


def test_the_sample_of_an_event_is_what_the_recording_gives():
    packed = resources.files("streams.local").joinpath("data/drives.jsonl.gz").read_bytes()
    (sample,) = blocks(EVENTS, "json")
    assert json.loads(sample) in announcements(gzip.decompress(packed).splitlines())
    assert isinstance(schemas.read_announcement(sample), schemas.TripDataReady)


def test_all_flags_metrics_and_headers_are_in_their_tables():
    assert rows(EVENTS, "Flags") == list(get_args(Flag))
    level = "state_of_charge_or_fuel_level_at_trip"
    named = [name.replace("…_end", f"{level}_end") for name in rows(EVENTS, "Metrics")]
    assert sorted(named) == sorted(Metrics.model_fields)
    headers = [field.alias or name for name, field in AnnouncementHeaders.model_fields.items()]
    section = EVENTS.split("Every record has CloudEvents")[1]
    assert sorted(rows("# x\n" + section, "x")) == sorted(headers)


def consumer():
    """The consumer of the page, as a module of its own; what it has printed last of each trip is in ``latest``."""
    (source,) = blocks(EVENTS, "python")
    module = {"__name__": "consumer"}
    exec(compile(source, "docs/events.md", "exec"), module)
    return module


def event(kind, revision):
    trip = {"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "vehicle_id": "JQ7RP", "revision": revision}
    return {"metadata": {"type": kind}, "data": {"trip": trip}}


@pytest.mark.parametrize(
    ("history", "last_word"),
    [
        ([("TripStarted", 1), ("TripEnded", 5), ("TripDataReady", 5)], ("TripDataReady", 5)),
        ([("TripStarted", 1), ("TripEnded", 5), ("TripDiscarded", 5)], ("TripDiscarded", 5)),
        ([("TripStarted", 1), ("TripEnded", 5), ("TripMetricsReady", 5), ("TripStarted", 7)], ("TripStarted", 7)),
        ([("TripStarted", 1), ("TripEnded", 1), ("TripDataReady", 1)], ("TripDataReady", 1)),
        ([("TripDataReady", 5), ("TripDeleted", 5), ("TripStarted", 9)], ("TripDeleted", 5)),
    ],
)
def test_the_consumer_finds_the_last_word_in_any_order_and_with_any_repetition(history, last_word):
    for order in itertools.permutations(history):
        module = consumer()
        for kind, revision in (*order, *order[:2]):
            module["take"](event(kind, revision))
        ((_, word),) = module["latest"].values()
        assert (word["metadata"]["type"], word["data"]["trip"]["revision"]) == last_word


def test_the_consumer_is_about_ten_lines():
    (source,) = blocks(EVENTS, "python")
    code = [line for line in source.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(code) <= 15
