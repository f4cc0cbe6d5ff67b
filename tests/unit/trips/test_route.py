"""Simplified routes: bounded, near the positions, and the same in any order."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic_core import to_json

from schemas.announcements import TripDataReady
from streams.testing import TripsTestDriver
from streams.trips.geo import leg_mm
from streams.trips.route import MOST_POINTS, decode, encode, extend

START = 1_772_352_000_000
degrees = st.tuples(st.integers(-900_000_000, 900_000_000), st.integers(-1_800_000_000, 1_800_000_000))


def test_the_published_example_of_the_format():
    # Google, "Encoded Polyline Algorithm Format"
    points = ((385_000_000, -1_202_000_000), (407_000_000, -1_209_500_000), (432_520_000, -1_264_530_000))
    assert encode(points) == "_p~iF~ps|U_ulLnnqC_mqNvxq`@"
    assert decode("_p~iF~ps|U_ulLnnqC_mqNvxq`@") == [(38.5, -120.2), (40.7, -120.95), (43.252, -126.453)]


@given(st.lists(degrees, max_size=50))
def test_what_is_encoded_is_decoded_to_five_decimals(points):
    there = decode(encode(tuple(points)))
    assert len(there) == len(points)
    for (latitude, longitude), (lat, lon) in zip(points, there, strict=True):
        assert math.isclose(lat, latitude / 1e7, abs_tol=0.51e-5)
        assert math.isclose(lon, longitude / 1e7, abs_tol=0.51e-5)


@pytest.mark.parametrize("polyline", ["_", "_p~iF", "_p~iF~", "\x00\x00", "ÿÿ"])
def test_what_is_no_polyline_is_told_so(polyline):
    with pytest.raises(ValueError, match="polyline"):
        decode(polyline)


@pytest.mark.parametrize("count", [2, MOST_POINTS, MOST_POINTS + 1, 4_000])
def test_a_route_has_few_points_and_none_is_far_from_them(count):
    chance = random.Random(count)
    places, latitude, longitude = [], 500_000_000, 70_000_000
    for _ in range(count):
        latitude, longitude = latitude + chance.randrange(-100, 3_000), longitude + chance.randrange(-2_000, 2_500)
        places.append((latitude, longitude))
    route, step = (), 10
    for place in places:
        route, step = extend(route, step, place)
    assert len(route) <= MOST_POINTS
    assert set(route) <= set(places)
    assert (step == 10) == (count <= MOST_POINTS)
    for place in places:
        assert min(leg_mm(*place, *point) for point in route) < 2 * step


def test_a_point_is_a_step_away_from_the_last_to_the_millimetre():
    here, there = (500_000_000, 70_000_000), (500_000_900, 70_000_000)
    apart = leg_mm(*here, *there)
    assert extend((here,), apart, there)[0] == (here, there)
    assert extend((here,), apart + 1, there)[0] == (here,)


# -- in trips --------------------------------------------------------------------------------------------------------


def drive(count=400, every=5_000):
    """A trip of so many positions, round a block after block."""
    messages = []
    for number in range(count):
        angle = number / 15
        place = {"lat": round(50 + math.sin(angle) / 200 + number / 1e5, 7), "lon": round(7 + math.cos(angle) / 200, 7)}
        messages.append({"vehicle_id": "v", "timestamp": START + number * every, "position": place})
    messages[0]["ignition"] = "ON"
    messages[-1]["ignition"] = "OFF"
    return messages


def told(driver):
    ready = [one for one in driver.announcements() if one["metadata"]["type"] == "TripDataReady"]
    for one in ready:
        TypeAdapter(TripDataReady).validate_json(to_json(one))
    return {key: value for key, value in ready[-1]["data"]["trip"].items() if key != "revision"}


def in_order(messages, **settings):
    driver = TripsTestDriver(**{"route_tolerance": 50, **settings})
    for message in messages:
        driver.pipe(message)
    return told(driver)


def test_without_the_setting_there_is_none():
    assert "route" not in in_order(drive(), route_tolerance=0)


def test_a_trip_has_its_route_from_the_first_position_to_the_last():
    messages = drive()
    route = decode(in_order(messages)["route"]["polyline"])
    ends = [(round(one["position"]["lat"], 5), round(one["position"]["lon"], 5)) for one in (messages[0], messages[-1])]
    assert [route[0], route[-1]] == ends
    assert 20 < len(route) <= MOST_POINTS + 1
    assert in_order(messages, route_tolerance=500)["route"] != in_order(messages)["route"]


def test_one_position_is_no_route():
    messages = drive(3)
    for message in messages[1:]:
        del message["position"]
    messages[-1]["timestamp"] += 60_000
    assert "route" not in in_order(messages)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_any_batches_and_restarts_end_in_the_same_route(seed):
    chance, messages = random.Random(seed), drive()
    right = in_order(messages)
    shuffled = messages[:]
    chance.shuffle(shuffled)
    driver = TripsTestDriver(route_tolerance=50)
    while shuffled:
        size = chance.randrange(1, 40)
        driver.pipe_batch(shuffled[:size])
        shuffled = shuffled[size:] + ([shuffled[0]] if chance.random() < 0.3 else [])
        if chance.random() < 0.3:
            driver.restart()
    assert told(driver) == right


def test_a_trip_that_is_folded_has_the_same_route():
    messages = drive(2_000)
    folded = TripsTestDriver(route_tolerance=50, correction_horizon=60)
    for number, message in enumerate(messages):
        folded.pipe(message)
        if number % 300 == 299:
            folded.restart()
    assert told(folded) == in_order(messages)


def test_positions_that_jump_are_no_part_of_the_route():
    messages = drive()
    jumped = drive()
    jumped[200] |= {"position": {"lat": 10.0, "lon": 10.0}}
    clean = [message for number, message in enumerate(messages) if number != 200]
    assert in_order(jumped)["route"] == in_order(clean)["route"]
    first = drive()
    first[0] |= {"position": {"lat": 10.0, "lon": 10.0}}
    assert decode(in_order(first)["route"]["polyline"])[0] == (
        round(messages[1]["position"]["lat"], 5),
        round(messages[1]["position"]["lon"], 5),
    )


def test_a_correction_of_the_route_alone_is_announced():
    messages = drive()
    left_out = messages.pop(200)
    driver = TripsTestDriver(route_tolerance=50)
    for message in messages:
        driver.pipe(message)
    before = told(driver)
    driver.pipe(left_out)
    after = told(driver)
    assert after["route"] != before["route"]
    assert after["route"] == in_order(drive())["route"]
