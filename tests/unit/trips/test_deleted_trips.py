"""Deleted trips, one behaviour each. The expectations were written by hand; the notation is that of ``drives.py``."""

from __future__ import annotations

import zlib
from typing import Any

import msgpack
import pytest
from drives import Drive, _delete

from streams.trips.machine import Machine
from streams.trips.rules import Rules
from streams.trips.state import FRAME_SIZE, open_value

MINUTE = 60_000
HOUR = 60 * MINUTE
CASES: list[Any] = []


def case(name: str, script: str, **settings: Any) -> None:
    CASES.append(pytest.param(script, Rules(**settings), id=name))


DRIVE = """
    07:50:00 OFF km=100 at=50,7
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 speed=50 at=50.01,7
    08:06:00 speed=60 at=50.015,7
    08:10:00 OFF km=110 at=50.02,7 doors=OPEN
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
"""
DELETED = """
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete occurred_at=2026-03-06T00:00:00Z rev=5
"""

TAKEN_BACK = """
    08:00:00 OFF
    08:10:00 ON
      > TripStarted 08:10:00
    08:11:00 at=50.01,7
    08:20:00 at=50.02,7
    08:05:00 ON
      > TripDiscarded 08:10:00 reason=SUPERSEDED superseded_by=08:05:00 status=DISCARDED
      > TripStarted 08:05:00
    delete 08:10:00
      > TripDeleted 08:10:00 trips=delete
"""

case(
    "a_finished_trip_is_deleted_once",
    DRIVE
    + DELETED
    + """
    delete 08:00:00
      > refused already_deleted
    restart
    delete 08:00:00
      > refused already_deleted
    """,
)
case(
    "late_telemetry_does_not_bring_it_back",
    DRIVE
    + DELETED
    + """
    08:00:00 ON
    08:03:00 ON speed=70 at=50.005,7
    08:07:00 OFF
    restart
    08:04:00 ON
    08:08:00 speed=3
    09:00:00 speed=0
    """,
)
case(
    "the_next_trip_is_as_it_would_have_been",
    DRIVE
    + DELETED
    + """
    restart
    08:20:00 ON
      > TripStarted 08:20:00 start.position=50.02,7.0 start.at=08:10:00
    08:30:00 OFF km=115
      > TripEnded 08:20:00 08:30:00 start.position=50.02,7.0 start.at=08:10:00 end.position=50.02,7.0 end.at=08:10:00
      > TripDataReady 08:20:00 08:30:00 time_since_last_trip_in_ms=600000 distance_in_km=5.0
      >> doors_status_at_trip_end=OPEN start.position=50.02,7.0 start.at=08:10:00 end.position=50.02,7.0 end.at=08:10:00
    """,
)
case(
    "trips_around_it_are_not_announced_again",
    DRIVE
    + """
    08:20:00 ON
      > TripStarted 08:20:00 start.position=50.02,7.0
    08:30:00 OFF
      > TripEnded 08:20:00 08:30:00
      > TripDataReady 08:20:00 08:30:00 time_since_last_trip_in_ms=600000
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    08:25:00 speed=10
      > TripDataReady 08:20:00 08:30:00 time_since_last_trip_in_ms=600000 start.position=50.02,7.0
    """,
)
case(
    "of_a_trip_that_is_on_repeated_ons_start_nothing_until_an_off",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 speed=50
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    08:06:00 ON
    restart
    08:07:00 ON speed=60
    08:10:00 OFF
    08:20:00 ON
      > TripStarted 08:20:00
    08:30:00 OFF
      > TripEnded 08:20:00 08:30:00
      > TripDataReady 08:20:00 08:30:00 -time_since_last_trip_in_ms
    """,
)
case(
    "an_off_of_the_very_instant_up_to_which_it_is_deleted_still_counts",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 speed=50
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    08:05:00 OFF
    08:05:00 OFF speed=60
    restart
    08:20:00 ON
      > TripStarted 08:20:00
    """,
)
case(
    "also_of_a_trip_that_began_behind_the_horizon",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:30:00 speed=50
    09:10:00 speed=50
    09:20:00 speed=50
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    09:20:00 OFF
    09:25:00 ON
      > TripStarted 09:25:00
    """,
    correction_horizon_ms=HOUR,
)
case(
    "after_a_data_gap_an_on_is_of_another_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 speed=50
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    09:05:00 ON
    10:05:00.001 ON
      > TripStarted 10:05:00.001 flags=START_UNOBSERVED
    """,
)
case(
    "also_when_something_else_came_between_the_gap_and_the_on",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 speed=50
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    09:05:00.001 speed=3
    09:06:00 ON
      > TripStarted 09:06:00 flags=START_UNOBSERVED
    """,
)
case(
    "a_trip_that_runs_into_it_ends_at_its_start",
    DRIVE
    + DELETED
    + """
    07:55:00 ON
      > TripStarted 07:55:00
      > TripEnded 07:55:00 08:00:00 flags=END_INFERRED start.position=50.0,7.0 end.position=50.0,7.0
      > TripDataReady 07:55:00 08:00:00 flags=END_INFERRED longest_gap_in_ms=300000 duration_in_ms=300000
      >> position_count=0 -distance_in_km
    """,
)
case(
    "an_off_before_it_still_ends_a_trip_that_a_merge_gap_would_have_joined_to_it",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:15:00 speed=0
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    07:55:00 ON
      > TripStarted 07:55:00
      > TripEnded 07:55:00 08:00:00 flags=END_INFERRED
      > TripDataReady 07:55:00 08:00:00 flags=END_INFERRED
    07:59:30 OFF
      > TripEnded 07:55:00 07:59:30
      > TripDataReady 07:55:00 07:59:30
    """,
    merge_gap_ms=MINUTE,
)
case(
    "a_trip_that_was_taken_back_is_deleted_and_does_not_come_again",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    07:55:00 ON
      > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by=07:55:00 status=DISCARDED
      > TripStarted 07:55:00
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    07:58:00 OFF
      > TripEnded 07:55:00 07:58:00
      > TripDataReady 07:55:00 07:58:00
    08:10:00 OFF
    """,
)
case(
    "nor_behind_the_horizon_when_late_samples_have_made_it_after_all",
    TAKEN_BACK
    + """
    08:07:00 OFF
      > TripEnded 08:05:00 08:07:00
      > TripDataReady 08:05:00 08:07:00
    08:50:00 ON
    restart
    09:20:00 speed=50
    10:20:00 speed=50
    11:20:00 speed=50
    11:21:00 OFF
    11:30:00 ON
      > TripStarted 11:30:00 -start.position
    """,
    correction_horizon_ms=HOUR,
)
case(
    "of_a_trip_that_nobody_has_heard_of_there_is_nothing_to_delete",
    """
    07:50:00 OFF
    delete 08:00:00 unannounced
      > refused unknown_trip
    """,
)
case(
    "of_a_vehicle_that_nobody_has_heard_of_neither",
    "delete 08:00:00 unannounced\n> refused unknown_trip",
)
case(
    "a_trip_whose_vehicle_is_not_known_any_more_is_deleted_all_the_same",
    """
    delete 08:00:00 end=08:10:00
      > TripDeleted 08:00:00 trips=delete rev=1
    restart
    delete 08:00:00 end=08:10:00
      > refused already_deleted
    08:00:00 ON
    08:05:00 ON at=50,7
    08:10:00 OFF
    08:20:00 ON
      > TripStarted 08:20:00 flags=START_UNOBSERVED
    """,
)
case(
    "a_trip_behind_the_horizon_leaves_nothing_but_the_word",
    DRIVE
    + """
    2T07:00:00 speed=0
    2T08:30:00 speed=0
    2T08:31:00 speed=0
    delete 08:00:00 end=08:10:00
      > TripDeleted 08:00:00 trips=delete
    restart
    delete 08:00:00 end=08:10:00
      > refused already_deleted
    2T09:00:00 ON
      > TripStarted 2T09:00:00 -start.position
    """,
)
case(
    "what_was_forgotten_of_it_is_not_learnt_from_it_again",
    DRIVE
    + """
    2T07:00:00 speed=0
    2T08:30:00 speed=0
    2T08:31:00 speed=0
    delete 08:00:00 end=08:10:00
      > TripDeleted 08:00:00 trips=delete
    2T08:32:00 speed=0 at@08:10:00=50.02,7 doors@08:10:00=OPEN
      > late
    restart
    2T08:33:00 speed=0 at@08:05:00=50.01,7
      > late
    2T09:00:00 ON
      > TripStarted 2T09:00:00 -start.position
    2T09:10:00 OFF at=50.02,7
      > TripEnded 2T09:00:00 2T09:10:00 start.at=2T09:10:00
      > TripDataReady 2T09:00:00 2T09:10:00 -doors_status_at_trip_end start.at=2T09:10:00
    """,
)
case(
    "a_trip_that_began_behind_the_horizon_and_is_on_is_deleted",
    """
    07:50:00 OFF at=50,7
    08:00:00 ON
      > TripStarted 08:00:00
    08:30:00 at=50.1,7
    09:30:00 at=50.2,7
    10:30:00 at=50.3,7 speed=5
    11:30:00 at=50.4,7
    delete 08:00:00
      > TripDeleted 08:00:00 trips=delete
    restart
    11:31:00 ON
    11:40:00 OFF
    11:50:00 ON
      > TripStarted 11:50:00 start.position=50.4,7.0 start.at=11:30:00
    """,
    correction_horizon_ms=HOUR,
)


@pytest.mark.parametrize(("script", "rules"), CASES)
def test_deletion(script: str, rules: Rules) -> None:
    Drive(rules).run(script)


def numbers(value: Any) -> set[Any]:
    if isinstance(value, list | tuple):
        return {number for part in value for number in numbers(part)}
    return {value}


def stored_positions(drive: Drive) -> set[int]:
    """Every number that is stored of a vehicle: those in packed rows, and those in what is packed by msgpack."""
    found: set[Any] = set()
    drive.processor._put_to_rest()
    vehicle = drive.processor._vehicle("V1")
    for _, mask, values in vehicle._timeline.rows(float("-inf"), float("inf")):
        found |= numbers(values) | {mask}
    for key, value in drive.changelog.items():
        if not value or key[:1] not in {b"b", b"t", b"w", b"d"}:
            continue
        content = open_value(key, value)
        content = content[8:] if key[:1] == b"t" else content
        found |= numbers(msgpack.unpackb(content)) if content else set()
    return found


def raw(drive: Drive, latitude: float) -> bool:
    """Whether a latitude stands anywhere in the changelog, packed as in a row or in msgpack."""
    little = round(latitude * 1e7).to_bytes(4, "little")
    big = round(latitude * 1e7).to_bytes(4, "big")
    contents = [
        zlib.decompress(value[FRAME_SIZE + 16 :]) if key[:1] == b"c" else value
        for key, value in drive.changelog.items()
        if value and len(value) > FRAME_SIZE
    ]
    return any(little in content or big in content for content in contents)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("messages", [3, 40, 400, 4_000])
def test_nothing_that_is_erased_is_in_what_is_stored_afterwards(messages: int, restart: bool) -> None:  # noqa: FBT001
    drive = Drive(Rules())
    drive.run("07:50:00 OFF at=49,7")
    drive.offset = 1
    inside = [50 + number / 100_000 for number in range(1, messages + 1)]
    lines = [f"08:{1 + n // 100:02}:{n % 100 * 0.6:06.3f} at={lat:.5f},7 speed=50" for n, lat in enumerate(inside)]
    for line in ["08:00:00 ON", *lines, "08:59:00 OFF at=51,7"]:
        drive.processor.process([record_of(drive, line)])
        drive.changelog.update(drive.processor.take().changes)
    drive.run("""
        09:20:00 ON
          > TripStarted 09:20:00 start.position=51.0,7.0
        09:21:00 at=52,7
    """)
    first = round(inside[0] * 1e7)
    assert first in stored_positions(drive)
    assert raw(drive, inside[0])
    if restart:
        drive.start()
    drive.run("""
        delete 08:00:00
          > TripDeleted 08:00:00 trips=delete
    """)
    drive.changelog = {key: value for key, value in drive.changelog.items() if value}
    assert not {round(lat * 1e7) for lat in inside} & stored_positions(drive)
    assert not any(raw(drive, lat) for lat in inside)
    assert {490_000_000, 510_000_000, 520_000_000} & stored_positions(drive) == {490_000_000, 510_000_000, 520_000_000}
    drive.start()
    drive.run("""
        09:30:00 OFF
          > TripEnded 09:20:00 09:30:00 start.position=51.0,7.0
          > TripDataReady 09:20:00 09:30:00 time_since_last_trip_in_ms=1260000 position_count=1
    """)


def test_a_trip_that_was_taken_back_is_erased_when_late_samples_make_it_after_all() -> None:
    drive = Drive(Rules())
    drive.run(TAKEN_BACK)
    assert raw(drive, 50.01)  # of the trip that has taken it over
    drive.run("""
        08:07:00 OFF
          > TripEnded 08:05:00 08:07:00
          > TripDataReady 08:05:00 08:07:00
    """)
    assert not raw(drive, 50.01)
    assert raw(drive, 50.02)


def test_nor_when_the_vehicle_has_been_at_rest_while_the_trip_was_on() -> None:
    drive = Drive(Rules())
    drive.run("07:50:00 OFF at=49,7\n08:00:00 ON\n> TripStarted 08:00:00")
    inside = [50 + number / 100_000 for number in range(1, 201)]
    for number, latitude in enumerate(inside):
        drive.run(f"08:{1 + number // 10:02}:{number % 10 * 6:02} at={latitude:.5f},7 speed=50")
    assert any(raw(drive, latitude) for latitude in inside)
    drive.run("clock +02:01")
    drive.run("08:30:00 vehicle=V2 OFF")  # whoever has said nothing for two minutes goes to rest
    assert list(drive.processor._resting) == ["V1"]
    drive.run("delete 08:00:00\n> TripDeleted 08:00:00 trips=delete rev=202")
    # All but the last one, which is for the neighbour.
    assert [latitude for latitude in inside if raw(drive, latitude)] == inside[-1:]


def record_of(drive: Drive, line: str) -> Any:
    from drives import KAFKA_TIME, Record, _encode

    drive.offset += 1
    return Record(drive.offset, KAFKA_TIME, None, _encode(line))


def test_what_is_kept_for_the_neighbours_goes_when_the_horizon_has_passed() -> None:
    drive = Drive(Rules(correction_horizon_ms=HOUR))
    drive.run(DRIVE + DELETED)
    assert {500_200_000} <= stored_positions(drive)
    for hour in range(9, 15):
        drive.run(f"{hour:02}:00:00 speed=0\n{hour:02}:30:00 speed=0")
    assert 500_200_000 not in stored_positions(drive)
    assert not any(key[:1] == b"d" for key, value in drive.changelog.items() if value)


def test_vehicles_without_deleted_trips_store_nothing_of_them() -> None:
    drive = Drive(Rules())
    drive.run(DRIVE)
    assert not any(key[:1] == b"d" for key in drive.changelog)


def test_refused_samples_are_counted_and_repetitions_are_not() -> None:
    drive = Drive(Rules())
    drive.run(DRIVE + DELETED)
    drive.run("08:05:00 speed=50 at=50.01,7")
    assert drive.processor.counts.refused == 2
    drive.run("08:10:00 OFF km=110 at=50.02,7 doors=OPEN")  # the last of each property: known, and repeated by gateways
    assert drive.processor.counts.refused == 2
    assert drive.processor.counts.repeated == 2


def test_repeated_samples_are_looked_up_without_going_through_all_that_came_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(Rules(correction_horizon_ms=HOUR))
    drive.run(DRIVE + DELETED)
    drive.run("\n".join(f"08:{minute}:00 speed=50" for minute in range(11, 60)))
    fed = []
    feed = Machine.feed
    monkeypatch.setattr(Machine, "feed", lambda machine, row: fed.append(row) or feed(machine, row))
    drive.run("\n".join(f"08:11:{second} speed=40\n08:10:00 doors=OPEN" for second in range(10, 30)))
    assert len(fed) < 2 * 50
    # What is known is known until it fades, not longer.
    drive.run("09:59:00 speed=0\n08:10:00 doors=OPEN\n10:59:30 speed=0\n08:10:00 doors=OPEN\n> late")


def test_a_command_that_had_found_no_announcement_is_held_like_any_other_when_a_worker_starts_anew() -> None:
    drive = Drive(Rules())
    drive.processor.hold([(_delete(f"delete {start} unannounced"), True) for start in ("08:00:00", "09:00:00")])
    drive.run("\n".join(line for line in DRIVE.splitlines() if ">" not in line))
    drive.processor.release()
    output = drive.processor.take()
    assert [one.event for one in output.announcements] == ["TripDeleted"]
    # Of the other one nobody knew, and it is as if nobody had asked.
    assert [problem.reason for one in output.rejected for problem in one.problems] == ["unknown_trip"]
    drive.run("09:00:00 ON\n> TripStarted 09:00:00 start.position=50.02,7.0")
