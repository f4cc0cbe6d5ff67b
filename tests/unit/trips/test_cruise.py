"""Runs of rows at once: the same as one row after the other, to the last byte of the machine."""

from hypothesis import given
from hypothesis import strategies as st

from streams.trips.machine import Machine
from streams.trips.rules import Rules
from streams.trips.samples import FLOW_ID_BIT, Property, make_row
from streams.trips.timeline import Timeline

places = st.tuples(st.integers(-3, 3), st.integers(-3, 3)).map(lambda at: (at[0] * 9_000, at[1] * 9_000, None))
values = {
    Property.IGNITION: st.sampled_from([1, 1, 1, 1, 1, 0]),
    Property.POSITION: places,
    Property.MILEAGE: st.integers(0, 50),
    Property.SPEED: st.sampled_from([0, 299, 300, 5_000]),
    Property.FUEL: st.integers(0, 100),
}
shapes = st.sampled_from(
    [tuple(values), (Property.IGNITION, Property.POSITION), (Property.SPEED,), (Property.POSITION, Property.FUEL)]
)


@st.composite
def timelines(draw):
    instant, rows = 0, []
    for shape in draw(st.lists(shapes, max_size=12)):
        for _ in range(draw(st.integers(1, 8))):
            instant += draw(st.sampled_from([1_000, 5_000, 61_000, 700_000]))
            items = {int(name): draw(values[name]) for name in shape}
            if draw(st.integers(0, 9)) == 0 and items.get(Property.IGNITION):
                items[FLOW_ID_BIT] = "flow"
            rows.append(make_row(instant, items))
    return rows


rules = st.sampled_from(
    [
        Rules(),
        Rules(silence_timeout_ms=600_000),
        Rules(silence_timeout_ms=600_000, merge_gap_ms=10_000),
        Rules(unknown_start="ignore"),
        Rules(route_tolerance_m=5),
    ]
)


@given(timelines(), rules)
def test_a_run_is_what_its_rows_are(rows, rules):
    slow, fast = Machine(rules), Machine(rules)
    place, cruised = 0, 0
    while place < len(rows):
        onwards = fast.cruise(rows, place)
        cruised += onwards - place
        if onwards == place:
            onwards = place + 1
            fast.feed(rows[place])
        for row in rows[place:onwards]:
            slow.feed(row)
        assert fast.pack() == slow.pack()
        place = onwards
    assert [trip.pack() for trip in fast.ended] == [trip.pack() for trip in slow.ended]


def test_a_trip_without_a_change_is_one_run():
    machine = Machine(Rules())
    rows = [make_row(instant * 1_000, {Property.IGNITION: 1, Property.SPEED: instant}) for instant in range(50)]
    machine.feed(rows[0])
    assert machine.cruise(rows, 1) == len(rows)


def test_where_shapes_take_turns_no_row_is_looked_at_twice():
    class Counted(list):
        asked = 0

        def __getitem__(self, place):
            self.asked += 1 if isinstance(place, int) else len(range(*place.indices(len(self))))
            return super().__getitem__(place)

    shapes = [{Property.SPEED: 5_000}, {Property.FUEL: 50}]
    rows = Counted(make_row(1_000 * (number + 1), shapes[number % 2]) for number in range(2_000))
    machine = Machine(Rules())
    machine.feed(make_row(0, {Property.IGNITION: 1}))
    place = 0
    while place < len(rows):
        onwards = machine.cruise(rows, place)
        if onwards == place:
            machine.feed(rows[place])
            onwards += 1
        place = onwards
    assert rows.asked < 5 * len(rows)


@given(timelines())
def test_what_is_packed_is_unpacked_whatever_the_shapes(rows):
    timeline = Timeline()
    for number, row in enumerate(rows):
        timeline.append(row)
        if number % 7 == 6:
            timeline.store_tail()
    assert timeline.rows(float("-inf"), float("inf")) == rows
    middle = rows[len(rows) // 2][0] if rows else 0
    assert timeline.rows(middle, float("inf")) == [row for row in rows if row[0] > middle]
