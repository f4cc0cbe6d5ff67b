"""Packed rows: whatever goes in comes out, in the order of time, wherever it has been stored meanwhile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.trips.samples import FLOW_ID_BIT, Property, column, make_row, merge, row_items
from streams.trips.timeline import SMALL_CHUNKS, Timeline

T0 = 1_772_352_000_000
EVERYTHING = {
    Property.IGNITION: 1,
    Property.IMMOBILIZER: 0,
    Property.DRIVING_ENABLED: 1,
    Property.POSITION: (-900_000_000, 1_800_000_000, -1_000_000),
    Property.MILEAGE: 100_000_000_000,
    Property.SPEED: 40_000,
    Property.HEADING: 3_600,
    Property.ENERGY: 10_000,
    Property.STATE_OF_CHARGE: 10_000,
    Property.FUEL: 10_000,
    Property.DOORS: 1,
    Property.WINDOWS: 0,
    Property.UNIT: ("2A2440843B02F704", "CLOUDBOXX"),
    FLOW_ID_BIT: "804f2161-a15c-420f-8f21-61a15c320f68",
}


def test_a_row_with_every_property_at_its_limit_comes_back():
    timeline = Timeline()
    row = make_row(T0, EVERYTHING)
    timeline.append(row)
    assert timeline.at(T0) == row


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_row_with_one_property_comes_back(name):
    timeline = Timeline()
    row = make_row(T0, {name: EVERYTHING[name]})
    timeline.append(row)
    assert timeline.rows(-1, T0) == [row]


def test_a_unit_is_packed_once_while_it_stays_the_same():
    one, two = Timeline(), Timeline()
    for instant in range(10):
        one.append(make_row(T0 + instant, {Property.UNIT: ("2A24", "CLOUDBOXX")}))
        two.append(make_row(T0 + instant, {Property.UNIT: ("2A24" if instant % 2 else "2A25", "CLOUDBOXX")}))
    assert len(one.tail) == 10 * 10 + len("2A24CLOUDBOXX") + 4
    assert len(two.tail) == 10 * (10 + len("2A24CLOUDBOXX") + 4)
    assert [row_items(row)[Property.UNIT][0] for row in two.rows(0, T0 + 9)] == ["2A25", "2A24"] * 5


def test_rows_come_back_in_the_order_of_time_whatever_the_order_of_arrival():
    timeline = Timeline()
    for instant in (3, 1, 2, 5, 4):
        timeline.append(make_row(T0 + instant, {Property.SPEED: instant}))
        timeline.store_tail()
    assert [row[2] for row in timeline.rows(T0 + 1, T0 + 4)] == [(2,), (3,), (4,)]


def test_rows_of_one_instant_are_one_row():
    timeline = Timeline()
    timeline.append(make_row(T0, {Property.SPEED: 1}))
    timeline.append(make_row(T0, {Property.SPEED: 2, Property.DOORS: 1}))
    assert timeline.at(T0) == make_row(T0, {Property.SPEED: 2, Property.DOORS: 1})


def test_the_seventeenth_stored_tail_seals_the_ring():
    timeline = Timeline()
    for instant in range(SMALL_CHUNKS + 1):
        assert not timeline.sealed
        timeline.append(make_row(T0 + instant, {Property.SPEED: 1}))
        timeline.store_tail()
    assert list(timeline.sealed) == [0]
    assert timeline.small == []
    assert timeline.changed == {(b"c", 0)}
    assert timeline.stale == {(b"s", number) for number in range(SMALL_CHUNKS)}
    assert len(timeline.rows(0, T0 + 100)) == SMALL_CHUNKS + 1


def test_the_key_of_a_dropped_chunk_is_used_again():
    timeline = Timeline()
    for instant in range(3):
        timeline.append(make_row(T0 + instant, {Property.SPEED: 1}))
        timeline.seal()
    timeline.drop(T0 + 1)
    assert sorted(timeline.sealed) == [1, 2]
    timeline.append(make_row(T0 + 9, {Property.SPEED: 1}))
    timeline.seal()
    assert sorted(timeline.sealed) == [0, 1, 2]


def test_keys_that_are_not_needed_any_more_are_given_up_when_the_vehicle_is_not_driving():
    timeline = Timeline()
    for instant in range(2):
        timeline.append(make_row(T0 + instant, {Property.SPEED: 1}))
        timeline.store_tail()
    timeline.store(clear=False)
    timeline.seal()
    assert [(kind, number) for kind, number, _ in timeline.store(clear=False)] == [(b"c", 0)]
    assert sorted(timeline.store(clear=True)) == [(b"s", 0, b""), (b"s", 1, b"")]
    assert timeline.store(clear=True) == []


def test_repacked_a_timeline_holds_only_what_is_not_folded():
    timeline = Timeline()
    for instant in range(5):
        timeline.append(make_row(T0 + instant, {Property.SPEED: instant}))
        timeline.seal()
    timeline.repack(T0 + 3)
    assert [row[0] for row in timeline.rows(0, T0 + 9)] == [T0 + 3, T0 + 4]
    assert timeline.sealed == {}
    assert timeline.stale == {(b"c", number) for number in range(5)}


items = st.dictionaries(st.sampled_from(list(EVERYTHING)), st.just(None), min_size=1).map(
    lambda chosen: {name: EVERYTHING[name] for name in chosen}
)
steps = st.lists(st.tuples(st.integers(0, 30), items, st.sampled_from(["", "store", "seal", "move"])), max_size=60)


def timeline_parts(timeline):
    small, sealed = timeline.dump()
    return small, len(small), sealed


@given(steps)
def test_what_is_kept_is_the_merge_of_what_was_appended(arrivals):
    timeline, expected = Timeline(), {}
    for instant, content, then in arrivals:
        row = make_row(T0 + instant, content)
        timeline.append(row)
        expected[row[0]] = merge(expected.get(row[0], row), row)
        if then == "store":
            timeline.store_tail()
        elif then == "seal":
            timeline.seal()
        elif then == "move":
            other = Timeline.load(bytes(timeline.tail), *timeline_parts(timeline), None)
            timeline = other
        assert timeline.at(row[0]) == expected[row[0]]
    assert timeline.rows(T0 - 1, T0 + 30) == [expected[instant] for instant in sorted(expected)]


def test_many_late_look_ups_unpack_the_timeline_once():
    timeline = Timeline()
    for instant in range(200):
        timeline.append(make_row(T0 + instant, {Property.SPEED: instant}))
    for instant in range(200):
        assert timeline.at(T0 + instant) == make_row(T0 + instant, {Property.SPEED: instant})
    timeline.append(make_row(T0 + 7, {Property.DOORS: 1}))
    assert timeline.at(T0 + 7) == make_row(T0 + 7, {Property.SPEED: 7, Property.DOORS: 1})
    timeline.close()
    assert timeline.at(T0 + 7) == make_row(T0 + 7, {Property.SPEED: 7, Property.DOORS: 1})


def test_columns_say_where_values_stand():
    mask = make_row(T0, {Property.IGNITION: 1, Property.POSITION: (5, 6, None), Property.SPEED: 7})[1]
    places = column(mask)
    assert [places[name] for name in (Property.IGNITION, Property.POSITION, Property.SPEED)] == [0, 1, 3]
    assert places[Property.ALTITUDE] == places[Property.MILEAGE] == -1


@pytest.mark.parametrize(
    ("name", "one", "other", "stays"),
    [
        (Property.IGNITION, 1, 0, 0),
        (Property.SPEED, 4_000, 3_999, 4_000),
        (Property.DOORS, 0, 1, 1),
        (Property.POSITION, (1, 9, 9), (2, 0, None), (2, 0, None)),
        (Property.POSITION, (1, 9, None), (1, 8, 5), (1, 9, None)),
        (Property.POSITION, (1, 9, None), (1, 9, -5), (1, 9, -5)),
        (Property.UNIT, ("A", "Z"), ("B", "A"), ("B", "A")),
        (FLOW_ID_BIT, "a", "b", "b"),
    ],
)
def test_of_two_values_at_one_instant_a_fixed_one_stays(name, one, other, stays):
    first, second = make_row(T0, {name: one}), make_row(T0, {name: other})
    assert merge(first, second) == merge(second, first) == make_row(T0, {name: stays})
