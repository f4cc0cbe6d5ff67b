"""Rows that are not unpacked: they are the same rows, and come to the same sums.

It runs where the core is compiled: tests/integration/test_compiled_core.py builds it, and runs this with it.
"""

import random
from math import inf

import pytest

from streams.trips.machine import Machine
from streams.trips.rules import Rules
from streams.trips.samples import FLOW_ID_BIT, Property, make_row
from streams.trips.timeline import Timeline

packed = pytest.importorskip("streams.trips.packed", reason="the core is not compiled")

T0 = 1_772_352_000_000
KINDS = (
    Property.IGNITION,
    Property.POSITION,
    Property.MILEAGE,
    Property.SPEED,
    Property.ENERGY,
    Property.UNIT,
)
UNITS = [("U1", "B"), ("Unit 2", "Größe")]


def drive(chance, count):
    """Rows of a vehicle that drives: mostly of one kind, with some of every other."""
    instant, latitude, rows = T0, 500_000_000, []
    on, kind = 1, set(KINDS)
    for number in range(count):
        if chance.random() < 0.06:
            kind = {name for name in KINDS if chance.random() < 0.8}
        instant += chance.choice([1000, 1000, 5000, 59_000, 61_000])
        if chance.random() < 0.01:
            instant += 4_000_000  # a data gap
        latitude = (latitude + chance.choice([0, 300, 1000, 1000, 40_000_000])) % 900_000_000
        if chance.random() < 0.03:
            on = 1 - on
        items = {
            Property.IGNITION: on,
            Property.POSITION: (latitude, chance.randrange(-(10**6), 10**6), -400 if number % 50 > 40 else None),
            Property.MILEAGE: number * 100 + 5_000_000_000,
            Property.SPEED: chance.choice([0, 299, 300, 40_000]),
            Property.ENERGY: chance.randrange(10_000),
            Property.UNIT: UNITS[number // 20 % 2],
        }
        items = {name: value for name, value in items.items() if name in kind}
        if not items or chance.random() < 0.02:
            items[Property.DOORS] = 1
        if items.get(Property.IGNITION) and chance.random() < 0.02:
            items[FLOW_ID_BIT] = f"flow {number}"
        rows.append(make_row(instant, items))
    return rows


def timeline_of(rows, chance):
    timeline = Timeline()
    for row in rows:
        timeline.append(row)
        if chance.random() < 0.1:
            timeline.store_tail()
    return timeline


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_those_that_the_timeline_has(seed):
    chance = random.Random(seed)
    rows = drive(chance, 400)
    timeline = timeline_of(rows, chance)
    instants = [row[0] for row in rows]
    for _ in range(20):
        after, to = sorted(chance.choices([-inf, inf, *instants, *(instant + 1 for instant in instants)], k=2))
        expected = timeline.rows(after, to)
        parts = timeline.parts(after, to)
        if not expected:
            assert not parts or len(packed.in_order(parts, after, to)) == 0
            continue
        found = packed.in_order(parts, after, to)
        assert [found[index] for index in range(len(found))] == expected


def test_an_index_beyond_the_end_is_an_error():
    timeline = timeline_of(drive(random.Random(1), 3), random.Random(1))
    rows = packed.in_order(timeline.parts(-inf, inf), -inf, inf)
    with pytest.raises(IndexError):
        rows[3]
    with pytest.raises(IndexError):
        rows[-1]


@pytest.mark.parametrize("change", ["late", "twice"])
def test_rows_that_are_not_in_the_order_of_time_are_left_to_the_timeline(change):
    rows = drive(random.Random(2), 20)
    rows.append((rows[3][0] + (change == "late"), *rows[3][1:]))
    timeline = timeline_of(rows, random.Random(2))
    assert packed.in_order(timeline.parts(-inf, inf), -inf, inf) is None
    # What is not asked for does not matter.
    assert len(packed.in_order(timeline.parts(rows[5][0], inf), rows[5][0], inf)) == 14


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"silence_timeout_ms": 0},
        {"merge_gap_ms": 30_000},
        {"route_tolerance_m": 10},
        {"trigger": Property.IMMOBILIZER, "silence_timeout_ms": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(8))
def test_a_machine_that_cruises_comes_to_what_one_does_that_is_fed_row_by_row(rules, seed):
    chance = random.Random(seed)
    rows = drive(chance, 400)
    if "trigger" in rules:  # a trip that nothing ends
        rows.insert(0, make_row(T0, {Property.IMMOBILIZER: 1}))
    found = packed.in_order(timeline_of(rows, chance).parts(-inf, inf), -inf, inf)
    cruising, fed = Machine(Rules(**rules)), Machine(Rules(**rules))
    index = cruised = 0
    while index < len(found):
        end = cruising.cruise(found, index)
        cruised += end - index
        if end == index:
            cruising.feed(found[index])
            end += 1
        for row in rows[index:end]:
            fed.feed(row)
        index = end
        assert cruising.pack() == fed.pack()
    assert [trip.pack() for trip in cruising.ended] == [trip.pack() for trip in fed.ended]
    assert cruised > 50
