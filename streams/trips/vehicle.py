"""One vehicle: its timeline, what was announced about its trips, and what is to be announced next.

Six verbs are all that a processor needs: :meth:`Vehicle.apply` a record's rows, :meth:`Vehicle.announce` what they
changed, :meth:`Vehicle.quiet_for` a while, :meth:`Vehicle.delete` a trip, :meth:`Vehicle.store` and
:meth:`Vehicle.load`.

A row that comes in order and brings no edge of the trigger is only packed and kept. At an edge the machine goes on from
the last *mark*, the packed machine after the last edge. A row that comes late, where a mark has already been, makes the
machine go back to the mark before it; as soon as it reaches a later mark in the same state as before, everything after
that stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from math import inf
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

import msgpack
import orjson

from streams.records import Announcement, TripsRecord
from streams.trips import content
from streams.trips.holes import Hole, along, pack_holes, unpack_holes
from streams.trips.identity import identify, start_of
from streams.trips.ledger import Ledger, State, Word
from streams.trips.machine import Machine, Phase
from streams.trips.rules import Rules
from streams.trips.samples import FLOW_ID_BIT, Moment, Property, Row, column, make_row, merge, row_items
from streams.trips.state import FRAME_SIZE, packb, seal_value
from streams.trips.timeline import Timeline, unpack
from streams.trips.trip import Trip

try:
    from streams.trips.packed import in_order
except ImportError:  # it is not compiled
    in_order = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from streams.intake import Front
    from streams.trips.packed import Rows

__all__ = ["PREFIX_SIZES", "Deleting", "Outcome", "Parts", "StoredVehicle", "Vehicle", "alert_of"]

PREFIX_SIZES: Final = {b"h": 1, b"t": 1, b"b": 1, b"d": 1, b"w": 3, b"s": 3, b"c": 3}
"""How many bytes come before the vehicle's id in the keys of each kind of value: chunks and pages are numbered."""

_HEAD_BUDGET: Final = 250
_LEAST_HEAD: Final = 48  # bytes that a head takes without a tail, at least
_MARKS: Final = 256
_QUIET_FOREVER: Final = 1 << 52
_INSTANT: Final = Struct("<q")
_PLAIN: Final = (1 << FLOW_ID_BIT) - 1  # masks without a flow id
_ALERT: Final = Struct("<q?")  # the first bytes of a head: when to wake, and whether a trip is on
_SHORT_HEAD_AT: Final = 3
_HEAD_AT: Final = {0xC4: _SHORT_HEAD_AT, 0xC5: 4, 0xC6: 6}  # by msgpack's type
_WORDS: Final = ord("w")
_SMALL: Final = ord("s")


Late = tuple[Property, int]
"""A sample behind the horizon: its property and instant."""

Parts = dict[bytes, bytes]
"""Of a stored vehicle: values without their frames, each by what its key begins with."""


class Deleting(NamedTuple):
    """A trip to be deleted.

    Attributes:
        start: the trip's, in epoch ms.
        requested_at: epoch ms.
        revision: of the last announcement of it that the one who asks has found; None: of none.
        end: the trip's in that announcement, if it had one.
    """

    start: int
    requested_at: int
    revision: int | None
    end: int | None


class Outcome(Enum):
    """What became of a deletion."""

    DELETED = "deleted"
    ALREADY_DELETED = "already_deleted"
    UNKNOWN_TRIP = "unknown_trip"


class Mark(NamedTuple):
    """The machine as it was after the row of an instant."""

    instant: int
    packed: bytes

    def dump(self) -> bytes:
        """As one value for the stored state."""
        return _INSTANT.pack(self.instant) + self.packed

    @classmethod
    def load(cls, value: bytes) -> Mark:
        """The inverse of :meth:`dump`."""
        return cls(_INSTANT.unpack_from(value)[0], value[_INSTANT.size :])


class StoredVehicle(NamedTuple):
    """A vehicle as its stored values, without their frames. What is kept, packed, of one at rest."""

    head: bytes
    tip: bytes
    base: bytes
    words: tuple[tuple[int, bytes], ...]
    small: tuple[tuple[int, bytes], ...]
    sealed: tuple[tuple[int, bytes], ...]
    holes: bytes = b""

    @classmethod
    def of(cls, parts: Parts) -> StoredVehicle:
        """Of parts, each by what its key begins with; what is empty is not needed any more. Uses them up."""
        take = parts.pop
        head, tip, base, holes = take(b"h", b""), take(b"t", b""), take(b"b", b""), take(b"d", b"")
        words: list[tuple[int, bytes]] = []
        small: list[tuple[int, bytes]] = []
        sealed: list[tuple[int, bytes]] = []
        for prefix in sorted(parts):
            part = parts[prefix]
            if part:
                numbered = words if prefix[0] == _WORDS else small if prefix[0] == _SMALL else sealed
                numbered.append((prefix[1] << 8 | prefix[2], part))
        return cls(head, tip, base, tuple(words), tuple(small), tuple(sealed), holes)

    def parts(self) -> Parts:
        """The inverse of :meth:`of`."""
        single = ((b"h", self.head), (b"t", self.tip), (b"b", self.base), (b"d", self.holes))
        parts = {prefix: part for prefix, part in single if part}
        for kind, numbered in ((b"w", self.words), (b"s", self.small), (b"c", self.sealed)):
            parts |= {_part_key(kind, number, b""): part for number, part in numbered}
        return parts

    def pack(self) -> bytes:
        """All of it in one object. Nothing is ever stored so."""
        return pack_parts(self.parts())

    @classmethod
    def unpack(cls, packed: bytes) -> StoredVehicle:
        """The inverse of :meth:`pack`."""
        return cls.of(unpack_parts(packed))


def pack_parts(parts: Parts) -> bytes:
    """The parts of a vehicle in one object, with or without a head. Uses them up."""
    packed: bytes = packb((parts.pop(b"h", b""), parts))
    return packed


def unpack_parts(packed: bytes) -> Parts:
    """The inverse of :func:`pack_parts`."""
    parts: Parts
    head, parts = msgpack.unpackb(packed)
    if head:
        parts[b"h"] = head
    return parts


def alert_of(packed: bytes) -> tuple[int, bool] | None:
    """What the head of a packed vehicle begins with, without unpacking it.

    Returns:
        The clock at which the vehicle has something to say, in epoch ms (-1: never), and whether a trip is on. None: it
        has no head.
    """
    # The head is the first field of msgpack's array; its length is in one, two or four bytes.
    start = _HEAD_AT[packed[1]]
    if start == _SHORT_HEAD_AT and not packed[2]:
        return None
    wake_at, on = _ALERT.unpack_from(packed, start)
    return wake_at, on


class Vehicle:
    """The state of one vehicle, unpacked."""

    __slots__ = (
        "_arrival",
        "_base",
        "_base_changed",
        "_behind",
        "_due",
        "_fold_at",
        "_folded",
        "_holes",
        "_holes_at",
        "_horizon",
        "_key",
        "_last",
        "_last_until",
        "_ledger",
        "_marks",
        "_newest",
        "_offset",
        "_quiet",
        "_rules",
        "_stale",
        "_stored_holes",
        "_stored_tip",
        "_time_ms",
        "_timeline",
        "_touched",
        "_traceparent",
        "_trigger_at",
        "_trigger_gap",
        "_trigger_on",
        "_waits",
        "counted_size",
        "front",
        "id",
        "looked_at",
        "muted",
        "on",
        "on_refused",
        "pending",
        "placed_at",
        "said",
        "stored",
        "told_before",
        "was_on",
    )

    def __init__(self, vehicle_id: str, rules: Rules) -> None:
        self.id = vehicle_id
        self._key = vehicle_id.encode()
        self._rules = rules
        self._timeline = Timeline()
        self._base = b""
        self._base_changed = False
        self._folded: int | None = None
        self._marks: list[Mark] = []
        self._stored_tip = b""
        self._holes: list[Hole] = []
        self._stored_holes = b""
        self._holes_at: Moment = -inf
        self._fold_at: Moment = -inf
        self._ledger = Ledger()
        self._newest: int | None = None
        self._horizon: Moment = -inf
        self._trigger_at: Moment = -inf
        self._trigger_on: bool | None = None
        self._trigger_gap = False
        self._due: Moment = inf
        self._last: dict[int, tuple[int, Any]] | None = None
        self._last_until: Moment = inf
        self._behind: tuple[Moment, dict[int, tuple[int, Any]]] | None = None
        self._touched: tuple[Moment, Moment] | None = None
        self._stale = False
        self._offset = -1
        self._time_ms = 0
        self._traceparent: str | None = None
        self._arrival = 0
        self._quiet = 0
        self._waits: tuple[int, ...] = ()
        self.on = False
        self.pending = False
        self.said: list[Announcement] = []
        self.stored: StoredVehicle | None = None
        self.was_on = False
        self.counted_size = 0
        self.looked_at = self.placed_at = 0
        self.told_before = False
        """Another application may have announced trips of these records, and published them."""
        self.muted: set[int] = set()
        """Starts of trips of which nothing is said: those that are deleted, or are about to be."""
        self.front: Front | None = None
        """Takes rows in before us, as long as they are lent to it."""
        self.on_refused: Callable[[int], None] | None = None
        """Is told how many samples have come of deleted trips."""

    # -- a record comes in -------------------------------------------------------------------------------------------

    def go_on(self, row: Row, offset: int, time_ms: int, arrival: int) -> bool:
        """Take in a record of one row, as :meth:`apply` would, if it comes in order and changes nothing that is told.

        That is what nearly all records do, so there is no more to it than there must be.

        Returns:
            Whether it was taken; if not, nothing has changed.
        """
        timestamp, mask, values = row
        newest = self._newest
        if newest is None or timestamp <= newest or timestamp > self._due or mask > _PLAIN:
            return False
        if self._touched is not None or self._quiet or self._stale or self._holes:
            return False
        rules, on = self._rules, self._trigger_on
        silence = rules.silence_timeout_ms
        if on and silence and timestamp - newest > silence:
            return False
        trigger = rules.trigger
        if mask >> trigger & 1:
            if values[(mask & ((1 << trigger) - 1)).bit_count()] != on or self._trigger_gap:
                return False
            self._trigger_at = timestamp
        if timestamp > self._last_until:
            self._last = None  # samples of a deleted trip fade
        self._keep(row)
        self._newest = timestamp
        horizon = newest - rules.correction_horizon_ms
        if horizon > self._horizon:
            self._horizon = horizon
        self._offset = offset
        self._time_ms = time_ms
        self._arrival = arrival
        self._traceparent = None
        return True

    def lend(self) -> None:
        """Let the front take what :meth:`go_on` would, if there is one and nothing is to be told before."""
        front, newest = self.front, self._newest
        if front is None or newest is None or self.pending:
            return
        if self._touched is not None or self._quiet or self._stale or self._holes:
            return
        due = min(self._due, self._last_until)
        on = -1 if self._trigger_on is None else int(self._trigger_on)
        timeline = self._timeline
        front.lend(newest, -1 if due == inf else int(due), on, self._trigger_gap, timeline.unit, timeline.room)

    def take_back(self) -> None:
        """Go on from where the front has come to. Before anything else is done with the vehicle."""
        given = None if self.front is None else self.front.give_back()
        if given is None:
            return
        packed, oldest, newest, before, trigger_at, offset, time_ms, arrival, unit = given
        if self._last is not None:
            self._learn(self._last, unpack(packed, self._timeline.unit))
        self._timeline.extend(packed, oldest, newest, unit)
        if trigger_at >= 0:
            self._trigger_at = trigger_at
        self._newest = newest
        self._horizon = max(self._horizon, before - self._rules.correction_horizon_ms)
        self._offset = offset
        self._time_ms = time_ms
        self._arrival = self.looked_at = arrival
        self._traceparent = None

    def apply(
        self, rows: Sequence[Row], offset: int, time_ms: int | None, arrival: int, traceparent: str | None
    ) -> tuple[bool, list[Late]]:
        """Take in the rows of one record, in the order of time.

        Args:
            rows: what it says, a row for each instant.
            offset: its place in the partition.
            time_ms: its timestamp; None: that of its newest new sample (there is no Kafka).
            arrival: the clock when it was read.
            traceparent: passed on to what it makes us say.

        Returns:
            Whether it added a sample, and which of its samples are late.
        """
        before = self._newest
        horizon: Moment = -inf
        if before is not None:
            horizon = before - self._rules.correction_horizon_ms
            if self._touched is not None and self._touched[0] < horizon:
                # What is still to be announced would be behind the horizon: say it as of the record before.
                self.announce()
        if self._holes:
            rows = self._outside(rows, horizon)
        late: list[Late] = []
        newest_added: int | None = None
        urgent = False
        for given in rows:
            if not given[1]:  # it has told that a deleted trip is over
                newest_added = given[0]
                continue
            row: Row | None = given
            if given[1] >> FLOW_ID_BIT & 1:
                row = self._with_own_flow_id(given)
            if row is not None and self._newest is not None and given[0] <= self._newest:
                row = self._unknown_part(row, horizon, late)
                if row is None:
                    continue
            newest_added = given[0]
            if row is not None and row[1]:
                urgent |= self._add(row)
        if newest_added is None:
            return False, late
        self._horizon = max(self._horizon, horizon)
        self._offset = offset
        self._time_ms = newest_added if time_ms is None else time_ms
        self._arrival = arrival
        self._traceparent = traceparent
        if self._quiet or self._stale:
            # Something was said under a quiet, or under other rules, that may not hold any more.
            self.pending = True
            self._quiet = 0
            if self._stale:
                self._touch(-inf)
                self._stale = False
        if urgent or (self._newest is not None and self._newest > self._due):
            self.announce()
        return True, late

    def _outside(self, rows: Sequence[Row], horizon: Moment) -> list[Row]:
        """Without those inside of deleted trips; what is not known of them is refused, and counted."""
        outside: list[Row] = []
        for row in rows:
            hole = next((hole for hole in self._holes if hole.covers(row[0]) and hole.end >= horizon), None)
            if hole is None:
                outside.append(row)
                continue
            if hole.trigger_on and row[0] == hole.end and row_items(row).get(self._rules.trigger) == 0:
                self._close(hole)
                outside.append((row[0], 0, ()))
            if self.on_refused is not None:
                last = self._last_known()
                items = row_items(row)
                items.pop(FLOW_ID_BIT, None)
                self.on_refused(sum(last.get(name) != (row[0], value) for name, value in items.items()))
        return outside

    def _close(self, hole: Hole) -> None:
        """The trigger went off at the very instant up to which a trip that was on is deleted: the next ON counts."""
        name, base = self._rules.trigger, Machine.unpack(self._base, self._rules)
        if base.last is not None and base.last >= hole.end:
            base.close_deleted(hole.end)
            self._base, self._base_changed = base.pack(), True
            closed = replace(hole, trigger_on=False)
        else:
            samples = tuple(sample for sample in hole.samples if sample[0] != name)
            closed = replace(hole, trigger_on=False, samples=(*samples, (int(name), hole.end, 0)))
        self._holes[self._holes.index(hole)] = closed
        self._changed_at(hole.start)
        if self._trigger_at <= hole.end:
            self._trigger_at, self._trigger_on, self._trigger_gap = hole.end, False, False

    def _with_own_flow_id(self, row: Row) -> Row:
        """Without its flow id, unless the row holds an ON of the trigger: only that may start a trip."""
        timestamp, mask, values = row
        place = column(mask)[self._rules.trigger]
        return row if place >= 0 and values[place] else (timestamp, mask ^ 1 << FLOW_ID_BIT, values[:-1])

    def _add(self, row: Row) -> bool:
        """Keep a row. Whether it is in order and at an edge of the trigger: to be announced at once."""
        timestamp, mask, values = row
        rules = self._rules
        newest = self._newest
        if newest is None or timestamp > newest:
            if self._trigger_on and rules.silence_timeout_ms and newest is not None:
                self._trigger_gap |= timestamp - newest > rules.silence_timeout_ms
            self._newest = timestamp
            if timestamp > self._last_until:
                self._last = None  # samples of a deleted trip fade
        self._keep(row)
        if self._behind is not None and timestamp <= self._behind[0]:
            self._behind = None
        tip = self._marks[-1].instant if self._marks else -inf
        if not mask >> rules.trigger & 1:
            if timestamp <= tip:
                self._touch(timestamp)
            return False
        # A trigger's place in the values is the number of switches before it.
        on = bool(values[(mask & ((1 << rules.trigger) - 1)).bit_count()])
        if timestamp <= tip or timestamp <= self._trigger_at:
            self._touch(timestamp)
        if timestamp <= self._trigger_at:
            if timestamp == self._trigger_at:
                self._trigger_on = on and self._trigger_on
            return False
        edge = on != self._trigger_on or (on and self._trigger_gap)
        self._trigger_at = timestamp
        self._trigger_on = on
        # Samples may have come before their trigger: then there may be a gap among them.
        silence = rules.silence_timeout_ms
        self._trigger_gap = bool(on and silence and newest is not None and newest - timestamp > silence)
        return edge

    def _keep(self, row: Row) -> None:
        self._timeline.append(row)
        if self._last is not None:
            timestamp = row[0]
            for name, value in row_items(row).items():
                known = self._last.get(name)
                if known is None or known[0] <= timestamp:
                    self._last[name] = (timestamp, value)

    def _touch(self, instant: Moment) -> None:
        """Something was added where the machine may already have been."""
        self.pending = True
        if self._touched is None:
            self._touched = (instant, instant)
        else:
            self._touched = (min(self._touched[0], instant), max(self._touched[1], instant))

    def _unknown_part(self, row: Row, horizon: Moment, late: list[Late]) -> Row | None:
        """What a row not newer than all before adds to the timeline; None: nothing. Adds what is late to ``late``."""
        timestamp = row[0]
        last = self._last_known()
        fresh: dict[int, Any] = {}
        items = row_items(row)
        flow_id = items.pop(FLOW_ID_BIT, None)
        absorbed = False
        for name, value in items.items():
            if last.get(name) == (timestamp, value):
                continue
            if timestamp >= horizon:
                fresh[name] = value
            elif self._last_behind(horizon, name) == (timestamp, value):
                continue
            elif name not in last and not (name == self._rules.trigger and value) and not self._stale:
                if self._absorb(timestamp, Property(name), value, int(horizon)):
                    absorbed = True
                else:
                    fresh[name] = value
            else:
                late.append((Property(name), timestamp))
        if fresh:
            kept = self._timeline.at(timestamp)
            if kept is not None:
                mine = row_items(kept)
                resolved = row_items(merge(kept, make_row(timestamp, fresh)))
                fresh = {name: value for name, value in fresh.items() if mine.get(name) != resolved[name]}
        if not fresh:
            return (timestamp, 0, ()) if absorbed else None
        if flow_id is not None:
            fresh[FLOW_ID_BIT] = flow_id
        return make_row(timestamp, fresh)

    def _last_known(self) -> dict[int, tuple[int, Any]]:
        """The last sample of each property. Looked up only for vehicles that send old samples, then kept."""
        if self._last is None:
            start = self._mark_before(-inf if self._touched is None else self._touched[0])
            machine = Machine.unpack(start.packed if start else self._base, self._rules)
            if self._holes or machine.fading:
                self._run(machine, inf)
                self._last = machine.known
                self._last_until = machine.fades_after
            else:
                self._last = dict(machine.known)
                self._last_until = inf
                self._learn(self._last, self._timeline.rows(_instant_of(machine), inf))
        return self._last

    def _run(self, machine: Machine, to: Moment) -> None:
        """Have the machine see all up to an instant, and leave no mark."""
        for step in self._steps(machine, to):
            machine.go(step)

    def _last_behind(self, horizon: Moment, name: int) -> tuple[int, Any] | None:
        """The last sample of a property behind the horizon."""
        if self._behind is None or self._behind[0] != horizon:
            first = horizon if self._touched is None else min(horizon, self._touched[0])
            mark = self._mark_before(first)
            machine = Machine.unpack(mark.packed if mark else self._base, self._rules)
            known = machine.known
            if self._holes or machine.fading:
                self._run(machine, horizon - 1)
            else:
                self._learn(known, self._timeline.rows(_instant_of(machine), horizon - 1))
            self._behind = (horizon, known)
        return self._behind[1].get(name)

    @staticmethod
    def _learn(known: dict[int, tuple[int, Any]], rows: list[Row]) -> None:
        for row in rows:
            for name, value in row_items(row).items():
                known[name] = (row[0], value)

    def _absorb(self, timestamp: int, name: Property, value: Any, horizon: int) -> bool:
        """Take in a sample from behind the horizon, the first that is known of its property.

        Returns:
            False: it is a row like others. Rows of its time are not folded, because a trip waits for ``ready_delay``;
            or it is later than all that are, so that a silence that has begun begins with it.
        """
        self._fold(horizon)
        if self._folded is not None and timestamp >= self._folded:
            return False
        machine = Machine.unpack(self._base, self._rules)
        if machine.last is not None and timestamp > machine.last:
            return False
        machine.absorb(name, timestamp, value, make_row(timestamp, {name: value}))
        self._base = machine.pack()
        self._base_changed = True
        self._behind = None
        self._marks = []
        self._touch(-inf)
        if self._last is not None:
            self._last[name] = (timestamp, value)
        if name == self._rules.trigger and self._trigger_on is None:
            self._trigger_at, self._trigger_on = timestamp, bool(value)
        return True

    # -- announcing --------------------------------------------------------------------------------------------------

    def quiet_for(self, clock: int) -> None:
        """Nothing has arrived until this clock (epoch ms): end what has been silent, make ready what has waited."""
        quiet = clock - self._arrival
        if quiet <= self._quiet:
            return
        self._quiet = quiet
        self.announce(timer=True)

    def close(self) -> None:
        """Nothing will ever arrive again."""
        self._quiet = _QUIET_FOREVER
        self.announce(timer=True)

    @property
    def wake_at(self) -> int | None:
        """The clock (epoch ms) at which :meth:`quiet_for` has something to do."""
        quiet = self._quiet
        waits = self._waits if not quiet else [wait for wait in self._waits if wait >= quiet]
        return self._arrival + min(waits) + 1 if waits else None

    def announce(self, *, timer: bool = False) -> None:
        """Compare what the timeline tells with what was announced, and say the difference.

        Args:
            timer: nothing has arrived; trips may only end and become ready, and nothing is said again.
        """
        ledger = self._ledger
        ledger.settle(self._horizon)
        derived, begin, (since, until) = self._derive()
        while self._holes and self._dig_told(derived):
            derived, begin, (since, until) = self._derive()
        self._touched = None
        self.pending = False
        trips = {trip.start: trip for trip in derived}
        said = {start for start in ledger.starts(begin) if not since <= start < until}
        for start in sorted(said | trips.keys()):
            trip, word = trips.get(start), ledger.get(start)
            if timer:
                if trip is not None and word is not None and (word.waits or word.state is State.STARTED):
                    self._advance(trip, word)
            elif trip is None:
                self._supersede(start, derived)
            elif word is not None or start >= ledger.settled_before:
                self._compare(trip, word)
        self._look_ahead(derived)

    def _mark_before(self, instant: Moment) -> Mark | None:
        found = None
        for mark in reversed(self._marks):
            if mark.instant < instant or instant == -inf:
                found = mark
                break
        return found if instant != -inf else (self._marks[-1] if self._marks else None)

    def _derive(self) -> tuple[list[Trip], Moment, tuple[Moment, Moment]]:
        """The trips that may have changed since the last time.

        Returns:
            The trips; the start from which on they are all; and a span of starts, to be left out of that, in which
            nothing has changed.
        """
        first, newest_touched = self._touched or (inf, -inf)
        for start, word in self._ledger.waiting.items():  # their content is still to be told
            first = min(first, start)
            newest_touched = max(newest_touched, inf if word.decided is None else word.decided)
        place = len(self._marks)
        while place and self._marks[place - 1].instant >= first:
            place -= 1
        kept, self._marks = self._marks[place:], self._marks[:place]
        machine = Machine.unpack(self._marks[-1].packed if self._marks else self._base, self._rules)
        begin: Moment = -inf if machine.boundary is None else machine.boundary
        unchanged: tuple[Moment, Moment] = (inf, inf)

        for mark in [mark for mark in kept if mark.instant > newest_touched]:
            self._feed(machine, mark.instant)
            if machine.last == mark.instant and machine.pack() == mark.packed:
                tip = kept[-1]
                if mark is not tip:
                    ended = machine.ended
                    self._marks += kept[kept.index(mark) + 1 :]
                    since = machine.boundary
                    machine = Machine.unpack(tip.packed, self._rules)
                    machine.ended = ended
                    unchanged = (
                        inf if since is None else since,
                        -inf if machine.boundary is None else machine.boundary,
                    )
                break
        self._feed(machine, inf)
        del self._marks[:-_MARKS]

        current = machine.current(self._quiet)
        derived = machine.ended if current is None else [*machine.ended, current]
        self.on = current is not None and current.end is None
        self._trigger_gap = machine.phase is Phase.DOUBT
        self._trigger_at, trigger = machine.known.get(self._rules.trigger, (-inf, None))
        self._trigger_on = None if trigger is None else bool(trigger)
        if machine.phase is Phase.UNKNOWN and self._rules.unknown_start == "start":
            self._trigger_on = None  # known under other rules: the next ON starts a trip
        self._remember_waits(machine, current)
        return derived, begin, unchanged

    def _feed(self, machine: Machine, to: Moment) -> None:
        if self._holes:
            for step in self._steps(machine, to):
                if machine.go(step):
                    self._mark(machine)
            return
        rows = self._rows(_instant_of(machine), to)
        place = 0
        while place < len(rows):
            onwards = machine.cruise(rows, place)
            if onwards > place:
                place = onwards
                continue
            if machine.feed(rows[place]):
                self._mark(machine)
            place += 1

    def _rows(self, after: Moment, to: Moment) -> list[Row] | Rows:
        """The rows with ``after`` < instant <= ``to`` in the order of time."""
        if in_order is not None:
            parts = self._timeline.parts(after, to)
            packed = in_order(parts, after, to) if parts else None
            if packed is not None:
                return packed
        return self._timeline.rows(after, to)

    def _mark(self, machine: Machine) -> None:
        if machine.last is not None:
            self._marks.append(Mark(machine.last, machine.pack()))

    def _steps(self, machine: Machine, to: Moment) -> Iterable[Row | Hole]:
        """What comes after all that the machine has seen, up to an instant."""
        after = _instant_of(machine)
        rows = self._timeline.rows(after, to)
        return along(rows, self._holes, after, to) if self._holes else rows

    def _remember_waits(self, machine: Machine, current: Trip | None) -> None:
        """How long a quiet, and which instant of a sample, would change what is told of the trip that is on."""
        rules = self._rules
        self._due = inf
        waits: tuple[int, ...] = ()
        if machine.phase is Phase.PENDING and machine.remembered is not None:
            waits = (rules.merge_gap_ms,)
            self._due = (machine.remembered.end or 0) + rules.merge_gap_ms
        elif machine.ride is not None and rules.silence_timeout_ms:
            waits = (rules.silence_timeout_ms,)
        if rules.ready_delay_ms and current is not None:
            waits += (rules.ready_delay_ms,)
        self._waits = waits

    def _look_ahead(self, derived: list[Trip]) -> None:
        """Wake up for the trips that are still to become ready."""
        delay = self._rules.ready_delay_ms
        for trip in derived:
            word = self._ledger.get(trip.start)
            if word is not None and word.waits and trip.end is not None:
                self._due = min(self._due, trip.end + delay - 1)
                if delay not in self._waits:
                    self._waits += (delay,)

    def _compare(self, trip: Trip, word: Word | None) -> None:
        """Say about a trip what was not said yet, or is not so any more."""
        if word is None or (trip.end is None and word.state is not State.STARTED):
            published = word.published if word is not None else self.told_before
            word = self._ledger.open(trip.start)
            envelope = self._envelope(trip.start, trip.flow_id)
            self._say(
                "TripStarted",
                envelope,
                content.started(envelope, trip),
                trip.start,
                trips_record=TripsRecord.DELETE if published else TripsRecord.KEEP,
            )
        if trip.end is None:
            return
        if word.state is State.STARTED or word.end != trip.end:
            self._end(trip, word)
        self._advance(trip, word)

    def _end(self, trip: Trip, word: Word) -> None:
        word.state, word.end, word.digest, word.owed = State.ENDED, trip.end, b"", False
        self._ledger.note(trip.start, word)
        envelope = self._envelope(trip.start, trip.flow_id)
        self._say("TripEnded", envelope, content.ended(envelope, trip), trip.end or 0)

    def _advance(self, trip: Trip, word: Word) -> None:
        """Say of a trip that has ended that it has, and that it is ready, if that is not said yet."""
        if trip.end is None:
            return
        if word.state is State.STARTED:
            self._end(trip, word)
        if word.decided != trip.decided:
            word.decided = trip.decided
            self._ledger.note(trip.start, word)
        if word.end != trip.end:
            return
        passed = self._delay_passed(trip)
        if word.state is State.ENDED and not passed:
            return
        event, data = content.ready_event(trip, self._rules)
        state = State.DISCARDED if event == "TripDiscarded" else State.READY
        tell = content.discarded if state is State.DISCARDED else content.finished
        envelope = self._envelope(trip.start, trip.flow_id)
        body = tell(envelope, trip)
        digest = _digest(body)
        owed = word.state is not state or word.digest != digest
        if word.owed != (owed and not passed):
            word.owed = not word.owed
            self._ledger.note(trip.start, word)
        if not owed or not passed:
            return
        record = TripsRecord.PUT if state is State.READY else TripsRecord.DELETE if word.published else TripsRecord.KEEP
        word.state, word.digest, word.published = state, digest, state is State.READY
        self._ledger.note(trip.start, word)
        self._say(event, envelope, body, trip.end or 0, data, trips_record=record)

    def _delay_passed(self, trip: Trip) -> bool:
        delay = self._rules.ready_delay_ms
        if not delay or self._quiet > delay:
            return True
        return self._newest is not None and trip.end is not None and self._newest >= trip.end + delay

    def _envelope(self, start: int, flow_id: str | None) -> content.Envelope:
        identity = identify(self.id, start)
        revision = self._rules.revision_base + self._offset
        return content.Envelope(self.id, identity, revision, self._time_ms, flow_id or identity.flow_id)

    def _supersede(self, start: int, derived: list[Trip]) -> None:
        """A trip that was announced never was."""
        word = self._ledger.remove(start)
        heirs = [
            identify(self.id, trip.start).id
            for trip in derived
            if trip.start <= start and (trip.end is None or start <= trip.end)
        ]
        envelope = self._envelope(start, None)
        identifier, payload = envelope.encode(
            "TripDiscarded", start, content.superseded(envelope, start), reason="SUPERSEDED", superseded_by=heirs
        )
        self._publish(
            envelope, "TripDiscarded", identifier, payload, TripsRecord.DELETE if word.published else TripsRecord.KEEP
        )

    def _say(
        self,
        event: str,
        envelope: content.Envelope,
        body: dict[str, Any],
        occurred_at: int,
        data: dict[str, str] | None = None,
        *,
        trips_record: TripsRecord = TripsRecord.KEEP,
    ) -> None:
        identifier, payload = envelope.encode(event, occurred_at, body, **(data or {}))
        self._publish(envelope, event, identifier, payload, trips_record)

    def _publish(
        self, envelope: content.Envelope, event: str, identifier: str, payload: bytes, trips_record: TripsRecord
    ) -> None:
        if self.muted and start_of(envelope.identity.id) in self.muted and event != "TripDeleted":
            return
        self.said.append(
            Announcement(
                vehicle_id=self.id,
                trip_id=envelope.identity.id,
                event=event,
                event_id=identifier,
                revision=envelope.revision,
                time_ms=envelope.time_ms,
                traceparent=self._traceparent,
                payload=payload,
                trips_record=trips_record,
            )
        )

    # -- deleting ----------------------------------------------------------------------------------------------------

    def delete(self, deleting: Deleting) -> Outcome:
        """Erase a trip, and announce that it is deleted; nothing else is said of it, ever. Nothing may be pending.

        Its neighbours stay as they were announced.
        """
        start, word = deleting.start, self._ledger.get(deleting.start)
        if any(hole.start == start and hole.until >= self._horizon for hole in self._holes):
            return Outcome.ALREADY_DELETED
        if word is None and deleting.revision is None:
            return Outcome.UNKNOWN_TRIP
        if not self._stale:
            self._fold(self._horizon)
        hole = self._dig(deleting, word)
        self._holes = sorted([*(one for one in self._holes if one.start != start), hole], key=lambda one: one.start)
        self.muted.add(start)
        if word is not None:
            self._ledger.remove(start)
        self._changed_at(start)
        self._say_deleted(deleting)
        # Nothing has arrived: what waits goes on to wait, and of the neighbours nothing is said again.
        self.announce(timer=True)
        return Outcome.DELETED

    def _dig(self, deleting: Deleting, word: Word | None) -> Hole:
        """Erase what there is of a trip, and tell what is left of it."""
        start, rules = deleting.start, self._rules
        told = self._told()
        trip, base = told.pop(start, None), Machine.unpack(self._base, rules)
        end: int | None
        if word is not None:
            end = self._newest if word.state is State.STARTED else word.end
            kept = trip.end is not None and not trip.discarded(rules) if trip else word.state is State.READY
        else:
            end = trip.end if trip is not None else deleting.end
            kept = trip is not None and trip.end is not None and not trip.discarded(rules)
        until = max(instant for instant in (start, end, self._newest) if instant is not None)
        nothing = Hole(start, start - 1, None, kept=False, until=until)
        if end is None or end < start:
            # It never was, as far as is known: what is there belongs to others.
            return nothing if self._newest is not None else Hole(start, start, None, kept=False, until=until)
        folded = base.last is not None and base.last >= start
        if folded and (base.ride is None or base.ride.start != start):
            self._timeline.erase(start, end)  # what is folded may still be there
            self._erase_known(base, Hole(start, end, None, kept=False, until=until), told)
            return nothing
        if word is None and trip is None:
            # Announced by others, or long ago. Whether there was a trip or not: the vehicle's own trips stay.
            hole = Hole(start, end, None, kept=False, until=until)
            if self._timeline.rows(start - 1, end):
                return nothing
            self._holes, before = sorted([*self._holes, hole], key=lambda one: one.start), self._holes
            same, self._holes = self._told() == told, before
            return hole if same else nothing
        return self._hollow(start, end, kept=bool(kept), until=until)

    def _hollow(self, start: int, end: int, *, kept: bool, until: int) -> Hole:
        """Erase what is between start and end of a trip that is told."""
        base = Machine.unpack(self._base, self._rules)
        folded = base.last is not None and base.last >= start
        inside: dict[int, tuple[int, Any]] = {}
        self._learn(inside, self._timeline.rows(start - 1, end))
        inside.pop(FLOW_ID_BIT, None)
        name = self._rules.trigger
        trigger = inside.get(name) or (base.known.get(name) if folded else None)
        hole = Hole(
            start,
            end,
            None if trigger is None else bool(trigger[1]),
            kept=kept,
            until=until,
            samples=tuple((name, *sample) for name, sample in sorted(inside.items())),
        )
        self._timeline.erase(start, end)
        if folded:
            base.forget_ride()
            base.skip(hole)
            self._base, self._base_changed = base.pack(), True
            hole = hole.emptied()
        return hole

    def _dig_told(self, derived: list[Trip]) -> bool:
        """Whether there is one of the trips that were deleted when there was nothing of them: late samples made it.

        It was taken back when it was deleted, and what is its own now belonged to the trip that it was part of.
        """
        for place, hole in enumerate(self._holes):
            trip = next((trip for trip in derived if trip.start == hole.start), None) if hole.end < hole.start else None
            if trip is not None:
                newest = trip.start if self._newest is None else self._newest
                end = newest if trip.end is None else trip.end
                kept = trip.end is not None and not trip.discarded(self._rules)
                self._holes[place] = self._hollow(trip.start, end, kept=kept, until=max(end, newest))
                self._changed_at(trip.start)
                self._touch(inf)  # marks are of now: they do not tell what has changed since the last time
                return True
        return False

    def _told(self) -> dict[int, Trip]:
        """All trips that can still be told, by their starts, without looking at marks."""
        machine = Machine.unpack(self._base, self._rules)
        self._run(machine, inf)
        current = machine.current(self._quiet)
        return {trip.start: trip for trip in (machine.ended if current is None else [*machine.ended, current])}

    def _erase_known(self, base: Machine, hole: Hole, told: dict[int, Trip]) -> None:
        """Of a trip that is folded and over nothing is left but last known samples: at once, if nobody needs them."""
        before = base.pack()
        base.forget_known(hole.start, hole.end)
        self._base = base.pack()
        if self._told() != told:
            base = Machine.unpack(before, self._rules)
            base.fading.append((hole.start, hole.end, hole.until))
            self._base = base.pack()
        self._base_changed = True

    def _changed_at(self, start: int) -> None:
        """Forget what was worked out from the timeline and the base as they were before a deletion."""
        self._marks = [] if self._base_changed else [mark for mark in self._marks if mark.instant < start]
        self._last = self._behind = None
        self._touch(-inf if self._base_changed else start)

    def _say_deleted(self, deleting: Deleting) -> None:
        envelope = self._envelope(deleting.start, None)
        if self._offset < 0:  # nothing is known of this vehicle: its records are gone, or still to come
            envelope = envelope._replace(revision=deleting.revision or 0, time_ms=deleting.requested_at)
        identifier, payload = envelope.encode("TripDeleted", deleting.requested_at, content.deleted(envelope))
        self._publish(envelope, "TripDeleted", identifier, payload, TripsRecord.DELETE)

    # -- state -------------------------------------------------------------------------------------------------------

    def _fold(self, horizon: Moment) -> None:
        """Keep of what is behind the horizon only what the machine keeps of it."""
        horizon = min([horizon, *self._ledger.waiting])
        machine = Machine.unpack(self._base, self._rules)
        steps = list(self._steps(machine, horizon - 1))
        if steps:
            for step in steps:
                machine.go(step)
            self._base = machine.pack()
            self._base_changed = True
        if self._holes:
            self._forget_holes(machine)
        if horizon > -inf:
            self._folded = int(horizon) if self._folded is None else max(self._folded, int(horizon))
            self._timeline.drop(self._folded)
            self._marks = [mark for mark in self._marks if mark.instant >= horizon]

    def _forget_holes(self, base: Machine) -> None:
        """Those that the horizon has passed, when nothing that is folded is for neighbours only any more."""
        seen = _instant_of(base)
        holes = [hole.emptied() if hole.end <= seen else hole for hole in self._holes]
        self._holes = [
            hole
            for hole in holes
            if hole.until >= self._horizon or hole.end > seen or any(span[0] == hole.start for span in base.fading)
        ]
        self.muted -= {hole.start for hole in holes} - {hole.start for hole in self._holes}

    def _tidy_holes(self) -> None:
        """Fold, now and then, deleted trips that the horizon has passed."""
        newest = self._newest
        if self._stale or newest is None or newest < self._holes_at:
            return
        if any(hole.until < self._horizon for hole in self._holes):
            self._holes_at = newest + self._rules.correction_horizon_ms // 8
            self._fold(self._horizon)

    def _tidy(self) -> None:
        """Fold, now and then, whatever lies behind the horizon of a vehicle that is not driving."""
        newest = self._newest
        if self.on or self._stale or newest is None or newest < self._fold_at:
            return
        pause = self._rules.correction_horizon_ms // 4
        self._fold_at = newest + pause
        oldest = self._timeline.oldest
        if oldest is not None and oldest < self._horizon - pause:
            self._fold(self._horizon)
            self._timeline.repack(-inf if self._folded is None else self._folded)

    def store(self) -> dict[bytes, bytes | None]:
        """The stored values that have changed since the last time, each with its key. Nothing may be pending.

        None: the key is not needed any more.
        """
        timeline = self._timeline
        self._tidy()
        if self._holes:
            self._tidy_holes()
        head = b""
        if len(timeline.tail) + FRAME_SIZE + _LEAST_HEAD <= _HEAD_BUDGET:
            head = self._head()
        if (not head or len(head) + len(timeline.tail) + FRAME_SIZE > _HEAD_BUDGET) and timeline.tail:
            timeline.store_tail()
            if timeline.has_new_sealed and not self._stale:
                oldest = timeline.oldest
                if oldest is not None and oldest < self._horizon:
                    self._fold(self._horizon)
            head = self._head()
        changes: dict[bytes, bytes | None] = {}
        key = self._key
        head += timeline.tail
        _put(changes, b"h" + key, head)
        if self._base_changed:
            _put(changes, b"b" + key, self._base)
            self._base_changed = False
        tip = self._marks[-1].dump() if self._marks else b""
        if tip != self._stored_tip:
            _put(changes, b"t" + key, tip)
            self._stored_tip = tip
        holes = pack_holes(self._holes) if self._holes else b""
        if holes != self._stored_holes:
            _put(changes, b"d" + key, holes)
            self._stored_holes = holes
        for number, page in self._ledger.store().items():
            _put(changes, _part_key(b"w", number, key), page)
        for kind, number, value in timeline.store(clear=not self.on):
            _put(changes, _part_key(kind, number, key), value)
        timeline.close()
        self.stored = StoredVehicle(head, tip, self._base, (), (), (), holes)
        return changes

    def tidy_up(self) -> dict[bytes, bytes | None]:
        """The keys that are not needed any more and still hold something. Before :meth:`rest`, which forgets them."""
        return {_part_key(kind, number, self._key): None for kind, number in self._timeline.clear()}

    @property
    def size(self) -> int:
        """About how many bytes the stored values take, words, keys and frames apart. After :meth:`store`."""
        if self.stored is None:
            return 0
        stored = self.stored
        return self._timeline.chunk_bytes + len(stored.head) + len(stored.tip) + len(self._base) + len(stored.holes)

    def rest(self) -> StoredVehicle:
        """The vehicle as it was stored last."""
        if self.stored is None or self.pending:
            raise AssertionError(self.id)
        small, sealed = self._timeline.dump()
        return self.stored._replace(words=self._ledger.dump(), small=small, sealed=sealed)

    def _head(self) -> bytes:
        wake_at = self.wake_at
        packed: bytes = packb(
            (
                self._offset,
                self._time_ms,
                _pack_traceparent(self._traceparent),
                self._arrival - self._time_ms,
                self._quiet,
                self._waits,
                self._newest,
                _finite(self._trigger_at),
                self._trigger_on,
                self._trigger_gap,
                _finite(self._due),
                _finite(self._horizon),
                _finite(self._ledger.settled_before),
                self._folded,
                len(self._timeline.small),
                _fingerprint(self._rules),
                self._stale,
            )
        )
        size = len(packed).to_bytes(2, "little")
        return _ALERT.pack(-1 if wake_at is None else wake_at, self.on) + size + packed

    @classmethod
    def load(cls, vehicle_id: str, rules: Rules, stored: StoredVehicle) -> Vehicle:
        """The inverse of :meth:`rest`."""
        vehicle = cls(vehicle_id, rules)
        _, vehicle.on = _ALERT.unpack_from(stored.head)
        vehicle.was_on = vehicle.on
        begin = _ALERT.size + 2
        end = begin + int.from_bytes(stored.head[_ALERT.size : begin], "little")
        (
            vehicle._offset,
            vehicle._time_ms,
            traceparent,
            age,
            vehicle._quiet,
            waits,
            vehicle._newest,
            trigger_at,
            trigger_on,
            vehicle._trigger_gap,
            due,
            horizon,
            settled_before,
            vehicle._folded,
            small,
            fingerprint,
            vehicle._stale,
        ) = msgpack.unpackb(stored.head[begin:end])
        vehicle._traceparent = _unpack_traceparent(traceparent)
        vehicle._arrival = vehicle._time_ms + age
        vehicle._waits = tuple(waits)
        vehicle._trigger_at = -inf if trigger_at is None else trigger_at
        vehicle._trigger_on = None if trigger_on is None else bool(trigger_on)
        vehicle._due = inf if due is None else due
        vehicle._horizon = -inf if horizon is None else horizon
        vehicle._base = stored.base
        vehicle._stored_tip = stored.tip
        if stored.holes:
            vehicle._holes, vehicle._stored_holes = unpack_holes(stored.holes), stored.holes
            vehicle.muted = {hole.start for hole in vehicle._holes}
        vehicle._ledger = Ledger.load(stored.words, -inf if settled_before is None else settled_before)
        vehicle._timeline = Timeline.load(stored.head[end:], stored.small, small, stored.sealed, vehicle._folded)
        if fingerprint != _fingerprint(rules):
            vehicle._stale = True  # other rules: they apply from the next record on, and to all that is not settled
        elif stored.tip:
            vehicle._marks = [Mark.load(stored.tip)]
        vehicle.stored = stored._replace(words=(), small=(), sealed=())  # the vehicle has them now
        vehicle.counted_size = vehicle.size
        return vehicle


def _put(changes: dict[bytes, bytes | None], key: bytes, content_: bytes) -> None:
    changes[key] = seal_value(key, content_) if content_ else None


def _part_key(kind: bytes, number: int, vehicle: bytes) -> bytes:
    return kind + number.to_bytes(2, "big") + vehicle


def _digest(body: dict[str, Any]) -> bytes:
    """Of what is told of a trip, whichever revision tells it."""
    content_ = {name: value for name, value in body.items() if name != "revision"}
    return blake2b(orjson.dumps(content_), digest_size=8).digest()


def _instant_of(machine: Machine) -> Moment:
    return -inf if machine.last is None else machine.last


def _finite(instant: Moment) -> int | None:
    return int(instant) if abs(instant) != inf else None


@lru_cache(maxsize=8)
def _fingerprint(rules: Rules) -> int:
    """Of the rules that a derivation depends on. Of those that came later only what is not as it was before them."""
    later = f" route {rules.route_tolerance_m}" if rules.route_tolerance_m else ""
    return crc32(f"{rules!r}{later}".encode())


def _pack_traceparent(traceparent: str | None) -> bytes | None:
    """The 55 characters of W3C Trace Context as 26 bytes."""
    return None if traceparent is None else bytes.fromhex(traceparent.replace("-", ""))


def _unpack_traceparent(packed: bytes | None) -> str | None:
    if packed is None:
        return None
    text = packed.hex()
    return f"{text[:2]}-{text[2:34]}-{text[34:50]}-{text[50:]}"
