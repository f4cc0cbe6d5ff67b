"""Boundary cases, one behaviour each. The expectations were written by hand, from the contract.

The notation is explained in ``drives.py``. Lengths used here, on the mean Earth radius of 6371.0088 km, along a
meridian: 0.001° 111.195 m, 0.009° 1000.756 m, 0.01° 1111.951 m, 0.02° 2223.902 m.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from drives import KAFKA_TIME, Drive, Record

from streams.trips.rules import Rules
from streams.trips.samples import Property

HOUR = 3_600_000
CASES: list[Any] = []


def case(name: str, script: str, **settings: Any) -> None:
    CASES.append(pytest.param(script, Rules(**settings), id=name))


# ---------------------------------------------------------------------------------------------- starts and ends

case(
    "off_to_on_starts_a_trip_and_on_to_off_ends_it",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00 status=ONGOING occurred_at=2026-03-01T08:00:00Z
    08:20:00.500 OFF
      > TripEnded 08:00:00 08:20:00.500 status=PENDING occurred_at=2026-03-01T08:20:00.500Z -duration_in_ms
      > TripDataReady 08:00:00 08:20:00.500 status=FINISHED occurred_at=2026-03-01T08:20:00.500Z
      >> duration_in_ms=1200500
    """,
)
case(
    "exactly_sixty_seconds_is_kept",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:01:00 OFF
      > TripEnded 08:00:00 08:01:00
      > TripDataReady 08:00:00 08:01:00 duration_in_ms=60000
    """,
)
case(
    "one_millisecond_less_than_sixty_seconds_is_discarded",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:59.999 OFF
      > TripEnded 08:00:00 08:00:59.999
      > TripDiscarded 08:00:00 08:00:59.999 reason=TOO_SHORT status=DISCARDED duration_in_ms=59999
      >> longest_gap_in_ms=59999
    """,
)
case(
    "without_a_minimum_one_millisecond_is_a_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:00.001 OFF
      > TripEnded 08:00:00 08:00:00.001
      > TripDataReady 08:00:00 08:00:00.001 duration_in_ms=1
    """,
    min_duration_ms=0,
)
case(
    "on_again_and_off_again_change_nothing",
    """
    07:50:00 OFF
    07:55:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:30 ON
    08:02:00 OFF
      > TripEnded 08:00:00 08:02:00
      > TripDataReady 08:00:00 08:02:00 longest_gap_in_ms=90000
    08:03:00 OFF
    """,
)
case("off_before_anything_is_known_starts_nothing", "08:00:00 OFF km=100 at=50,7")
case(
    "accessory_mode_is_not_on",
    """
    07:50:00 ACC
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 ACC
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    """,
)
case(
    "of_on_and_off_at_the_same_millisecond_off_wins",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:00 OFF
      > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by= status=DISCARDED occurred_at=2026-03-01T08:00:00Z
    08:00:00 ON
    """,
)
case(
    "an_off_at_the_same_millisecond_as_a_repeated_on_ends_the_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 ON
    08:05:00 OFF
      > TripEnded 08:00:00 08:05:00
      > TripDataReady 08:00:00 08:05:00
    """,
)
case(
    "an_on_of_which_nothing_is_known_before_starts_a_flagged_trip",
    """
    08:00:00 ON
      > TripStarted 08:00:00 flags=START_UNOBSERVED
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00 flags=START_UNOBSERVED
      > TripDataReady 08:00:00 08:10:00 flags=START_UNOBSERVED
    """,
)
case(
    "other_samples_before_the_first_on_do_not_make_its_start_observed",
    """
    07:00:00 km=100 doors=OPEN
    08:00:00 ON
      > TripStarted 08:00:00 flags=START_UNOBSERVED
    """,
)
case(
    "an_unknown_start_can_be_ignored_until_an_observed_off_and_on",
    """
    08:00:00 ON
    08:05:00 ON
    08:10:00 OFF
    08:20:00 ON
      > TripStarted 08:20:00
    """,
    unknown_start="ignore",
)
case(
    "a_trip_over_midnight_is_one_trip",
    """
    23:40:00 OFF
    23:50:00 ON
      > TripStarted 23:50:00
    2T00:00:00 heading=0
    2T00:20:00 OFF
      > TripEnded 23:50:00 2T00:20:00
      > TripDataReady 23:50:00 2T00:20:00 duration_in_ms=1800000
    """,
)
case(
    "another_trigger_starts_and_ends_trips_and_ignition_does_not",
    """
    07:50:00 immobilizer=LOCKED ON
    08:00:00 immobilizer=UNLOCKED
      > TripStarted 08:00:00
    08:05:00 OFF
    08:10:00 immobilizer=LOCKED ON
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    """,
    trigger=Property.IMMOBILIZER,
)
case(
    "driving_enabled_can_be_the_trigger",
    """
    07:50:00 driving=false
    08:00:00 driving=true
      > TripStarted 08:00:00
    """,
    trigger=Property.DRIVING_ENABLED,
)
case(
    "an_edge_with_a_time_of_its_own_counts_at_that_time",
    """
    07:50:00 OFF
    08:00:10 ON@08:00:00 speed=10
      > TripStarted 08:00:00
    08:10:10 OFF@08:10:00 speed=10
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 duration_in_ms=600000 max_speed_in_kmh=10.0
    """,
)
case(
    "vehicles_have_trips_of_their_own",
    """
    07:50:00 OFF
    07:50:00 OFF vehicle=V2
    08:00:00 ON
      > TripStarted 08:00:00 vehicle=V1
    08:00:00 ON vehicle=V2
      > TripStarted 08:00:00 vehicle=V2
    08:10:00 OFF vehicle=V2
      > TripEnded 08:00:00 08:10:00 vehicle=V2
      > TripDataReady 08:00:00 08:10:00 vehicle=V2
    """,
)

# ---------------------------------------------------------------------------------------------- data gaps

case(
    "exactly_the_silence_timeout_is_no_gap",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    09:00:00 OFF
      > TripEnded 08:00:00 09:00:00
      > TripDataReady 08:00:00 09:00:00 longest_gap_in_ms=3600000
    """,
)
case(
    "a_gap_before_an_off_is_flagged",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    09:00:00.001 OFF
      > TripEnded 08:00:00 09:00:00.001 flags=DATA_GAP
      > TripDataReady 08:00:00 09:00:00.001 flags=DATA_GAP duration_in_ms=3600001 longest_gap_in_ms=3600001
    """,
)
case(
    "an_on_after_exactly_the_silence_timeout_goes_on_with_the_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    09:00:00 ON
    """,
)
case(
    "an_on_after_a_gap_ends_the_trip_at_its_last_sample_before_it_and_starts_another",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    09:10:00.001 ON
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED duration_in_ms=600000
      > TripStarted 09:10:00.001 flags=START_UNOBSERVED
    """,
)
case(
    "of_several_gaps_before_an_on_the_first_one_counts",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    10:00:00 speed=50
    12:00:00 ON
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED longest_gap_in_ms=600000
      > TripStarted 12:00:00 flags=START_UNOBSERVED
    """,
)
case(
    "samples_of_any_property_keep_a_gap_away",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:50:00 windows=CLOSED
    09:40:00 unit=A/B
    10:30:00 OFF
      > TripEnded 08:00:00 10:30:00 unit=A/B
      > TripDataReady 08:00:00 10:30:00 longest_gap_in_ms=3000000
    """,
)
case(
    "a_late_sample_closes_a_gap_and_joins_what_it_had_parted",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    09:30:00 ON
      > TripEnded 08:00:00 08:00:00 flags=END_INFERRED
      > TripDiscarded 08:00:00 08:00:00 reason=TOO_SHORT flags=END_INFERRED
      > TripStarted 09:30:00 flags=START_UNOBSERVED
    08:45:00 speed=50
      > TripStarted 08:00:00
      > TripDiscarded 09:30:00 reason=SUPERSEDED superseded_by=08:00:00
    """,
)
case(
    "a_trip_of_one_sample_before_a_gap_has_no_duration_and_no_average_speed",
    """
    07:50:00 OFF km=10
    08:00:00 ON km=10.5
      > TripStarted 08:00:00
    09:30:00 ON
      > TripEnded 08:00:00 08:00:00 flags=END_INFERRED
      > TripDiscarded 08:00:00 08:00:00 reason=TOO_SHORT flags=END_INFERRED duration_in_ms=0 distance_in_km=0.0
      >> -average_speed_in_kmh longest_gap_in_ms=0
      > TripStarted 09:30:00 flags=START_UNOBSERVED
    """,
)
case(
    "after_a_gap_an_unknown_start_is_ignored_too",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    09:30:00 ON
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
    09:40:00 ON
    09:50:00 OFF
    09:55:00 ON
      > TripStarted 09:55:00
    """,
    unknown_start="ignore",
)
case(
    "without_a_silence_timeout_no_gap_ends_a_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    20:00:00 ON
    clock +14400:00
    2T20:00:00 OFF
      > TripEnded 08:00:00 2T20:00:00
      > TripDataReady 08:00:00 2T20:00:00 longest_gap_in_ms=86400000
    """,
    silence_timeout_ms=0,
    correction_horizon_ms=48 * HOUR,
)
case(
    "a_gap_while_the_trigger_is_off_is_no_gap",
    """
    07:50:00 OFF
    12:00:00 ON
      > TripStarted 12:00:00
    """,
)

# ---------------------------------------------------------------------------------------------- quiet

case(
    "quiet_of_exactly_the_silence_timeout_ends_nothing_and_a_millisecond_more_does",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    clock +60:00
    clock +0.001
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED occurred_at=2026-03-01T08:10:00Z
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED duration_in_ms=600000
    clock +600:00
    """,
)
case(
    "a_quiet_trip_of_edges_alone_stays_on",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    clock +6000:00
    08:40:00 OFF
      > TripEnded 08:00:00 08:40:00
      > TripDataReady 08:00:00 08:40:00
    """,
)
case(
    "quiet_ends_no_trip_that_would_be_too_short_by_a_millisecond",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:59.999 speed=50
    clock +6000:00
    """,
)
case(
    "quiet_ends_a_trip_of_exactly_the_minimum",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:01:00 speed=50
    clock +60:01
      > TripEnded 08:00:00 08:01:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:01:00 flags=END_INFERRED
    """,
)
case(
    "quiet_ends_a_trip_before_the_gap_that_is_already_in_it",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    10:00:00 speed=50
    clock +60:01
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
    """,
)
case(
    "the_late_off_of_a_silent_trip_corrects_its_end",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    clock +60:01
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
    08:20:00 OFF
      > TripEnded 08:00:00 08:20:00
      > TripDataReady 08:00:00 08:20:00 duration_in_ms=1200000
    """,
)
case(
    "a_sample_after_the_silence_revokes_the_end",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    clock +60:01
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
    08:20:00 speed=60
      > TripStarted 08:00:00 trips=delete
    """,
)
case(
    "a_repeated_message_does_not_keep_a_silent_trip_on",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    clock +59:00
    08:10:00 speed=50
    clock +1:00.001
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED rev=3
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED rev=3
    """,
)
case(
    "an_arrival_restarts_the_quiet",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    clock +59:00
    08:11:00 speed=50
    clock +60:00
    clock +0.001
      > TripEnded 08:00:00 08:11:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:11:00 flags=END_INFERRED
    """,
)
case(
    "quiet_goes_on_over_a_restart",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    restart
    clock +60:00
    clock +0.001
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
    restart
    clock +60:01
    """,
)

# ---------------------------------------------------------------------------------------------- merge_gap

MERGE = {"merge_gap_ms": 120_000}
case(
    "an_on_after_exactly_the_merge_gap_goes_on_with_the_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:12:00 ON
    08:20:00 OFF
    08:30:00 speed=0
      > TripEnded 08:00:00 08:20:00
      > TripDataReady 08:00:00 08:20:00 duration_in_ms=1200000 longest_gap_in_ms=600000
    """,
    **MERGE,
)
case(
    "an_on_a_millisecond_after_the_merge_gap_starts_another_trip",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:12:00.001 ON
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
      > TripStarted 08:12:00.001
    """,
    **MERGE,
)
case(
    "the_end_stands_only_with_a_sample_later_than_the_merge_gap",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:12:00 speed=0
    08:12:00.001 speed=0
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    """,
    **MERGE,
)
case(
    "the_end_stands_when_the_quiet_is_longer_than_the_merge_gap",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    clock +2:00
    clock +0.001
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    """,
    **MERGE,
)
case(
    "an_on_within_the_merge_gap_revokes_an_end_that_quiet_had_let_stand",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    clock +2:01
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:12:00 ON
      > TripStarted 08:00:00 trips=delete
    """,
    **MERGE,
)
case(
    "a_late_on_within_the_merge_gap_joins_two_trips",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:13:00 ON
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
      > TripStarted 08:13:00
    08:20:00 OFF
    08:30:00 speed=0
      > TripEnded 08:13:00 08:20:00
      > TripDataReady 08:13:00 08:20:00 time_since_last_trip_in_ms=180000
    08:11:00 ON
      > TripEnded 08:00:00 08:20:00
      > TripDataReady 08:00:00 08:20:00 duration_in_ms=1200000 -time_since_last_trip_in_ms
      > TripDiscarded 08:13:00 reason=SUPERSEDED superseded_by=08:00:00 trips=delete
    """,
    **MERGE,
)
case(
    "the_merge_gap_counts_from_the_first_off",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:11:00 OFF
    08:12:30 ON
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
      > TripStarted 08:12:30
    """,
    **MERGE,
)
case(
    "a_joined_trip_can_be_long_enough_where_its_parts_are_not",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:30 OFF
    08:01:00 ON
    08:01:30 OFF
    clock +2:01
      > TripEnded 08:00:00 08:01:30
      > TripDataReady 08:00:00 08:01:30 duration_in_ms=90000
    """,
    **MERGE,
)
case(
    "the_first_on_after_an_off_of_no_trip_is_joined_to_nothing",
    """
    08:00:00 OFF
    08:01:00 ON
      > TripStarted 08:01:00
    """,
    **MERGE,
)
case(
    "a_data_gap_before_a_joined_off_stays_in_the_flags",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    09:30:00 OFF
    09:31:00 ON
    09:40:00 OFF
    clock +2:01
      > TripEnded 08:00:00 09:40:00 flags=DATA_GAP
      > TripDataReady 08:00:00 09:40:00 flags=DATA_GAP longest_gap_in_ms=5400000
    """,
    **MERGE,
)
case(
    "a_gap_after_a_joined_part_ends_the_trip_there",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
    08:11:00 ON
    08:20:00 speed=10
    10:00:00 ON
      > TripEnded 08:00:00 08:20:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:20:00 flags=END_INFERRED
      > TripStarted 10:00:00 flags=START_UNOBSERVED
    """,
    **MERGE,
)

# ---------------------------------------------------------------------------------------------- ready_delay

DELAY = {"ready_delay_ms": 30_000}
case(
    "data_are_ready_with_a_sample_exactly_the_delay_after_the_end",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
    08:10:29.999 speed=0
    08:10:30 speed=0
      > TripDataReady 08:00:00 08:10:00
    """,
    **DELAY,
)
case(
    "data_are_ready_when_the_quiet_is_longer_than_the_delay",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
    clock +0:30
    clock +0.001
      > TripDataReady 08:00:00 08:10:00
    """,
    **DELAY,
)
case(
    "what_comes_within_the_delay_is_told_once",
    """
    07:50:00 OFF km=10
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
    08:10:05 km@08:10:00=14.5
    clock +0:31
      > TripDataReady 08:00:00 08:10:00 distance_in_km=4.5 distance_source=ODOMETER
    """,
    **DELAY,
)
case(
    "a_discard_waits_for_the_delay_too",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:10 OFF
      > TripEnded 08:00:00 08:00:10
    08:00:40 speed=0
      > TripDiscarded 08:00:00 08:00:10 reason=TOO_SHORT
    """,
    **DELAY,
)
case(
    "an_end_that_moves_within_the_delay_is_told_at_once",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
    08:09:50 OFF
      > TripEnded 08:00:00 08:09:50
    08:10:20 speed=0
      > TripDataReady 08:00:00 08:09:50
    """,
    **DELAY,
)
case(
    "a_trip_may_start_before_the_data_of_the_one_before_are_ready",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
    08:10:10 ON
      > TripStarted 08:10:10
    08:10:30 speed=0
      > TripDataReady 08:00:00 08:10:00
    """,
    **DELAY,
)

case(
    "data_that_change_after_they_were_ready_wait_for_the_delay_again",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
    clock +0:31
      > TripDataReady 08:00:00 08:10:00 position_count=0
    08:05:00 at=50,7
    restart
    clock +0:30
    clock +0.001
      > TripDataReady 08:00:00 08:10:00 rev=4 position_count=1
    """,
    **DELAY,
)

# ---------------------------------------------------------------------------------------------- min_distance

case(
    "a_distance_under_the_minimum_is_discarded",
    """
    07:50:00 OFF km=10
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF km=10.4999
      > TripEnded 08:00:00 08:10:00
      > TripDiscarded 08:00:00 08:10:00 reason=TOO_SHORT_DISTANCE distance_in_km=0.5
    """,
    min_distance_m=500,
)
case(
    "a_distance_of_exactly_the_minimum_is_kept",
    """
    07:50:00 OFF km=10
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF km=10.5
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=0.5
    """,
    min_distance_m=500,
)
case(
    "a_trip_of_unknown_distance_is_kept_whatever_the_minimum",
    """
    07:50:00 OFF km=10
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 -distance_in_km -distance_source
    """,
    min_distance_m=500,
)
case(
    "too_short_in_both_ways_is_too_short_in_time",
    """
    07:50:00 OFF km=10
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:10 OFF km=10.1
      > TripEnded 08:00:00 08:00:10
      > TripDiscarded 08:00:00 08:00:10 reason=TOO_SHORT
    """,
    min_distance_m=500,
)
case(
    "a_gps_path_under_the_minimum_is_discarded",
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:10:00 OFF at=50.001,7
      > TripEnded 08:00:00 08:10:00
      > TripDiscarded 08:00:00 08:10:00 reason=TOO_SHORT_DISTANCE distance_in_km=0.111 distance_source=GPS
    """,
    min_distance_m=112,
)

# ---------------------------------------------------------------------------------------------- odometer

case(
    "the_odometer_at_the_start_is_the_last_reading_before_it",
    """
    07:40:00 OFF km=99
    07:50:00 km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 km=103
    08:10:00 OFF km=107.5
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=7.5 distance_source=ODOMETER average_speed_in_kmh=45.0
    """,
)
case(
    "an_unobserved_start_takes_the_first_reading_inside",
    """
    07:50:00 km=100
    08:00:00 ON
      > TripStarted 08:00:00 flags=START_UNOBSERVED
    08:05:00 km=103
    08:10:00 OFF km=107.5
      > TripEnded 08:00:00 08:10:00 flags=START_UNOBSERVED
      > TripDataReady 08:00:00 08:10:00 flags=START_UNOBSERVED distance_in_km=4.5
    """,
)
case(
    "without_a_reading_inside_the_odometer_distance_is_unknown",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 -distance_in_km -distance_source -average_speed_in_kmh
    08:10:00.001 km=105
    """,
)
case(
    "a_reading_at_the_end_of_the_previous_trip_still_counts",
    """
    07:00:00 OFF
    07:10:00 ON
      > TripStarted 07:10:00
    07:20:00 OFF km=100
      > TripEnded 07:10:00 07:20:00
      > TripDataReady 07:10:00 07:20:00 distance_in_km=0.0
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 km=101
    08:10:00 OFF km=105
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=5.0 time_since_last_trip_in_ms=2400000
    """,
)
case(
    "a_reading_before_the_end_of_the_previous_trip_does_not_count",
    """
    07:00:00 OFF
    07:10:00 ON
      > TripStarted 07:10:00
    07:19:59.999 km=100
    07:20:00 OFF
      > TripEnded 07:10:00 07:20:00
      > TripDataReady 07:10:00 07:20:00
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 km=101
    08:10:00 OFF km=105
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=4.0
    """,
)
case(
    "the_end_of_a_discarded_trip_bounds_the_odometer_too",
    """
    07:00:00 OFF km=100
    07:10:00 ON
      > TripStarted 07:10:00
    07:10:10 OFF
      > TripEnded 07:10:00 07:10:10
      > TripDiscarded 07:10:00 07:10:10 reason=TOO_SHORT
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 km=101
    08:10:00 OFF km=105
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=4.0 -time_since_last_trip_in_ms
    """,
)
case(
    "an_odometer_that_goes_backwards_is_implausible",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF km=99.9999
      > TripEnded 08:00:00 08:10:00 flags=ODOMETER_IMPLAUSIBLE
      > TripDataReady 08:00:00 08:10:00 flags=ODOMETER_IMPLAUSIBLE -distance_in_km -distance_source
    """,
)
case(
    "an_implausible_odometer_leaves_the_distance_to_the_gps_path",
    """
    07:50:00 OFF km=100
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:10:00 OFF km=99 at=50.01,7
      > TripEnded 08:00:00 08:10:00 flags=ODOMETER_IMPLAUSIBLE
      > TripDataReady 08:00:00 08:10:00 flags=ODOMETER_IMPLAUSIBLE distance_in_km=1.112 distance_source=GPS
      >> gps_distance_in_km=1.112
    """,
)
case(
    "a_stuck_odometer_is_implausible_when_the_gps_path_is_over_a_kilometre",
    """
    07:50:00 OFF km=100
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:10:00 OFF km=100 at=50.009,7
      > TripEnded 08:00:00 08:10:00 flags=ODOMETER_IMPLAUSIBLE
      > TripDataReady 08:00:00 08:10:00 flags=ODOMETER_IMPLAUSIBLE distance_in_km=1.001 distance_source=GPS
    """,
)
case(
    "a_stuck_odometer_is_believed_when_the_gps_path_is_under_a_kilometre",
    """
    07:50:00 OFF km=100
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:10:00 OFF km=100 at=50.001,7
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=0.0 distance_source=ODOMETER gps_distance_in_km=0.111
      >> average_speed_in_kmh=0.0
    """,
)
case(
    "three_hundred_kilometres_an_hour_and_one_more_kilometre_are_believed",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:06:00 OFF km=131
      > TripEnded 08:00:00 08:06:00
      > TripDataReady 08:00:00 08:06:00 distance_in_km=31.0 average_speed_in_kmh=310.0
    """,
)
case(
    "a_tenth_of_a_metre_more_than_that_is_implausible",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:06:00 OFF km=131.0001
      > TripEnded 08:00:00 08:06:00 flags=ODOMETER_IMPLAUSIBLE
      > TripDataReady 08:00:00 08:06:00 flags=ODOMETER_IMPLAUSIBLE -distance_in_km
    """,
)
case(
    "half_a_metre_is_rounded_up",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF km=100.0005
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=0.001 average_speed_in_kmh=0.0
    """,
)
case(
    "four_tenths_of_a_metre_are_rounded_down",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF km=100.0004
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=0.0
    """,
)
case(
    "average_speed_is_rounded_half_up_from_the_exact_distance",
    # 0.5 m in 6 minutes are 0.005 km/h.
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:06:00 OFF km=100.0005
      > TripEnded 08:00:00 08:06:00
      > TripDataReady 08:00:00 08:06:00 average_speed_in_kmh=0.01
    """,
)
case(
    "of_two_readings_of_one_instant_the_larger_counts",
    """
    07:50:00 OFF km=100
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF km=103
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=3.0
    08:10:00 km=104
      > TripDataReady 08:00:00 08:10:00 distance_in_km=4.0
    08:10:00 km=102
    """,
)

# ---------------------------------------------------------------------------------------------- positions

case(
    "a_round_trip_is_its_path_not_its_displacement",
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:01:00 at=50.01,7
    08:02:00 OFF at=50,7
      > TripEnded 08:00:00 08:02:00
      > TripDataReady 08:00:00 08:02:00 gps_distance_in_km=2.224 distance_in_km=2.224 distance_source=GPS
      >> position_count=3 average_speed_in_kmh=66.72
    """,
)
case(
    "positions_while_the_trigger_is_off_are_no_part_of_the_path",
    """
    07:50:00 OFF at=49.9,7
    08:00:00 ON
      > TripStarted 08:00:00
    08:01:00 at=50,7
    08:02:00 at=50.01,7
    08:03:00 OFF
      > TripEnded 08:00:00 08:03:00 start.position=49.9,7.0 start.at=07:50:00 end.position=50.01,7.0 end.at=08:02:00
      > TripDataReady 08:00:00 08:03:00 gps_distance_in_km=1.112 position_count=2
    08:04:00 at=50.1,7
    """,
)
case(
    "positions_at_both_ends_are_part_of_the_path",
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00 start.position=50.0,7.0 start.at=08:00:00
    08:02:00 OFF at=50.01,7
      > TripEnded 08:00:00 08:02:00
      > TripDataReady 08:00:00 08:02:00 gps_distance_in_km=1.112 position_count=2
    """,
)
case(
    "a_single_fix_is_no_path",
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:02:00 OFF
      > TripEnded 08:00:00 08:02:00 end.position=50.0,7.0 end.at=08:00:00
      > TripDataReady 08:00:00 08:02:00 -gps_distance_in_km -distance_in_km position_count=1
    """,
)
case(
    "a_fix_in_the_middle_that_jumps_is_left_out_and_counted",
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:01:00 at=50.01,7
    08:02:00 at=51,7
    08:03:00 OFF at=50.02,7
      > TripEnded 08:00:00 08:03:00 flags=POSITION_JUMPS
      > TripDataReady 08:00:00 08:03:00 flags=POSITION_JUMPS gps_distance_in_km=2.224 position_count=4
    """,
)
case(
    "the_first_fix_is_left_out_when_it_disagrees_with_the_next_ones",
    """
    07:50:00 OFF
    08:00:00 ON at=51,7
      > TripStarted 08:00:00
    08:01:00 at=50,7
    08:02:00 at=50.01,7
    08:03:00 OFF at=50.02,7
      > TripEnded 08:00:00 08:03:00 flags=POSITION_JUMPS start.position=51.0,7.0
      > TripDataReady 08:00:00 08:03:00 flags=POSITION_JUMPS gps_distance_in_km=2.224 position_count=4
    """,
)
case(
    "the_second_fix_is_left_out_when_it_disagrees_with_the_next_ones",
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:01:00 at=51,7
    08:02:00 at=50.01,7
    08:03:00 OFF at=50.02,7
      > TripEnded 08:00:00 08:03:00 flags=POSITION_JUMPS
      > TripDataReady 08:00:00 08:03:00 flags=POSITION_JUMPS gps_distance_in_km=2.224 position_count=4
    """,
)
case(
    "one_further_fix_decides_between_the_first_two",
    """
    07:50:00 OFF
    08:00:00 ON at=51,7
      > TripStarted 08:00:00
    08:01:00 at=50,7
    08:02:00 OFF at=50.01,7
      > TripEnded 08:00:00 08:02:00 flags=POSITION_JUMPS
      > TripDataReady 08:00:00 08:02:00 flags=POSITION_JUMPS gps_distance_in_km=1.112 position_count=3
    """,
)
case(
    "of_only_two_fixes_that_disagree_no_path_is_left",
    """
    07:50:00 OFF
    08:00:00 ON at=51,7
      > TripStarted 08:00:00
    08:01:00 OFF at=50,7
      > TripEnded 08:00:00 08:01:00 flags=POSITION_JUMPS
      > TripDataReady 08:00:00 08:01:00 flags=POSITION_JUMPS -gps_distance_in_km -distance_in_km position_count=2
    """,
)
case(
    "a_leg_from_an_accepted_fix_over_a_left_out_one_is_measured_over_the_whole_time",
    # 111.195 km: in 21 minutes 318 km/h, in 23 minutes 290 km/h.
    """
    07:50:00 OFF
    08:00:00 ON at=50,7
      > TripStarted 08:00:00
    08:01:00 at=50,7
    08:22:00 at=51,7
    08:24:00 OFF at=51,7
      > TripEnded 08:00:00 08:24:00 flags=POSITION_JUMPS
      > TripDataReady 08:00:00 08:24:00 flags=POSITION_JUMPS gps_distance_in_km=111.195 position_count=4
    """,
)
case(
    "the_start_position_is_the_first_inside_if_none_is_known_before_but_not_in_trip_started",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00 -start.position
    08:01:00 at=50.01,7,120.4
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00 start.position=50.01,7.0,120.4 start.at=08:01:00
      > TripDataReady 08:00:00 08:10:00 start.position=50.01,7.0,120.4 end.position=50.01,7.0,120.4
    """,
)
case(
    "a_trip_that_is_over_is_still_started_with_what_was_known_at_its_start",
    """
    07:50:00 OFF
    + 08:00:00 ON@08:00:00 at@08:01:00=50,7 unit=A/B
    + 08:10:00 OFF
      > TripStarted 08:00:00 rev=2 unit=A/B -start.position -end
      > TripEnded 08:00:00 08:10:00 start.at=08:01:00
      > TripDataReady 08:00:00 08:10:00
    """,
)
case(
    "positions_are_told_with_their_own_time_in_milliseconds_where_they_are_not_zero",
    """
    07:50:00 OFF at@07:49:58.250=50,7
    08:00:00 ON
      > TripStarted 08:00:00 start.at=07:49:58.250 start.position=50.0,7.0
    """,
)
case(
    "without_any_position_the_count_is_zero_and_the_path_unknown",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 position_count=0 -gps_distance_in_km
    """,
)

# ---------------------------------------------------------------------------------------------- energy, doors, unit

case(
    "the_combined_energy_property_comes_first",
    """
    07:50:00 OFF energy=80 charge=70 fuel=60
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF energy=75.5 charge=65 fuel=55
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 energy_start=80 energy_end=75.5
    """,
)
case(
    "the_same_energy_property_is_told_at_both_ends",
    """
    07:50:00 OFF charge=70
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 energy=60
    08:10:00 OFF charge=65
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 energy_start=60 energy_end=60
    """,
)
case(
    "an_energy_property_known_only_after_the_end_is_not_chosen",
    """
    07:50:00 OFF fuel=60
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00.001 energy=50 OFF@08:10:00
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 energy_start=60 energy_end=60
    """,
)
case(
    "state_of_charge_comes_before_fuel",
    """
    07:50:00 OFF fuel=60
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF charge=40
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 energy_start=40 energy_end=40
    """,
)
case(
    "charging_may_end_higher_than_it_started",
    """
    07:50:00 OFF charge=20
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF charge=30.25
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 energy_start=20 energy_end=30.25
    """,
)
case(
    "doors_and_windows_are_those_last_known_at_the_end",
    """
    07:50:00 OFF doors=OPEN windows=OPEN
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF doors=CLOSED
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 doors_status_at_trip_end=CLOSED windows_status_at_trip_end=OPEN
    08:10:01 doors=OPEN windows=CLOSED
    """,
)
case(
    "the_unit_is_the_last_one_known_at_the_start_and_then_at_the_end",
    """
    07:50:00 OFF unit=A/X
    08:00:00 ON
      > TripStarted 08:00:00 unit=A/X
    08:05:00 unit=B/X
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00 unit=B/X
      > TripDataReady 08:00:00 08:10:00 unit=B/X
    08:11:00 unit=C/X
    """,
)
case(
    "of_two_units_of_one_instant_the_later_in_the_alphabet_counts",
    """
    07:50:00 OFF unit=A/Z
    07:50:00 unit=B/A
    07:50:00 unit=B/B
    07:50:00 unit=A/A
    08:00:00 ON
      > TripStarted 08:00:00 unit=B/B
    """,
)

# ---------------------------------------------------------------------------------------------- speed and time

case(
    "only_speeds_inside_count",
    """
    07:50:00 OFF
    07:59:59.999 speed=90
    08:00:00 ON speed=12.5
      > TripStarted 08:00:00
    08:10:00 OFF speed=20.25
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 max_speed_in_kmh=20.25 idle_time_in_ms=0
    08:10:00.001 speed=99
    """,
)
case(
    "without_a_speed_inside_neither_speed_nor_idle_time_is_known",
    """
    07:50:00 OFF speed=50
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 -max_speed_in_kmh -idle_time_in_ms
    """,
)
case(
    "idle_is_between_two_speeds_under_three_at_most_a_minute_apart",
    """
    07:50:00 OFF
    08:00:00 ON speed=2.99
      > TripStarted 08:00:00
    08:01:00 speed=0
    08:02:00.001 speed=0
    08:02:30 speed=3
    08:02:40 speed=2.99
    08:02:50 OFF speed=0
      > TripEnded 08:00:00 08:02:50
      > TripDataReady 08:00:00 08:02:50 idle_time_in_ms=70000
    """,
)
case(
    "other_samples_between_two_slow_speeds_do_not_part_them",
    """
    07:50:00 OFF
    08:00:00 ON speed=0
      > TripStarted 08:00:00
    08:00:30 heading=10
    08:01:00 OFF speed=0
      > TripEnded 08:00:00 08:01:00
      > TripDataReady 08:00:00 08:01:00 idle_time_in_ms=60000 longest_gap_in_ms=30000
    """,
)
case(
    "time_since_the_last_trip_counts_from_the_last_kept_one",
    """
    07:00:00 OFF
    07:10:00 ON
      > TripStarted 07:10:00
    07:20:00 OFF
      > TripEnded 07:10:00 07:20:00
      > TripDataReady 07:10:00 07:20:00 -time_since_last_trip_in_ms
    07:30:00 ON
      > TripStarted 07:30:00
    07:30:10 OFF
      > TripEnded 07:30:00 07:30:10
      > TripDiscarded 07:30:00 07:30:10 reason=TOO_SHORT time_since_last_trip_in_ms=600000
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 time_since_last_trip_in_ms=2400000
    """,
)

# ---------------------------------------------------------------------------------------------- corrections

TWO_TRIPS = """
    07:00:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    09:00:00 ON
      > TripStarted 09:00:00
    09:10:00 OFF
      > TripEnded 09:00:00 09:10:00
      > TripDataReady 09:00:00 09:10:00 time_since_last_trip_in_ms=3000000
"""
case(
    "a_late_off_inside_a_trip_ends_it_earlier_and_what_follows_hears_of_it",
    TWO_TRIPS
    + """
    08:05:00 OFF
      > TripEnded 08:00:00 08:05:00
      > TripDataReady 08:00:00 08:05:00
      > TripDataReady 09:00:00 09:10:00 time_since_last_trip_in_ms=3300000
    """,
)
case(
    "a_late_off_and_on_split_a_trip",
    TWO_TRIPS
    + """
    08:04:00 OFF
    + 08:06:00 ON
      > TripEnded 08:00:00 08:04:00
      > TripDataReady 08:00:00 08:04:00
      > TripStarted 08:06:00
      > TripEnded 08:06:00 08:10:00
      > TripDataReady 08:06:00 08:10:00 time_since_last_trip_in_ms=120000
    """,
)
case(
    "a_late_on_before_the_start_shifts_a_trip_to_another_id",
    TWO_TRIPS
    + """
    07:55:00 ON
      > TripStarted 07:55:00
      > TripEnded 07:55:00 08:10:00
      > TripDataReady 07:55:00 08:10:00 duration_in_ms=900000
      > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by=07:55:00 trips=delete
    """,
)
case(
    "a_superseded_trip_that_exists_after_all_is_started_again",
    TWO_TRIPS
    + """
    07:55:00 ON
      > TripStarted 07:55:00
      > TripEnded 07:55:00 08:10:00
      > TripDataReady 07:55:00 08:10:00
      > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by=07:55:00 trips=delete
    07:58:00 OFF
      > TripEnded 07:55:00 07:58:00
      > TripDataReady 07:55:00 07:58:00
      > TripStarted 08:00:00
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 time_since_last_trip_in_ms=120000
    """,
)
case(
    "a_late_on_between_two_trips_makes_a_trip_that_lasts_until_the_next_off",
    TWO_TRIPS
    + """
    08:30:00 ON
      > TripStarted 08:30:00
      > TripEnded 08:30:00 09:10:00
      > TripDataReady 08:30:00 09:10:00 time_since_last_trip_in_ms=1200000
      > TripDiscarded 09:00:00 reason=SUPERSEDED superseded_by=08:30:00 trips=delete
    """,
)
case(
    "an_off_at_the_very_start_erases_a_trip_and_what_follows_hears_of_it",
    TWO_TRIPS
    + """
    08:00:00 OFF
      > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by= trips=delete
      > TripDataReady 09:00:00 09:10:00 -time_since_last_trip_in_ms
    """,
)
case(
    "a_superseded_start_on_the_very_end_of_another_trip_is_inside_it",
    TWO_TRIPS
    + """
    08:30:00 ON
    + 09:00:00 OFF
      > TripStarted 08:30:00
      > TripEnded 08:30:00 09:00:00
      > TripDataReady 08:30:00 09:00:00 time_since_last_trip_in_ms=1200000
      > TripDiscarded 09:00:00 reason=SUPERSEDED superseded_by=08:30:00 trips=delete
    """,
)
case(
    "a_correction_that_makes_a_kept_trip_too_short_takes_it_from_the_trips",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:00:30 OFF
      > TripEnded 08:00:00 08:00:30
      > TripDiscarded 08:00:00 08:00:30 reason=TOO_SHORT trips=delete
    """,
)
case(
    "a_repeated_message_announces_nothing",
    """
    07:50:00 OFF
    08:00:00 ON speed=3
      > TripStarted 08:00:00
    08:00:00 ON speed=3
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:10:00 OFF
    07:50:00 OFF
    """,
)
case(
    "a_change_inside_a_trip_that_is_on_announces_nothing",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    07:59:00 at=50,7 unit=A/B
    08:05:00 at=50,7
    """,
)
case(
    "a_late_off_before_an_unobserved_start_is_told_with_the_end",
    """
    08:00:00 ON
      > TripStarted 08:00:00 flags=START_UNOBSERVED
    07:50:00 OFF
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    """,
)
case(
    "a_changed_metric_announces_the_data_again_without_another_end",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:05:00 speed=50
      > TripDataReady 08:00:00 08:10:00 max_speed_in_kmh=50.0 longest_gap_in_ms=300000
    """,
)
case(
    "a_sample_that_changes_nothing_told_announces_nothing",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:05:00 ON
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:05:00 heading=90
    """,
)
case(
    "a_backlog_of_late_messages_in_one_batch_makes_one_revision",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:01:00 speed=10
    + 08:02:00 speed=20
    + 08:03:00 speed=30
    + 08:01:00 speed=10
      > TripDataReady 08:00:00 08:10:00 rev=6 max_speed_in_kmh=30.0
    """,
)
case(
    "an_edge_in_order_is_announced_at_its_own_offset_inside_a_batch",
    """
    07:50:00 OFF
    + 08:00:00 ON
    + 08:05:00 speed=10
    + 08:10:00 OFF
    + 08:11:00 speed=0
      > TripStarted 08:00:00 rev=2
      > TripEnded 08:00:00 08:10:00 rev=4
      > TripDataReady 08:00:00 08:10:00 rev=4
    """,
)
case(
    "what_is_pending_is_announced_at_the_next_edge_in_order",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    08:05:00 speed=10
    + 08:20:00 ON
    + 08:06:00 speed=20
      > TripDataReady 08:00:00 08:10:00 rev=5 max_speed_in_kmh=10.0
      > TripDataReady 08:00:00 08:10:00 rev=6 max_speed_in_kmh=20.0
      > TripStarted 08:20:00 rev=5
    """,
)
case(
    "a_trip_is_told_the_same_after_a_restart_in_its_middle",
    """
    07:50:00 OFF km=10 at=50,7
    08:00:00 ON
      > TripStarted 08:00:00
    08:01:00 at=50,7 speed=0
    08:02:00 at=50.01,7 speed=0 charge=50
    restart
    08:03:00 at=50.02,7 speed=33.3
    08:10:00 OFF km=15
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00 distance_in_km=5.0 gps_distance_in_km=2.224 idle_time_in_ms=60000
      >> energy_start=50 max_speed_in_kmh=33.3
    restart
    08:02:30 speed=80
      > TripDataReady 08:00:00 08:10:00 distance_in_km=5.0 gps_distance_in_km=2.224 idle_time_in_ms=60000
      >> max_speed_in_kmh=80.0
    """,
)
case(
    "revisions_count_from_the_base",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00 rev=1000002
    """,
    revision_base=1_000_000,
)
case(
    "the_event_of_complete_data_can_be_called_trip_metrics_ready",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripMetricsReady 08:00:00 08:10:00
    """,
    ready_event_name="TripMetricsReady",
)

# ---------------------------------------------------------------------------------------------- the horizon

TWO_HOURS = {"correction_horizon_ms": 2 * HOUR}
case(
    "a_sample_exactly_as_old_as_the_horizon_still_counts",
    """
    07:50:00 OFF speed=1
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    10:05:00 speed=0
    08:05:00 speed=50
      > TripDataReady 08:00:00 08:10:00 max_speed_in_kmh=50.0
    """,
    **TWO_HOURS,
)
case(
    "a_sample_a_millisecond_older_than_the_horizon_is_late_and_changes_nothing",
    """
    07:50:00 OFF speed=1
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 OFF
      > TripEnded 08:00:00 08:10:00
      > TripDataReady 08:00:00 08:10:00
    10:05:00 speed=0
    08:04:59.999 speed=50
      > late
    08:10:00 km=100
      > TripDataReady 08:00:00 08:10:00 -max_speed_in_kmh distance_in_km=0.0
    """,
    **TWO_HOURS,
)
case(
    "a_record_does_not_make_its_own_samples_late",
    """
    07:50:00 OFF speed=1
    11:00:00 ON@07:55:00 speed=5
      > TripStarted 07:55:00
    """,
    **TWO_HOURS,
)
case(
    "the_repetition_of_a_value_with_its_old_time_is_not_late",
    """
    07:50:00 OFF doors=CLOSED
    12:00:00 speed=0
    12:00:05 doors@07:50:00=CLOSED speed=0
    12:00:10 doors@07:50:00=OPEN speed=0
      > late
    12:00:15 doors@07:49:00=CLOSED speed=0
      > late
    """,
    **TWO_HOURS,
)
case(
    "the_first_word_about_a_property_is_not_late_however_old",
    """
    07:50:00 OFF
    12:00:00 speed=0
    12:00:05 doors@06:00:00=OPEN
    12:10:00 ON
      > TripStarted 12:10:00
    12:20:00 OFF
      > TripEnded 12:10:00 12:20:00
      > TripDataReady 12:10:00 12:20:00 doors_status_at_trip_end=OPEN
    """,
    **TWO_HOURS,
)
case(
    "an_old_off_is_not_late_when_nothing_is_known_of_the_trigger",
    """
    12:00:00 speed=0
    12:00:05 OFF@06:00:00
    12:10:00 ON
      > TripStarted 12:10:00
    """,
    **TWO_HOURS,
)
case(
    "an_old_on_is_late_even_when_nothing_is_known_of_the_trigger",
    """
    12:00:00 speed=0
    12:00:05 ON@06:00:00
      > late
    12:10:00 ON
      > TripStarted 12:10:00 flags=START_UNOBSERVED
    """,
    **TWO_HOURS,
)
case(
    "the_good_samples_of_a_partly_late_record_count",
    """
    07:50:00 OFF speed=1
    08:00:00 ON
      > TripStarted 08:00:00
    11:00:00 OFF
      > TripEnded 08:00:00 11:00:00 flags=DATA_GAP
      > TripDataReady 08:00:00 11:00:00 flags=DATA_GAP
    11:00:10 speed@08:30:00=50 km@10:59:00=7
      > late
      > TripDataReady 08:00:00 11:00:00 flags=DATA_GAP -max_speed_in_kmh distance_in_km=0.0
    """,
    **TWO_HOURS,
)
case(
    "a_superseding_is_announced_although_the_same_batch_leaves_it_behind_the_horizon",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:00:00 OFF
    + 10:30:00 OFF
    + 10:30:01 speed=0
      > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by= rev=any
    """,
    **TWO_HOURS,
)
case(
    "a_trip_longer_than_the_horizon_is_told_as_a_whole",
    """
    07:50:00 OFF km=10 charge=90 at=50,7
    08:00:00 ON
      > TripStarted 08:00:00
    08:01:00 at=50,7 speed=0
    08:02:00 at=50.01,7 speed=0
    08:50:00 speed=88
    09:40:00 speed=10
    10:30:00 at=50.02,7
    11:20:00 speed=20
    12:10:00 charge=40
    restart
    13:00:00 OFF km=95
      > TripEnded 08:00:00 13:00:00
      > TripDataReady 08:00:00 13:00:00 duration_in_ms=18000000 distance_in_km=85.0 gps_distance_in_km=2.224
      >> position_count=3 max_speed_in_kmh=88.0 idle_time_in_ms=60000 energy_start=90 energy_end=40
      >> longest_gap_in_ms=3000000 average_speed_in_kmh=17.0
    """,
    **TWO_HOURS,
)
case(
    "a_gap_that_began_behind_the_horizon_still_ends_the_trip_at_an_on",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    10:00:00 speed=60
    10:50:00 speed=70
    11:40:00 speed=80
    12:30:00 ON
      > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
      > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED max_speed_in_kmh=50.0
      > TripStarted 12:30:00 flags=START_UNOBSERVED
    """,
    **TWO_HOURS,
)
case(
    "a_gap_that_began_behind_the_horizon_is_in_the_trip_at_an_off",
    """
    07:50:00 OFF
    08:00:00 ON
      > TripStarted 08:00:00
    08:10:00 speed=50
    10:00:00 speed=60
    10:50:00 speed=70
    11:40:00 speed=80
    12:30:00 OFF
      > TripEnded 08:00:00 12:30:00 flags=DATA_GAP
      > TripDataReady 08:00:00 12:30:00 flags=DATA_GAP max_speed_in_kmh=80.0 longest_gap_in_ms=6600000
    """,
    **TWO_HOURS,
)
case(
    "the_end_of_the_last_trip_is_remembered_behind_the_horizon",
    """
    07:00:00 OFF
    07:10:00 ON
      > TripStarted 07:10:00
    07:19:00 km=100
    07:20:00 OFF
      > TripEnded 07:10:00 07:20:00
      > TripDataReady 07:10:00 07:20:00
    12:00:00 speed=0
    restart
    13:00:00 ON
      > TripStarted 13:00:00
    13:10:00 OFF km=105
      > TripEnded 13:00:00 13:10:00
      > TripDataReady 13:00:00 13:10:00 time_since_last_trip_in_ms=20400000 distance_in_km=0.0
    """,
    **TWO_HOURS,
)


@pytest.mark.parametrize(("script", "rules"), CASES)
def test_boundary(script, rules):
    Drive(rules).run(script)


# ---------------------------------------------------------------------------------------------- order and identity


def test_the_end_of_a_trip_is_announced_before_the_next_start():
    drive = Drive(Rules())
    drive.run("""
        07:50:00 OFF
        08:00:00 ON
          > TripStarted 08:00:00
        08:10:00 speed=50
        09:30:00 ON
          > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
          > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
          > TripStarted 09:30:00 flags=START_UNOBSERVED
    """)
    assert [announcement.event for announcement in drive.said] == [
        "TripStarted",
        "TripEnded",
        "TripDataReady",
        "TripStarted",
    ]


def test_identity_is_a_function_of_vehicle_and_start():
    drive = Drive(Rules())
    drive.run("""
        07:50:00 OFF vehicle=JQ7RP
        08:00:00 ON vehicle=JQ7RP
          > TripStarted 08:00:00
        08:20:00 OFF vehicle=JQ7RP
          > TripEnded 08:00:00 08:20:00
          > TripDataReady 08:00:00 08:20:00
    """)
    payloads = [json.loads(announcement.payload) for announcement in drive.said]
    assert {payload["data"]["trip"]["id"] for payload in payloads} == {"01KJM6JM005YNWXRCC7HZ428A8"}
    assert {payload["data"]["trip"]["key"] for payload in payloads} == {"3V2Q5"}
    assert [payload["metadata"]["id"] for payload in payloads] == [
        "01KJXMPK00JAKJ2NH28ET6ADMW",
        "01KJXMPK00JJTMFNCTES4TPC8B",
        "01KJXMPK005EJMFDSMS34CWNR8",
    ]
    assert {payload["metadata"]["flow_id"] for payload in payloads} == {"2fabcee1-8c3c-8e41-a148-1ec572fefd87"}
    assert {payload["metadata"]["occurred_at"] for payload in payloads} == {"2026-03-05T00:00:00Z"}


def test_identity_takes_milliseconds_and_the_utf_8_of_the_vehicle_id():
    drive = Drive(Rules())
    body = {"vehicle_id": "Ü 3", "timestamp": "2026-03-01T08:00:00.123Z", "ignition": "ON"}
    drive.processor.process([Record(1, KAFKA_TIME, None, json.dumps(body).encode())])
    [announcement] = drive.processor.take().announcements
    assert announcement.trip_id == "01KJM6JM3V3N5K8QPGT7AWQFKZ"
    assert json.loads(announcement.payload)["data"]["trip"]["key"] == "3KDG3"
    assert json.loads(announcement.payload)["metadata"]["flow_id"] == "1d4b345e-d0d1-85cb-be7f-1cdb01807b75"


def flow_ids(script: str) -> list[str]:
    drive = Drive(Rules())
    drive.run(script)
    return [json.loads(announcement.payload)["metadata"]["flow_id"] for announcement in drive.said]


def test_the_flow_id_is_that_of_the_signal_that_started_the_trip():
    assert flow_ids("""
        07:50:00 OFF flow=before
        08:00:00 ON flow=mine
          > TripStarted 08:00:00
        08:05:00 ON flow=another
        08:10:00 OFF flow=after
          > TripEnded 08:00:00 08:10:00
          > TripDataReady 08:00:00 08:10:00
    """) == ["mine", "mine", "mine"]


def test_of_several_flow_ids_the_one_that_sorts_last_counts_and_repetitions_do_not():
    assert flow_ids("""
        07:50:00 OFF
        08:00:00 ON flow=b
          > TripStarted 08:00:00
        08:00:00 ON flow=z
        08:00:00 ON flow=c speed=5
        08:00:00 ON flow=a speed=6
        08:10:00 OFF
          > TripEnded 08:00:00 08:10:00
          > TripDataReady 08:00:00 08:10:00
    """) == ["b", "c", "c"]


def test_the_payload_holds_what_the_contract_shows():
    drive = Drive(Rules())
    drive.run("""
        07:50:00 OFF km=12345.6 energy=35 doors=OPEN unit=2A24/CLOUDBOXX at=50.123,7.321
        08:00:00 ON
          > TripStarted 08:00:00
        08:01:00 at=50.124,7.321,34.5 speed=92
        08:30:00 OFF km=12369 energy=42.5 doors=CLOSED windows=CLOSED at=50.125,7.321 speed=0
          > TripEnded 08:00:00 08:30:00
          > TripDataReady 08:00:00 08:30:00
    """)
    assert json.loads(drive.said[-1].payload) == {
        "metadata": {
            "id": drive.said[-1].event_id,
            "type": "TripDataReady",
            "schema_major_version": 1,
            "occurred_at": "2026-03-05T00:00:00Z",
            "flow_id": "e8eb1e5c-6029-8f53-9cc7-26fa9799d41e",
        },
        "data": {
            "occurred_at": "2026-03-01T08:30:00Z",
            "trip": {
                "id": "01KJM6JM00X3NHWQ3055FN6767",
                "key": "4VX9F",
                "revision": 4,
                "is_flagged": False,
                "flags": [],
                "data_completion_status": "FINISHED",
                "vehicle_id": "V1",
                "telematics_unit": {"id": "2A24", "brand": "CLOUDBOXX"},
                "start": {
                    "timestamp": "2026-03-01T08:00:00Z",
                    "position": {"timestamp": "2026-03-01T07:50:00Z", "value": {"lat": 50.123, "lon": 7.321}},
                },
                "end": {
                    "timestamp": "2026-03-01T08:30:00Z",
                    "position": {"timestamp": "2026-03-01T08:30:00Z", "value": {"lat": 50.125, "lon": 7.321}},
                },
                "metrics": {
                    "duration_in_ms": 1_800_000,
                    "distance_in_km": 23.4,
                    "distance_source": "ODOMETER",
                    "state_of_charge_or_fuel_level_at_trip_start_in_percent": 35,
                    "state_of_charge_or_fuel_level_at_trip_end_in_percent": 42.5,
                    "doors_status_at_trip_end": "CLOSED",
                    "windows_status_at_trip_end": "CLOSED",
                    "gps_distance_in_km": 0.111,
                    "max_speed_in_kmh": 92.0,
                    "average_speed_in_kmh": 46.8,
                    "idle_time_in_ms": 0,
                    "position_count": 2,
                    "longest_gap_in_ms": 1_740_000,
                },
            },
        },
    }


def test_a_superseded_trip_tells_no_more_than_what_it_was():
    drive = Drive(Rules())
    drive.run("""
        07:50:00 OFF at=50,7 unit=A/B
        08:00:00 ON
          > TripStarted 08:00:00
        07:55:00 ON
          > TripStarted 07:55:00
          > TripDiscarded 08:00:00 reason=SUPERSEDED superseded_by=07:55:00
    """)
    [superseded] = [said for said in drive.said if said.event == "TripDiscarded"]
    assert json.loads(superseded.payload)["data"] == {
        "occurred_at": "2026-03-01T08:00:00Z",
        "reason": "SUPERSEDED",
        "superseded_by": ["01KJM69F10JR6DTN83MJG67MYJ"],
        "trip": {
            "id": "01KJM6JM00X3NHWQ3055FN6767",
            "key": "4VX9F",
            "revision": 3,
            "vehicle_id": "V1",
            "data_completion_status": "DISCARDED",
            "start": {"timestamp": "2026-03-01T08:00:00Z"},
        },
    }


def test_time_alone_shares_the_revision_of_the_last_applied_record():
    drive = Drive(Rules())
    drive.run("""
        07:50:00 OFF
        08:00:00 ON
          > TripStarted 08:00:00
        08:10:00 speed=5
        clock +61:00
          > TripEnded 08:00:00 08:10:00 flags=END_INFERRED
          > TripDataReady 08:00:00 08:10:00 flags=END_INFERRED
    """)
    last = json.loads(drive.said[-1].payload)
    assert last["data"]["trip"]["revision"] == 3
    assert last["metadata"]["occurred_at"] == "2026-03-05T00:00:00Z"


def test_a_traceparent_is_passed_on_from_the_record_of_the_revision():
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    drive = Drive(Rules())
    body = {"vehicle_id": "V1", "timestamp": "2026-03-01T08:00:00Z", "ignition": "ON"}
    record = Record(7, KAFKA_TIME, None, json.dumps(body).encode(), (("traceparent", trace.encode()),))
    drive.processor.process([record])
    [announcement] = drive.processor.take().announcements
    assert (announcement.revision, announcement.time_ms, announcement.traceparent) == (7, KAFKA_TIME, trace)
