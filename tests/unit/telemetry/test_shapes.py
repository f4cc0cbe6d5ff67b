"""The reader that is made for a shape."""

import contextlib
import itertools
import json

import pytest

from streams.telemetry.properties import PROPERTIES
from streams.telemetry.reader import Reader
from streams.telemetry.shapes import compile_row_reader

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


@pytest.mark.parametrize("count", [1, 2, len(CLEAN)])
def test_it_reads_what_is_clean_as_the_way_for_everything_does(count):
    reader = Reader(max_clock_skew_ms=None)
    for names in itertools.combinations(CLEAN, count):
        quick = compile_row_reader(names)
        for values in itertools.product(*(CLEAN[name] for name in names)):
            message = dict(zip(names, values, strict=True))
            # With a time of its own for each property, nothing of this is used.
            timed = {name: {"timestamp": T0, "value": value} for name, value in message.items()}
            (row,) = reader.read(json.dumps({"vehicle_id": "v", "timestamp": T0, **timed}).encode(), None, T0).rows
            assert quick(message, T0) == row


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_what_is_odd_it_leaves_to_others(name, value):
    quick = compile_row_reader((name,))
    with contextlib.suppress(LookupError, TypeError):  # as good as None to who asks
        assert quick({name: value}, T0) is None


def test_nothing_of_a_message_goes_into_its_source():
    quick = compile_row_reader(("ignition", 'x"]; raise SystemExit #'))
    assert quick({"ignition": "ON"}, T0) == (T0, 1 << PROPERTIES["ignition"], (1,))


def test_a_shape_with_nothing_for_it_has_none():
    assert compile_row_reader(("vehicle_id",)) is None
    assert compile_row_reader(("telematics_unit", "ignition")) is None


def test_a_position_with_a_time_of_its_own_is_read_without_a_detour():
    reader = Reader(max_clock_skew_ms=None)
    position = {"timestamp": T0 - 500, "value": {"lat": 50.1, "lon": 7.3}}
    message = {"vehicle_id": "v", "timestamp": T0, "ignition": "ON", "position": position}
    assert len(reader.read(json.dumps(message).encode(), None, T0).rows) == 2
    assert [plan.timed for plan in reader._plans.values()] == [True]


def test_one_is_made_for_properties_not_for_names_that_nobody_knows():
    reader = Reader(max_clock_skew_ms=None)
    before = compile_row_reader.cache_info().misses
    for number in range(50):
        message = {"vehicle_id": "v", "timestamp": T0, "ignition": "ON", "fuel_level_in_percent": 1, f"x{number}": 1}
        reader.read(json.dumps(message).encode(), None, T0)
    assert compile_row_reader.cache_info().misses <= before + 1
