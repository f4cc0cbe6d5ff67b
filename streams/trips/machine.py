"""The machine that tells trips from a timeline, one row after the other.

Its states and what moves it between them stand in one table, :data:`TRANSITIONS`. Everything else here carries out the
table's actions. A machine that has seen the rows up to some instant holds all that later rows need to know of them, in
a few hundred bytes however many they were. That is what makes three things one:

- ``derive`` is a new machine, fed with the whole timeline;
- folding what lies behind the horizon is a machine fed with that part, and kept instead of it;
- going on from the middle of a timeline is a copy of the machine as it was there.
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack

from streams.trips.holes import Hole
from streams.trips.rules import Rules
from streams.trips.samples import FLOW_ID_BIT, Moment, Property, Row, column
from streams.trips.state import packb
from streams.trips.trip import Fix, Flag, Ride, Trip

if TYPE_CHECKING:
    from streams.trips.packed import Rows

__all__ = ["TRANSITIONS", "Action", "Event", "Machine", "Phase", "Step"]


class Phase(Enum):
    """What is known of the trigger."""

    UNKNOWN = "nothing is known"
    OFF = "the trigger is off"
    ON = "a trip is on"
    DOUBT = "a trip is on, but after a data gap"
    PENDING = "the trigger is off, but an ON may yet join the trip"
    DELETED = "the trigger is on, but the trip is deleted"


class Event(Enum):
    """What a row may bring, and HOLE, which stands between rows. GAP and LAPSE come before what a row itself holds."""

    ON = "ON"
    ON_DISTRUSTED = "ON (unknown_start=ignore)"
    OFF = "OFF"
    OFF_REVOCABLE = "OFF (with merge_gap)"
    GAP = "no sample for longer than silence_timeout"
    LAPSE = "a sample later than OFF + merge_gap"
    HOLE = "a deleted trip"


class Action(Enum):
    """What the machine does on the way. The row belongs to the trip in all of them but END_INFERRED…."""

    NOTHING = auto()
    START = auto()
    START_UNOBSERVED = auto()
    END = auto()
    END_AFTER_GAP = auto()
    END_INFERRED = auto()
    END_INFERRED_START_UNOBSERVED = auto()
    END_INFERRED_AT_DELETED = auto()
    REMEMBER_END = auto()
    REMEMBER_END_AFTER_GAP = auto()
    REMEMBER_LAST_SAMPLE = auto()
    FORGET_END = auto()
    END_AS_REMEMBERED = auto()


class Step(NamedTuple):
    """Where an event leads, and what is done."""

    phase: Phase
    action: Action = Action.NOTHING


TRANSITIONS: Final[dict[Phase, dict[Event, Step]]] = {
    Phase.UNKNOWN: {
        Event.ON: Step(Phase.ON, Action.START_UNOBSERVED),
        Event.ON_DISTRUSTED: Step(Phase.UNKNOWN),
        Event.OFF: Step(Phase.OFF),
        Event.OFF_REVOCABLE: Step(Phase.OFF),
        Event.HOLE: Step(Phase.DELETED),
    },
    Phase.OFF: {
        Event.ON: Step(Phase.ON, Action.START),
        Event.ON_DISTRUSTED: Step(Phase.ON, Action.START),
        Event.OFF: Step(Phase.OFF),
        Event.OFF_REVOCABLE: Step(Phase.OFF),
        Event.HOLE: Step(Phase.DELETED),
    },
    Phase.ON: {
        Event.ON: Step(Phase.ON),
        Event.ON_DISTRUSTED: Step(Phase.ON),
        Event.OFF: Step(Phase.OFF, Action.END),
        Event.OFF_REVOCABLE: Step(Phase.PENDING, Action.REMEMBER_END),
        Event.GAP: Step(Phase.DOUBT, Action.REMEMBER_LAST_SAMPLE),
        Event.HOLE: Step(Phase.DELETED, Action.END_INFERRED_AT_DELETED),
    },
    Phase.DOUBT: {
        Event.ON: Step(Phase.ON, Action.END_INFERRED_START_UNOBSERVED),
        Event.ON_DISTRUSTED: Step(Phase.UNKNOWN, Action.END_INFERRED),
        Event.OFF: Step(Phase.OFF, Action.END_AFTER_GAP),
        Event.OFF_REVOCABLE: Step(Phase.PENDING, Action.REMEMBER_END_AFTER_GAP),
        Event.HOLE: Step(Phase.DELETED, Action.END_INFERRED),
    },
    Phase.PENDING: {
        Event.ON: Step(Phase.ON, Action.FORGET_END),
        Event.ON_DISTRUSTED: Step(Phase.ON, Action.FORGET_END),
        Event.OFF: Step(Phase.PENDING),
        Event.OFF_REVOCABLE: Step(Phase.PENDING),
        Event.LAPSE: Step(Phase.OFF, Action.END_AS_REMEMBERED),
        Event.HOLE: Step(Phase.DELETED, Action.END_AS_REMEMBERED),
    },
    Phase.DELETED: {
        Event.ON: Step(Phase.DELETED),
        Event.ON_DISTRUSTED: Step(Phase.DELETED),
        Event.OFF: Step(Phase.OFF),
        Event.OFF_REVOCABLE: Step(Phase.OFF),
        Event.GAP: Step(Phase.UNKNOWN),
        Event.HOLE: Step(Phase.DELETED),
    },
}

_PHASES: Final = tuple(Phase)
_FOREVER_MS: Final = 1 << 60
_INFERRED: Final = (Action.END_INFERRED, Action.END_INFERRED_START_UNOBSERVED)
_ENERGIES: Final = (Property.ENERGY, Property.STATE_OF_CHARGE, Property.FUEL)
_LEARNED: Final = tuple(int(name) for name in Property if name != Property.ALTITUDE)
Known = tuple[int, Any]  # instant and value; the value of a position is (latitude, longitude, altitude or None)


class Machine:
    """All that the rows so far mean for the rows to come.

    Feed it rows in the order of time, one for each instant. Trips that end are appended to :attr:`ended`, which is the
    caller's to read and empty.

    Attributes:
        last: the instant of the newest row, or None.
        known: the last sample of each property, by its number. Its value is None where it was that of a deleted trip:
            then there has been one, so that an older one is no news, but nobody knows it.
        ride: the totals of the trip that is on, or whose end may yet be revoked.
        remembered: the trip as it would be if it ended where it may have ended: before the data gap, at the OFF.
        previous_end: when the last trip ended, ``previous_kept_end`` the last that was kept.
        fading: start, end and ``until`` of deleted trips of which samples may be among the known ones: for neighbours,
            until the horizon has passed.
    """

    __slots__ = (
        "ended",
        "fading",
        "known",
        "last",
        "phase",
        "previous_end",
        "previous_kept_end",
        "remembered",
        "ride",
        "rules",
    )

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.phase = Phase.UNKNOWN
        self.last: int | None = None
        self.known: dict[int, Known] = {}
        self.ride: Ride | None = None
        self.remembered: Trip | None = None
        self.previous_end: int | None = None
        self.previous_kept_end: int | None = None
        self.fading: list[tuple[int, int, int]] = []
        self.ended: list[Trip] = []

    def feed(self, row: Row) -> bool:
        """Go on by one row, newer than all before. Whether a trip started, ended, or may have ended."""
        timestamp, mask, values = row
        rules = self.rules
        places = column(mask)
        moved = self._before(timestamp)
        if self.fading:
            self._fade(timestamp)

        step = Step(self.phase)
        place = places[rules.trigger]
        if place >= 0:
            event = self._event(on=bool(values[place]))
            step = TRANSITIONS[self.phase][event]
        action = step.action
        if self.ride is not None and action not in _INFERRED:
            self.ride.add(timestamp, mask, values, places)
        self._learn(timestamp, mask, values, places)
        self.last = timestamp
        self.phase = step.phase
        if action is Action.NOTHING:
            return moved
        self._act(action, row, places)
        return True

    def cruise(self, rows: list[Row] | Rows, begin: int) -> int:
        """Go on by the rows from ``begin`` on, as :meth:`feed` would, while a trip is simply on.

        That is: without a gap, all of one mask, and none in which the trigger is off.

        Returns:
            The index of the first row that was not taken.
        """
        ride = self.ride
        if self.phase is not Phase.ON or ride is None or self.last is None or self.fading:
            return begin
        trigger = self.rules.trigger
        longest = self.rules.silence_timeout_ms or _FOREVER_MS
        if not isinstance(rows, list):
            end = rows.alike(begin, self.last, longest, trigger)
            if end - begin < 2:
                return begin
            newest = rows[end - 1]
            places = column(newest[1])
            ride.add_packed(rows, begin, end, places)
            self._learn(*newest, places)
            self.last = newest[0]
            return end
        mask = rows[begin][1]
        places = column(mask)
        place = places[trigger]
        last, end = self.last, begin
        while end < len(rows):
            timestamp, own, values = rows[end]
            if own != mask or timestamp - last > longest or (place >= 0 and not values[place]):
                break
            last = timestamp
            end += 1
        if end - begin < 2:
            return begin
        run = rows[begin:end]
        ride.add_run(run, mask, places)
        self._learn(*run[-1], places)
        self.last = last
        return end

    def _before(self, timestamp: int) -> bool:
        """What the time since the newest row means, before the row that comes now."""
        rules = self.rules
        if self.phase is Phase.ON or self.phase is Phase.DELETED:
            if not rules.silence_timeout_ms or self.last is None or timestamp - self.last <= rules.silence_timeout_ms:
                return False
            step = TRANSITIONS[self.phase][Event.GAP]
            if step.action is Action.REMEMBER_LAST_SAMPLE:
                self.remembered = self._trip(self.last, Flag.END_INFERRED, decided=None)
        elif self.phase is Phase.PENDING and self.remembered is not None:
            if timestamp <= (self.remembered.end or 0) + rules.merge_gap_ms:
                return False
            step = TRANSITIONS[Phase.PENDING][Event.LAPSE]
            self._end(self.remembered)
        else:
            return False
        self.phase = step.phase
        return True

    def go(self, step: Row | Hole) -> bool:
        """Go on by a row or a deleted trip; as :meth:`feed`."""
        if isinstance(step, Hole):
            self.skip(step)
            return True
        return self.feed(step)

    def skip(self, hole: Hole) -> None:
        """Go on by a deleted trip: a trip that runs into it ends; of what it was, only its neighbours learn."""
        self._before(hole.start)
        self._fade(hole.start)
        step = TRANSITIONS[self.phase][Event.HOLE]
        if step.action is Action.END_INFERRED_AT_DELETED and self.ride is not None:
            self.ride.longest_gap = max(self.ride.longest_gap, hole.start - self.ride.last)
            self._end(self._trip(hole.start, Flag.END_INFERRED, decided=hole.start))
        elif self.remembered is not None:
            if step.action is Action.END_INFERRED:
                self.remembered.decided = hole.start
            self._end(self.remembered)
        for name, instant, value in hole.samples:
            if name not in self.known or self.known[name][0] <= instant:
                self.known[name] = (instant, value)
        if hole.trigger_on is False:
            step = TRANSITIONS[step.phase][Event.OFF]
        elif hole.trigger_on is None:
            step = TRANSITIONS[step.phase][Event.GAP]
        self.phase = step.phase
        self.last = self.previous_end = hole.end
        if hole.kept:
            self.previous_kept_end = hole.end
        self.fading.append((hole.start, hole.end, hole.until))

    def forget_ride(self) -> None:
        """The trip that is on, or whose end may yet be revoked, is deleted; what it was is told by :meth:`skip`."""
        self.phase, self.ride, self.remembered = Phase.OFF, None, None

    def close_deleted(self, instant: int) -> None:
        """The trigger went off at the end of the deleted trip that was skipped last."""
        if self.last == instant and self.phase is Phase.DELETED:
            self.phase = TRANSITIONS[self.phase][Event.OFF].phase
            self.known[self.rules.trigger] = (instant, 0)

    def forget_known(self, start: int, end: int) -> None:
        """Of a deleted trip that is over, the values of the last known samples, but for the trigger's state."""
        for name, (instant, _) in self.known.items():
            if start <= instant <= end and name != self.rules.trigger:
                self.known[name] = (instant, None)

    def _fade(self, timestamp: int) -> None:
        """Samples of a deleted trip are for neighbours within the horizon only."""
        for span in [span for span in self.fading if timestamp > span[2] + self.rules.correction_horizon_ms]:
            self.forget_known(span[0], span[1])
            self.fading.remove(span)

    @property
    def fades_after(self) -> Moment:
        """Up to this instant all that is known stays."""
        return min((span[2] + self.rules.correction_horizon_ms for span in self.fading), default=inf)

    def _event(self, *, on: bool) -> Event:
        if on:
            return Event.ON if self.rules.unknown_start == "start" else Event.ON_DISTRUSTED
        return Event.OFF_REVOCABLE if self.rules.merge_gap_ms else Event.OFF

    def _learn(self, timestamp: int, mask: int, values: tuple[Any, ...], places: tuple[int, ...]) -> None:
        known = self.known
        for name in _LEARNED:
            place = places[name]
            if place < 0:
                continue
            if name == Property.POSITION:
                altitude = values[place + 2] if mask >> Property.ALTITUDE & 1 else None
                known[name] = (timestamp, (values[place], values[place + 1], altitude))
            else:
                known[name] = (timestamp, values[place])

    def _act(self, action: Action, row: Row, places: tuple[int, ...]) -> None:
        timestamp = row[0]
        match action:
            case Action.START | Action.START_UNOBSERVED:
                self._start(row, places, Flag.START_UNOBSERVED if action is Action.START_UNOBSERVED else Flag(0))
            case Action.END | Action.END_AFTER_GAP:
                flag = Flag.DATA_GAP if action is Action.END_AFTER_GAP else Flag(0)
                self._end(self._trip(timestamp, flag, decided=timestamp))
            case Action.END_INFERRED | Action.END_INFERRED_START_UNOBSERVED:
                if self.remembered is not None:
                    self.remembered.decided = timestamp
                    self._end(self.remembered)
                if action is Action.END_INFERRED_START_UNOBSERVED:
                    self._start(row, places, Flag.START_UNOBSERVED)
            case Action.REMEMBER_END | Action.REMEMBER_END_AFTER_GAP:
                if action is Action.REMEMBER_END_AFTER_GAP and self.ride is not None:
                    self.ride.flags |= Flag.DATA_GAP
                self.remembered = self._trip(timestamp, Flag(0), decided=timestamp + self.rules.merge_gap_ms)
            case Action.FORGET_END:
                self.remembered = None
            case _:  # carried out before the row: see _before
                raise AssertionError(action)

    def _start(self, row: Row, places: tuple[int, ...], flags: Flag) -> None:
        timestamp, mask, values = row
        known = self.known
        odometer = None
        if not flags & Flag.START_UNOBSERVED:
            reading = self._known_by(Property.MILEAGE, timestamp)
            if reading is not None and (self.previous_end is None or reading[0] >= self.previous_end):
                odometer = reading[1]
        unit = self._known_by(Property.UNIT, timestamp)
        energies = (self._known_by(energy, timestamp) for energy in _ENERGIES)
        self.ride = Ride(
            start=timestamp,
            flags=int(flags),
            flow_id=values[places[FLOW_ID_BIT]] if mask >> FLOW_ID_BIT & 1 else None,
            start_unit=unit[1] if unit else None,
            start_fix=_fix(known.get(Property.POSITION)) if self._known_by(Property.POSITION, timestamp) else None,
            start_odometer=odometer,
            start_energies=tuple(energy[1] if energy else None for energy in energies),  # type: ignore[arg-type]
            last=timestamp,
            route_step=self.rules.route_tolerance_m * 1000,
        )
        self.ride.add(timestamp, mask, values, places)

    def _known_by(self, name: Property, instant: int) -> Known | None:
        """The last sample of a property, if it is at or before that instant."""
        sample = self.known.get(name)
        return sample if sample is not None and sample[0] <= instant and sample[1] is not None else None

    def _trip(self, end: int | None, flags: int, *, decided: int | None) -> Trip:
        """The trip that is on as it is if it ends here; with no end: as it is while it is on."""
        ride = self.ride
        if ride is None:
            raise AssertionError(self.phase)
        path_mm, path_flags = ride.path()
        known = self.known

        def value(name: Property) -> Any:
            sample = known.get(name)
            return sample[1] if sample else None

        return Trip(
            start=ride.start,
            end=end,
            decided=decided,
            flags=int(flags | path_flags),
            flow_id=ride.flow_id,
            start_unit=ride.start_unit,
            unit=value(Property.UNIT),
            start_fix=ride.start_fix,
            end_fix=_fix(known.get(Property.POSITION)),
            start_odometer=ride.start_odometer,
            end_odometer=ride.end_odometer,
            start_energies=ride.start_energies,
            end_energies=(value(Property.ENERGY), value(Property.STATE_OF_CHARGE), value(Property.FUEL)),
            doors=value(Property.DOORS),
            windows=value(Property.WINDOWS),
            path_mm=path_mm,
            fixes=ride.fixes,
            max_speed=ride.max_speed,
            idle_ms=ride.idle_ms,
            longest_gap=ride.longest_gap,
            previous_kept_end=self.previous_kept_end,
            route=ride.drawn(),
        )

    def _end(self, trip: Trip) -> None:
        self.ended.append(trip)
        self.previous_end = trip.end
        if trip.discarded(self.rules) is None:
            self.previous_kept_end = trip.end
        self.ride = None
        self.remembered = None

    def current(self, quiet: Moment) -> Trip | None:
        """The trip after the last that ended for good: on, or ended as far as the quiet (ms) lets one say."""
        if self.ride is None:
            return None
        rules = self.rules
        if self.phase is Phase.PENDING:
            if quiet > rules.merge_gap_ms:
                return self.remembered
        elif rules.silence_timeout_ms and quiet > rules.silence_timeout_ms:
            trip = self.remembered or self._trip(self.last, Flag.END_INFERRED, decided=None)
            if trip.duration >= rules.min_duration_ms:
                return trip
        return self._trip(None, 0, decided=None)

    def absorb(self, name: Property, timestamp: int, value: Any, row: Row) -> None:
        """Take in a sample from behind the horizon, of a property of which nothing is known yet.

        It becomes the property's last known value. Of a trip that is on it can be the value at the start; time since
        other samples, and so data gaps, stay as they were told.
        """
        self.known[name] = (timestamp, value)
        if name == self.rules.trigger:
            self.phase = Phase.OFF
            return
        ride = self.ride
        if ride is None:
            return
        if timestamp >= ride.start:
            last, longest = ride.last, ride.longest_gap
            ride.add(timestamp, row[1], row[2], column(row[1]))
            ride.last, ride.longest_gap = last, longest
        if timestamp <= ride.start:
            self._absorb_at_start(ride, name, timestamp, value)
        remembered = self.remembered
        if remembered is not None and remembered.end is not None and timestamp <= remembered.end:
            _absorb_remembered(remembered, ride, name, timestamp, value)

    def _absorb_at_start(self, ride: Ride, name: Property, timestamp: int, value: Any) -> None:
        if name == Property.POSITION:
            ride.start_fix = Fix(timestamp, *value)
        elif name == Property.UNIT:
            ride.start_unit = value
        elif name == Property.MILEAGE:
            observed = not ride.flags & Flag.START_UNOBSERVED
            if observed and (self.previous_end is None or timestamp >= self.previous_end):
                ride.start_odometer = value
        elif name in _ENERGIES:
            ride.start_energies = _replaced(ride.start_energies, name, value)

    @property
    def boundary(self) -> int | None:
        """Trips that start before this instant have ended, and nothing after the newest row changes them."""
        if self.ride is not None:
            return self.ride.start
        return None if self.last is None else self.last + 1

    def pack(self) -> bytes:
        """As bytes, the same for equal machines. Instants are stored as ages, which are short."""
        last = self.last or 0
        mask, samples = 0, []
        for name in sorted(self.known):
            timestamp, value = self.known[name]
            mask |= 1 << name
            samples += [last - timestamp, value]
        fading = () if not self.fading else ([last - instant for span in self.fading for instant in span],)
        packed: bytes = packb(
            (
                _PHASES.index(self.phase),
                self.last,
                mask,
                samples,
                None if self.previous_end is None else last - self.previous_end,
                None if self.previous_kept_end is None else last - self.previous_kept_end,
                self.ride and self.ride.pack(),
                self.remembered and self.remembered.pack(),
                *fading,
            )
        )
        return packed

    @classmethod
    def unpack(cls, packed: bytes, rules: Rules) -> Machine:
        """The inverse of :meth:`pack`. No bytes: a machine that has seen nothing."""
        machine = cls(rules)
        if not packed:
            return machine
        phase, machine.last, mask, samples, previous_end, previous_kept_end, ride, remembered, *fading = (
            msgpack.unpackb(packed, use_list=False)
        )
        last = machine.last or 0
        instants = [last - age for ages in fading for age in ages]
        machine.fading = list(zip(instants[::3], instants[1::3], instants[2::3], strict=True))
        machine.phase = _PHASES[phase]
        entries = iter(samples)
        for name in range(FLOW_ID_BIT):
            if mask >> name & 1:
                age, value = next(entries), next(entries)
                machine.known[name] = (last - age, value)
        machine.previous_end = None if previous_end is None else last - previous_end
        machine.previous_kept_end = None if previous_kept_end is None else last - previous_kept_end
        machine.ride = ride and Ride.unpack(ride)
        machine.remembered = remembered and Trip.unpack(remembered)
        return machine


def _absorb_remembered(trip: Trip, ride: Ride, name: Property, timestamp: int, value: Any) -> None:
    """What the ride has absorbed, for the trip as it would be if it had ended before: nothing else is known of it."""
    match name:
        case Property.POSITION:
            trip.start_fix, trip.end_fix, trip.fixes = ride.start_fix, Fix(timestamp, *value), ride.fixes
        case Property.MILEAGE:
            trip.start_odometer, trip.end_odometer = ride.start_odometer, ride.end_odometer
        case Property.SPEED:
            trip.max_speed = ride.max_speed
        case Property.UNIT:
            trip.start_unit, trip.unit = ride.start_unit, value
        case Property.DOORS:
            trip.doors = value
        case Property.WINDOWS:
            trip.windows = value
        case Property.ENERGY | Property.STATE_OF_CHARGE | Property.FUEL:
            at_start = ride.start_energies[_ENERGIES.index(name)]
            trip.start_energies = _replaced(trip.start_energies, name, at_start)
            trip.end_energies = _replaced(trip.end_energies, name, value)


def _replaced(
    energies: tuple[int | None, int | None, int | None], name: Property, value: int | None
) -> tuple[int | None, int | None, int | None]:
    combined, charge, fuel = (value if energy == name else old for energy, old in zip(_ENERGIES, energies, strict=True))
    return combined, charge, fuel


def _fix(sample: Known | None) -> Fix | None:
    return None if sample is None or sample[1] is None else Fix(sample[0], *sample[1])
