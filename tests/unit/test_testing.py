from datetime import UTC, datetime, timedelta

import orjson
import pytest

from streams.errors import SettingsError
from streams.testing import TripsTestDriver


def at(time):
    return f"2026-03-01T{time}Z"


def test_a_trip_is_deleted_and_stays_so_after_a_restart():
    driver = TripsTestDriver()
    driver.pipe({"vehicle_id": "VAN-7", "timestamp": "2026-03-01T08:00:00Z", "ignition": "ON"})
    driver.pipe({"vehicle_id": "VAN-7", "timestamp": "2026-03-01T08:30:00Z", "ignition": "OFF"})
    *_, ready = driver.announcements()
    trip_id = ready["data"]["trip"]["id"]
    driver.delete(trip_id, "VAN-7")
    (deleted,) = driver.announcements()
    assert deleted["metadata"]["type"] == "TripDeleted"
    assert deleted["data"] == {
        "occurred_at": "2026-03-01T08:30:00Z",
        "trip": {"id": trip_id, "key": ready["data"]["trip"]["key"], "revision": 1, "vehicle_id": "VAN-7"},
    }
    assert driver.trips() == {}
    driver.restart()
    driver.pipe({"vehicle_id": "VAN-7", "timestamp": "2026-03-01T08:10:00Z", "ignition": "ON"})
    driver.delete(trip_id, "VAN-7")
    assert driver.announcements() == []
    (letter,) = driver.dead_letters()
    assert dict(letter.headers)["__connect.errors.topic"] == b"trip-commands"


def test_a_trip_from_bytes_to_bytes():
    driver = TripsTestDriver()
    driver.pipe({"vehicle_id": "A", "timestamp": at("07:59:00"), "ignition": "OFF"})
    assert driver.announcements() == []
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:00:00"), "ignition": "ON", "mileage_in_kilometers": 100.0})
    (started,) = driver.announcements()
    assert started["metadata"]["type"] == "TripStarted"
    assert started["data"]["occurred_at"] == at("08:00:00")

    driver.pipe({"vehicle_id": "A", "timestamp": at("08:10:00"), "ignition": "OFF", "mileage_in_kilometers": 107.5})
    records = driver.read("trip-events")
    assert [dict(record.headers)["ce_type"] for record in records] == [b"TripEnded", b"TripDataReady"]
    assert {record.key for record in records} == {b"A"}
    ready = orjson.loads(records[1].value)["data"]["trip"]
    assert ready["metrics"]["duration_in_ms"] == 600_000
    assert ready["metrics"]["distance_in_km"] == 7.5
    assert ready["revision"] == 2
    assert driver.read("trip-events") == []
    assert driver.trips() == {ready["id"]: orjson.loads(records[1].value)}
    (trip,) = driver.read("trips")
    assert trip.key.decode() == ready["id"]


def test_the_settings_are_the_rules():
    driver = TripsTestDriver(min_duration="PT2M", topic_prefix="acme.")
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:00:00"), "ignition": "ON"})
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:01:59"), "ignition": "OFF"})
    assert [one["metadata"]["type"] for one in driver.announcements()] == ["TripStarted", "TripEnded", "TripDiscarded"]
    assert driver.trips() == {}
    with pytest.raises(SettingsError, match="TRIPS_MIN_DURATION='soon'"):
        TripsTestDriver(min_duration="soon")


def test_the_environment_does_not_count(monkeypatch):
    monkeypatch.setenv("TRIPS_MIN_DURATION", "PT2H")
    assert TripsTestDriver().settings.min_duration == timedelta(minutes=1)


def test_time_passes_only_when_told_to():
    driver = TripsTestDriver(silence_timeout="PT10M")
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:00:00"), "ignition": "ON"})
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:05:00"), "speed_in_kmh": 50})
    driver.announcements()
    driver.advance(timedelta(minutes=10))
    assert driver.announcements() == []
    driver.advance(0.001)
    ended, ready = driver.announcements()
    assert ended["data"]["occurred_at"] == at("08:05:00")
    assert ready["data"]["trip"]["flags"] == ["START_UNOBSERVED", "END_INFERRED"]


def test_another_worker_takes_over_where_the_lost_one_was():
    driver = TripsTestDriver()
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:00:00"), "ignition": "ON", "mileage_in_kilometers": 1.0})
    driver.announcements()
    driver.restart()
    assert driver.announcements() == []
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:10:00"), "ignition": "OFF", "mileage_in_kilometers": 3.0})
    _ended, ready = driver.announcements()
    assert ready["data"]["trip"]["metrics"]["distance_in_km"] == 2.0


def test_what_cannot_be_read_is_a_dead_letter_with_a_reason():
    driver = TripsTestDriver()
    driver.pipe(b"\xff not JSON", key="A")
    (letter,) = driver.dead_letters()
    assert letter.topic == "vehicle-telemetry-dead-letters"
    assert (letter.key, letter.value) == (b"A", b"\xff not JSON")
    headers = dict(letter.headers)
    assert headers["__connect.errors.topic"] == b"vehicle-telemetry"
    assert headers["__connect.errors.offset"] == b"0"
    assert headers["__connect.errors.exception.message"]


def test_what_is_behind_the_horizon_is_late():
    driver = TripsTestDriver(correction_horizon="PT1H")
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:00:00"), "ignition": "OFF", "speed_in_kmh": 0})
    driver.pipe({"vehicle_id": "A", "timestamp": at("12:00:00"), "speed_in_kmh": 0})
    driver.pipe({"vehicle_id": "A", "timestamp": at("09:00:00"), "speed_in_kmh": 10})
    (letter,) = driver.late()
    assert letter.topic == "late-telemetry"


def test_the_kafka_timestamp_can_be_given():
    driver = TripsTestDriver(max_clock_skew=60)
    message = {"vehicle_id": "A", "timestamp": at("08:02:00"), "ignition": "ON"}
    driver.pipe(message, timestamp=datetime(2026, 3, 1, 8, 0, 59, tzinfo=UTC))
    assert len(driver.dead_letters()) == 1
    driver.pipe(message, timestamp=1_772_352_060_000)
    assert driver.dead_letters() == []
    assert driver.clock == 1_772_352_060_000


def test_a_batch_tells_corrections_once():
    driver = TripsTestDriver()
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:00:00"), "ignition": "ON"})
    driver.pipe({"vehicle_id": "A", "timestamp": at("08:30:00"), "ignition": "OFF"})
    driver.announcements()
    driver.pipe_batch(
        [
            {"vehicle_id": "A", "timestamp": at(f"08:{minute}:00"), "position": {"lat": 50.0, "lon": 7.0}}
            for minute in (10, 11, 12)
        ]
    )
    (corrected,) = driver.announcements()
    assert corrected["metadata"]["type"] == "TripDataReady"
    assert corrected["data"]["trip"]["metrics"]["position_count"] == 3
    assert corrected["data"]["trip"]["revision"] == 4
