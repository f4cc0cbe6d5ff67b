"""The models of telemetry and the reader say the same of a message: clean, or not."""

import json
from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from schemas.generate import json_schemas
from schemas.telemetry import Telemetry, TelemetryEnvelope
from streams.telemetry.properties import PROPERTIES
from streams.telemetry.reader import Reader

READER = Reader(max_clock_skew_ms=None)
EIGHT = 1_772_352_000_000


@cache
def validator(name):
    return Draft202012Validator(json_schemas()[f"{name}.schema.json"])


def verdicts(message):
    """Whether reader, model and JSON Schema find nothing wrong with a message."""
    text = json.dumps(message).encode()
    envelope = "metadata" in message and "data" in message
    reading = READER.read(text, b"V1", 0)
    try:
        (TelemetryEnvelope if envelope else Telemetry).model_validate_json(text)
        model = True
    except ValidationError:
        model = False
    schema = validator("telemetry-envelope" if envelope else "telemetry").is_valid(message)
    return not reading.problems, model, schema


numbers = st.sampled_from([0, 0.0, 1, 0.5, -0.5, 90, 90.5, 100, 101, 180, 181, 360, 361, 400, 401, 100_000, 10_000_001])
texts = st.sampled_from(
    ["ON", "OFF", "ACCESSORY", "LOCKED", "UNLOCKED", "OPEN", "CLOSED", "", "on", "x" * 256, "x" * 257]
)
others = st.none() | st.booleans() | st.just([]) | st.just({})
timestamps = st.sampled_from(
    [
        "2026-03-01T08:00:00Z",
        "2026-03-01T08:00:00.5+01:00",
        "2026-03-01t08:00:00z",
        "2026-03-01T08:00:00.123456789Z",
        EIGHT,
        946_684_800_000,
        946_684_799_999,
        "2026-03-01T08:00:00",
        "2026-03-01 08:00:00Z",
        "2026-03-01T08:00:60Z",
        "2026-03-01T24:00:00Z",
        "",
        None,
        True,
        [],
    ]
)


def fields(required, optional):
    return st.fixed_dictionaries(required, optional=optional)


positions = fields(
    {},
    {"lat": numbers | others, "lon": numbers, "altitude": numbers | others, "timestamp": timestamps, "hdop": numbers},
)
units = fields({}, {"id": texts, "brand": texts | others, "value": texts, "model": texts})
values = {
    "ignition": texts | st.booleans(),
    "immobilizer": texts,
    "driving_enabled": st.booleans(),
    "position": fields({"lat": numbers, "lon": numbers}, {"altitude": numbers}) | positions,
    "doors_status": texts,
    "windows_status": texts,
    "telematics_unit": fields({"id": texts, "brand": texts}, {}) | units,
}


def timed(value):
    return value | fields({"timestamp": timestamps, "value": value}, {"quality": others}) | fields({}, {"value": value})


properties = {name: timed(values.get(name, numbers)) | numbers | others for name in PROPERTIES}
messages = fields({}, {"timestamp": timestamps, "vehicle_id": texts | others, "other": others, **properties})
envelopes = fields(
    {"metadata": fields({}, {"flow_id": texts | others, "id": texts}), "data": messages}, {"other": others}
)
thoroughly = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@thoroughly
@given(messages | envelopes)
def test_reader_model_and_schema_agree(message):
    reader, model, schema = verdicts(message)
    assert (model, schema) == (reader, reader)


@thoroughly
@given(st.sampled_from(list(PROPERTIES)).flatmap(lambda name: properties[name].map(lambda value: {name: value})))
def test_reader_model_and_schema_agree_on_one_property(found):
    reader, model, schema = verdicts({"vehicle_id": "V1", "timestamp": EIGHT, **found})
    assert (model, schema) == (reader, reader)


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        ({}, True),
        ({"vehicle_id": "V1", "tyre_pressure": 2.4}, True),
        ({"timestamp": EIGHT, "ignition": "ON"}, True),
        ({"ignition": "ON"}, False),
        ({"ignition": {"timestamp": EIGHT, "value": "ON"}}, True),
        ({"ignition": {"timestamp": EIGHT, "value": "ON"}, "speed_in_kmh": 3}, False),
        ({"telematics_unit": {"id": "A", "brand": "B"}}, False),
        ({"telematics_unit": {"timestamp": EIGHT, "value": {"id": "A", "brand": "B"}}}, True),
        (
            {"telematics_unit": {"id": "A", "brand": "B"}, "ignition": {"timestamp": EIGHT, "value": "ON"}},
            True,
        ),
        ({"timestamp": EIGHT, "position": {"lat": 0, "lon": 0}}, False),
        ({"timestamp": EIGHT, "position": {"lat": 0, "lon": 0.1}}, True),
        ({"timestamp": EIGHT, "position": {"lat": 1, "lon": 2, "timestamp": EIGHT}}, False),
        ({"metadata": {}, "data": {"timestamp": EIGHT, "ignition": "ON"}}, True),
        ({"metadata": {"flow_id": ""}, "data": {"timestamp": EIGHT, "ignition": "ON"}}, False),
        ({"metadata": {"flow_id": None}, "data": {"timestamp": EIGHT, "ignition": "ON"}}, False),
        ({"metadata": {}, "data": {"ignition": "ON"}}, False),
    ],
)
def test_what_is_clean_is_so_for_all_three(message, clean):
    assert verdicts(message) == (clean, clean, clean)


@pytest.mark.parametrize(
    ("timestamp", "clean"),
    [
        ("2024-02-29T00:00:00Z", True),
        ("2000-01-01T00:00:00Z", True),
        ("2000-01-01T00:00:00+00:01", False),
        ("1999-12-31T23:59:59.999Z", False),
        ("2026-02-29T00:00:00Z", False),
        ("0000-01-01T00:00:00Z", False),
        ("0001-01-01T00:00:00+01:00", False),
        ("9999-12-31T23:59:59.999Z", True),
        ("9999-12-31T23:59:59-01:00", False),
        ("2026-03-01T08:00:00." + "9" * 50 + "Z", True),
        (253_402_300_799_999, True),
        (253_402_300_800_000, False),
    ],
)
def test_model_and_reader_agree_on_days_and_years(timestamp, clean):
    # A JSON Schema has no calendar: it takes any day that is written well.
    assert verdicts({"timestamp": timestamp, "ignition": "ON"})[:2] == (clean, clean)


@thoroughly
@given(st.datetimes(), st.integers(-1439, 1439))
def test_model_and_reader_agree_on_any_moment(moment, offset):
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    reader, model, schema = verdicts({"timestamp": moment.isoformat() + zone, "ignition": "ON"})
    assert model == reader
    assert schema


def test_a_moment_is_read_as_python_reads_it():
    moment = datetime(2026, 3, 1, 8, 0, 0, 500_000, tzinfo=UTC)
    (row,) = READER.read(json.dumps({"timestamp": moment.isoformat(), "ignition": "ON"}).encode(), b"V1", 0).rows
    assert row[0] == moment.timestamp() * 1000
