"""Everything of one partition between bytes and bytes: no Kafka, no Faust, no clock of its own.

The runtime hands in batches of records and the time, and takes what a checkpoint delivers. The same processor tells
trips offline, in the tests, and in a worker.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import repeat
from typing import Final

from streams.commands import DeleteCommand, read_command
from streams.errors import StateError
from streams.records import Announcement, Late, Output, Record, Rejected, Standing
from streams.telemetry.properties import PROPERTIES
from streams.telemetry.reader import Problem, Reader, Reason
from streams.telemetry.timestamps import LATEST
from streams.trips.content import iso
from streams.trips.rules import Rules
from streams.trips.samples import FLOW_ID_BIT, Property, Row
from streams.trips.state import (
    CLOCK_KEY,
    OUTBOX,
    OUTBOX_KEY_SIZE,
    BrokenStateError,
    open_value,
    outbox_key,
    pack_clock,
    pack_outbox,
    seal_value,
    unpack_clock,
    unpack_outbox,
)
from streams.trips.vehicle import (
    PREFIX_SIZES,
    Outcome,
    Parts,
    StoredVehicle,
    Vehicle,
    alert_of,
    pack_parts,
    unpack_parts,
)

try:
    from streams.intake import Intake
except ImportError:  # it is not compiled
    Intake = None  # type: ignore[assignment, misc]

__all__ = ["COMPILED", "Counts", "Processor"]

COMPILED: Final = Intake is not None
"""Whether this is machine code: see docs/performance.md."""

_SAMPLES = ~(1 << Property.ALTITUDE | 1 << FLOW_ID_BIT)  # bits of a mask that are samples of their own
# What reports every minute or so stays unpacked; what is parked takes little, two to four minutes later.
_REST_MS = 120_000
# Bytes of a vehicle at rest. To pack more of them again for each few values that are read back would take long.
_LARGE = 1024
_NO_PARTS: Parts = {}
_NAMES = {number: name for name, number in PROPERTIES.items()}


@dataclass(slots=True)
class Counts:
    """Running totals of a partition since its processor was made.

    Attributes:
        messages: records read.
        samples: samples read from them.
        applied: records that added a sample.
        repeated: records that were read whole and added none, late ones apart.
        late: records with late samples.
        refused: samples of deleted trips, which are refused.
        commands: carried out, or refused.
        rejected: problems by reason.
        dead_letters: records sent to the dead letters.
        announcements: by event.
        reported: of these totals, by name, what whoever watches them has been told.
    """

    messages: int = 0
    samples: int = 0
    applied: int = 0
    repeated: int = 0
    late: int = 0
    dead_letters: int = 0
    refused: int = 0
    commands: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    announcements: Counter[str] = field(default_factory=Counter)
    reported: Counter[str] = field(default_factory=Counter)

    def refuse(self, samples: int) -> None:
        """Count samples of deleted trips."""
        self.refused += samples


class Processor:
    """The vehicles of one source partition.

    Args:
        rules: by which trips are told.
        reader: turns records into samples.
        offline: there is no Kafka: announcements take their time from the samples.
        outbox: announcements are delivered after the state: until the next take they are part of it.

    Attributes:
        clock: epoch ms; the newest Kafka timestamp read so far, or as advanced.
        standing: stored with the clock, and given back with it; set by the runtime.
        counts: running totals.
        open_trips: how many vehicles have a trip that is on.
        state_bytes: bytes of stored state that the vehicles take, keys and frames apart.
        owed: announcements in the outbox as of the last take.
    """

    def __init__(self, rules: Rules, reader: Reader, *, offline: bool = False, outbox: bool = False) -> None:
        self.rules = rules
        self.clock = 0
        self.standing = Standing()
        self.counts = Counts()
        self.open_trips = 0
        self.state_bytes = 0
        self.owed = 0
        self._reader = reader
        self._offline = offline
        self._outbox = outbox
        self._pages: list[bytes] = []  # of the outbox, as stored: their keys
        self._restored_pages: dict[bytes, bytes] = {}
        self._awake: dict[str, Vehicle] = {}
        self._resting: dict[str, bytes] = {}  # StoredVehicle.pack(): one object for each of what may be many
        self._changed: dict[str, Vehicle] = {}
        self._touch_clock = False
        self._alarms: list[tuple[int, str]] = []
        self._alarm_of: dict[str, int] = {}
        self._output = Output()
        self._read_last: tuple[bytes, Parts] = (b"", {})  # a vehicle, and its restored values that came in a row
        self._restoring: dict[bytes, Parts] = {}  # of vehicles whose values come again and again; these rest as b""
        self._held: list[tuple[Record, bool]] = []
        self._held_starts: dict[str, set[int]] = {}
        self._intake: Intake | None = None  # takes in what comes in order, where it is compiled
        if Intake is not None:
            self._intake = Intake(
                skew=reader.skew, silence=rules.silence_timeout_ms, trigger=rules.trigger, offline=offline
            )
        self._stored = 0  # vehicles with state, as of the last take
        self._said_stored: int | None = None  # by what is restored

    def process(self, records: Iterable[Record]) -> None:
        """Apply a batch of records, announce what it leaves pending, and close what is silent by its timestamps."""
        read, counts = self._reader.read, self.counts
        touched: dict[str, Vehicle] = {}
        # With a revision base, an application before this one has announced trips of the records that were there when
        # this one began. A trip that it told and that later records took back is taken back here only if it is told
        # here, too: whatever the trips were in between is announced, after each record.
        singly_before = (self.standing.backlog_end or 0) if self.rules.revision_base else 0
        pending: dict[str, Vehicle] = {}
        intake = None if singly_before else self._intake
        if intake is not None:
            intake.clock = self.clock
        coming: Iterable[tuple[Record, tuple[str, Sequence[Row]] | None]]
        coming = zip(records, repeat(None)) if intake is None else intake.through(records)
        for record, found in coming:
            counts.messages += 1
            timestamp = record.timestamp
            if intake is not None:
                self.clock = intake.clock
            if not 0 <= timestamp <= LATEST:
                self._reject(record, [_no_time(timestamp)], partial=False)
                continue
            if timestamp > self.clock:
                self.clock = timestamp
            vehicle_id: str | None
            if found is not None:
                vehicle_id, rows = found
            else:
                vehicle_id, rows, _, problems = read(record.value, record.key, timestamp)
                if problems:
                    self._reject(record, problems, partial=bool(rows))
                if vehicle_id is None or not rows:
                    continue
            vehicle = self._vehicle(vehicle_id)
            if singly_before:
                vehicle.told_before = record.offset < singly_before
            counts.samples += (rows[0][1] & _SAMPLES).bit_count()
            if len(rows) == 1:
                time_ms = rows[0][0] if self._offline else timestamp
                if not record.headers and vehicle.go_on(rows[0], record.offset, time_ms, self.clock):
                    counts.applied += 1
                    touched[vehicle_id] = vehicle
                    if intake is not None:
                        vehicle.lend()
                    continue
            else:
                counts.samples += sum((row[1] & _SAMPLES).bit_count() for row in rows[1:])
            added, late = vehicle.apply(
                rows,
                record.offset,
                None if self._offline else timestamp,
                self.clock,
                _traceparent(record) if record.headers else None,
            )
            if late:
                counts.late += 1
                named = ", ".join(f"{_NAMES[name]} of {iso(instant)}" for name, instant in late)
                self._output.late.append(Late(record, f"behind the correction horizon: {named}"))
            if vehicle.said:  # also of the record before, when this one leaves that behind the horizon
                touched[vehicle_id] = vehicle
                self._collect(vehicle)
            if added:
                counts.applied += 1
                touched[vehicle_id] = vehicle
                if vehicle.pending and record.offset < singly_before:
                    vehicle.announce()
                    self._collect(vehicle)
                elif vehicle.pending:
                    pending[vehicle_id] = vehicle
            elif not late:
                counts.repeated += 1
            if intake is not None:
                vehicle.lend()
        if intake is not None:
            self.clock = intake.clock
            taken_in, samples = intake.count()
            counts.messages += taken_in
            counts.applied += taken_in
            counts.samples += samples
        for vehicle in pending.values():
            if vehicle.pending:
                vehicle.announce()
                self._collect(vehicle)
        for vehicle in touched.values():
            vehicle.take_back()
            self._set_alarm(vehicle.id, vehicle.wake_at)
            vehicle.lend()
        self._changed |= touched
        self.advance(self.clock)

    def command(self, record: Record, *, own: bool = True) -> None:
        """Carry out a command.

        Args:
            record: of the commands' topic.
            own: it is of our partition. One of another may be about a vehicle that has been there, and is here now.
        """
        command = read_command(record.value)
        if isinstance(command, Problem):
            if own:
                self._refuse(record, command)
            return
        known = command.vehicle_id in self._awake or command.vehicle_id in self._resting
        if not known and not own:
            return
        outcome = Outcome.UNKNOWN_TRIP
        if known or command.deleting.revision is not None:
            vehicle = self._vehicle(command.vehicle_id)
            outcome = vehicle.delete(command.deleting)
        if outcome is Outcome.DELETED:
            self.counts.commands += 1
            self._changed[vehicle.id] = vehicle
            self._collect(vehicle)
            self._set_alarm(vehicle.id, vehicle.wake_at)
            return
        if known and outcome is Outcome.UNKNOWN_TRIP:
            self._vehicle(command.vehicle_id).muted.discard(command.deleting.start)
        if own:
            self._refuse(record, _refusal(outcome, command))

    def hold(self, commands: Iterable[tuple[Record, bool]]) -> None:
        """Keep commands until :meth:`release`: they are about telemetry that is still to come.

        Nothing is said of the trips that they delete. Each comes with whether it is of our partition.
        """
        self._held = list(commands)
        self._held_starts = {}
        for record, _ in self._held:
            command = read_command(record.value)
            if isinstance(command, DeleteCommand):
                # Also one that had found no announcement: the worker may have known the trip, and will know it again.
                self._held_starts.setdefault(command.vehicle_id, set()).add(command.deleting.start)
        for vehicle in self._awake.values():
            vehicle.muted |= self._held_starts.get(vehicle.id, set())

    def release(self) -> None:
        """Carry out the commands that were held."""
        held, self._held, self._held_starts = self._held, [], {}
        for record, own in held:
            self.command(record, own=own)

    def advance(self, clock_ms: int) -> None:
        """The clock of the partition has come to this (it never goes back): close what has been silent."""
        if clock_ms > self.clock:
            self.clock = clock_ms
        while self._alarms and self._alarms[0][0] <= self.clock:
            due, vehicle_id = heappop(self._alarms)
            if self._alarm_of.get(vehicle_id) != due:
                continue
            del self._alarm_of[vehicle_id]
            vehicle = self._vehicle(vehicle_id)
            wake_at = vehicle.wake_at
            if wake_at is not None and wake_at <= self.clock:
                vehicle.quiet_for(self.clock)
                self._changed[vehicle_id] = vehicle
                self._collect(vehicle)
            self._set_alarm(vehicle_id, vehicle.wake_at)

    def close(self) -> None:
        """Nothing will ever arrive again: end and make ready whatever waits for a quiet."""
        for vehicle_id in sorted({*self._awake, *self._resting}):
            vehicle = self._vehicle(vehicle_id)
            vehicle.close()
            self._changed[vehicle_id] = vehicle
            self._collect(vehicle)

    def wake_at(self) -> int | None:
        """The clock (epoch ms) at which :meth:`advance` may have something to do."""
        while self._alarms and self._alarm_of.get(self._alarms[0][1]) != self._alarms[0][0]:
            heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def touch_clock(self) -> None:
        """Have the next :meth:`take` store the clock and the standing although nothing else has changed."""
        self._touch_clock = True

    def take(self) -> Output:
        """What has come about since the last time, for one checkpoint, with each changed state value once.

        With an outbox: what was taken before this has been delivered, or nobody may go on.
        """
        output, self._output = self._output, Output()
        changes = output.changes
        if self._intake is not None:
            for vehicle_id in self._intake.take_changed():
                self._changed[vehicle_id] = self._awake[vehicle_id]
        for vehicle in self._changed.values():
            vehicle.take_back()
            self._stored += vehicle.stored is None
            changes.update(vehicle.store())
            size = vehicle.size
            self.state_bytes += size - vehicle.counted_size
            vehicle.counted_size = size
            vehicle.lend()
        self._changed.clear()
        changes.update(self._put_to_rest())
        changes.update(self._owe(output.announcements))
        if changes or self._touch_clock:
            changes[CLOCK_KEY] = seal_value(CLOCK_KEY, pack_clock(self.clock, self._stored, self.standing))
            self._touch_clock = False
        return output

    def _owe(self, announcements: list[Announcement]) -> dict[bytes, bytes | None]:
        """Make the outbox hold these announcements, and no others."""
        contents = pack_outbox(announcements) if self._outbox else []
        changes: dict[bytes, bytes | None] = dict.fromkeys(self._pages)
        self._pages = [outbox_key(number) for number in range(len(contents))]
        changes |= {key: seal_value(key, content) for key, content in zip(self._pages, contents, strict=True)}
        self.owed = len(announcements) if self._outbox else 0
        return changes

    @property
    def announcing(self) -> bool:
        """The next :meth:`take` has announcements."""
        return bool(self._output.announcements)

    @property
    def vehicles(self) -> int:
        """How many vehicles have state."""
        return len(self._awake) + len(self._resting)

    def restore(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take back stored values, oldest first; of one key the later counts. End with :meth:`restored`.

        Raises:
            StateError: a value is damaged, or of a newer format.
        """
        restoring = self._restoring
        last, parts = self._read_last
        apart = False
        for key, value in items:
            try:
                opened = b"" if value is None else open_value(key, value)
            except BrokenStateError as error:
                raise StateError(str(error)) from error
            size = PREFIX_SIZES.get(key[:1])
            if size is None:
                self._restore_own(key, opened)
                continue
            vehicle = key[size:]
            if vehicle != last:
                if parts and not apart:
                    self._restore_vehicle(last, parts)
                last, parts = vehicle, restoring.get(vehicle, _NO_PARTS)
                apart = parts is not _NO_PARTS
                if not apart:
                    parts = {}
            parts[key[:size]] = opened
        self._read_last = last, {} if apart else parts

    def _restore_vehicle(self, vehicle: bytes, parts: Parts) -> None:
        """Some values of a vehicle.

        It is put to rest with them at once: to keep apart what is read, for as long as more may come, would take more
        memory than the state itself, and leave it in pieces. Only of vehicles that are large, or whose values are there
        several times (nothing has compacted them yet), values are kept apart.
        """
        vehicle_id = vehicle.decode()
        resting = self._resting
        packed = resting.get(vehicle_id)
        if packed is None:
            resting[vehicle_id] = pack_parts(parts)
        elif not packed:
            self._restoring[vehicle] |= parts
        else:
            known = unpack_parts(packed)
            apart = len(packed) > _LARGE or not known.keys().isdisjoint(parts)
            known |= parts
            if apart:
                self._restoring[vehicle] = known
            resting[vehicle_id] = b"" if apart else pack_parts(known)

    def _restore_own(self, key: bytes, opened: bytes) -> None:
        """What is stored and is of no vehicle."""
        if key == CLOCK_KEY and opened:
            clock, self._said_stored, self.standing = unpack_clock(opened)
            self.clock = max(self.clock, clock)
        elif key[:1] == OUTBOX and len(key) == OUTBOX_KEY_SIZE:
            self._restored_pages[key] = opened
        else:
            raise StateError(f"the record with key {key!r} is of no kind that this program knows")

    def restored(self) -> None:
        """All stored values have been handed in: be ready for records.

        Raises:
            StateError: a vehicle's values do not belong together, or vehicles are missing.
        """
        resting, restoring = self._resting, self._restoring
        last, parts = self._read_last
        if parts:
            self._restore_vehicle(last, parts)
            self._read_last = b"", {}
        while restoring:
            vehicle, parts = restoring.popitem()
            resting[vehicle.decode()] = pack_parts(parts)
        self._stored = len(resting)
        if self._said_stored not in (None, self._stored):
            raise StateError(
                f"it holds the state of {self._stored} vehicles, and should hold that of {self._said_stored}: records "
                "are missing, or are not ours"
            )
        for vehicle_id, packed in resting.items():
            alert = alert_of(packed)
            if alert is None:
                raise StateError(f"the state of vehicle {vehicle_id!r} has no head: records are missing")
            wake_at, on = alert
            self.open_trips += on
            if wake_at >= 0:
                self._set_alarm(vehicle_id, wake_at)
        self.state_bytes = sum(map(len, resting.values()))
        # What was owed is announced again, before anything new.
        self._pages = sorted(key for key, content in self._restored_pages.items() if content)
        self._output.announcements = [one for key in self._pages for one in unpack_outbox(self._restored_pages[key])]
        self.owed = len(self._output.announcements)
        self._restored_pages = {}

    def _vehicle(self, vehicle_id: str) -> Vehicle:
        vehicle = self._awake.get(vehicle_id)
        if vehicle is None:
            packed = self._resting.pop(vehicle_id, None)
            if packed is None:
                vehicle = Vehicle(vehicle_id, self.rules)
            else:
                vehicle = Vehicle.load(vehicle_id, self.rules, StoredVehicle.unpack(packed))
                self.state_bytes += vehicle.counted_size - len(packed)
            vehicle.on_refused = self.counts.refuse
            if self._held_starts:
                vehicle.muted |= self._held_starts.get(vehicle_id, set())
            self._awake[vehicle_id] = vehicle
            vehicle.placed_at = self.clock
            if self._intake is not None:
                vehicle.front = self._intake.front(vehicle_id)
        elif self._intake is not None:
            vehicle.take_back()
        vehicle.looked_at = self.clock
        return vehicle

    def _put_to_rest(self) -> dict[bytes, bytes | None]:
        """Keep of vehicles that have not been looked at for a while only what is stored of them; what is not needed."""
        before = self.clock - _REST_MS
        found = []
        for vehicle in self._awake.values():  # in the order in which they were placed
            if vehicle.placed_at > before:
                break
            found.append(vehicle)
        changes: dict[bytes, bytes | None] = {}
        for vehicle in found:
            del self._awake[vehicle.id]
            if vehicle.looked_at > before:  # it goes to the end, and is looked after again in a while
                self._awake[vehicle.id] = vehicle
                vehicle.placed_at = self.clock
                continue
            if self._intake is not None:
                self._intake.forget(vehicle.id)
            if vehicle.stored is not None:
                changes.update(vehicle.tidy_up())
                packed = self._resting[vehicle.id] = vehicle.rest().pack()
                self.state_bytes += len(packed) - vehicle.counted_size
                if vehicle.wake_at is None:  # what it was to be woken up for has come about otherwise
                    self._alarm_of.pop(vehicle.id, None)
        return changes

    def _collect(self, vehicle: Vehicle) -> None:
        announcements: list[Announcement] = vehicle.said
        vehicle.said = []
        events = self.counts.announcements
        for announcement in announcements:
            events[announcement.event] += 1
        self._output.announcements += announcements
        self.open_trips += vehicle.on - vehicle.was_on
        vehicle.was_on = vehicle.on

    def _refuse(self, record: Record, problem: Problem) -> None:
        """A command, into the dead letters."""
        self.counts.commands += 1
        self.counts.dead_letters += 1
        self.counts.rejected[problem.reason] += 1
        self._output.rejected.append(Rejected(record, [problem], partial=False, is_command=True))

    def _reject(self, record: Record, problems: Iterable[Problem], *, partial: bool) -> None:
        listed = list(problems)
        self.counts.dead_letters += 1
        for problem in listed:
            self.counts.rejected[problem.reason] += 1
        self._output.rejected.append(Rejected(record, listed, partial))

    def _set_alarm(self, vehicle_id: str, due: int | None) -> None:
        """Wake up for a vehicle, unless an alarm goes off before that anyway and will look again."""
        if due is None:
            return
        standing = self._alarm_of.get(vehicle_id)
        if standing is None or due < standing:
            self._alarm_of[vehicle_id] = due
            heappush(self._alarms, (due, vehicle_id))


def _refusal(outcome: Outcome, command: DeleteCommand) -> Problem:
    trip = f"trip {command.trip_id} of vehicle {command.vehicle_id!r}"
    if outcome is Outcome.ALREADY_DELETED:
        return Problem(Reason.ALREADY_DELETED, None, f"{trip} is deleted already")
    return Problem(
        Reason.UNKNOWN_TRIP,
        None,
        f"{trip} is not known: its vehicle is not in this partition, or nothing was announced of the trip. `trips "
        "delete` finds the right partition",
    )


def _no_time(timestamp: int) -> Problem:
    return Problem(
        Reason.BAD_TIMESTAMP,
        None,
        f"the record's Kafka timestamp is {timestamp}: it has to be epoch milliseconds of the years 1970 to 9999; "
        "have the producer set it so, or leave it to Kafka",
    )


def _traceparent(record: Record) -> str | None:
    """The record's trace context, if it has the form of W3C Trace Context."""
    for name, value in record.headers:
        if name == "traceparent" and value is not None and _TRACEPARENT.fullmatch(value):
            return value.decode("ascii")
    return None


_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
