"""A trip: its running totals while it is on, and what is known of it once it has ended.

Totals are sums and last values only, never lists of samples, so a trip can be told from a part of its samples and the
totals of the rest, and the result is the same as if all had been kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntFlag
from itertools import islice
from operator import sub
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from streams.trips.geo import cosine, is_jump, leg_and_cosine, leg_mm
from streams.trips.route import Place, encode, extend
from streams.trips.rules import Rules
from streams.trips.samples import Property, Row, Unit

if TYPE_CHECKING:
    from streams.trips.packed import Rows

__all__ = ["IDLE_PAUSE_MS", "IDLE_SPEED", "Distance", "Fix", "Flag", "Ride", "Trip"]

IDLE_SPEED: Final = 300
"""3 km/h in the steps of a speed: below it a vehicle stands."""
IDLE_PAUSE_MS: Final = 60_000
"""Between two samples that are further apart nobody knows whether it stood."""

_ENERGIES: Final = (Property.ENERGY, Property.STATE_OF_CHARGE, Property.FUEL)


class Flag(IntFlag):
    """What a reader of a trip should know before trusting it. In the order of the contract."""

    START_UNOBSERVED = 1
    END_INFERRED = 2
    DATA_GAP = 4
    ODOMETER_IMPLAUSIBLE = 8
    POSITION_JUMPS = 16


class Fix(NamedTuple):
    """A position: instant in epoch ms, latitude and longitude in 1e-7 degrees, altitude in 0.1 m or None."""

    timestamp: int
    latitude: int
    longitude: int
    altitude: int | None


class Distance(NamedTuple):
    """How far a trip went, in mm, and who says so."""

    millimetres: int
    source: Literal["ODOMETER", "GPS"]


@dataclass(slots=True)
class Trip:
    """A trip as ``derive`` tells it. One that is on has no ``end``, and only what was known at its start counts.

    Units are those of :mod:`streams.trips.samples`; times in ms.

    Attributes:
        decided: the instant after which no sample can change where it ends: of the trigger sample that decided its
            end, or the end of the merge gap. None: nothing has decided it yet.
        start_unit: the telematics unit at the start, ``unit`` that at the end.
        start_fix: the last position at or before the start, else the first inside.
        start_energies: at the start (else first inside), ``end_energies`` at the end: combined, charge, fuel.
        path_mm: the length of the GPS path; None with fewer than two usable positions.
        previous_kept_end: when the last trip before that was kept ended.
        route: simplified, as an encoded polyline; None: none is kept, or there are fewer than two points.
    """

    start: int
    end: int | None
    decided: int | None
    flags: int
    flow_id: str | None
    start_unit: Unit | None
    unit: Unit | None
    start_fix: Fix | None
    end_fix: Fix | None
    start_odometer: int | None
    end_odometer: int | None
    start_energies: tuple[int | None, int | None, int | None]
    end_energies: tuple[int | None, int | None, int | None]
    doors: int | None
    windows: int | None
    path_mm: int | None
    fixes: int
    max_speed: int | None
    idle_ms: int
    longest_gap: int
    previous_kept_end: int | None
    route: str | None = None

    @property
    def duration(self) -> int:
        """End - start in ms, of a trip that has ended."""
        return (self.end or self.start) - self.start

    @property
    def odometer_implausible(self) -> bool:
        """Whether the odometer's readings cannot be this trip's: backwards, stuck while driving, or too fast."""
        if self.start_odometer is None or self.end_odometer is None:
            return False
        driven = self.end_odometer - self.start_odometer
        return (
            driven < 0
            or (driven == 0 and self.path_mm is not None and self.path_mm > 1_000_000)
            # more than 300 km/h + 1 km: in steps of 0.1 m, 300 km/h is 5 steps in 6 ms
            or driven * 6 > self.duration * 5 + 60_000
        )

    def distance(self) -> Distance | None:
        """By the odometer where it is known and plausible, else the GPS path, else unknown."""
        if self.start_odometer is not None and self.end_odometer is not None and not self.odometer_implausible:
            return Distance((self.end_odometer - self.start_odometer) * 100, "ODOMETER")
        if self.path_mm is not None:
            return Distance(self.path_mm, "GPS")
        return None

    def discarded(self, rules: Rules) -> Literal["TOO_SHORT", "TOO_SHORT_DISTANCE"] | None:
        """Why the trip is not kept, or None."""
        if self.duration < rules.min_duration_ms:
            return "TOO_SHORT"
        if rules.min_distance_m:
            distance = self.distance()
            if distance is not None and distance.millimetres < rules.min_distance_m * 1000:
                return "TOO_SHORT_DISTANCE"
        return None

    def pack(self) -> list[Any]:
        """As a list of plain values for the stored state, in the order of the fields."""
        packed = [getattr(self, name) for name in _TRIP_FIELDS]
        return packed if self.route is not None else packed[:-1]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Trip:
        """The inverse of :meth:`pack`, which lists have become tuples of."""
        start_fix, end_fix = (None if fix is None else Fix(*fix) for fix in packed[7:9])
        values: list[Any] = [*packed[:7], start_fix, end_fix, *packed[9:]]
        return cls(*values)


Point = tuple[int, int, int]  # timestamp, latitude, longitude


@dataclass(slots=True)
class Ride:
    """The totals of the samples of a trip so far, from its start on.

    Attributes:
        last: the newest sample inside.
        path_end: the newest position that counts, from which the next leg goes.
        opening: while the first two positions disagree: they, and those after them, until two have come that decide.
        route_step: how far apart the points of the route are, in mm; 0: none is kept.
        route: along the positions that count: see :mod:`streams.trips.route`.
    """

    start: int
    flags: int
    flow_id: str | None
    start_unit: Unit | None
    start_fix: Fix | None
    start_odometer: int | None
    start_energies: tuple[int | None, int | None, int | None]
    last: int
    end_odometer: int | None = None
    max_speed: int | None = None
    idle_ms: int = 0
    slow_at: int | None = None  # the last speed sample, if it was below 3 km/h
    longest_gap: int = 0
    fixes: int = 0
    legs: int = 0
    path_mm: int = 0
    path_end: Point | None = None
    opening: tuple[Point, ...] = ()
    route_step: int = 0
    route: tuple[Place, ...] = ()

    def add(self, timestamp: int, mask: int, values: tuple[Any, ...], places: tuple[int, ...]) -> None:
        """Count a row inside the trip. ``places`` are the row's columns."""
        elapsed = timestamp - self.last
        if elapsed > self.longest_gap:
            self.longest_gap = elapsed
        self.last = timestamp
        place = places[Property.POSITION]
        if place >= 0:
            latitude, longitude = values[place], values[place + 1]
            if self.start_fix is None:
                altitude = values[place + 2] if mask >> Property.ALTITUDE & 1 else None
                self.start_fix = Fix(timestamp, latitude, longitude, altitude)
            self.fixes += 1
            self._extend((timestamp, latitude, longitude))
        place = places[Property.SPEED]
        if place >= 0:
            speed = values[place]
            if self.max_speed is None or speed > self.max_speed:
                self.max_speed = speed
            self._idle(timestamp, speed)
        place = places[Property.MILEAGE]
        if place >= 0:
            reading = values[place]
            if self.start_odometer is None:
                self.start_odometer = reading
            self.end_odometer = reading
        if None in self.start_energies and mask >> Property.ENERGY & 7:
            self.start_energies = tuple(  # type: ignore[assignment]
                values[places[energy]] if known is None and places[energy] >= 0 else known
                for energy, known in zip(_ENERGIES, self.start_energies, strict=True)
            )

    def add_run(self, run: Sequence[Row], mask: int, places: tuple[int, ...]) -> None:
        """Count rows inside the trip, all of one mask, as :meth:`add` would one after the other."""
        timestamp, _, first = run[0]
        self.add(timestamp, mask, first, places)  # also what is known from the first one on
        instants = [row[0] for row in run]
        self.longest_gap = max(self.longest_gap, *map(sub, instants[1:], instants))
        self.last = instants[-1]
        columns = list(zip(*(row[2] for row in run), strict=True))
        place = places[Property.POSITION]
        if place >= 0:
            self._go_along(instants, columns[place], columns[place + 1])
        place = places[Property.SPEED]
        if place >= 0:
            speeds = columns[place]
            self.max_speed = max(self.max_speed or 0, *speeds)
            if self.slow_at is not None or min(speeds) < IDLE_SPEED:
                for instant, speed in islice(zip(instants, speeds, strict=True), 1, None):
                    self._idle(instant, speed)
        place = places[Property.MILEAGE]
        if place >= 0:
            self.end_odometer = columns[place][-1]

    def add_packed(self, rows: Rows, begin: int, end: int, places: tuple[int, ...]) -> None:
        """As :meth:`add_run`, of rows that are still packed.

        Args:
            rows: all of one mask, from ``begin`` up to, and without, ``end``.
            begin: index of the first one.
            end: index behind the last one.
            places: their columns.
        """
        while begin < end:  # the first ones decide where the path begins
            timestamp, mask, values = rows[begin]
            self.add(timestamp, mask, values, places)
            begin += 1
            if places[Property.POSITION] < 0 or (not self.opening and self.fixes >= 2 and not self.route_step):
                break
        if begin == end:
            return
        if places[Property.POSITION] >= 0:
            self.fixes += end - begin
        (
            self.last,
            self.longest_gap,
            self.max_speed,
            self.idle_ms,
            self.slow_at,
            self.path_end,
            path_mm,
            legs,
            jumped,
            odometer,
        ) = rows.add_up(
            begin, end, self.last, self.longest_gap, self.max_speed, self.idle_ms, self.slow_at, self.path_end
        )
        self.path_mm += path_mm
        self.legs += legs
        if jumped:
            self.flags |= Flag.POSITION_JUMPS
        if odometer is not None:
            self.end_odometer = odometer

    def _go_along(self, instants: Sequence[int], latitudes: Sequence[int], longitudes: Sequence[int]) -> None:
        """Extend the path by the points behind the first, which is in it already."""
        begin = 1
        while begin < len(instants) and (self.opening or self.fixes < 2 or self.path_end is None or self.route_step):
            self.fixes += 1
            self._extend((instants[begin], latitudes[begin], longitudes[begin]))
            begin += 1
        if begin == len(instants) or self.path_end is None:
            return
        self.fixes += len(instants) - begin
        # The same as _go_to, point for point, with all that changes in local names.
        since, latitude, longitude = self.path_end
        path, legs, here = self.path_mm, self.legs, cosine(latitude)
        points = zip(instants, latitudes, longitudes, strict=True)
        for instant, to_latitude, to_longitude in islice(points, begin, None):
            leg, there = leg_and_cosine(latitude, longitude, here, to_latitude, to_longitude)
            if is_jump(leg, instant - since):
                self.flags |= Flag.POSITION_JUMPS
                continue
            path += leg
            legs += 1
            since, latitude, longitude, here = instant, to_latitude, to_longitude, there
        self.path_mm, self.legs, self.path_end = path, legs, (since, latitude, longitude)

    def _idle(self, timestamp: int, speed: int) -> None:
        if speed < IDLE_SPEED:
            if self.slow_at is not None and timestamp - self.slow_at <= IDLE_PAUSE_MS:
                self.idle_ms += timestamp - self.slow_at
            self.slow_at = timestamp
        else:
            self.slow_at = None

    def _extend(self, point: Point) -> None:
        if self.opening:
            self.opening += (point,)
            if len(self.opening) == 4:
                self.settle_opening()
        elif self.path_end is None:
            self._reach(point)
        elif self.fixes == 2 and is_jump(_leg(self.path_end, point), point[0] - self.path_end[0]):
            self.opening = (self.path_end, point)
        else:
            self._go_to(point)

    def _go_to(self, point: Point) -> None:
        before = self.path_end or point
        leg = _leg(before, point)
        if is_jump(leg, point[0] - before[0]):
            self.flags |= Flag.POSITION_JUMPS
        else:
            self.path_mm += leg
            self.legs += 1
            self._reach(point)

    def _reach(self, point: Point) -> None:
        self.path_end = point
        if self.route_step:
            self.route, self.route_step = extend(self.route, self.route_step, point[1:])

    def settle_opening(self) -> None:
        """Of two first positions that disagree, the one that disagrees with more of the next two is left out."""
        first, second, *following = self.opening
        against_first = sum(is_jump(_leg(first, point), point[0] - first[0]) for point in following)
        against_second = sum(is_jump(_leg(second, point), point[0] - second[0]) for point in following)
        self.opening = ()
        self.flags |= Flag.POSITION_JUMPS
        self.route = ()
        self._reach(second if against_first > against_second else first)
        for point in following:
            self._go_to(point)

    def copy(self) -> Ride:
        """Another one with the same totals."""
        return Ride(*(getattr(self, name) for name in _RIDE_FIELDS))

    def path(self) -> tuple[int | None, int]:
        """The length of the path in mm (None: fewer than two positions that count), and the flags with it."""
        ride = self._settled()
        return (ride.path_mm if ride.legs else None), ride.flags

    def drawn(self) -> str | None:
        """The route up to the last position that counts; None: none is kept, or there are fewer than two points."""
        if not self.route_step:
            return None
        ride = self._settled()
        route = ride.route
        if ride.path_end is not None and route[-1:] != (ride.path_end[1:],):
            route += (ride.path_end[1:],)
        return encode(route) if len(route) > 1 else None

    def _settled(self) -> Ride:
        if not self.opening:
            return self
        ride = self.copy()
        ride.settle_opening()
        return ride

    def pack(self) -> list[Any]:
        """As a list of plain values for the stored state, in the order of the fields."""
        packed = [getattr(self, name) for name in _RIDE_FIELDS]
        return packed if self.route_step else packed[:-2]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Ride:
        """The inverse of :meth:`pack`, which lists have become tuples of."""
        start_fix = None if packed[4] is None else Fix(*packed[4])
        values: list[Any] = [*packed[:4], start_fix, *packed[5:]]
        return cls(*values)


_TRIP_FIELDS: Final = tuple(field.name for field in fields(Trip))
_RIDE_FIELDS: Final = tuple(field.name for field in fields(Ride))


def _leg(one: Point, other: Point) -> int:
    return leg_mm(one[1], one[2], other[1], other[2])
