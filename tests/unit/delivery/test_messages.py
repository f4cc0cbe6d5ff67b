from dataclasses import dataclass

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder

from streams.delivery.messages import Source, announcement_messages, dead_letter, late_letter
from streams.records import Announcement, Late, Rejected, TripsRecord
from streams.telemetry.problems import Problem, Reason

SOURCE = Source("vehicle-telemetry", 3)
ROOMY = 2 * 2**20


@dataclass
class Received:
    offset: int = 17
    timestamp: int = 0
    key: bytes | None = b"JQ7RP"
    value: bytes | None = b"{"
    headers: tuple = ()


def announced(trips_record=TripsRecord.KEEP, **changes):
    values = {
        "vehicle_id": "JQ7RP",
        "trip_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "event": "TripEnded",
        "event_id": "01F1FHJ7SHQK5MGF69B8K2346E",
        "revision": 48123,
        "time_ms": 1_772_353_865_000,
        "traceparent": None,
        "payload": b'{"a":1}',
        "trips_record": trips_record,
    }
    return Announcement(**{**values, **changes})


def problem(message="not JSON at character 1", reason=Reason.NOT_JSON):
    return Problem(reason, None, message)


def size_of(message):
    """What Kafka's message format makes of it."""
    builder = BatchBuilder(1, 0, is_transactional=1)
    assert builder.append(timestamp=None, key=message.key, value=message.value, headers=message.headers)
    return builder.size()


def test_an_announcement_is_a_cloud_event_by_its_vehicle():
    event, trip = announcement_messages(announced(), b"/ignition-trips/app", 3)
    assert event.key == b"JQ7RP"
    assert event.value == b'{"a":1}'
    assert event.headers == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"01F1FHJ7SHQK5MGF69B8K2346E"),
        ("ce_source", b"/ignition-trips/app"),
        ("ce_type", b"TripEnded"),
        ("ce_time", b"2026-03-01T08:31:05Z"),
        ("ce_subject", b"01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ("content-type", b"application/json"),
        ("ignition-trips.partition", b"3"),
    ]
    assert trip is None


def test_milliseconds_are_told_where_they_are_not_zero():
    event, _ = announcement_messages(announced(time_ms=1_772_353_865_007), b"/", 3)
    assert dict(event.headers)["ce_time"] == b"2026-03-01T08:31:05.007Z"


def test_a_trace_is_passed_on():
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    event, _ = announcement_messages(announced(traceparent=trace), b"/", 3)
    assert dict(event.headers)["traceparent"] == trace.encode()


def test_a_ready_trip_is_put_under_its_id():
    event, trip = announcement_messages(announced(TripsRecord.PUT), b"/", 3)
    assert trip.key == b"01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert trip.value == event.value


def test_a_trip_that_is_no_more_is_a_tombstone():
    _, trip = announcement_messages(announced(TripsRecord.DELETE), b"/", 3)
    assert trip.key == b"01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert trip.value is None


def test_a_dead_letter_is_the_record_as_it_came_and_why():
    record = Received(value=b"\xff\x00", headers=(("app", b"x"), ("nothing", None)))
    letter = dead_letter(Rejected(record, [problem()], partial=False), SOURCE, ROOMY)
    assert letter.key == b"JQ7RP"
    assert letter.value == b"\xff\x00"
    assert letter.headers == [
        ("app", b"x"),
        ("nothing", None),
        ("__connect.errors.topic", b"vehicle-telemetry"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.exception.class.name", b"ignition_trips.not_json"),
        ("__connect.errors.exception.message", b"not JSON at character 1"),
        ("ignition-trips.reasons", b"not_json"),
    ]


def test_a_partial_dead_letter_says_so_and_names_each_reason_once():
    problems = [
        problem("speed_in_kmh is 500, allowed are 0 to 400", Reason.OUT_OF_RANGE),
        problem("heading_in_degrees is 400, allowed are 0 to 360", Reason.OUT_OF_RANGE),
        problem("ignition is 7", Reason.BAD_VALUE),
    ]
    headers = dict(dead_letter(Rejected(Received(), problems, partial=True), SOURCE, ROOMY).headers)
    assert headers["ignition-trips.partial"] == b"true"
    assert headers["ignition-trips.reasons"] == b"out_of_range,bad_value"
    assert headers["__connect.errors.exception.message"] == (
        b"speed_in_kmh is 500, allowed are 0 to 400; heading_in_degrees is 400, allowed are 0 to 360; ignition is 7"
    )


def test_a_dead_letter_that_is_sent_again_and_fails_again_tells_of_this_time():
    cut = dead_letter(Rejected(Received(value=bytes(9_000)), [problem()], partial=True), SOURCE, 2_000)
    again = Received(value=b"{", headers=tuple(cut.headers))
    letter = dead_letter(Rejected(again, [problem("not JSON at character 2")], partial=False), SOURCE, ROOMY)
    assert letter.headers[: len(cut.headers)] == cut.headers
    last = dict(letter.headers)
    assert last["ignition-trips.partial"] == b"false"
    assert last["ignition-trips.original-size"] == b"1"
    assert last["__connect.errors.exception.message"] == b"not JSON at character 2"


def test_a_late_letter_says_what_came_too_late():
    letter = late_letter(Late(Received(), "ignition of 2026-03-01"), SOURCE, ROOMY)
    headers = dict(letter.headers)
    assert letter.value == b"{"
    assert headers["__connect.errors.exception.message"] == b"ignition of 2026-03-01"


def test_a_record_without_key_and_value_stays_without():
    letter = dead_letter(Rejected(Received(key=None, value=None), [problem()], partial=False), SOURCE, ROOMY)
    assert (letter.key, letter.value) == (None, None)


def test_a_long_message_is_shortened():
    letter = dead_letter(Rejected(Received(), [problem("é" * 10_000)], partial=False), SOURCE, ROOMY)
    message = dict(letter.headers)["__connect.errors.exception.message"].decode()
    assert len(message) == 4096
    assert message.endswith("…")


def test_the_largest_record_of_the_source_fits_whole_into_a_topic_with_64_kib_more():
    record = Received(value=b"x" * (1_048_588 - 100))
    letter = dead_letter(Rejected(record, [problem("m" * 5000)], partial=True), SOURCE, 1_048_588 + 65_536)
    assert letter.value == record.value
    assert size_of(letter) <= 1_048_588 + 65_536


@pytest.mark.parametrize("limit", [1_500, 4_000, 50_000, 99_999])
def test_what_does_not_fit_is_cut_short_and_its_size_told(limit):
    record = Received(value=bytes(100_000))
    letter = dead_letter(Rejected(record, [problem()], partial=False), SOURCE, limit)
    assert letter.key == b"JQ7RP"
    assert record.value.startswith(letter.value)
    assert dict(letter.headers)["ignition-trips.original-size"] == b"100000"
    assert limit - 100 < size_of(letter) <= limit


def test_headers_and_key_give_way_after_the_value():
    record = Received(key=b"k" * 5000, value=b"v" * 5000, headers=(("h", b"x" * 5000),))
    without_value = dead_letter(Rejected(record, [problem()], partial=False), SOURCE, 11_000)
    without_headers = dead_letter(Rejected(record, [problem()], partial=False), SOURCE, 6_000)
    without_key = dead_letter(Rejected(record, [problem()], partial=False), SOURCE, 3_000)
    assert ("h", b"x" * 5000) in without_value.headers
    assert ("h", b"x" * 5000) not in without_headers.headers
    assert without_headers.key == record.key
    assert without_key.key is None
    assert all(size_of(one) <= limit for one, limit in ((without_value, 11_000), (without_headers, 6_000)))
    assert size_of(without_key) <= 3_000
