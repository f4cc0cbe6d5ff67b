"""What a trip's announcements say: from packed integers to the JSON of the contract.

Rounding is half up and comes last, from exact integers. What is not known is left out.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import orjson

from streams.trips.identity import TripIdentity, event_id
from streams.trips.rules import Rules
from streams.trips.trip import Fix, Flag, Trip

__all__ = ["Envelope", "deleted", "discarded", "ended", "finished", "iso", "ready_event", "started", "superseded"]

_EPOCH: Final = date(1970, 1, 1)
_TWO_DIGITS: Final = tuple(f"{number:02}" for number in range(60))


@lru_cache(maxsize=4096)  # the same instants are told in several announcements
def iso(instant: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, with milliseconds only where they are not zero."""
    seconds, milliseconds = divmod(instant, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    time = f"{_day(day)}T{_TWO_DIGITS[hour]}:{_TWO_DIGITS[minute]}:{_TWO_DIGITS[second]}"
    return f"{time}.{milliseconds:03}Z" if milliseconds else time + "Z"


@lru_cache(maxsize=4096)
def _day(since_1970: int) -> str:
    return (_EPOCH + timedelta(days=since_1970)).isoformat()


class Envelope(NamedTuple):
    """What an announcement says apart from the trip's content.

    Attributes:
        time_ms: when the record with this revision was made, in epoch ms.
        flow_id: of the message that started the trip.
    """

    vehicle_id: str
    identity: TripIdentity
    revision: int
    time_ms: int
    flow_id: str

    def encode(self, event: str, occurred_at: int, trip: dict[str, Any], **data: Any) -> tuple[str, bytes]:
        """The event's id and the whole payload."""
        identifier = event_id(self.time_ms, self.identity.id, event, self.revision)
        return identifier, orjson.dumps(
            {
                "metadata": {
                    "id": identifier,
                    "type": event,
                    "schema_major_version": 1,
                    "occurred_at": iso(self.time_ms),
                    "flow_id": self.flow_id,
                },
                "data": {"occurred_at": iso(occurred_at), **data, "trip": trip},
            }
        )

    def head(self) -> dict[str, Any]:
        """The trip's names, and the revision."""
        return {"id": self.identity.id, "key": self.identity.key, "revision": self.revision}


def started(envelope: Envelope, trip: Trip) -> dict[str, Any]:
    """The ``trip`` of TripStarted: what was known at its start, whatever is known by now."""
    content = envelope.head() | _flags(trip.flags & Flag.START_UNOBSERVED)
    content["data_completion_status"] = "ONGOING"
    content["vehicle_id"] = envelope.vehicle_id
    if trip.start_unit is not None:
        content["telematics_unit"] = {"id": trip.start_unit[0], "brand": trip.start_unit[1]}
    fix = trip.start_fix if trip.start_fix is not None and trip.start_fix.timestamp <= trip.start else None
    content["start"] = _boundary(trip.start, fix)
    return content


def ended(envelope: Envelope, trip: Trip, *, status: str = "PENDING") -> dict[str, Any]:
    """The ``trip`` of TripEnded: as of its end, without metrics."""
    flags = trip.flags | (Flag.ODOMETER_IMPLAUSIBLE if trip.odometer_implausible else 0)
    content = envelope.head() | _flags(flags)
    content["data_completion_status"] = status
    content["vehicle_id"] = envelope.vehicle_id
    if trip.unit is not None:
        content["telematics_unit"] = {"id": trip.unit[0], "brand": trip.unit[1]}
    content["start"] = _boundary(trip.start, trip.start_fix)
    content["end"] = _boundary(trip.start + trip.duration, trip.end_fix)
    return content


def finished(envelope: Envelope, trip: Trip) -> dict[str, Any]:
    """The ``trip`` of TripDataReady: all of it."""
    content = ended(envelope, trip, status="FINISHED") | {"metrics": _metrics(trip)}
    if trip.route is not None:
        content["route"] = {"polyline": trip.route, "precision": 5}
    return content


def discarded(envelope: Envelope, trip: Trip) -> dict[str, Any]:
    """The ``trip`` of TripDiscarded, when it is too short: all of it."""
    return ended(envelope, trip, status="DISCARDED") | {"metrics": _metrics(trip)}


def superseded(envelope: Envelope, start: int) -> dict[str, Any]:
    """The ``trip`` of TripDiscarded, when it never was: its names only."""
    return envelope.head() | {
        "data_completion_status": "DISCARDED",
        "vehicle_id": envelope.vehicle_id,
        "start": {"timestamp": iso(start)},
    }


def deleted(envelope: Envelope) -> dict[str, Any]:
    """The ``trip`` of TripDeleted: its names only."""
    return envelope.head() | {"vehicle_id": envelope.vehicle_id}


def ready_event(trip: Trip, rules: Rules) -> tuple[str, dict[str, str]]:
    """Which event tells that the trip's data are complete, and what its ``data`` holds besides the trip."""
    reason = trip.discarded(rules)
    return (rules.ready_event_name, {}) if reason is None else ("TripDiscarded", {"reason": reason})


def _flags(flags: int) -> dict[str, Any]:
    names = _names(int(flags))
    return {"is_flagged": bool(names), "flags": names}


@cache
def _names(flags: int) -> tuple[str | None, ...]:
    return tuple(flag.name for flag in Flag if flags & flag)


def _boundary(instant: int, fix: Fix | None) -> dict[str, Any]:
    boundary: dict[str, Any] = {"timestamp": iso(instant)}
    if fix is not None:
        value = {"lat": fix.latitude / 1e7, "lon": fix.longitude / 1e7}
        if fix.altitude is not None:
            value["altitude"] = fix.altitude / 10
        boundary["position"] = {"timestamp": iso(fix.timestamp), "value": value}
    return boundary


def _half_up(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)


def _percent(hundredths: int) -> int | float:
    return hundredths // 100 if hundredths % 100 == 0 else hundredths / 100


def _metrics(trip: Trip) -> dict[str, Any]:
    duration = trip.duration
    metrics: dict[str, Any] = {"duration_in_ms": duration}
    if trip.previous_kept_end is not None:
        metrics["time_since_last_trip_in_ms"] = trip.start - trip.previous_kept_end
    distance = trip.distance()
    if distance is not None:
        metrics["distance_in_km"] = _half_up(distance.millimetres, 1000) / 1000
        metrics["distance_source"] = distance.source
    for at_start, at_end in zip(trip.start_energies, trip.end_energies, strict=True):
        if at_end is not None:
            if at_start is not None:
                metrics["state_of_charge_or_fuel_level_at_trip_start_in_percent"] = _percent(at_start)
            metrics["state_of_charge_or_fuel_level_at_trip_end_in_percent"] = _percent(at_end)
            break
    for name, state in (("doors", trip.doors), ("windows", trip.windows)):
        if state is not None:
            metrics[f"{name}_status_at_trip_end"] = "OPEN" if state else "CLOSED"
    if trip.path_mm is not None:
        metrics["gps_distance_in_km"] = _half_up(trip.path_mm, 1000) / 1000
    if trip.max_speed is not None:
        metrics["max_speed_in_kmh"] = trip.max_speed / 100
    if distance is not None and duration:
        # mm in ms are m/s: times 3.6 are km/h, times 100 the step of a speed
        metrics["average_speed_in_kmh"] = _half_up(distance.millimetres * 360, duration) / 100
    if trip.max_speed is not None:
        metrics["idle_time_in_ms"] = trip.idle_ms
    metrics["position_count"] = trip.fixes
    metrics["longest_gap_in_ms"] = trip.longest_gap
    return metrics
