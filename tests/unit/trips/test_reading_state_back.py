"""Stored values are read back in whatever order, and in whatever portions, a changelog holds them."""

import json
import random

import pytest
from unit.trips.records import record

from streams.errors import StateError
from streams.processor import Processor
from streams.telemetry.reader import Reader
from streams.trips.rules import Rules
from streams.trips.state import seal_value
from streams.trips.vehicle import StoredVehicle, alert_of, pack_parts, unpack_parts

T0 = 1_772_352_000_000
VEHICLES = 12
CHECKPOINTS = 90


def processor():
    return Processor(Rules(correction_horizon_ms=600_000), Reader(max_clock_skew_ms=None))


def message(vehicle, second, ignition):
    return json.dumps(
        {
            "vehicle_id": f"V{vehicle:02}",
            "timestamp": T0 + second * 1000,
            "ignition": ignition,
            "position": {"lat": 50 + vehicle + second * 1e-5, "lon": 7.3},
            "speed_in_kmh": 30 + second % 20,
            "mileage_in_kilometers": 10_000 + second / 100,
        }
    ).encode()


@pytest.fixture(scope="module")
def written():
    """A partition, and all that it has written: chunks and pages, and what is not needed any more."""
    partition, log, offset = processor(), [], 0
    for step in range(CHECKPOINTS):
        batch = []
        for vehicle in range(VEHICLES):
            for part in range(3):
                second = step * 60 + part * 20
                # The first drives all the time; others have trips of more or fewer minutes, or park after a while.
                on = vehicle == 0 or (step // vehicle % 2 == 0 and not (vehicle > 8 and step > 50))
                if vehicle > 8 and step > 52:
                    continue
                batch.append(record(offset, message(vehicle, second, "ON" if on else "OFF"), T0 + second * 1000))
                offset += 1
        partition.process(batch)
        log += partition.take().changes.items()
    assert {key[:1] for key, _ in log} == {b"h", b"t", b"b", b"w", b"s", b"c", b"k"}
    assert any(value is None for _, value in log)
    return partition, log, offset


def goes_on(one, offset):
    """What is said and stored when all vehicles, some of them after a long pause, drive for a moment."""
    second, batch = CHECKPOINTS * 60, []
    for ignition in ("OFF", "ON", "OFF"):
        for vehicle in range(VEHICLES):
            batch.append(record(offset, message(vehicle, second, ignition), T0 + second * 1000))
            offset, second = offset + 1, second + 1
    one.process(batch)
    output = one.take()
    return output.announcements, output.changes, one.open_trips


def restored(items, portion=None):
    one = processor()
    items = list(items)
    for first in range(0, len(items), portion or max(1, len(items))):
        one.restore(items[first : first + (portion or len(items))])
    one.restored()
    return one


def compacted(log):
    """The last value of each key, where it was written."""
    last = {key: place for place, (key, _) in enumerate(log)}
    return [log[place] for place in sorted(last.values())]


@pytest.mark.parametrize("portion", [1, 7, None])
def test_all_that_was_ever_written_is_the_same_state_as_its_last_values_in_any_order(written, portion):
    _, log, offset = written
    shuffled = compacted(log)
    random.Random(7).shuffle(shuffled)
    needed = [item for item in compacted(log) if item[1] is not None]
    states = [restored(items, portion) for items in (log, compacted(log), shuffled, needed)]
    assert len({one.vehicles for one in states}) == 1
    assert len({one.wake_at() for one in states}) == 1
    assert len({one.open_trips for one in states}) == 1
    first, *others = (goes_on(one, offset) for one in states)
    for other in others:
        assert other == first


def test_a_vehicle_that_is_read_back_says_what_it_would_have_said_otherwise(written):
    partition, log, offset = written
    said, _, on = goes_on(restored(log), offset)
    assert partition.vehicles == VEHICLES
    expected, _, still_on = goes_on(partition, offset)
    assert said == expected
    assert on == still_on


def test_a_value_that_is_not_needed_any_more_is_gone_and_one_that_comes_after_it_counts():
    whole = StoredVehicle(
        b"\1" * 12, b"tip", b"base", ((0, b"page"), (258, b"later")), ((1, b"s"),), ((2, b"c"),), b"d"
    )
    parts = whole.parts()
    assert parts == {
        b"h": b"\1" * 12,
        b"t": b"tip",
        b"b": b"base",
        b"d": b"d",
        b"w\0\0": b"page",
        b"w\1\2": b"later",
        b"s\0\1": b"s",
        b"c\0\2": b"c",
    }
    assert StoredVehicle.unpack(whole.pack()) == whole
    assert StoredVehicle.of(parts | {b"w\0\0": b"", b"t": b"", b"c\0\2": b"new"}) == whole._replace(
        tip=b"", words=((258, b"later"),), sealed=((2, b"new"),)
    )


@pytest.mark.parametrize("size", [9, 255, 256, 65_535, 65_536])
def test_the_alert_is_found_in_a_head_of_any_size(size):
    head = (T0 + 5).to_bytes(8, "little") + b"\1" + bytes(size - 9)
    packed = pack_parts({b"w\0\0": b"page", b"h": head})
    assert alert_of(packed) == (T0 + 5, True)
    assert unpack_parts(packed) == {b"h": head, b"w\0\0": b"page"}


def test_without_a_head_there_is_no_alert():
    packed = pack_parts({b"w\0\0": b"page"})
    assert alert_of(packed) is None
    assert unpack_parts(packed) == {b"w\0\0": b"page"}


def test_a_head_that_is_missing_among_others_is_noticed(written):
    _, log, _ = written
    with pytest.raises(StateError, match="'V03' has no head"):
        restored(item for item in log if item[0] != b"hV03")
    one = processor()
    one.restore(log)
    one.restore([(b"hV03", None)])
    with pytest.raises(StateError, match="'V03' has no head"):
        one.restored()


def test_a_damaged_value_is_noticed_although_a_later_one_replaces_it(written):
    _, log, _ = written
    key, value = next(item for item in log if item[0] == b"hV01")
    with pytest.raises(StateError, match="b'hV01' is damaged"):
        processor().restore([(key, value[:-1] + bytes([value[-1] ^ 1])), (key, value)])


def test_the_count_of_vehicles_is_of_those_that_are_there(written):
    _, log, _ = written
    one = processor()
    one.restore(log)
    one.restore([(b"hV99", seal_value(b"hV99", bytes(12)))])
    with pytest.raises(StateError, match="state of 13 vehicles, and should hold that of 12"):
        one.restored()


def test_a_vehicle_at_rest_that_waits_for_nothing_is_woken_for_nothing():
    one = processor()
    one.process([record(0, message(0, 0, "ON"), T0)])
    one.take()
    due = one.wake_at()
    assert due == T0 + Rules().silence_timeout_ms + 1
    one.process([record(1, message(0, 120, "OFF"), T0 + 120_000)])
    one.advance(T0 + 300_000)
    one.take()
    assert one.wake_at() is None
