"""Reading, rule by rule: each case is a message as bytes, and what it must become by hand."""

import json

import pytest

from streams.telemetry.reader import Problem, Reader, Reason
from streams.trips.samples import FLOW_ID_BIT, Property

# 2026-03-01T08:00:00Z: 20,513 days after 1970-01-01, and 8 hours.
EIGHT = (20_513 * 24 + 8) * 3_600_000
HOUR = 3_600_000


@pytest.fixture
def reader():
    return Reader(max_clock_skew_ms=HOUR)


def message(**fields):
    """A message of vehicle V1 at eight; None in Python is null in JSON, ... leaves a field out."""
    whole = {"vehicle_id": "V1", "timestamp": "2026-03-01T08:00:00Z", **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def mask(*properties):
    return sum(1 << bit for bit in properties)


def only_problem(reading):
    (problem,) = reading.problems
    return problem


# --- clean messages -------------------------------------------------------------------------------------------------


def test_every_property_as_a_plain_value_makes_one_row(reader):
    reading = reader.read(
        message(
            windows_status="OPEN",
            telematics_unit={"id": "2A2440843B02F704", "brand": "CLOUDBOXX"},
            fuel_level_in_percent=40.5,
            ignition="ON",
            immobilizer="UNLOCKED",
            driving_enabled=True,
            position={"lat": 50.123, "lon": -7.321, "altitude": 61.44},
            mileage_in_kilometers=12345.6,
            speed_in_kmh=92,
            heading_in_degrees=359.96,
            state_of_charge_or_fuel_level_in_percent=35,
            state_of_charge_in_percent=0,
            doors_status="CLOSED",
        ),
        None,
        EIGHT,
    )
    unit = ("2A2440843B02F704", "CLOUDBOXX")
    values = (1, 1, 1, 501_230_000, -73_210_000, 614, 123_456_000, 9200, 3600, 3500, 0, 4050, 0, 1, unit)
    assert reading.vehicle_id == "V1"
    assert list(reading.rows) == [(EIGHT, mask(*Property), values)]
    assert reading.flow_id is None
    assert not reading.problems


def test_properties_with_times_of_their_own_make_rows_in_time_order(reader):
    reading = reader.read(
        message(
            ignition="OFF",
            mileage_in_kilometers={"timestamp": "2026-03-01T07:59:58.500Z", "value": 12345.6},
            position={"timestamp": EIGHT + 1, "value": {"lat": 1, "lon": 2}},
            speed_in_kmh={"timestamp": "2026-03-01T08:59:58.500+01:00", "value": 3},
            doors_status={"timestamp": EIGHT, "value": "OPEN"},
        ),
        None,
        EIGHT,
    )
    assert list(reading.rows) == [
        (EIGHT - 1500, mask(Property.MILEAGE, Property.SPEED), (123_456_000, 300)),
        (EIGHT, mask(Property.IGNITION, Property.DOORS), (0, 1)),
        (EIGHT + 1, mask(Property.POSITION), (10_000_000, 20_000_000)),
    ]
    assert not reading.problems


def test_a_message_without_a_known_property_is_no_error(reader):
    reading = reader.read(message(tyre_pressure=2.4, color={"body": ["red"]}), None, EIGHT)
    assert (reading.vehicle_id, list(reading.rows), list(reading.problems)) == ("V1", [], [])


def test_a_message_with_nothing_to_date_needs_no_time(reader):
    reading = reader.read(message(timestamp=..., tyre_pressure=2.4), None, EIGHT)
    assert (reading.vehicle_id, list(reading.rows), list(reading.problems)) == ("V1", [], [])


def test_unknown_fields_inside_known_ones_are_ignored(reader):
    reading = reader.read(
        message(
            position={"lat": 1, "lon": 2, "hdop": 0.8, "satellites": [3, 7]},
            speed_in_kmh={"timestamp": EIGHT, "value": 3, "source": {"bus": "CAN"}},
            telematics_unit={"id": "A", "brand": "B", "firmware": {"major": 2}},
        ),
        None,
        EIGHT,
    )
    expected = (10_000_000, 20_000_000, 300, ("A", "B"))
    assert list(reading.rows) == [(EIGHT, mask(Property.POSITION, Property.SPEED, Property.UNIT), expected)]
    assert not reading.problems


def test_of_a_field_that_is_written_twice_the_last_counts(reader):
    reading = reader.read(
        b'{"vehicle_id":"V1","timestamp":1772352000000,"ignition":"ON","ignition":"OFF"}', None, EIGHT
    )
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (0,))]


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("ignition", "ON", 1),
        ("ignition", True, 1),
        ("ignition", "OFF", 0),
        ("ignition", "ACCESSORY", 0),
        ("ignition", False, 0),
        ("immobilizer", "UNLOCKED", 1),
        ("immobilizer", "LOCKED", 0),
        ("driving_enabled", True, 1),
        ("driving_enabled", False, 0),
        ("doors_status", "OPEN", 1),
        ("doors_status", "CLOSED", 0),
        ("windows_status", "OPEN", 1),
        ("windows_status", "CLOSED", 0),
        ("mileage_in_kilometers", 0, 0),
        ("mileage_in_kilometers", 0.1, 1000),
        ("mileage_in_kilometers", 10_000_000, 100_000_000_000),
        ("mileage_in_kilometers", 0.00004, 0),
        ("mileage_in_kilometers", 0.00005, 1),
        ("speed_in_kmh", -0.0, 0),
        ("speed_in_kmh", 0.004, 0),
        ("speed_in_kmh", 0.005, 1),
        ("speed_in_kmh", 400, 40_000),
        ("speed_in_kmh", 400.0, 40_000),
        ("heading_in_degrees", 0, 0),
        ("heading_in_degrees", 0.25, 3),
        ("heading_in_degrees", 360, 3600),
        ("state_of_charge_or_fuel_level_in_percent", 100, 10_000),
        ("state_of_charge_in_percent", 0.125, 13),
        ("fuel_level_in_percent", 33.333, 3333),
        ("telematics_unit", {"id": "A", "brand": "B"}, ("A", "B")),
        ("telematics_unit", {"id": "é" * 256, "brand": "B" * 256}, ("é" * 256, "B" * 256)),
    ],
)
@pytest.mark.parametrize("stamped", [False, True])
def test_a_value_is_kept_in_its_steps(reader, name, value, kept, stamped):
    written = {"timestamp": EIGHT, "value": value} if stamped else value
    reading = reader.read(message(**{name: written}), None, EIGHT)
    ((instant, _, values),) = reading.rows
    assert (instant, values) == (EIGHT, (kept,))
    assert not reading.problems


@pytest.mark.parametrize(
    ("position", "kept"),
    [
        ({"lat": 50.123, "lon": 7.321}, (501_230_000, 73_210_000)),
        ({"lat": -90, "lon": -180}, (-900_000_000, -1_800_000_000)),
        ({"lat": 90.0, "lon": 180.0}, (900_000_000, 1_800_000_000)),
        ({"lat": 0, "lon": 7}, (0, 70_000_000)),
        ({"lat": 7, "lon": 0.0}, (70_000_000, 0)),
        ({"lat": 1e-9, "lon": 0}, (0, 0)),
        # Half up, below zero as well: -0.00000005 is half a step below zero.
        ({"lat": 0.25e-7, "lon": -0.5e-7}, (0, 0)),
        ({"lat": -0.75e-7, "lon": 1.5e-7}, (-1, 2)),
        ({"lat": 1, "lon": 2, "altitude": 0}, (10_000_000, 20_000_000, 0)),
        ({"lat": 1, "lon": 2, "altitude": -430.25}, (10_000_000, 20_000_000, -4302)),
        ({"lat": 1, "lon": 2, "altitude": 100_000}, (10_000_000, 20_000_000, 1_000_000)),
        ({"lat": 1, "lon": 2, "altitude": -100_000.0}, (10_000_000, 20_000_000, -1_000_000)),
        ({"lat": 1, "lon": 2, "altitude": 1, "hdop": 2}, (10_000_000, 20_000_000, 10)),
    ],
)
@pytest.mark.parametrize("stamped", [False, True])
def test_a_position_is_kept_in_its_steps(reader, position, kept, stamped):
    written = {"timestamp": EIGHT - 1, "value": position} if stamped else position
    reading = reader.read(message(position=written), None, EIGHT)
    held = mask(Property.POSITION, Property.ALTITUDE) if len(kept) == 3 else mask(Property.POSITION)
    assert list(reading.rows) == [(EIGHT - 1 if stamped else EIGHT, held, kept)]
    assert not reading.problems


SCALARS = (
    "ignition",
    "immobilizer",
    "driving_enabled",
    "mileage_in_kilometers",
    "speed_in_kmh",
    "heading_in_degrees",
    "state_of_charge_or_fuel_level_in_percent",
    "state_of_charge_in_percent",
    "fuel_level_in_percent",
    "doors_status",
    "windows_status",
)


@pytest.mark.parametrize("name", [*SCALARS, "position", "telematics_unit"])
@pytest.mark.parametrize("value", [None, "", "on", "1", [], [1], {}, {"a": 1}, -1, 1e300, -1e300, 2**63, "ON "])
@pytest.mark.parametrize("stamped", [False, True])
def test_what_no_property_allows_is_rejected_and_the_rest_counts(reader, name, value, stamped):
    other = "speed_in_kmh" if name == "heading_in_degrees" else "heading_in_degrees"
    written = {"timestamp": EIGHT, "value": value} if stamped else value
    reading = reader.read(message(**{name: written, other: 1}), None, EIGHT)
    assert reading.vehicle_id == "V1"
    assert [values for _, _, values in reading.rows] == [(100 if other == "speed_in_kmh" else 10,)]
    problem = only_problem(reading)
    assert problem.reason in {Reason.BAD_VALUE, Reason.OUT_OF_RANGE}
    assert problem.property == name
    assert f'"{name}"' in problem.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ignition", 1),
        ("ignition", 0),
        ("ignition", 1.0),
        ("ignition", "true"),
        ("ignition", "UNLOCKED"),
        ("immobilizer", True),
        ("immobilizer", "ON"),
        ("driving_enabled", "ON"),
        ("driving_enabled", 1),
        ("doors_status", True),
        ("doors_status", "open"),
        ("windows_status", False),
        ("speed_in_kmh", True),
        ("speed_in_kmh", False),
        ("speed_in_kmh", "50"),
        ("telematics_unit", {"id": "A"}),
        ("telematics_unit", {"brand": "B"}),
        ("telematics_unit", {"id": "", "brand": "B"}),
        ("telematics_unit", {"id": "A", "brand": ""}),
        ("telematics_unit", {"id": "A" * 257, "brand": "B"}),
        ("telematics_unit", {"id": "A", "brand": "B" * 257}),
        ("telematics_unit", {"id": 7, "brand": "B"}),
        ("telematics_unit", {"id": "A", "brand": None}),
        ("telematics_unit", {"id": "\ud800", "brand": "B"}),
        ("position", {"lat": "50.1", "lon": 7}),
        ("position", {"lat": True, "lon": 7}),
        ("position", {"lat": 50.1, "lon": None}),
        ("position", {"lat": 50.1}),
        ("position", {"lon": 50.1}),
        ("position", {"latitude": 50.1, "longitude": 7}),
        ("position", [50.1, 7]),
        ("position", {"lat": 1, "lon": 2, "altitude": None}),
        ("position", {"lat": 1, "lon": 2, "altitude": "60"}),
        ("position", {"lat": 1, "lon": 2, "altitude": False}),
    ],
)
def test_a_value_of_another_kind_is_a_bad_value(reader, name, value):
    reading = reader.read(message(**{name: value}), None, EIGHT)
    assert reading.vehicle_id == "V1"
    assert not reading.rows
    assert only_problem(reading)[:2] == (Reason.BAD_VALUE, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mileage_in_kilometers", 10_000_000.1),
        ("mileage_in_kilometers", -0.1),
        ("speed_in_kmh", 400.001),
        ("speed_in_kmh", -0.001),
        ("heading_in_degrees", 360.1),
        ("state_of_charge_or_fuel_level_in_percent", 100.5),
        ("state_of_charge_in_percent", -1),
        ("fuel_level_in_percent", 101),
        ("position", {"lat": 90.000001, "lon": 7}),
        ("position", {"lat": -91, "lon": 7}),
        ("position", {"lat": 50, "lon": 180.1}),
        ("position", {"lat": 50, "lon": -181}),
        ("position", {"lat": 1, "lon": 2, "altitude": 100_000.1}),
        ("position", {"lat": 1, "lon": 2, "altitude": -1e300}),
    ],
)
def test_a_number_beyond_its_limits_is_out_of_range(reader, name, value):
    reading = reader.read(message(**{name: value}), None, EIGHT)
    assert reading.vehicle_id == "V1"
    assert not reading.rows
    assert only_problem(reading)[:2] == (Reason.OUT_OF_RANGE, name)


@pytest.mark.parametrize("zero", ["0", "0.0", "-0.0", "0e5"])
def test_exactly_zero_zero_is_no_position_and_the_ignition_beside_it_counts(reader, zero):
    value = b'{"vehicle_id":"V1","timestamp":1772352000000,"ignition":"ON","position":{"lat":%b,"lon":0}}'
    reading = reader.read(value % zero.encode(), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (1,))]
    assert only_problem(reading)[:2] == (Reason.NO_POSITION_FIX, "position")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5_000])
def test_a_number_that_no_double_holds_spoils_its_property_only(reader, number):
    value = b'{"vehicle_id":"V1","timestamp":1772352000000,"ignition":"ON","speed_in_kmh":%b}' % number.encode()
    reading = reader.read(value, None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (1,))]
    assert only_problem(reading)[:2] == (Reason.BAD_VALUE, "speed_in_kmh")


def test_a_position_with_a_time_inside_is_not_taken_for_one_without(reader):
    reading = reader.read(message(position={"lat": 1, "lon": 2, "timestamp": EIGHT}), None, EIGHT)
    assert not reading.rows
    assert 'no "value"' in only_problem(reading).message


# --- times ----------------------------------------------------------------------------------------------------------


def test_without_a_timestamp_plain_properties_are_bad_and_the_others_count(reader):
    reading = reader.read(
        message(timestamp=..., ignition="ON", doors_status="OPEN", speed_in_kmh={"timestamp": EIGHT, "value": 3}),
        None,
        EIGHT,
    )
    assert reading.vehicle_id == "V1"
    assert list(reading.rows) == [(EIGHT, mask(Property.SPEED), (300,))]
    problem = only_problem(reading)
    assert problem[:2] == (Reason.NO_TIME, "timestamp")
    assert '"ignition", "doors_status"' in problem.message


def test_a_bad_timestamp_spoils_plain_properties_and_the_others_count(reader):
    reading = reader.read(
        message(timestamp="yesterday", ignition="ON", speed_in_kmh={"timestamp": EIGHT, "value": 3}), None, EIGHT
    )
    assert list(reading.rows) == [(EIGHT, mask(Property.SPEED), (300,))]
    problem = only_problem(reading)
    assert problem[:2] == (Reason.BAD_TIMESTAMP, "timestamp")
    assert '"yesterday"' in problem.message
    assert problem.message.endswith('so there is no time for "ignition"')


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (..., Reason.NO_TIME),
        (None, Reason.BAD_TIMESTAMP),
        (True, Reason.BAD_TIMESTAMP),
        (1772352000000.0, Reason.BAD_TIMESTAMP),
        ("2026-03-01T08:00:00", Reason.BAD_TIMESTAMP),
        ({"value": EIGHT}, Reason.BAD_TIMESTAMP),
        ([], Reason.BAD_TIMESTAMP),
        ("1999-12-31T23:59:59Z", Reason.BEFORE_2000),
        (1772352000, Reason.BEFORE_2000),
        (EIGHT + HOUR + 1, Reason.CLOCK_SKEW),
        ("9999-12-31T23:59:59Z", Reason.CLOCK_SKEW),
    ],
)
def test_a_message_without_any_time_cannot_be_used_at_all(reader, timestamp, reason):
    reading = reader.read(message(timestamp=timestamp, ignition="ON"), None, EIGHT)
    assert reading.vehicle_id is None
    assert not reading.rows
    assert only_problem(reading)[:2] == (reason, "timestamp")


def test_a_bad_timestamp_is_told_even_if_nothing_needs_it(reader):
    reading = reader.read(message(timestamp="soon", speed_in_kmh={"timestamp": EIGHT, "value": 3}), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.SPEED), (300,))]
    assert only_problem(reading)[:2] == (Reason.BAD_TIMESTAMP, "timestamp")


def test_a_property_with_a_bad_time_is_bad_and_the_rest_counts(reader):
    reading = reader.read(
        message(ignition={"timestamp": "2026-03-01T08:00:00", "value": "ON"}, speed_in_kmh=3), None, EIGHT
    )
    assert list(reading.rows) == [(EIGHT, mask(Property.SPEED), (300,))]
    assert only_problem(reading)[:2] == (Reason.BAD_TIMESTAMP, "ignition")


@pytest.mark.parametrize(
    ("written", "reason"), [({"value": "ON"}, Reason.NO_TIME), ({"timestamp": EIGHT}, Reason.BAD_VALUE)]
)
def test_a_time_and_a_value_of_a_property_belong_together(reader, written, reason):
    reading = reader.read(message(ignition=written), None, EIGHT)
    assert not reading.rows
    assert only_problem(reading)[:2] == (reason, "ignition")


def test_exactly_the_clock_skew_ahead_is_read_and_a_millisecond_more_is_not(reader):
    ahead = {"timestamp": EIGHT + HOUR, "value": 3}
    too_far = {"timestamp": EIGHT + HOUR + 1, "value": 3}
    reading = reader.read(message(speed_in_kmh=ahead, heading_in_degrees=too_far), None, EIGHT)
    assert list(reading.rows) == [(EIGHT + HOUR, mask(Property.SPEED), (300,))]
    assert only_problem(reading)[:2] == (Reason.CLOCK_SKEW, "heading_in_degrees")
    assert "0.001 s later" in only_problem(reading).message


def test_offline_no_time_is_too_late():
    reading = Reader(max_clock_skew_ms=None).read(message(timestamp="9999-12-31T23:59:59.999Z", ignition="ON"), None, 0)
    assert list(reading.rows) == [(253_402_300_799_999, mask(Property.IGNITION), (1,))]


def test_the_units_time_is_the_messages(reader):
    reading = reader.read(
        message(telematics_unit={"id": "A", "brand": "B"}, speed_in_kmh={"timestamp": EIGHT + 5, "value": 3}),
        None,
        EIGHT,
    )
    assert list(reading.rows) == [
        (EIGHT, mask(Property.UNIT), (("A", "B"),)),
        (EIGHT + 5, mask(Property.SPEED), (300,)),
    ]


@pytest.mark.parametrize("timestamp", [..., "garbage"])
def test_without_a_message_time_the_units_is_that_of_the_newest_property(reader, timestamp):
    reading = reader.read(
        message(
            timestamp=timestamp,
            telematics_unit={"id": "A", "brand": "B"},
            speed_in_kmh={"timestamp": EIGHT, "value": 3},
            heading_in_degrees={"timestamp": EIGHT - 5, "value": 3},
        ),
        None,
        EIGHT,
    )
    assert list(reading.rows) == [
        (EIGHT - 5, mask(Property.HEADING), (30,)),
        (EIGHT, mask(Property.SPEED, Property.UNIT), (300, ("A", "B"))),
    ]
    assert len(reading.problems) == (timestamp is not ...)


def test_a_property_that_is_rejected_gives_the_unit_no_time(reader):
    reading = reader.read(
        message(
            timestamp=...,
            telematics_unit={"id": "A", "brand": "B"},
            speed_in_kmh={"timestamp": EIGHT + 2 * HOUR, "value": 3},
            heading_in_degrees={"timestamp": EIGHT, "value": 3},
        ),
        None,
        EIGHT,
    )
    assert list(reading.rows) == [(EIGHT, mask(Property.HEADING, Property.UNIT), (30, ("A", "B")))]
    assert only_problem(reading)[:2] == (Reason.CLOCK_SKEW, "speed_in_kmh")


def test_a_unit_alone_without_a_time_is_a_problem(reader):
    reading = reader.read(message(timestamp=..., telematics_unit={"id": "A", "brand": "B"}), None, EIGHT)
    assert reading.vehicle_id is None
    assert only_problem(reading)[:2] == (Reason.NO_TIME, "timestamp")


def test_a_unit_may_have_its_own_time(reader):
    unit = {"timestamp": EIGHT - 5, "value": {"id": "A", "brand": "B"}}
    reading = reader.read(message(telematics_unit=unit), None, EIGHT)
    assert list(reading.rows) == [(EIGHT - 5, mask(Property.UNIT), (("A", "B"),))]


# --- whose message --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vehicle_id", ["V", "x" * 256, "é" * 256, "🚗" * 256, " ", "a\x00b", "null"])
def test_a_vehicle_id_of_1_to_256_characters_is_read(reader, vehicle_id):
    assert reader.read(message(vehicle_id=vehicle_id), b"other", EIGHT).vehicle_id == vehicle_id
    assert reader.read(message(vehicle_id=...), vehicle_id.encode(), EIGHT).vehicle_id == vehicle_id


@pytest.mark.parametrize("vehicle_id", ["", "x" * 257, None, 7, True, ["V1"], {"id": "V1"}, "\ud800"])
def test_a_bad_vehicle_id_is_not_replaced_by_the_key(reader, vehicle_id):
    reading = reader.read(message(vehicle_id=vehicle_id, ignition="ON"), b"V1", EIGHT)
    assert reading.vehicle_id is None
    assert not reading.rows
    assert only_problem(reading)[:2] == (Reason.BAD_VEHICLE, "vehicle_id")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, Reason.NO_VEHICLE),
        (b"", Reason.NO_VEHICLE),
        (b"\xff\xfe", Reason.NO_VEHICLE),
        (b"\xed\xa0\x80", Reason.NO_VEHICLE),
        (b"x" * 257, Reason.BAD_VEHICLE),
    ],
)
def test_without_a_vehicle_id_the_key_must_be_one(reader, key, reason):
    reading = reader.read(message(vehicle_id=..., ignition="ON"), key, EIGHT)
    assert reading.vehicle_id is None
    assert only_problem(reading).reason is reason


# --- envelope -------------------------------------------------------------------------------------------------------

FLOW = "804f2161-a15c-420f-8f21-61a15c320f68"


def envelope(metadata, /, **fields):
    return json.dumps({"metadata": metadata, "data": json.loads(message(**fields))}).encode()


def test_rows_with_a_switch_that_is_on_carry_the_flow_id(reader):
    reading = reader.read(
        envelope(
            {"id": "01F1FHJ7SHQK5MGF69B8K2346E", "type": "VehicleState", "flow_id": FLOW},
            ignition={"timestamp": EIGHT - 1, "value": "OFF"},
            driving_enabled=True,
            immobilizer={"timestamp": EIGHT + 1, "value": "UNLOCKED"},
            doors_status={"timestamp": EIGHT + 2, "value": "OPEN"},
            telematics_unit={"id": "A", "brand": "B"},
        ),
        None,
        EIGHT,
    )
    assert list(reading.rows) == [
        (EIGHT - 1, mask(Property.IGNITION), (0,)),
        (EIGHT, mask(Property.DRIVING_ENABLED, Property.UNIT, FLOW_ID_BIT), (1, ("A", "B"), FLOW)),
        (EIGHT + 1, mask(Property.IMMOBILIZER, FLOW_ID_BIT), (1, FLOW)),
        (EIGHT + 2, mask(Property.DOORS), (1,)),
    ]
    assert reading.flow_id == FLOW
    assert not reading.problems


def test_one_of_two_switches_that_is_on_is_enough_for_the_flow_id(reader):
    reading = reader.read(envelope({"flow_id": FLOW}, ignition="OFF", driving_enabled=True), None, EIGHT)
    assert list(reading.rows) == [
        (EIGHT, mask(Property.IGNITION, Property.DRIVING_ENABLED, FLOW_ID_BIT), (0, 1, FLOW)),
    ]


def test_a_value_of_one_step_is_no_switch_that_is_on(reader):
    reading = reader.read(envelope({"flow_id": FLOW}, ignition="OFF", speed_in_kmh=0.01), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION, Property.SPEED), (0, 1))]


@pytest.mark.parametrize("metadata", [{}, {"id": "x", "trace": {"a": [1]}}])
def test_an_envelope_may_have_no_flow_id(reader, metadata):
    reading = reader.read(envelope(metadata, ignition="ON"), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (1,))]
    assert (reading.flow_id, list(reading.problems)) == (None, [])


@pytest.mark.parametrize("flow_id", [None, "", "x" * 257, 7, False, [], {}, "\ud800"])
def test_a_bad_flow_id_is_told_and_everything_else_counts(reader, flow_id):
    reading = reader.read(envelope({"flow_id": flow_id}, ignition="ON"), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (1,))]
    assert reading.flow_id is None
    assert only_problem(reading)[:2] == (Reason.BAD_FLOW_ID, "flow_id")


def test_the_key_stands_for_the_vehicle_id_of_an_envelope_too(reader):
    assert reader.read(envelope({}, vehicle_id=..., ignition="ON"), b"V7", EIGHT).vehicle_id == "V7"


def test_fields_beside_an_envelope_are_ignored(reader):
    value = json.dumps({"metadata": {}, "data": json.loads(message(ignition="ON")), "ignition": "OFF", "vehicle_id": 1})
    reading = reader.read(value.encode(), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (1,))]
    assert not reading.problems


def test_an_envelope_inside_an_envelope_is_not_opened(reader):
    inner = {"metadata": {"flow_id": "inner"}, "data": {"ignition": "OFF"}}
    reading = reader.read(envelope({"flow_id": FLOW}, ignition="ON", **inner), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION, FLOW_ID_BIT), (1, FLOW))]
    assert not reading.problems


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b'{"metadata":{},"data":[]}', "data"),
        (b'{"metadata":{},"data":null}', "data"),
        (b'{"metadata":null,"data":{"vehicle_id":"V1"}}', "metadata"),
    ],
)
def test_the_parts_of_an_envelope_must_be_objects(reader, value, name):
    reading = reader.read(value, b"V1", EIGHT)
    assert reading.vehicle_id is None
    assert only_problem(reading)[:2] == (Reason.NOT_AN_OBJECT, name)


@pytest.mark.parametrize("name", ["metadata", "data"])
def test_half_an_envelope_is_an_unknown_property(reader, name):
    reading = reader.read(message(**{name: {"ignition": "OFF"}}, ignition="ON"), None, EIGHT)
    assert list(reading.rows) == [(EIGHT, mask(Property.IGNITION), (1,))]
    assert not reading.problems


# --- records that cannot be read at all -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NO_VALUE),
        (b"", Reason.NO_VALUE),
        (b" ", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b'{"vehicle_id": "V1",}', Reason.NOT_JSON),
        (b"{'vehicle_id': 'V1'}", Reason.NOT_JSON),
        (b'{"vehicle_id": "V1"} {}', Reason.NOT_JSON),
        (b"\xff\xfe{\x00}\x00", Reason.NOT_JSON),
        (b"\xef\xbb\xbf{}", Reason.NOT_JSON),
        (b'{"vehicle_id": "\xff"}', Reason.NOT_JSON),
        (b'{"vehicle_id": "\xed\xa0\x80"}', Reason.NOT_JSON),
        (b'{"vehicle_id": "a\x00b"}', Reason.NOT_JSON),
        (b"\x00\x00\x00\x00\x01", Reason.NOT_JSON),
        (b"null", Reason.NOT_AN_OBJECT),
        (b"17", Reason.NOT_AN_OBJECT),
        (b'"ON"', Reason.NOT_AN_OBJECT),
        (b"NaN", Reason.NOT_AN_OBJECT),
        (b'[{"vehicle_id": "V1"}]', Reason.NOT_AN_OBJECT),
        (b"[" * 1_000_000, Reason.TOO_DEEP),
        (b"[" * 500_000 + b"]" * 500_000, Reason.TOO_DEEP),
        (b'{"a":' * 1_100 + b"1" + b"}" * 1_100, Reason.TOO_DEEP),
        (b'{"a":NaN,"b":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.TOO_DEEP),
    ],
)
def test_a_record_that_cannot_be_read_at_all(reader, value, reason):
    reading = reader.read(value, b"V1", EIGHT)
    assert reading.vehicle_id is None
    assert not reading.rows
    assert only_problem(reading).reason is reason


def test_one_mebibyte_is_read_and_a_byte_more_is_not(reader):
    value = message(ignition="ON")
    padded = value + b" " * (1_048_576 - len(value))
    assert reader.read(padded, None, EIGHT).rows
    reading = reader.read(padded + b" ", None, EIGHT)
    assert reading.vehicle_id is None
    assert only_problem(reading) == Problem(
        Reason.TOO_LARGE, None, "the message has 1,048,577 bytes: at most 1,048,576 are read"
    )


def lists(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("shape", [lists, lambda depth: {"a": lists(depth - 1)}])
@pytest.mark.parametrize(
    ("wrap", "level"),
    [
        (lambda inner: message(ignition="ON", unknown=inner), 1),
        (lambda inner: message(ignition="ON", position={"lat": 1, "lon": 2, "x": inner}), 2),
        (lambda inner: message(ignition="ON", telematics_unit={"id": "A", "brand": "B", "x": inner}), 2),
        (lambda inner: message(ignition="ON", speed_in_kmh={"timestamp": EIGHT, "value": 3, "x": inner}), 2),
        (lambda inner: envelope({}, ignition="ON", unknown=inner), 2),
        (lambda inner: envelope({"x": inner}, ignition="ON"), 2),
        (lambda inner: json.dumps(json.loads(envelope({}, ignition="ON")) | {"x": inner}).encode(), 1),
    ],
)
def test_32_levels_are_read_and_33_are_not(reader, wrap, level, shape):
    reading = reader.read(wrap(shape(32 - level)), None, EIGHT)
    assert reading.vehicle_id == "V1"
    assert not reading.problems
    reading = reader.read(wrap(shape(33 - level)), None, EIGHT)
    assert reading.vehicle_id is None
    assert only_problem(reading).reason is Reason.TOO_DEEP


def test_brackets_in_text_are_no_levels(reader):
    assert reader.read(message(ignition="ON", note="[" * 100 + "{" * 100), None, EIGHT).vehicle_id == "V1"


# --- messages for people --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"speed_in_kmh": 401}, '"speed_in_kmh" is 401: allowed is a number from 0 to 400'),
        ({"speed_in_kmh": "fast"}, '"speed_in_kmh" is "fast": allowed is a number from 0 to 400'),
        ({"speed_in_kmh": None}, '"speed_in_kmh" is null: allowed is a number from 0 to 400'),
        ({"mileage_in_kilometers": -1}, '"mileage_in_kilometers" is -1: allowed is a number from 0 to 10,000,000'),
        ({"ignition": "on"}, '"ignition" is "on": allowed are "ON", true, "OFF", "ACCESSORY", false'),
        ({"doors_status": True}, '"doors_status" is true: allowed are "OPEN", "CLOSED"'),
        (
            {"position": {"lat": 91, "lon": 0}},
            '"lat" of "position" is 91: allowed is a number from -90 to 90 degrees',
        ),
        ({"position": {"lat": 1}}, '"position" has no "lon": allowed is a number from -180 to 180 degrees'),
        ({"position": [1, 2]}, '"position" is a list: allowed is {"lat": …, "lon": …}, in degrees'),
        (
            {"position": {"lat": 0, "lon": 0}},
            '"position" is exactly 0, 0: that is what a receiver without a fix reports',
        ),
        (
            {"telematics_unit": {"id": "", "brand": "B"}},
            '"id" of "telematics_unit" is "": allowed is text of 1 to 256 characters',
        ),
        (
            {"timestamp": "2026-03-01T08:00:00"},
            (
                '"timestamp": "2026-03-01T08:00:00" is a local time without an offset: '
                'end it with "Z" or an offset such as "+01:00"'
            ),
        ),
        (
            {"doors_status": {"timestamp": "2026-03-01T09:00:01.500Z", "value": "OPEN"}},
            (
                'the timestamp of "doors_status" is "2026-03-01T09:00:01.500Z": 1.500 s later than the time of its '
                "Kafka record and the clock skew that is allowed"
            ),
        ),
    ],
)
def test_a_message_names_the_property_its_value_and_what_is_allowed(reader, fields, expected):
    assert only_problem(reader.read(message(**fields), None, EIGHT)).message == expected


def test_a_long_value_is_shortened(reader):
    problem = only_problem(reader.read(message(ignition="x" * 100_000), None, EIGHT))
    assert problem.message == (
        f'"ignition" is "{"x" * 60}…" (100,000 characters): allowed are "ON", true, "OFF", "ACCESSORY", false'
    )


def test_all_problems_of_a_message_are_told_at_once(reader):
    reading = reader.read(
        message(ignition="maybe", speed_in_kmh=-1, position={"lat": 0, "lon": 0}, heading_in_degrees=90), None, EIGHT
    )
    assert list(reading.rows) == [(EIGHT, mask(Property.HEADING), (900,))]
    assert [problem.property for problem in reading.problems] == ["ignition", "position", "speed_in_kmh"]


def test_every_reason_is_a_short_code():
    assert [str(reason) for reason in Reason] == [
        "no_value",
        "too_large",
        "too_deep",
        "not_json",
        "not_an_object",
        "no_vehicle",
        "bad_vehicle",
        "no_time",
        "bad_timestamp",
        "before_2000",
        "clock_skew",
        "bad_value",
        "out_of_range",
        "no_position_fix",
        "bad_flow_id",
        "bad_command",
        "unknown_trip",
        "already_deleted",
    ]
