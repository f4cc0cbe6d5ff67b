"""Machine code beside Python: it takes in what the reader and the vehicle would, and what comes of it is the same.

It runs where the core is compiled: tests/integration/test_compiled_core.py builds it, and runs this with it.
"""

import json
import random
from dataclasses import replace

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.trips.records import record

from streams.processor import Processor
from streams.records import Standing
from streams.telemetry.reader import Reader
from streams.trips.rules import Rules
from streams.trips.samples import Property

intake = pytest.importorskip("streams.intake", reason="the core is not compiled")
RecordBatch = pytest.importorskip("streams.record_batch", reason="the core is not compiled").RecordBatch

T0 = 1_772_352_000_000  # 2026-03-01T08:00:00Z
HOUR = 3_600_000
UNIT = {"id": "2A2440843B02F704", "brand": "CLOUDBOXX"}
WHOLE = {
    "vehicle_id": "JQ7RP",
    "timestamp": "2026-03-01T08:00:00Z",
    "ignition": "ON",
    "immobilizer": "LOCKED",
    "driving_enabled": True,
    "position": {"lat": 50.123, "lon": -7.321, "altitude": -12.25},
    "mileage_in_kilometers": 12345.6,
    "speed_in_kmh": 0,
    "heading_in_degrees": 359.95,
    "state_of_charge_or_fuel_level_in_percent": 35.125,
    "state_of_charge_in_percent": 100,
    "fuel_level_in_percent": 0.005,
    "doors_status": "OPEN",
    "windows_status": "CLOSED",
    "telematics_unit": UNIT,
}


def read_by_both(value, key=None, timestamp=T0):
    """What the intake has read, if it has, and what the reader says."""
    reader = Reader(max_clock_skew_ms=HOUR)
    taking = intake.Intake(skew=HOUR, silence=HOUR, trigger=0, offline=False)
    one = record(0, value, timestamp, key=key)
    ((_, found),) = taking.through([one])
    if not isinstance(key, Part):
        ((fetched, found_there),) = taking.through(as_fetched([one]))
        assert (fetched, found_there) == ((0, timestamp, key, value, ()), found)
    return found, reader.read(value, key, timestamp)


def as_fetched(records):
    """The same as a worker gets them: in a batch of Kafka's."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**30)
    first = records[0].offset
    for one in records:
        assert builder.append(one.offset - first, one.timestamp, one.key, one.value, list(one.headers))
    raw, times = bytes(builder.build()), records[0].timestamp
    found = RecordBatch.find(raw, 61, len(raw), len(records), first, times, None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"vehicle_id": None},
        {"timestamp": T0 - 1},
        {"timestamp": "2024-02-29T23:59:59.9Z"},
        {"timestamp": "2026-03-01T07:59:59.123456789Z"},
        {"timestamp": "2000-01-01T00:00:00.00Z"},
        {"timestamp": "2026-03-01T09:00:00Z"},  # as far ahead as it may be
        {"ignition": False},
        {"ignition": "ACCESSORY"},
        {"immobilizer": "UNLOCKED", "driving_enabled": False},
        {"position": {"lon": 180, "lat": -90}},
        {"position": {"lat": 0, "lon": 0.0001}},
        {"mileage_in_kilometers": 10_000_000, "speed_in_kmh": 400, "heading_in_degrees": 360},
        {"speed_in_kmh": 0.005, "mileage_in_kilometers": 0.0005},
        {"speed_in_kmh": 123.45499999999998, "mileage_in_kilometers": 5e-05},
        {"position": {"lat": 52.516274999999997, "lon": 1e-07}},
        {"something": "else", "more": -1.5, "yes": True, "no": False, "nothing": None, "": ""},
    ],
)
def test_a_clean_message_is_read_as_the_reader_reads_it(change):
    message = {name: value for name, value in (WHOLE | change).items() if name != "vehicle_id" or value is not None}
    for text in (json.dumps(message), json.dumps(message, separators=(",", ":")), json.dumps(message, indent="\t")):
        found, reading = read_by_both(text.encode(), b"by key")
        assert reading.problems == ()
        assert found == (reading.vehicle_id, tuple(reading.rows))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"[]",
        b'{"timestamp": 1772352000000, "ignition": "ON"',
        b'{"timestamp": 1772352000000, "ignition": "ON",}',
        b'{"timestamp": 1772352000000, "ignition": "ON"} x',
        b'{"timestamp": 1772352000000, "ignition": "ON", "ignition": "ON"}',
        b'{"timestamp": 1772352000000, "timestamp": 1772352000000, "ignition": "ON"}',
        b'{"timestamp": 1772352000000, "ignition": "on"}',
        b'{"timestamp": 1772352000000, "ignition": 1}',
        b'{"timestamp": 1772352000000.0, "ignition": "ON"}',
        b'{"timestamp": 946684799999, "ignition": "ON"}',
        b'{"timestamp": "2026-02-29T00:00:00Z", "ignition": "ON"}',
        b'{"timestamp": "2026-03-01T24:00:00Z", "ignition": "ON"}',
        b'{"timestamp": "2026-03-01T08:00:60Z", "ignition": "ON"}',
        b'{"timestamp": "2026-03-01T08:00:00", "ignition": "ON"}',
        b'{"timestamp": "2026-03-01T08:00:00+01:00", "ignition": "ON"}',
        b'{"timestamp": "2026-03-01T08:00:00.Z", "ignition": "ON"}',
        b'{"timestamp": "2026-03-01T09:00:00.001Z", "ignition": "ON"}',
        b'{"ignition": "ON"}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 400.01}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": -1}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 01}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 1e}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 1e+}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 1e1000}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 1e999}',
        b'{"timestamp": 1772352e6, "ignition": "ON"}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 1.}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": .1}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": NaN}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": null}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": {"timestamp": 1772352000000, "value": 1}}',
        b'{"timestamp": 1772352000000, "speed_in_kmh": 1.' + b"0" * 64 + b"}",
        b'{"timestamp": 1772352000000, "position": {"lat": 0, "lon": 0.0}}',
        b'{"timestamp": 1772352000000, "position": {"lat": 90.1, "lon": 0.0}}',
        b'{"timestamp": 1772352000000, "position": {"lat": 1}}',
        b'{"timestamp": 1772352000000, "position": {"lat": 1, "lat": 1, "lon": 1}}',
        b'{"timestamp": 1772352000000, "position": {"lat": 1, "lon": 1, "fix": 3}}',
        b'{"timestamp": 1772352000000, "telematics_unit": {"id": "", "brand": "B"}}',
        b'{"timestamp": 1772352000000, "telematics_unit": {"id": "1"}}',
        b'{"timestamp": 1772352000000, "telematics_unit": {"id": "1", "brand": "\xc3\xa4"}}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "x": "\\u0041"}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "x": "\x1f"}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "x": []}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "vehicle_id": ""}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "vehicle_id": 7}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "vehicle_id": "' + b"x" * 257 + b'"}',
        b'{"metadata": {}, "data": {"timestamp": 1772352000000, "ignition": "ON"}}',
        b'{"timestamp": 1772352000000, "ignition": "ON", "x": "' + b"x" * (1 << 20) + b'"}',
    ],
)
def test_what_is_not_a_clean_message_is_left_to_the_reader(value):
    found, _ = read_by_both(value, b"by key")
    assert found is None


class Part(bytes):
    """What is read leniently has its parts as a type of their own."""

    __slots__ = ()


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"x" * 257, Part(b"V")])
def test_a_key_that_is_no_vehicle_is_left_to_the_reader(key):
    found, _ = read_by_both(b'{"timestamp": 1772352000000, "ignition": "ON"}', key)
    assert found is None


NUMBERS = st.one_of(st.integers(-10, 10**8), st.floats(-1, 10**8), st.decimals(0, 400, places=4).map(float))
BROKEN = st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), st.sampled_from(b'{}[]",:.-0123456789eEtnZT \\\x00\xc3'))


@settings(max_examples=400, deadline=None)
@given(
    st.fixed_dictionaries(
        {"timestamp": st.just(T0) | st.just("2026-03-01T08:00:00.123Z")},
        optional={name: st.just(WHOLE[name]) for name in WHOLE if name != "timestamp"}
        | {"speed_in_kmh": NUMBERS, "heading_in_degrees": NUMBERS, "mileage_in_kilometers": NUMBERS, "x": NUMBERS},
    ),
    st.lists(BROKEN, max_size=2),
)
def test_whatever_the_bytes_it_says_what_the_reader_says_or_nothing(message, broken):
    value = bytearray(json.dumps(message).encode())
    for somewhere, left_out, put_in in broken:
        place = somewhere % len(value)
        value[place : place + left_out] = bytes([put_in])
    found, reading = read_by_both(bytes(value), b"by key")
    if found is not None:
        assert reading.problems == ()
        assert found == (reading.vehicle_id, tuple(reading.rows))


# -- what comes of it -----------------------------------------------------------------------------------------------


class Partition:
    """A processor with the intake, or without."""

    def __init__(self, rules, *, compiled):
        self.rules, self.compiled, self.state = rules, compiled, {}
        self.start()

    def start(self):
        """Anew, from what is stored."""
        self.processor = Processor(self.rules, Reader(max_clock_skew_ms=HOUR))
        if not self.compiled:
            self.processor._intake = None
        self.processor.standing = Standing()
        self.processor.restore(self.state.items())
        self.processor.restored()

    def take(self):
        """All that a checkpoint tells, and what has been counted so far."""
        output, counts = self.processor.take(), self.processor.counts
        self.state |= output.changes
        told = [(one.payload, one.trips_record) for one in output.announcements]
        late = [(one.record.offset, one.message) for one in output.late]
        rejected = [(one.record.offset, one.partial, str(one.problems)) for one in output.rejected]
        counted = (
            counts.messages,
            counts.samples,
            counts.applied,
            counts.repeated,
            counts.late,
            counts.dead_letters,
            counts.refused,
        )
        here = (self.processor.clock, self.processor.open_trips, self.processor.vehicles, self.processor.state_bytes)
        return told, late, rejected, output.changes, counted, here


def deletion(trip):
    """The command to delete a trip that has been told."""
    command = {
        "type": "DeleteTrip",
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "trip_id": trip["id"],
        "vehicle_id": trip["vehicle_id"],
        "requested_at": "2026-03-01T08:00:00Z",
        "revision": trip["revision"],
    }
    if "end" in trip:
        command["end"] = trip["end"]["timestamp"]
    return record(0, json.dumps(command).encode(), T0)


def drives(chance, vehicles, messages):
    """Records of vehicles that drive: most in order, and some of everything else."""
    clocks = [T0 + chance.randrange(60_000) for _ in range(vehicles)]
    on = [False] * vehicles
    sent = []
    for offset in range(messages):
        number = chance.randrange(vehicles)
        clocks[number] += chance.choice([1000, 5000, 5000, 5000, 30_000, 70_000])
        if chance.random() < 0.02:
            clocks[number] += chance.choice([600_000, 2 * HOUR])
        if chance.random() < 0.06:
            on[number] = not on[number]
        instant = clocks[number]
        if chance.random() < 0.05:
            instant -= chance.choice([1, 5000, 60_000, HOUR, 5 * HOUR])
        message = {"vehicle_id": f"V{number}", "timestamp": instant}
        if chance.random() < 0.8:
            message["ignition"] = "ON" if on[number] else "OFF"
            message["immobilizer"] = "UNLOCKED" if on[number] else "LOCKED"
        if chance.random() < 0.9:
            message["position"] = {
                "lat": 50 + chance.choice([1e-4, 1e-4, 1e-4, 1.5]) * (offset % 977),
                "lon": round(chance.random() * 0.01, 6),
            }
        if chance.random() < 0.1 and "position" in message:
            message["position"]["altitude"] = chance.randrange(300)
        if chance.random() < 0.9:
            message["speed_in_kmh"] = chance.choice([0, 1.5, 2.99, 3, 50.25])
            message["mileage_in_kilometers"] = offset / 10
        if chance.random() < 0.3:
            message["telematics_unit"] = {"id": f"U{chance.choice([0, 0, 0, 1])}", "brand": "B"}
        if chance.random() < 0.02:
            message["doors_status"] = "AJAR"
        if chance.random() < 0.02:
            message["speed_in_kmh"] = {"timestamp": instant - 1000, "value": 7}
        if chance.random() < 0.05:
            message = {"metadata": {"flow_id": f"f{offset}"}, "data": message}
        headers = (("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),) if chance.random() < 0.02 else ()
        value = b"no message" if chance.random() < 0.01 else json.dumps(message).encode()
        sent.append(record(offset, value, max(clocks), key=b"V%d" % number, headers=headers))
        if chance.random() < 0.05:
            sent.append(record(offset, value, max(clocks), key=b"V%d" % number, headers=headers))
    return [replace(one, offset=offset) for offset, one in enumerate(sent)]


RULES = [
    {},
    {"merge_gap_ms": 60_000, "ready_delay_ms": 30_000},
    {"silence_timeout_ms": 0},
    {"correction_horizon_ms": HOUR, "silence_timeout_ms": 300_000, "min_duration_ms": 0},
    {"unknown_start": "ignore", "route_tolerance_m": 20},
    {"trigger": Property.IMMOBILIZER},
    {"revision_base": 1_000_000},
]


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_the_same_records_come_to_the_same_announcements_and_the_same_state(rules, seed):
    chance = random.Random(seed)
    compiled, plain = (Partition(Rules(**rules), compiled=which) for which in (True, False))
    assert compiled.processor._intake is not None
    records = drives(chance, chance.choice([1, 3, 20]), 1500)
    told, place = [], 0
    while place < len(records):
        batch = records[place : place + chance.choice([1, 5, 50, 400])]
        place += len(batch)
        compiled.processor.process(as_fetched(batch) if chance.random() < 0.8 else batch)
        plain.processor.process(batch)
        if chance.random() < 0.3:
            forward = compiled.processor.clock + chance.choice([0, 1000, 200_000, 2 * HOUR])
            for one in (compiled, plain):
                one.processor.advance(forward)
        if chance.random() < 0.6:
            taken = compiled.take()
            assert taken == plain.take()
            told += [json.loads(payload)["data"]["trip"] for payload, _ in taken[0]]
        if told and chance.random() < 0.1:
            command = deletion(chance.choice(told))
            for one in (compiled, plain):
                one.processor.command(command)
        if chance.random() < 0.05:
            assert compiled.take() == plain.take()
            for one in (compiled, plain):
                one.start()
    assert compiled.take() == plain.take()
    for one in (compiled, plain):
        one.processor.close()
    assert compiled.take() == plain.take()


def test_records_in_order_are_taken_in_and_not_handed_on():
    processor = Processor(Rules(), Reader(max_clock_skew_ms=HOUR))
    message = {name: WHOLE[name] for name in ("position", "mileage_in_kilometers", "speed_in_kmh", "telematics_unit")}
    records = [
        record(
            second,
            json.dumps({"vehicle_id": "V", "timestamp": T0 + second * 1000, "ignition": "ON"} | message).encode(),
            T0 + second * 1000,
        )
        for second in range(100)
    ]
    processor.process(records[:1])
    assert list(processor._intake.through(records[1:50])) == []
    assert list(processor._intake.through(as_fetched(records[50:]))) == []
    assert processor._intake.take_changed() == ["V"]
