"""What holds for any bytes: no exception, a reason for everything, and both ways of reading say the same."""

import gzip
import json
import random
from importlib import resources

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streams.telemetry.explain import explain
from streams.telemetry.properties import PROPERTIES
from streams.telemetry.reader import Reader, Reason
from streams.telemetry.timestamps import Instants
from streams.trips.samples import FLOW_ID_BIT, Property, make_row, row_items

# 2026-03-01T08:00:00Z
EIGHT = 1_772_352_000_000
HOUR = 3_600_000

# One reader for all examples: what it remembers of one message must not change how it reads the next.
READER = Reader(max_clock_skew_ms=HOUR)


def check(value, key, timestamp=EIGHT):
    """Reads in both ways, and states what holds for every reading."""
    reading = READER.read(value, key, timestamp)
    slow = explain(value, key, timestamp + HOUR, Instants())
    assert reading.vehicle_id == slow.vehicle_id
    assert list(reading.rows) == slow.rows
    assert reading.flow_id == slow.flow_id
    assert list(reading.problems) == slow.problems

    if reading.vehicle_id is None:
        assert reading.problems
        assert not reading.rows
    else:
        assert 1 <= len(reading.vehicle_id) <= 256
        reading.vehicle_id.encode()
    for problem in reading.problems:
        assert problem.reason in Reason
        assert 0 < len(problem.message) < 1_000
        assert problem.message.isprintable()
        problem.message.encode()
    instants = [row[0] for row in reading.rows]
    assert instants == sorted(set(instants))
    for row in reading.rows:
        instant, mask, values = row
        assert 946_684_800_000 <= instant <= timestamp + HOUR
        assert mask
        assert make_row(instant, row_items(row)) == row
        assert mask >> Property.ALTITUDE & 1 <= mask >> Property.POSITION & 1
        for part in values:
            assert type(part) in {int, str, tuple}
        if mask >> FLOW_ID_BIT & 1:
            assert values[-1] == reading.flow_id
    return reading


# No deadline: how quick a machine is says nothing about what it reads.
thoroughly = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

numbers = (
    st.integers()
    | st.floats()
    | st.integers(-1, 401)
    | st.floats(-1, 101)
    | st.sampled_from([0, -0.0, 90, 180, 360, 400, 100, 100_000, 10_000_000, 1e300, 2**64])
)
words = st.sampled_from(["ON", "OFF", "ACCESSORY", "LOCKED", "UNLOCKED", "OPEN", "CLOSED", "", "on"])
texts = words | st.text(max_size=20) | st.sampled_from(["x" * 256, "x" * 257, "\ud800", "\x00", "é" * 256])
timestamps = (
    st.integers(EIGHT - HOUR, EIGHT + 2 * HOUR)
    | st.sampled_from([EIGHT, EIGHT + HOUR, EIGHT + HOUR + 1, 0, -1, 1_772_352_000, True, None, 1.5, 2**64])
    | st.datetimes().map(lambda time: time.isoformat() + "Z")
    | st.sampled_from(
        [
            "2026-03-01T08:00:00Z",
            "2026-03-01T08:00:00.500Z",
            "2026-03-01T09:00:00.123456+01:00",
            "2026-03-01T08:00:00",
            "2026-03-01T08:00:60Z",
            "9999-12-31T23:59:59Z",
            "1999-12-31T23:59:59Z",
            "",
        ]
    )
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def fields(required, optional):
    return st.fixed_dictionaries(required, optional=optional)


degrees = st.floats(-90, 90) | numbers
positions = fields({}, {"lat": degrees, "lon": degrees, "altitude": numbers | junk, "timestamp": junk, "hdop": junk})
units = fields({}, {"id": texts | junk, "brand": texts, "value": junk, "firmware": junk})
good = {
    "ignition": st.sampled_from(["ON", "OFF", "ACCESSORY", True, False]),
    "immobilizer": st.sampled_from(["LOCKED", "UNLOCKED"]),
    "driving_enabled": st.booleans(),
    "position": fields(
        {"lat": st.floats(-90, 90), "lon": st.floats(-180, 180)},
        {"altitude": st.floats(-100_000, 100_000), "hdop": numbers},
    ),
    "mileage_in_kilometers": st.floats(0, 10_000_000),
    "speed_in_kmh": st.floats(0, 400),
    "heading_in_degrees": st.integers(0, 360),
    "state_of_charge_or_fuel_level_in_percent": st.floats(0, 100),
    "state_of_charge_in_percent": st.integers(0, 100),
    "fuel_level_in_percent": st.floats(0, 100),
    "doors_status": st.sampled_from(["OPEN", "CLOSED"]),
    "windows_status": st.sampled_from(["OPEN", "CLOSED"]),
    "telematics_unit": fields(
        {"id": st.text(min_size=1, max_size=5), "brand": st.just("B")}, {"firmware": st.integers()}
    ),
}
any_value = numbers | texts | st.booleans() | junk | positions | units


def stamped(value, times):
    return value | fields({"timestamp": times, "value": value}, {"quality": junk})


def messages(values, times, vehicle_ids):
    """Messages of properties in any order, in and without an envelope."""
    properties = {name: stamped(values(name), times) for name in PROPERTIES}
    message = fields({}, {"vehicle_id": vehicle_ids, "timestamp": times, "other": junk, **properties}).flatmap(
        lambda built: st.permutations(list(built.items())).map(dict)
    )
    metadata = fields({}, {"flow_id": texts | junk, "id": texts, "trace": junk})
    return message | fields({"metadata": metadata, "data": message}, {"other": junk})


good_times = st.integers(EIGHT - HOUR, EIGHT + HOUR) | st.sampled_from(["2026-03-01T08:00:00Z"])
nearly_good = messages(good.__getitem__, good_times, st.text(min_size=1, max_size=8))
mostly_bad = messages(lambda name: good[name] | any_value, timestamps, texts | junk)
keys = st.none() | st.binary(max_size=8) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))


@thoroughly
@given(nearly_good, keys)
def test_messages_that_are_nearly_clean_read_the_same_in_both_ways(message, key):
    check(json.dumps(message).encode(), key)


@thoroughly
@given(mostly_bad, keys, st.integers(0, 2 * EIGHT))
def test_messages_with_anything_in_them_read_the_same_in_both_ways(message, key, timestamp):
    check(json.dumps(message).encode(), key, EIGHT if timestamp % 2 else timestamp)


@thoroughly
@given(st.binary(max_size=200), keys)
@example(b"\x00", None)
@example(b'{"vehicle_id":"V1","timestamp":1772352000000,"\xf0\x9f\x9a":1}', None)
def test_any_bytes_give_a_reading(value, key):
    check(value, key)


@thoroughly
@given(junk, keys)
def test_any_json_gives_a_reading(value, key):
    check(json.dumps(value).encode(), key)


@thoroughly
@given(mostly_bad, st.data())
def test_a_message_cut_or_damaged_gives_a_reading(message, data):
    value = bytearray(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(0, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(value[: data.draw(st.integers(0, len(value)))]), b"V1")


@thoroughly
@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', ":", ",", '"a":', "1", "NaN", "\\", " "]), max_size=80))
def test_any_row_of_json_marks_gives_a_reading(parts):
    check("".join(parts).encode(), b"V1")


# A message of each kind that devices send; the recording has the plain one.
CLEAN = {
    "plain": b'{"vehicle_id":"V1","timestamp":"2026-03-01T08:00:00Z","ignition":"ON","position":{"lat":50.1,"lon":7.3},'
    b'"speed_in_kmh":0.5,"heading_in_degrees":173.2,"mileage_in_kilometers":48211.0,'
    b'"telematics_unit":{"id":"A","brand":"B"}}',
    "in another order": b'{"windows_status":"OPEN","ignition":false,"timestamp":1772352000000,"vehicle_id":"V1"}',
    "by key": b'{"timestamp":1772352000000,"ignition":false}',
    "own times": b'{"vehicle_id":"V1","ignition":{"timestamp":"2026-03-01T08:00:00Z","value":"ON"},'
    b'"position":{"timestamp":"2026-03-01T07:59:58.500Z","value":{"lat":50,"lon":7,"altitude":3}},'
    b'"telematics_unit":{"id":"A","brand":"B"}}',
    "envelope": b'{"metadata":{"id":"01F1","flow_id":"f"},"data":{"vehicle_id":"V1","timestamp":1772352000000,'
    b'"driving_enabled":true,"position":{"lat":50.1,"lon":7.3,"altitude":61.4}}}',
    "more than we know": b'{"vehicle_id":"V1","timestamp":1772352000000,"position":{"lat":50,"lon":7,"hdop":0.8},'
    b'"address":{"city":"Cologne"},"errors":[1,2]}',
}


@pytest.mark.parametrize("kind", CLEAN)
def test_clean_messages_never_need_to_be_explained(kind, monkeypatch):
    def fail(*_):
        raise AssertionError("a clean message took the slow way")

    check(CLEAN[kind], b"V1")
    monkeypatch.setattr("streams.telemetry.reader.explain", fail)
    reading = Reader(max_clock_skew_ms=HOUR).read(CLEAN[kind], b"V1", EIGHT)
    assert reading.vehicle_id == "V1"
    assert reading.rows
    assert not reading.problems


def test_the_recording_reads_the_same_in_both_ways():
    packed = resources.files("streams.local").joinpath("data/drives.jsonl.gz").read_bytes()
    lines = gzip.decompress(packed).splitlines()
    for line in lines:
        assert check(line, None).vehicle_id
    assert len(lines) == 4_244


def test_a_thousand_damaged_messages_and_every_one_a_reason_or_a_reading():
    rng = random.Random(20260301)
    whole = 0
    for number in range(1_000):
        value = bytearray(rng.choice(list(CLEAN.values())))
        match number % 5:
            case 0:
                del value[rng.randrange(len(value)) :]
            case 1:
                for _ in range(4):
                    value[rng.randrange(len(value))] = rng.randrange(256)
            case 2:
                value = bytearray(rng.randbytes(rng.randrange(300)))
            case 3:
                value = value.replace(b":", b":" + b"[" * rng.randrange(40), 1)
            case 4:
                start = rng.randrange(len(value))
                value[start : start + rng.randrange(20)] = b""
        reading = check(bytes(value), b"V1")
        whole += reading.vehicle_id is None
    assert 500 < whole < 1_000


def test_made_up_shapes_do_not_fill_the_memory():
    reader = Reader(max_clock_skew_ms=None)
    for number in range(3_000):
        reader.read(b'{"vehicle_id":"V1","timestamp":1772352000000,"p%d":1}' % number, None, EIGHT)
    reader.read(json.dumps({"vehicle_id": "V1", **{f"p{n}": n for n in range(1_000)}}).encode(), None, EIGHT)
    assert len(reader._plans) <= 1_024
    assert all(len(shape) <= 64 for shape in reader._plans)
