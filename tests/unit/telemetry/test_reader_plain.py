"""The quick way for messages in which all is plain: the same rows as by the way for everything."""

import itertools
import json

import pytest

from streams.telemetry.reader import Reader

T0 = 1_772_352_000_000
CLEAN = {
    "ignition": ["ON", "OFF", "ACCESSORY", True, False],
    "immobilizer": ["LOCKED"],
    "position": [{"lat": 50, "lon": 7.5}, {"lat": -90.0, "lon": 180}],
    "mileage_in_kilometers": [0, 12345.6],
    "speed_in_kmh": [0.0, 400],
    "doors_status": ["OPEN", "CLOSED"],
}
ODD = [None, "", "on", -1, 1e999, [], {}, {"lat": 0, "lon": 0}, {"lat": 91, "lon": 7}, {"lat": True, "lon": 7}, 10**30]


def message(**fields):
    return json.dumps({"vehicle_id": "v", "timestamp": T0, **fields}).encode()


@pytest.mark.parametrize("count", [1, 2, len(CLEAN)])
def test_it_reads_what_is_clean_as_the_way_for_everything_does(count):
    plain, everything = Reader(max_clock_skew_ms=None), Reader(max_clock_skew_ms=None)
    for names in itertools.combinations(CLEAN, count):
        for values in itertools.product(*(CLEAN[name] for name in names)):
            fields = dict(zip(names, values, strict=True))
            # With a time of its own for each property, nothing of the quick way is used.
            timed = {name: {"timestamp": T0, "value": value} for name, value in fields.items()}
            (row,) = everything.read(message(**timed), None, T0).rows
            assert plain.read(message(**fields), None, T0).rows == [row]
    assert not any(plan.timed for plan in plain._plans.values())


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_what_is_odd_it_leaves_to_others(name, value):
    reading = Reader(max_clock_skew_ms=None).read(message(**{name: value}), None, T0)
    assert reading.rows == []
    assert reading.problems


def test_a_position_with_a_time_of_its_own_is_read_without_a_detour():
    reader = Reader(max_clock_skew_ms=None)
    position = {"timestamp": T0 - 500, "value": {"lat": 50.1, "lon": 7.3}}
    assert len(reader.read(message(ignition="ON", position=position), None, T0).rows) == 2
    assert [plan.timed for plan in reader._plans.values()] == [True]
