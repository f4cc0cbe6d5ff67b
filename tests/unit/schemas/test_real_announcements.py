"""What the stream really announces is what the contract says, and what INVERS would say of an equal trip."""

import gzip
import json
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator

import schemas
from schemas.generate import json_schemas
from streams.processor import Processor
from streams.telemetry.reader import Reader
from streams.trips.rules import Rules

# See test_schemas.py for where it is from.
INVERS = json.loads((Path(__file__).parents[2] / "data" / "invers_trip_data_ready.json").read_bytes())
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in json_schemas().items()}
FILES = {
    "TripStarted": "trip-started.schema.json",
    "TripEnded": "trip-ended.schema.json",
    "TripDataReady": "trip-data-ready.schema.json",
    "TripMetricsReady": "trip-metrics-ready.schema.json",
    "TripDiscarded": "trip-discarded.schema.json",
}


def announced(messages, *, batch=1, close=False, **rules):
    """What is announced of these messages, offline, as payloads."""
    processor = Processor(Rules(**rules), Reader(max_clock_skew_ms=None), offline=True)
    records = [
        SimpleNamespace(offset=number, timestamp=0, key=None, value=value, headers=())
        for number, value in enumerate(messages, start=1)
    ]
    for first in range(0, len(records), batch):
        processor.process(records[first : first + batch])
    if close:
        processor.close()
    return [announcement.payload for announcement in processor.take().announcements]


def message(time, **fields):
    return json.dumps({"vehicle_id": "JQ7RP", "timestamp": f"2026-03-01T{time}Z", **fields}).encode()


def check(payload):
    """Model and schema both take it, and know each of its fields."""
    content = json.loads(payload)
    VALIDATORS[FILES[content["metadata"]["type"]]].validate(content)
    read = schemas.read_announcement(payload)
    assert json.loads(read.model_dump_json(exclude_unset=True)) == content
    trip = content["data"]["trip"]
    assert "revision" in trip
    assert "flow_id" in content["metadata"]
    if content["data"].get("reason") != "SUPERSEDED":
        assert "flags" in trip
    return content


def kinds(contents):
    return [(one["metadata"]["type"], one["data"].get("reason")) for one in contents]


def test_every_announcement_of_the_recording_is_as_the_contract_says():
    packed = resources.files("streams.local").joinpath("data/drives.jsonl.gz").read_bytes()
    contents = [check(payload) for payload in announced(gzip.decompress(packed).splitlines(), batch=1_000)]
    assert sorted(kinds(contents)) == (
        [("TripDataReady", None)] * 6
        + [("TripDiscarded", "TOO_SHORT")]
        + [("TripEnded", None)] * 7
        + [("TripStarted", None)] * 7
    )


def test_a_trip_that_was_too_short_and_then_never_was():
    contents = [
        check(payload)
        for payload in announced(
            [
                message("08:00:00", ignition="OFF", position={"lat": 50, "lon": 7, "altitude": 61.4}),
                message("08:10:00", ignition="ON"),
                message("08:10:59.999", ignition="OFF"),
                message("08:10:00", ignition="OFF"),
            ]
        )
    ]
    assert kinds(contents) == [
        ("TripStarted", None),
        ("TripEnded", None),
        ("TripDiscarded", "TOO_SHORT"),
        ("TripDiscarded", "SUPERSEDED"),
    ]
    assert contents[2]["data"]["trip"]["metrics"]["duration_in_ms"] == 59_999
    assert contents[3]["data"]["superseded_by"] == []


def test_a_trip_that_was_thought_to_start_later():
    contents = [
        check(payload)
        for payload in announced(
            [
                message("08:00:00", ignition="OFF"),
                message("08:10:00", ignition="ON"),
                message("08:30:00", ignition="OFF"),
                message("08:05:00", ignition="ON"),
            ]
        )
    ]
    superseded = next(one for one in contents if one["data"].get("reason") == "SUPERSEDED")
    ready = [one for one in contents if one["metadata"]["type"] == "TripDataReady"]
    assert superseded["data"]["trip"]["id"] == ready[0]["data"]["trip"]["id"]
    assert superseded["data"]["superseded_by"] == [ready[1]["data"]["trip"]["id"]]


def test_a_trip_with_flags_and_hardly_anything_known():
    contents = [check(payload) for payload in announced([message("08:00:00", ignition="ON")], close=True)]
    assert kinds(contents) == [("TripStarted", None)]
    assert contents[0]["data"]["trip"]["flags"] == ["START_UNOBSERVED"]

    driving = [message("08:00:00", ignition="ON"), message("08:05:00", speed_in_kmh=7.5)]
    contents = [check(payload) for payload in announced(driving, close=True)]
    assert kinds(contents)[-1] == ("TripDataReady", None)
    assert contents[-1]["data"]["trip"]["flags"] == ["START_UNOBSERVED", "END_INFERRED"]


@pytest.mark.parametrize(
    ("rules", "kind"),
    [
        ({"ready_event_name": "TripMetricsReady"}, ("TripMetricsReady", None)),
        ({"min_distance_m": 1_000}, ("TripDiscarded", "TOO_SHORT_DISTANCE")),
    ],
)
def test_what_settings_change_is_in_the_contract_too(rules, kind):
    contents = [
        check(payload)
        for payload in announced(
            [
                message("08:00:00", ignition="OFF"),
                message("08:10:00", ignition="ON", mileage_in_kilometers=100),
                message("08:30:00", ignition="OFF", mileage_in_kilometers=100.5),
            ],
            **rules,
        )
    ]
    assert kinds(contents)[-1] == kind


def shape(value, path=""):
    """Each field of a JSON value by its path, with the kind of its value."""
    if isinstance(value, dict):
        fields = {}
        for name, inner in value.items():
            fields |= shape(inner, f"{path}.{name}")
        return fields
    if isinstance(value, bool | str | list):
        return {path: type(value).__name__}
    return {path: "number"}


def test_of_an_equal_trip_we_say_what_invers_says():
    fix = {"lat": 50.123, "lon": 7.321}
    unit = {"id": "2A2440843B02F704", "brand": "CLOUDBOXX"}
    state = {"position": fix, "doors_status": "CLOSED", "windows_status": "CLOSED", "telematics_unit": unit}
    level = "state_of_charge_or_fuel_level_in_percent"
    messages = [
        message("06:00:00", ignition="OFF"),
        message("06:10:00", ignition="ON"),
        message("07:00:00", ignition="OFF"),
        message("08:00:00", mileage_in_kilometers=100, **{level: 35}, **state),
        message("09:07:34.321", ignition="ON"),
        message("09:08:39.753", ignition="OFF", mileage_in_kilometers=101.1, **{level: 42}, **state),
    ]
    ours = check(announced(messages)[-1])

    theirs = shape(INVERS)
    expected = {path: kind for path, kind in theirs.items() if ".address" not in path} | {
        # fields of our own, which INVERS does not have
        ".data.trip.revision": "number",
        ".data.trip.flags": "list",
        ".data.trip.metrics.distance_source": "str",
        ".data.trip.metrics.average_speed_in_kmh": "number",
        ".data.trip.metrics.position_count": "number",
        ".data.trip.metrics.longest_gap_in_ms": "number",
    }
    assert shape(ours) == expected

    # Where the trips are equal, so is what is said of them: all but ids, times and distance.
    for part in ("telematics_unit", "vehicle_id", "is_flagged", "data_completion_status"):
        assert ours["data"]["trip"][part] == INVERS["data"]["trip"][part]
    metrics = INVERS["data"]["trip"]["metrics"] | {"duration_in_ms": 65_432, "time_since_last_trip_in_ms": 7_654_321}
    metrics["distance_in_km"] = 1.1
    assert {name: ours["data"]["trip"]["metrics"][name] for name in metrics} == metrics
    assert ours["data"]["trip"]["start"]["position"]["value"] == fix
    assert ours["data"]["trip"]["end"]["position"]["value"] == fix
