"""The contract's definition of trips, read as plainly as it can be written: the judge of the core.

Everything is kept, nothing is folded, nothing is remembered from one call to the next: sorted lists are searched again
and again. It shares no code with the core but the names of the properties, and is written from the contract alone.

Where the contract leaves room, this is how it is read:

- In a trip that ``merge_gap`` joined, all samples inside [start, end] count, those of its off time too.
- A trip whose observed end after a data gap was joined to the next keeps its ``DATA_GAP``: the gap is in it.
- ``merge_gap`` is measured from the OFF that ended the trip, whatever further OFFs follow it; an ON whose trip did not
  end with an observed OFF is joined to nothing.
- A GPS path has at least one leg: fewer than two fixes that count leave the GPS distance unknown.
- The rule for the first two fixes is used once; if they disagree, the first is left out if it disagrees with more of
  the next two (as far as they are there) than the second does, else the second.
- The minimum distance is compared with the exact distance, before rounding; a trip that is too short in both ways is
  ``TOO_SHORT``.
- ``position_count`` is known even when it is 0; ``idle_time_in_ms`` is known as soon as there is a speed sample inside.
- ``TripEnded`` tells everything that ``TripDataReady`` does but the metrics: all flags, and a start position that may
  be the first inside.
- ``ready_delay`` has passed when a sample is at least that much later than the end, or quiet is longer.
- A hole is where the trip was: the trigger on at its start, and off at its end if an OFF was in it. Otherwise ONs start
  nothing until an OFF or a data gap. A trip whose OFF was before the hole ends there, whatever ``merge_gap`` says.
- An OFF at the very end of a hole that has none is in it, also when it comes later.
- The last samples in a hole count for trips after it, at instants up to ``correction_horizon`` after the sample that
  was the newest when it was dug. Then they are gone, and older ones do not take their place. The hole counts as
  the trip before, if the trip counted.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from streams.trips.samples import SWITCHES, Property

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.trips.rules import Rules

__all__ = [
    "OracleHole",
    "OracleTrip",
    "Sample",
    "derive",
    "dig",
    "resolve",
    "timestamp",
    "trip_hash",
    "trip_id",
    "trip_key",
    "ulid",
]

Sample = tuple[int, Property, Any]
"""(timestamp in ms, property, value in the steps of ``samples.py``); a position is (lat, lon, altitude or None)."""

EARTH_RADIUS_MM: Final = 6_371_008_800
CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FLAGS: Final = ("START_UNOBSERVED", "END_INFERRED", "DATA_GAP", "ODOMETER_IMPLAUSIBLE", "POSITION_JUMPS")

_INSTANT: Final = itemgetter(0)


@dataclass(frozen=True)
class OracleTrip:
    """A trip and what is to be announced about it.

    ``started``, ``ended`` and ``final`` are the ``trip`` object of TripStarted, TripEnded, and TripDataReady or
    TripDiscarded, all without ``revision``.
    """

    id: str
    start: int
    end: int | None
    """None: the trip is on."""
    passed: bool
    """Its end is known and ``ready_delay`` has passed."""
    reason: str | None
    """Why it is discarded; None: it is kept (or on)."""
    started: dict[str, Any]
    ended: dict[str, Any] | None
    final: dict[str, Any] | None

    @property
    def on(self) -> bool:
        return self.end is None


@dataclass(frozen=True)
class OracleHole:
    """A deleted trip."""

    start: int
    end: int
    off: bool | None
    """Whether there was an OFF in it; None: nobody knows."""
    counted: bool
    until: int
    """The newest sample when it was dug."""
    samples: tuple[Sample, ...] = ()
    """The last one of each property."""
    gone: bool = False
    """The samples are for nobody any more."""

    def covers(self, at: int) -> bool:
        return self.start <= at <= self.end


def dig(samples: Iterable[Sample], trip: OracleTrip, newest: int, trigger: Property) -> OracleHole:
    """What is left of a trip among these samples when it is deleted."""
    end = newest if trip.end is None else trip.end
    last: dict[Property, Sample] = {}
    for sample in resolve(samples):
        if trip.start <= sample[0] <= end:
            last[sample[1]] = sample
    return OracleHole(
        trip.start,
        end,
        off=not last[trigger][2],
        counted=trip.end is not None and trip.reason is None,
        until=max(end, newest),
        samples=tuple(last.values()),
    )


@dataclass
class _Interval:
    start: int
    end: int | None = None
    observed_end: bool = False
    final: bool = False
    """A hole follows: nothing can be joined to it."""
    flags: set[str] = field(default_factory=set)


def derive(
    samples: Iterable[Sample],
    rules: Rules,
    quiet_ms: float = 0,
    *,
    vehicle_id: str = "V1",
    holes: Sequence[OracleHole] = (),
) -> list[OracleTrip]:
    """All trips of one vehicle, in time order."""
    outside = [sample for sample in resolve(samples) if not any(hole.covers(sample[0]) for hole in holes)]
    timeline = _by_property(outside, holes, rules)
    trips: list[OracleTrip] = []
    previous_end = previous_kept_end = None
    holes = sorted(holes, key=lambda hole: hole.start)
    for interval in _intervals(timeline, rules, quiet_ms, holes):
        for hole in holes:
            if hole.end < interval.start and (previous_end is None or hole.end > previous_end):
                previous_end = hole.end
                previous_kept_end = hole.end if hole.counted else previous_kept_end
        trip = _tell(
            interval,
            timeline,
            rules=rules,
            quiet_ms=quiet_ms,
            vehicle_id=vehicle_id,
            previous_end=previous_end,
            previous_kept_end=previous_kept_end,
        )
        trips.append(trip)
        previous_end = trip.end
        if trip.end is not None and trip.reason is None:
            previous_kept_end = trip.end
    return trips


def resolve(samples: Iterable[Sample]) -> list[Sample]:
    """The timeline, in time order: one value for each property and instant."""
    chosen: dict[tuple[int, Property], Any] = {}
    for t, prop, value in samples:
        at = (t, prop)
        if at not in chosen:
            chosen[at] = value
        elif prop in SWITCHES:
            chosen[at] = min(chosen[at], value)
        elif prop == Property.POSITION:
            chosen[at] = max(chosen[at], value, key=lambda p: (p[0], p[1], -math.inf if p[2] is None else p[2]))
        else:
            chosen[at] = max(chosen[at], value)
    return sorted((t, prop, value) for (t, prop), value in chosen.items())


class _Timeline(dict[Property | None, list[tuple[int, Any]]]):
    """By property: its samples as (timestamp, value), in time order; all its instants stand under None.

    ``ghosts``: of holes the last samples by property, each with the instants after and up to which it counts.
    """

    ghosts: dict[Property, list[tuple[int, Any, int, int]]]


def _by_property(timeline: list[Sample], holes: Sequence[OracleHole], rules: Rules) -> _Timeline:
    found = _Timeline({prop: [] for prop in Property})
    for t, prop, value in timeline:
        found[prop].append((t, value))
    instants = {t for t, _, _ in timeline} | {t for hole in holes for t in (hole.start, hole.end)}
    found[None] = [(t, None) for t in sorted(instants)]
    found.ghosts = {prop: [] for prop in Property}
    for hole in holes:
        until = hole.end if hole.gone else hole.until + rules.correction_horizon_ms
        for t, prop, value in hole.samples:
            found.ghosts[prop].append((t, value, hole.end, until))
    return found


# --------------------------------------------------------------------------------------------- when trips begin and end


def _intervals(timeline: _Timeline, rules: Rules, quiet_ms: float, holes: Sequence[OracleHole]) -> list[_Interval]:
    instants = [t for t, _ in timeline[None]]
    edges: list[tuple[int, Any]] = [*timeline[rules.trigger], *((hole.start, hole) for hole in holes)]
    trips: list[_Interval] = []
    state = "unknown"
    before = 0  # the trigger sample before this one
    for t, on in sorted(edges, key=_INSTANT):
        if isinstance(on, OracleHole):
            if state == "on":
                gap = _first_gap(instants, before, t, rules)
                trips[-1].end = t if gap is None else gap
                trips[-1].flags.add("END_INFERRED")
            if trips:
                trips[-1].final = True
            state = {True: "off", False: "deleted", None: "unknown"}[on.off]
            before = on.end
            continue
        if state == "deleted" and _first_gap(instants, before, t, rules) is not None:
            state = "unknown"
        if state == "on":
            gap = _first_gap(instants, before, t, rules)
            if on and gap is not None:
                trips[-1].end = gap
                trips[-1].flags.add("END_INFERRED")
                state = "unknown"
            elif not on:
                trips[-1].end = t
                trips[-1].observed_end = True
                if gap is not None:
                    trips[-1].flags.add("DATA_GAP")
        if not on:
            state = "off"
        elif state == "unknown" and rules.unknown_start == "start":
            trips.append(_Interval(t, flags={"START_UNOBSERVED"}))
            state = "on"
        elif state == "off":
            last = trips[-1] if trips else None
            joins = last is not None and last.observed_end and not last.final
            if joins and t - last.end <= rules.merge_gap_ms:
                last.end, last.observed_end = None, False
            else:
                trips.append(_Interval(t))
            state = "on"
        before = t

    if state == "on":
        _end_by_silence(trips[-1], instants, before, rules, quiet_ms)
    elif (
        trips
        and trips[-1].observed_end
        and not trips[-1].final
        and not _end_stands(trips[-1], instants, rules, quiet_ms)
    ):
        trips[-1].end = None
    return trips


def _first_gap(instants: list[int], start: int, end: int, rules: Rules) -> int | None:
    """The last sample before the first data gap in [start, end]."""
    if rules.silence_timeout_ms == 0:
        return None
    within = instants[bisect_left(instants, start) : bisect_right(instants, end)]
    for one, next_one in itertools.pairwise(within):
        if next_one - one > rules.silence_timeout_ms:
            return one
    return None


def _end_by_silence(trip: _Interval, instants: list[int], since: int, rules: Rules, quiet_ms: float) -> None:
    if rules.silence_timeout_ms == 0 or quiet_ms <= rules.silence_timeout_ms:
        return
    gap = _first_gap(instants, since, instants[-1], rules)
    end = instants[-1] if gap is None else gap
    if end - trip.start >= rules.min_duration_ms:
        trip.end = end
        trip.flags.add("END_INFERRED")


def _end_stands(trip: _Interval, instants: list[int], rules: Rules, quiet_ms: float) -> bool:
    assert trip.end is not None
    if rules.merge_gap_ms == 0:
        return True
    return instants[-1] > trip.end + rules.merge_gap_ms or quiet_ms > rules.merge_gap_ms


# ---------------------------------------------------------------------------------------------- what a trip contains


def _tell(
    interval: _Interval,
    timeline: _Timeline,
    *,
    rules: Rules,
    quiet_ms: float,
    vehicle_id: str,
    previous_end: int | None,
    previous_kept_end: int | None,
) -> OracleTrip:
    start, end = interval.start, interval.end
    identity = {"id": trip_id(vehicle_id, start), "key": trip_key(vehicle_id, start), "vehicle_id": vehicle_id}
    started = identity | {
        "data_completion_status": "ONGOING",
        **_flags(interval.flags & {"START_UNOBSERVED"}),
        **_unit(timeline, start),
        "start": _boundary(start, _last(timeline, Property.POSITION, start)),
    }
    if end is None:
        return OracleTrip(identity["id"], start, None, False, None, started, None, None)

    first_inside = _first(timeline, Property.POSITION, start, end)
    common = identity | {
        **_unit(timeline, end),
        "start": _boundary(start, _last(timeline, Property.POSITION, start) or first_inside),
        "end": _boundary(end, _last(timeline, Property.POSITION, end)),
    }
    metrics, flags, distance_mm = _metrics(interval, timeline, previous_end)
    if previous_kept_end is not None:
        metrics["time_since_last_trip_in_ms"] = start - previous_kept_end
    if end - start < rules.min_duration_ms:
        reason = "TOO_SHORT"
    elif distance_mm is not None and distance_mm < rules.min_distance_m * 1000:
        reason = "TOO_SHORT_DISTANCE"
    else:
        reason = None
    common |= _flags(interval.flags | flags)
    return OracleTrip(
        id=identity["id"],
        start=start,
        end=end,
        passed=timeline[None][-1][0] >= end + rules.ready_delay_ms or quiet_ms > rules.ready_delay_ms,
        reason=reason,
        started=started,
        ended=common | {"data_completion_status": "PENDING"},
        final=common | {"data_completion_status": "FINISHED" if reason is None else "DISCARDED", "metrics": metrics},
    )


def _metrics(
    interval: _Interval, timeline: _Timeline, previous_end: int | None
) -> tuple[dict[str, Any], set[str], int | None]:
    """The metrics, the flags that they raise, and the exact distance in millimetres."""
    start, end = interval.start, interval.end
    assert end is not None
    duration = end - start
    flags = set()
    metrics: dict[str, Any] = {"duration_in_ms": duration}

    fixes = _inside(timeline, Property.POSITION, start, end)
    gps_mm, jumped = _path(fixes)
    metrics["position_count"] = len(fixes)
    if jumped:
        flags.add("POSITION_JUMPS")
    if gps_mm is not None:
        metrics["gps_distance_in_km"] = _kilometres(gps_mm)

    odometer_mm = _odometer_mm(interval, timeline, previous_end)
    if odometer_mm is not None and (
        odometer_mm < 0
        or (odometer_mm == 0 and gps_mm is not None and gps_mm > 1_000_000)
        or (odometer_mm - 1_000_000) * 3 > 250 * duration  # 300 km/h are 250/3 mm a millisecond
    ):
        flags.add("ODOMETER_IMPLAUSIBLE")
        odometer_mm = None
    distance_mm = gps_mm if odometer_mm is None else odometer_mm
    if distance_mm is not None:
        metrics["distance_in_km"] = _kilometres(distance_mm)
        metrics["distance_source"] = "GPS" if odometer_mm is None else "ODOMETER"
        if duration > 0:
            metrics["average_speed_in_kmh"] = _half_up(distance_mm * 360, duration) / 100  # mm/ms are m/s

    for prop in (Property.ENERGY, Property.STATE_OF_CHARGE, Property.FUEL):
        at_end = _last(timeline, prop, end)
        if at_end is not None:
            at_start = _last(timeline, prop, start) or _first(timeline, prop, start, end)
            assert at_start is not None
            metrics["state_of_charge_or_fuel_level_at_trip_start_in_percent"] = _percent(at_start[1])
            metrics["state_of_charge_or_fuel_level_at_trip_end_in_percent"] = _percent(at_end[1])
            break
    for prop, name in ((Property.DOORS, "doors_status_at_trip_end"), (Property.WINDOWS, "windows_status_at_trip_end")):
        at_end = _last(timeline, prop, end)
        if at_end is not None:
            metrics[name] = "OPEN" if at_end[1] else "CLOSED"

    speeds = _inside(timeline, Property.SPEED, start, end)
    if speeds:
        metrics["max_speed_in_kmh"] = max(value for _, value in speeds) / 100
        metrics["idle_time_in_ms"] = sum(
            later - earlier
            for (earlier, one), (later, other) in itertools.pairwise(speeds)
            if one < 300 and other < 300 and later - earlier <= 60_000
        )
    instants = sorted({start, end} | {t for t, _ in _inside(timeline, None, start, end)})
    metrics["longest_gap_in_ms"] = max((later - earlier for earlier, later in itertools.pairwise(instants)), default=0)
    return metrics, flags, distance_mm


def _odometer_mm(interval: _Interval, timeline: _Timeline, previous_end: int | None) -> int | None:
    assert interval.end is not None
    inside = [value for _, value in _inside(timeline, Property.MILEAGE, interval.start, interval.end)]
    if not inside:
        return None
    last = _last(timeline, Property.MILEAGE, interval.start)
    before = [last[1]] if last is not None and (previous_end is None or last[0] >= previous_end) else []
    at_start = before[-1] if before and "START_UNOBSERVED" not in interval.flags else inside[0]
    return (inside[-1] - at_start) * 100


def _path(fixes: list[tuple[int, Any]]) -> tuple[int | None, bool]:
    """The GPS path in millimetres, None without a leg; and whether a fix was left out."""
    rest = list(fixes)
    jumped = False
    if len(rest) >= 2 and _disagree(rest[0], rest[1]):
        first, second, *others = rest
        against_first = sum(_disagree(first, other) for other in others[:2])
        against_second = sum(_disagree(second, other) for other in others[:2])
        rest.remove(first if against_first > against_second else second)
        jumped = True
    path: list[tuple[int, Any]] = []
    for fix in rest:
        if path and _disagree(path[-1], fix):
            jumped = True
        else:
            path.append(fix)
    if len(path) < 2:
        return None, jumped
    return sum(_leg_mm(one, other) for (_, one), (_, other) in itertools.pairwise(path)), jumped


def _disagree(one: tuple[int, Any], other: tuple[int, Any]) -> bool:
    return _leg_mm(one[1], other[1]) * 3 > 250 * (other[0] - one[0])  # more than 300 km/h


def _leg_mm(one: tuple[int, int, int | None], other: tuple[int, int, int | None]) -> int:
    lat1, lon1, lat2, lon2 = (math.radians(degrees / 1e7) for degrees in (*one[:2], *other[:2]))
    a = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return math.floor(2 * EARTH_RADIUS_MM * math.asin(math.sqrt(min(1.0, a))) + 0.5)


def _inside(timeline: _Timeline, prop: Property | None, start: int, end: int) -> list[tuple[int, Any]]:
    samples = timeline[prop]
    return samples[bisect_left(samples, start, key=_INSTANT) : bisect_right(samples, end, key=_INSTANT)]


def _last(timeline: _Timeline, prop: Property, at: int) -> tuple[int, Any] | None:
    """The last sample at or before an instant."""
    samples = timeline[prop]
    number = bisect_right(samples, at, key=_INSTANT)
    found = samples[number - 1] if number else None
    for t, value, after, until in timeline.ghosts[prop]:
        if after < at and (found is None or t > found[0]):
            found = (t, value) if at <= until else (t, None)
    return None if found is None or found[1] is None else found


def _first(timeline: _Timeline, prop: Property, start: int, end: int) -> tuple[int, Any] | None:
    """The first sample inside [start, end]."""
    return next(iter(_inside(timeline, prop, start, end)), None)


# ---------------------------------------------------------------------------------------------- how it is written


def _boundary(at: int, fix: tuple[int, Any] | None) -> dict[str, Any]:
    boundary: dict[str, Any] = {"timestamp": timestamp(at)}
    if fix is not None:
        latitude, longitude, altitude = fix[1]
        value = {"lat": latitude / 1e7, "lon": longitude / 1e7}
        if altitude is not None:
            value["altitude"] = altitude / 10
        boundary["position"] = {"timestamp": timestamp(fix[0]), "value": value}
    return boundary


def _unit(timeline: _Timeline, at: int) -> dict[str, Any]:
    unit = _last(timeline, Property.UNIT, at)
    return {} if unit is None else {"telematics_unit": {"id": unit[1][0], "brand": unit[1][1]}}


def _flags(flags: set[str]) -> dict[str, Any]:
    return {"is_flagged": bool(flags), "flags": [flag for flag in FLAGS if flag in flags]}


def _percent(hundredths: int) -> int | float:
    return hundredths // 100 if hundredths % 100 == 0 else hundredths / 100


def _kilometres(mm: int) -> float:
    return _half_up(mm, 1000) / 1000


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def timestamp(ms: int) -> str:
    """RFC 3339 in UTC, with milliseconds only where they are not zero."""
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms % 1000:03d}Z" if ms % 1000 else f"{text}Z"


def trip_hash(vehicle_id: str, start: int) -> bytes:
    return hashlib.blake2b(vehicle_id.encode() + b"\0" + str(start).encode(), digest_size=16).digest()


def trip_id(vehicle_id: str, start: int) -> str:
    return ulid(start, trip_hash(vehicle_id, start)[:10])


def trip_key(vehicle_id: str, start: int) -> str:
    bits = int.from_bytes(trip_hash(vehicle_id, start)[10:], "big") >> (48 - 25)
    return "".join(CROCKFORD[bits >> shift & 31] for shift in (20, 15, 10, 5, 0))


def ulid(ms: int, entropy: bytes) -> str:
    number = ms << 80 | int.from_bytes(entropy, "big")
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -5, -5))
