"""A partition's processor: what no record may do to it, and what it counts."""

import json
from datetime import timedelta

import pytest
from unit.trips.records import record

from streams.processor import Processor
from streams.records import Standing, TripsRecord
from streams.telemetry.reader import Reader
from streams.testing import TripsTestDriver
from streams.trips.rules import Rules
from streams.trips.samples import Property

T0 = 1_772_352_000_000
HOUR = 3_600_000


def partition(**rules):
    return Processor(Rules(**rules), Reader(max_clock_skew_ms=None))


def message(second, **properties):
    return json.dumps({"vehicle_id": "JQ7RP", "timestamp": T0 + second * 1000, **properties}).encode()


def restarted(processor, changelog, **rules):
    changelog |= processor.take().changes
    other = partition(**rules)
    other.restore(list(changelog.items()))
    other.restored()
    return other


def events(processor):
    return [
        (one.event, json.loads(one.payload)["data"]["occurred_at"][11:19]) for one in processor.take().announcements
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", None)],
        [("traceparent", b"")],
        [("traceparent", b"\xff" * 55)],
        [("traceparent", b"00-0123456789abcdef  01  0123456789-0123456789abcdef-01")],
        [("traceparent", b"00-" + b"A" * 32 + b"-0123456789abcdef-01")],
    ],
)
def test_a_header_that_is_no_traceparent_is_not_passed_on(headers):
    processor = partition()
    processor.process([record(0, message(0, ignition="ON"), T0, headers=tuple(headers))])
    (started,) = processor.take().announcements
    assert started.traceparent is None


def test_a_traceparent_is_passed_on_by_the_record_and_by_the_timer_after_a_restart():
    processor, changelog = partition(), {}
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    processor.process([record(0, message(0, ignition="ON"), T0)])
    processor.process([record(1, message(90, speed_in_kmh=50), T0, headers=(("traceparent", trace),))])
    processor = restarted(processor, changelog)
    processor.advance(T0 + 2 * HOUR)
    assert {one.traceparent for one in processor.take().announcements} == {trace.decode()}


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 253_402_300_800_000, T0 * 1000, 2**63 - 1])
def test_a_record_at_no_time_is_a_dead_letter_and_moves_no_clock(timestamp):
    processor = partition()
    processor.process([record(0, message(0, ignition="ON"), T0), record(1, message(60, ignition="OFF"), timestamp)])
    output = processor.take()
    assert processor.clock == T0
    (rejected,) = output.rejected
    assert (rejected.record.offset, rejected.partial) == (1, False)
    assert str(timestamp) in rejected.problems[0].message
    assert [one.event for one in output.announcements] == ["TripStarted"]


def test_another_trigger_after_a_restart_starts_its_trips_at_once():
    processor, changelog = partition(), {}
    processor.process([record(0, message(0, ignition="ON"), T0)])
    processor = restarted(processor, changelog, trigger=Property.IMMOBILIZER)
    processor.process([record(1, message(60, speed_in_kmh=50), T0)])
    processor.take()
    processor.process([record(2, message(120, immobilizer="UNLOCKED"), T0)])
    assert events(processor) == [("TripStarted", "08:02:00")]


def test_a_trip_that_ended_by_silence_is_not_counted_as_on():
    processor = partition()
    processor.process([record(0, message(0, ignition="ON"), T0), record(1, message(90, speed_in_kmh=50), T0)])
    assert processor.open_trips == 1
    processor.advance(T0 + HOUR + 1)
    assert events(processor)[-1] == ("TripDataReady", "08:01:30")
    assert processor.open_trips == 0
    processor.process([record(2, message(100, speed_in_kmh=50), T0 + HOUR + 2)])
    assert processor.open_trips == 1


def test_an_odometer_known_late_from_before_the_start_is_that_of_the_start():
    processor = partition(correction_horizon_ms=HOUR)
    processor.process(
        [
            record(0, message(-600, ignition="OFF"), T0),
            record(1, message(0, ignition="ON"), T0),
            record(2, message(2_400, speed_in_kmh=50), T0),
            record(3, message(4_740, speed_in_kmh=50), T0),
            # More than an hour behind, but the first that is heard of the odometer:
            record(4, message(-300, mileage_in_kilometers=1_000), T0),
            record(5, message(4_800, mileage_in_kilometers=1_030), T0),
            record(6, message(4_860, ignition="OFF", mileage_in_kilometers=1_031), T0),
        ]
    )
    output = processor.take()
    assert output.late == []
    ready = json.loads(output.announcements[-1].payload)["data"]["trip"]
    assert ready["metrics"]["distance_in_km"] == 31.0


def test_samples_are_counted_by_property_an_altitude_and_a_flow_id_are_none():
    processor = partition()
    body = {
        "metadata": {"flow_id": "804f2161-a15c-420f-8f21-61a15c320f68"},
        "data": {
            "vehicle_id": "JQ7RP",
            "timestamp": T0,
            "ignition": "ON",
            "position": {"lat": 50.1, "lon": 7.3, "altitude": 90},
        },
    }
    processor.process([record(0, json.dumps(body).encode(), T0)] * 2)
    counts = processor.counts
    assert (counts.messages, counts.samples, counts.applied, counts.repeated) == (2, 4, 1, 1)


def test_a_vehicle_that_is_put_to_rest_between_its_records_is_told_the_same():
    told = {}
    for pause in (0, 121_000):
        processor = partition(silence_timeout_ms=0)
        told[pause] = []
        for number in range(200):
            ignition = "ON" if number % 50 < 40 else "OFF"
            body = message(number * 10, ignition=ignition, mileage_in_kilometers=1_000 + number / 10)
            other = json.dumps({"vehicle_id": "other", "timestamp": T0, "speed_in_kmh": number}).encode()
            now = T0 + number * pause
            processor.process([record(2 * number, body, now)])
            told[pause] += events(processor)
            processor.process([record(2 * number + 1, other, now + pause)])  # time goes on
            told[pause] += events(processor)
            assert list(processor._awake) == (["other"] if pause else ["JQ7RP", "other"])
    assert told[0] == told[121_000]
    assert [event for event, _ in told[0]].count("TripDataReady") == 4


def test_new_rules_and_a_first_old_property_in_one_record_leave_no_word_behind():
    processor, changelog = partition(correction_horizon_ms=HOUR), {}
    processor.process([record(number, message(number * 30, ignition="ON"), T0) for number in range(240)])
    processor = restarted(processor, changelog, correction_horizon_ms=HOUR, trigger=Property.IMMOBILIZER)
    old = {"timestamp": T0 - HOUR, "value": "CLOSED"}
    for offset in range(240, 1_000):
        second = offset * 30
        lock = "UNLOCKED" if offset // 20 % 2 else "LOCKED"
        processor.process([record(offset, message(second, immobilizer=lock, doors_status=old), T0)])
    told = processor.take().announcements
    assert told[0].event == "TripDiscarded"
    assert json.loads(told[0].payload)["data"]["reason"] == "SUPERSEDED"
    assert len(processor._awake["JQ7RP"]._ledger.starts(0)) < 10


def test_an_on_that_was_not_trusted_before_a_restart_does_not_hide_the_next():
    processor, changelog = partition(correction_horizon_ms=HOUR, unknown_start="ignore"), {}
    processor.process([record(number, message(number * 60, ignition="ON"), T0) for number in range(200)])
    processor = restarted(processor, changelog, correction_horizon_ms=HOUR)
    processor.process([record(200, message(200 * 60, speed_in_kmh=3), T0)])
    processor.take()
    for offset in range(201, 203):
        processor.process([record(offset, message(offset * 60, ignition="ON"), T0)])
    assert {one.event for one in processor.take().announcements} <= {"TripStarted", "TripDiscarded"}
    assert processor.open_trips == 1


def test_the_flow_id_is_that_of_the_trigger_not_of_another_switch():
    processor = partition()

    def envelope(flow_id, **properties):
        data = {"vehicle_id": "JQ7RP", "timestamp": T0, **properties}
        return json.dumps({"metadata": {"flow_id": flow_id}, "data": data}).encode()

    processor.process([record(0, envelope("z", immobilizer="UNLOCKED"), T0)])
    processor.process([record(1, envelope("a", ignition="ON"), T0)])
    (started,) = processor.take().announcements
    assert json.loads(started.payload)["metadata"]["flow_id"] == "a"


@pytest.mark.parametrize("decider", ["ON", "OFF"])
def test_a_first_old_position_counts_for_the_trip_before_the_gap_and_for_the_whole(decider):
    processor = partition(correction_horizon_ms=HOUR)
    processor.process(
        [
            record(0, message(0, ignition="OFF"), T0),
            record(1, message(60, ignition="ON"), T0),
            record(2, message(660, speed_in_kmh=50), T0),
            record(3, message(8_000, speed_in_kmh=50), T0),
            record(4, message(12_000, speed_in_kmh=50), T0),
            record(5, message(600, position={"lat": 50.1, "lon": 7.3}), T0),
            record(6, message(12_060, ignition=decider), T0),
        ]
    )
    ready = [one for one in processor.take().announcements if one.event == "TripDataReady"]
    trip = json.loads(ready[-1].payload)["data"]["trip"]
    assert trip["metrics"]["position_count"] == 1
    assert trip["end"]["position"]["timestamp"] == "2026-03-01T08:10:00Z"


def test_the_first_sample_of_a_property_that_comes_behind_the_horizon_is_one_that_a_silence_may_begin_with():
    driver = TripsTestDriver(correction_horizon=600, silence_timeout=300, min_duration=10)
    start = 1_772_352_000_000

    def say(second, **properties):
        driver.pipe({"vehicle_id": "V1", "timestamp": start + second * 1000, **properties})

    say(0, ignition="ON", mileage_in_kilometers=1)
    say(100, mileage_in_kilometers=2)
    say(1000, mileage_in_kilometers=2)
    say(110, speed_in_kmh=80)  # behind the horizon, and later than all that is
    driver.advance(timedelta(seconds=301))
    (trip,) = driver.trips().values()
    assert trip["data"]["trip"]["end"]["timestamp"] == "2026-03-01T08:01:50Z"
    assert trip["data"]["trip"]["metrics"]["max_speed_in_kmh"] == 80
    assert trip["data"]["trip"]["metrics"]["longest_gap_in_ms"] == 100_000


def test_with_a_revision_base_a_backlog_tells_of_trips_that_were_none_for_who_has_heard_of_them_before():
    # Each is the start of the trip until the next one comes, which is older.
    records = [record(offset, message(second, ignition="ON"), T0) for offset, second in enumerate([900, 600, 300])]

    def told(**rules):
        processor = partition(**rules)
        processor.standing = Standing(backlog_end=3)
        processor.process(records)
        return [(one.event, one.trip_id) for one in processor.take().announcements]

    # An application before this one was there when they came, one by one.
    first = partition()
    announced = []
    for one in records:
        first.process([one])
        announced += [(said.event, said.trip_id) for said in first.take().announcements]
    assert [event for event, _ in announced] == ["TripStarted", *["TripStarted", "TripDiscarded"] * 2]
    assert told(revision_base=1000) == announced
    # Without one before, a backlog is one thing, and nobody is told of what was true in the middle of it.
    assert announced[1] not in told()


def test_who_starts_anew_takes_from_the_trips_topic_what_the_one_before_has_put_there():
    """It was ready by the timer; then came the OFF, too soon for a trip that is kept."""
    records = [record(0, message(0, ignition="ON"), T0), record(1, message(30, ignition="OFF"), T0 + 2 * HOUR)]
    processor = partition(revision_base=1000)
    processor.standing = Standing(backlog_end=2)
    processor.process(records)
    said = [(one.event, one.trips_record) for one in processor.take().announcements]
    assert said[0] == ("TripStarted", TripsRecord.DELETE)
    assert said[-1] == ("TripDiscarded", TripsRecord.KEEP)


def test_where_the_backlog_ends_is_kept_with_the_state():
    processor = partition(revision_base=1000)
    processor.standing = Standing(next_offset=1, backlog_end=3)
    processor.process([record(0, message(900, ignition="ON"), T0)])
    again = restarted(processor, {}, revision_base=1000)
    again.process([record(offset, message(second, ignition="ON"), T0) for offset, second in [(1, 600), (2, 300)]])
    assert len(again.take().announcements) == 4
    again.process([record(offset, message(second, ignition="ON"), T0) for offset, second in [(3, 200), (4, 100)]])
    assert len(again.take().announcements) == 2
