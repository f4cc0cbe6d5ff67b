"""Bodies of requests: what is taken, and what is said of the others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.status.bodies import BodyError, read_plan, read_update

LATEST = 4_102_444_800_000  # 2100-01-01
COORDS = {"Lat": "42.364551", "Lon": "-71.180604"}
GOOD = {"tripId": 12345, "status": 2, "timeStamp": "2018-03-20T15:00:42.624Z", "loc": {"Coords": COORDS}}
SENT = 1_521_558_042_624
PLAN = {
    "tmsTripId": "T-1",
    "vehicleId": "JQ7RP",
    "windowStart": "2026-03-01T06:00:00Z",
    "windowEnd": "2026-03-01T18:00:00+01:00",
}
ABSENT = object()


def changed(body, **fields):
    body = {**body, **fields}
    return json.dumps({name: value for name, value in body.items() if value is not ABSENT}).encode()


def with_loc(**loc):
    return changed(GOOD, loc=loc)


def refused(read, body, **more):
    with pytest.raises(BodyError) as caught:
        read(body, **more)
    assert caught.value.description.endswith(" Correct the error and try again.")
    return caught.value.description.removesuffix(" Correct the error and try again.")


def update(body):
    return read_update(body, latest_ms=LATEST)


def test_the_seeds_sample():  # seeds/004_66b18354c030506b.txt, "Sample Request"
    read = update(json.dumps(GOOD).encode())
    assert (read.trip_id, read.tms_trip_id, read.status.word, read.time_ms) == (12345, None, "Completed", SENT)
    assert read.location == {"lat": 42.364551, "lon": -71.180604}


def test_the_spelling_of_the_table_and_that_of_the_sample():  # the same seed, "Request Fields"
    coords = {"lat": "42.364551", "lon": "-71.180604"}
    optional = {"Speed": 50, "Heading": 270, "Altitude": 12, "DeviceDT": "2018-03-20T15:00:40Z"}
    expected = {
        "lat": 42.364551,
        "lon": -71.180604,
        "speed": 50,
        "heading": 270,
        "altitude": 12,
        "device_time": 1_521_558_040_000,
    }
    assert update(with_loc(coords=coords, **optional)).location == expected
    small = {name[0].lower() + name[1:]: value for name, value in optional.items()}
    assert update(with_loc(Coords=COORDS, **small)).location == expected


@pytest.mark.parametrize(("inner", "both"), [({"Coords": COORDS, "coords": COORDS}, "Coords")])
def test_both_spellings_at_once_are_refused(inner, both):
    assert f"not also as {both}" in refused(update, with_loc(**inner))
    assert "not also as Lat" in refused(update, with_loc(coords={**COORDS, "lat": "1.0000"}))


def test_tms_trip_id_comes_first_whatever_trip_id_is():
    for other in (7, "7", None, True, [], ABSENT):
        read = update(changed(GOOD, tmsTripId="T-1", tripId=other))
        assert (read.tms_trip_id, read.trip_id) == ("T-1", None)
    for absent in (None, ""):
        assert update(changed(GOOD, tmsTripId=absent)).trip_id == 12345


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tripId": ABSENT}, "A required field was not supplied: 'tripId' or 'tmsTripId'."),
        ({"tripId": None}, "A required field was not supplied: 'tripId' or 'tmsTripId'."),
        ({"status": ABSENT}, "A required field was not supplied: 'status'."),
        ({"timeStamp": ABSENT}, "A required field was not supplied: 'timeStamp'."),
        ({"loc": ABSENT}, "A required field was not supplied: 'loc'."),
        ({"loc": {}}, "A required field was not supplied: 'loc.coords'."),
        ({"loc": {"coords": {"lon": "1.0000"}}}, "A required field was not supplied: 'loc.coords.lat'."),
        ({"loc": {"coords": {"lat": "1.0000"}}}, "A required field was not supplied: 'loc.coords.lon'."),
        ({"tripId": "12345"}, "An invalid value was passed: 'tripId' must be an integer."),
        ({"tripId": True}, "An invalid value was passed: 'tripId' must be an integer."),
        ({"tripId": 1.0}, "An invalid value was passed: 'tripId' must be an integer."),
        (
            {"tmsTripId": "", "tripId": ABSENT},
            "An invalid value was passed: 'tmsTripId' must be a string of 1 to 256 characters.",
        ),
        ({"tmsTripId": 5}, "An invalid value was passed: 'tmsTripId' must be a string of 1 to 256 characters."),
        ({"tmsTripId": "x" * 257}, "An invalid value was passed: 'tmsTripId' must be a string of 1 to 256 characters."),
    ],
)
def test_what_is_missing_or_wrong_is_said(fields, said):
    assert refused(update, changed(GOOD, **fields)) == said


@pytest.mark.parametrize("status", ["2", True, False, 2.0, 5, -1, 10**30, [2]])
def test_a_status_is_an_integer_from_0_to_4(status):
    assert "'status' must be 0 (Rejected), 1 (Accepted)" in refused(update, changed(GOOD, status=status))


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("2018-03-20T15:00:42.624Z", SENT),
        ("2018-03-20T16:00:42.624+01:00", SENT),
        ("2018-03-20T16:00:42.624+01", SENT),
        ("2018-03-20T15:00:42.624", SENT),
        ("2018-03-20T15:00:42,624999z", SENT),
        ("20180320T150042.624Z", SENT),
        ("2018-03-20T15:00Z", 1_521_558_000_000),
        ("2000-01-01T00:00:00Z", 946_684_800_000),
    ],
)
def test_timestamps_are_iso_8601(written, means):
    assert update(changed(GOOD, timeStamp=written)).time_ms == means


@pytest.mark.parametrize(
    "written",
    [
        "2018-03-20",
        "2018-03-20 15:00:42Z",
        "20.03.2018 15:00",
        "2018-02-30T15:00:00Z",
        "2018-03-20T25:00:00Z",
        "2018-03-20T15:00:60Z",
        "2018-W12-2T15:00:00Z",
        "2018-03-20T15:00:42+25:00",
        "1999-12-31T23:59:59.999Z",
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59-23:59",
        "٢٠١٨-03-20T15:00:42Z",
        "2018-03-20T15:00:42Z" + " " * 40,
        "",
        1_521_558_042_624,
        True,
    ],
)
def test_other_timestamps_are_refused(written):
    assert "'timeStamp' must be a date and time in ISO-8601 format" in refused(update, changed(GOOD, timeStamp=written))


def test_a_timestamp_in_the_future_is_refused():
    body = json.dumps(GOOD).encode()
    assert read_update(body, latest_ms=SENT).time_ms == SENT
    assert "'timeStamp' must be a time that is not in the future" in refused(read_update, body, latest_ms=SENT - 1)


@pytest.mark.parametrize("written", ["42.3645", "+42.3645", "-90.0000", "90.0000", "0.00000000", "042.364551"])
def test_coordinates_with_four_decimals_are_taken(written):
    assert update(with_loc(coords={"lat": written, "lon": "0.0000"})).location["lat"] == float(written)


@pytest.mark.parametrize(
    "written",
    [
        42.364551,
        "42",
        "42.364",
        "42.36455x",
        " 42.3645",
        "90.0001",
        "-90.00001",
        "1e1.0000",
        "NaN",
        "42,364551",
        ".3645",
        "٤٢.3645",
        "42.3645\n",
        True,
        ["42.3645"],
    ],
)
def test_other_coordinates_are_refused(written):
    said = refused(update, with_loc(coords={"lat": written, "lon": "0.0000"}))
    assert said.endswith("'loc.coords.lat' must be a string of degrees from -90 to 90 with at least 4 decimal digits.")


def test_a_longitude_goes_to_180():
    assert update(with_loc(coords={"lat": "0.0000", "lon": "-180.0000"})).location["lon"] == -180
    assert "from -180 to 180" in refused(update, with_loc(coords={"lat": "0.0000", "lon": "180.0001"}))


@pytest.mark.parametrize("name", ["Speed", "heading", "Altitude"])
@pytest.mark.parametrize("number", [1.5, "50", True, 10**9])
def test_optional_numbers_are_integers(name, number):
    assert f"'loc.{name.lower()}' must be an integer" in refused(update, with_loc(Coords=COORDS, **{name: number}))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b'{"a": NaN}', b"[" * 5000])
@pytest.mark.parametrize("read", [update, read_plan])
def test_a_body_that_is_no_json_object(body, read):
    assert refused(read, body) == "An invalid value was passed: the body must be a JSON object."


def test_a_plan():
    read = read_plan(json.dumps(PLAN).encode())
    assert (read.tms_trip_id, read.vehicle_id) == ("T-1", "JQ7RP")
    assert (read.start_ms, read.end_ms) == (1_772_344_800_000, 1_772_384_400_000)


@pytest.mark.parametrize("name", PLAN)
def test_a_plan_needs_all_its_fields(name):
    said = refused(read_plan, changed(PLAN, **{name: ABSENT}))
    assert said == f"A required field was not supplied: '{name}'."
    assert f"'{name}' must be" in refused(read_plan, changed(PLAN, **{name: 5}))


@pytest.mark.parametrize("end", ["2026-03-01T06:00:00Z", "2026-03-01T05:00:00Z", "2026-04-01T06:00:00.001Z"])
def test_a_window_has_a_length(end):
    said = refused(read_plan, changed(PLAN, windowEnd=end))
    assert said.endswith("'windowEnd' must be after windowStart, by at most 31 days.")
    assert read_plan(changed(PLAN, windowEnd="2026-04-01T06:00:00Z"))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
near = {
    "tripId": anything | st.integers(1, 3),
    "tmsTripId": anything | st.just("T-1"),
    "status": anything | st.integers(-1, 5),
    "timeStamp": anything | st.datetimes().map(lambda moment: moment.isoformat()),
    "vehicleId": anything,
    "windowStart": anything | st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    "windowEnd": anything | st.datetimes().map(lambda moment: moment.isoformat() + "+14:00"),
    "loc": anything
    | st.fixed_dictionaries(
        {},
        optional={
            "coords": anything | st.fixed_dictionaries({}, optional={"lat": anything, "Lon": anything}),
            "Coords": st.just(COORDS),
            "Speed": anything,
            "DeviceDT": anything,
        },
    ),
}
near_misses = st.fixed_dictionaries({}, optional=near).map(lambda body: json.dumps(body).encode())


@given(st.binary() | anything.map(lambda value: json.dumps(value).encode()) | near_misses)
def test_any_bytes_are_read_or_refused(body):
    for read in (update, read_plan):
        said = description_of(read, body)
        assert said.isprintable()
        assert len(said) < 300


def description_of(read, body):
    try:
        read(body)
    except BodyError as error:
        return error.description
    return ""
