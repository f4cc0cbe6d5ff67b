"""The book of planned trips: requests and announcements in; decisions, events, changed records out. No I/O, no clock.

Everything that one process decides for all is in here, in the order in which it is asked. What the book remembers is in
its records, each under a key of its own; the same records make the same book.

Linking is a function of what the book knows, and of nothing else: of all plans of a trip's vehicle that were accepted
and in whose window the trip begins, :meth:`Book._choose` names the one. Whenever a plan or a trip changes, the answer
is compared with the link that is there, and the difference is an event. So it makes no difference in which order plans,
updates, trips and corrections come.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from streams.errors import StateError
from streams.status.rules import TERMINAL, TRANSITIONS, State, refusal
from streams.trips.identity import event_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streams.status.bodies import PlanBody, UpdateBody

__all__ = ["FORMAT", "META_KEY", "Book", "Changes", "Event", "Plan", "Trip", "plan_key", "read_trip", "trip_key"]

FORMAT: Final = 1
"""The version of the records; a program refuses those of a newer one."""

META_KEY: Final = b"meta"
_PLAN: Final = b"p"
_TRIP: Final = b"t"

# An update that is sent again, because its answer was lost, is known by these; a plan has a handful of updates.
_REMEMBERED: Final = 64

_STAGES: Final = {
    "TripStarted": 0,
    "TripEnded": 1,
    "TripDataReady": 2,
    "TripMetricsReady": 2,
    "TripDiscarded": 2,
    "TripDeleted": 3,
}
_DELETED: Final = "DELETED"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(slots=True)
class Plan:
    """A planned trip.

    Attributes:
        id: the ``tripId``.
        start: of its window, epoch milliseconds, as all times here.
        end: of its window.
        created: when it was planned, by Kafka's timestamp of the request.
        changed: when it was last changed, the same.
        revision: how many events tell of it.
        updated: the ``timeStamp`` of the last update that was applied.
        accepted: since when the driver has taken it on, by the updates; None: not yet.
        closed: when it was rejected, completed or canceled, by the updates; None: it is open.
        applied: what identifies each of the last updates that were applied.
    """

    id: int
    tms_trip_id: str
    vehicle_id: str
    start: int
    end: int
    created: int
    changed: int
    state: State = State.PLANNED
    revision: int = 0
    updated: int | None = None
    accepted: int | None = None
    closed: int | None = None
    applied: list[str] = field(default_factory=list)

    def covers(self, instant: int) -> bool:
        """Whether a trip that begins at this instant is one of the plan, as far as the plan goes."""
        until = self.end if self.closed is None else min(self.end, self.closed)
        return self.accepted is not None and self.start <= instant <= until


@dataclass(slots=True)
class Trip:
    """A trip of a vehicle, by its last announcement.

    Attributes:
        start: epoch milliseconds; 0: not known (of a deleted trip, nothing is kept).
        stage: how far the announcement ranks within its revision.
        gone: why it does not count: the reason of its discard, or ``DELETED``.
        heard: when, by Kafka's timestamp.
        plan: the plan that it is linked to.
    """

    id: str
    vehicle_id: str
    start: int
    end: int | None
    revision: int
    stage: int
    gone: str | None
    heard: int
    plan: int | None = None

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The consumer's rule: deleted beats all, then the highest revision, then the later stage."""
        return self.gone == _DELETED, self.revision, self.stage


class Event(NamedTuple):
    """A change of a plan, for ``trip-status-events``.

    Attributes:
        occurred_at: the time of the record that it comes from, as it is written.
    """

    kind: str
    plan_id: int
    vehicle_id: str
    event_id: str
    occurred_at: str
    payload: bytes


@dataclass(slots=True)
class Changes:
    """What came about since the last time.

    Attributes:
        records: by key; None: not needed any more.
    """

    events: list[Event] = field(default_factory=list)
    records: dict[bytes, bytes | None] = field(default_factory=dict)


class _Vehicle:
    __slots__ = ("plans", "trips")

    def __init__(self) -> None:
        self.plans: set[int] = set()
        self.trips: dict[str, Trip] = {}


class Book:
    """All planned trips, and the trips that may be linked to them.

    Args:
        retention_ms: for how long a plan is kept after its last change.
        memory_ms: for how long a trip that is not linked is kept after its last announcement.
    """

    def __init__(self, *, retention_ms: int, memory_ms: int) -> None:
        self.plans: dict[int, Plan] = {}
        self.positions: dict[str, int] = {}
        """Where to go on in each partition that is read: the owner's; kept with the records."""
        self.next_id = 1
        self._retention = retention_ms
        self._memory = memory_ms
        self._by_tms: dict[str, int] = {}
        self._vehicles: dict[str, _Vehicle] = {}
        self._linked: dict[int, set[str]] = {}
        self._trip_count = 0
        # When vehicles with trips were last heard of; and the same, or an earlier time, for each as a heap.
        self._heard: dict[str, int] = {}
        self._quiet: list[tuple[int, str]] = []
        self._due: list[tuple[int, int]] = []
        self._changes = Changes()
        self._touched_plans: set[int] = set()
        self._touched_trips: dict[str, Trip | None] = {}
        self._restoring: dict[str, Trip] = {}
        self._counted: tuple[int, int] | None = None

    # -- what is asked ---------------------------------------------------------------------------------------------

    def plan(self, body: PlanBody, at_ms: int) -> dict[str, Any]:
        """Plan a trip.

        Args:
            body: what is planned.
            at_ms: Kafka's timestamp of the request.

        Returns:
            ``outcome``: ``planned`` or ``repeated``, with the ``plan``'s id; ``conflict``, with the names of what
            ``differs``.
        """
        known = self._by_tms.get(body.tms_trip_id)
        if known is not None:
            plan = self.plans[known]
            differs = [
                name
                for name, there, asked in (
                    ("vehicleId", plan.vehicle_id, body.vehicle_id),
                    ("windowStart", plan.start, body.start_ms),
                    ("windowEnd", plan.end, body.end_ms),
                )
                if there != asked
            ]
            if differs:
                return {"outcome": "conflict", "differs": differs, "plan": known}
            return {"outcome": "repeated", "plan": known}
        plan = Plan(
            self.next_id, body.tms_trip_id, body.vehicle_id, body.start_ms, body.end_ms, created=at_ms, changed=at_ms
        )
        self.next_id += 1
        self._add_plan(plan)
        self._tell("TripPlanned", plan, at_ms, at_ms, {})
        return {"outcome": "planned", "plan": plan.id}

    def update(self, body: UpdateBody, at_ms: int) -> dict[str, Any]:
        """Apply a status update, or not.

        Args:
            body: the update.
            at_ms: Kafka's timestamp of the request.

        Returns:
            ``outcome``: ``applied``; ``repeated``: it has been before; ``unknown``: no such plan; ``outdated``: a
            later one was applied; ``refused``, with the reason as ``text``.
        """
        plan = self._find(body)
        if plan is None:
            return {"outcome": "unknown"}
        mark = _mark(body)
        if mark in plan.applied:
            return {"outcome": "repeated"}
        if plan.updated is not None and body.time_ms < plan.updated:
            return {"outcome": "outdated"}
        before, after = plan.state, TRANSITIONS[plan.state][body.status].to
        if after is None:
            return {"outcome": "refused", "text": refusal(body.status, before)}
        plan.state, plan.updated, plan.changed = after, body.time_ms, at_ms
        plan.applied = [*plan.applied[1 - _REMEMBERED :], mark]
        if after is not before:
            if after is State.IN_PROGRESS or (after is State.COMPLETED and plan.accepted is None):
                plan.accepted = body.time_ms  # whoever has completed it has taken it on
            if after in TERMINAL:
                plan.closed = body.time_ms
                heapq.heappush(self._due, (self._due_of(plan), plan.id))
        update = {
            "status": int(body.status),
            "action": body.status.word,
            "from": before.value,
            "timestamp": _rfc3339(body.time_ms),
            "location": _location(body.location),
        }
        self._tell("TripStatusUpdated", plan, at_ms, body.time_ms, {"update": update})
        if after is not before:
            self._relink_all(plan, at_ms)
        return {"outcome": "applied"}

    def note(self, trip: Trip) -> None:
        """Take note of what happened to a trip, by its announcement (:func:`read_trip`)."""
        vehicle = self._vehicles.get(trip.vehicle_id)
        known = vehicle.trips.get(trip.id) if vehicle is not None else None
        if known is not None and trip.rank <= known.rank:
            return
        trip.plan = known.plan if known is not None else None
        self._vehicles.setdefault(trip.vehicle_id, _Vehicle()).trips[trip.id] = trip
        self._trip_count += known is None
        self._hear(trip.vehicle_id, trip.heard)
        self._touched_trips[trip.id] = trip
        self._relink(trip, trip.heard, moved=known is None or (known.start, known.end) != (trip.start, trip.end))

    def expire(self, now_ms: int) -> int:
        """Forget what has been kept for long enough.

        Only to be called when everything that came before ``now_ms`` has been read: what is still on its way may be
        about what would be forgotten.

        Returns:
            How many plans have expired.
        """
        expired = 0
        while self._due and self._due[0][0] <= now_ms:
            _, plan_id = heapq.heappop(self._due)
            plan = self.plans.get(plan_id)
            if plan is None:
                continue
            due = self._due_of(plan)
            if due > now_ms:
                heapq.heappush(self._due, (due, plan_id))
                continue
            self._forget_plan(plan, now_ms)
            expired += 1
        since = now_ms - self._memory
        while self._quiet and self._quiet[0][0] < since:
            _, vehicle_id = heapq.heappop(self._quiet)
            heard = self._heard[vehicle_id]
            if heard >= since:
                heapq.heappush(self._quiet, (heard, vehicle_id))
            else:
                del self._heard[vehicle_id]
                self._forget_trips(vehicle_id, since)
        return expired

    # -- what comes of it ------------------------------------------------------------------------------------------

    def take(self) -> Changes:
        """What came about since the last time; without the positions (:meth:`meta`)."""
        changes, self._changes = self._changes, Changes()
        for plan_id in self._touched_plans:
            plan = self.plans.get(plan_id)
            changes.records[plan_key(plan_id)] = None if plan is None else _pack_plan(plan)
        for trip_id, trip in self._touched_trips.items():
            changes.records[trip_key(trip_id)] = None if trip is None else _pack_trip(trip)
        self._touched_plans, self._touched_trips = set(), {}
        return changes

    def meta(self) -> bytes:
        """The record under :data:`META_KEY`; written with every change."""
        # The counts: so that records which are missing are missed.
        return orjson.dumps(
            {
                "format": FORMAT,
                "next_id": self.next_id,
                "positions": self.positions,
                "plans": len(self.plans),
                "trips": self.trip_count,
            }
        )

    def restore(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take records of a book, in order; :meth:`restored` when there are no more.

        Raises:
            StateError: one of them is not ours, or is damaged, or of a newer version.
        """
        for key, value in items:
            try:
                self._restore(key, value)
            except (KeyError, TypeError, ValueError) as error:
                raise StateError(f"the record with key {key!r} is damaged ({type(error).__name__})") from error

    def restored(self) -> bool:
        """All records have been taken: set up what follows from them.

        Returns:
            Whether there was anything.

        Raises:
            StateError: some of them are missing.
        """
        for trip in self._restoring.values():
            self._vehicles.setdefault(trip.vehicle_id, _Vehicle()).trips[trip.id] = trip
            self._trip_count += 1
            self._hear(trip.vehicle_id, trip.heard)
            if trip.plan is not None:
                self._linked.setdefault(trip.plan, set()).add(trip.id)
        for plan in self.plans.values():
            self._by_tms[plan.tms_trip_id] = plan.id
            self._vehicles.setdefault(plan.vehicle_id, _Vehicle()).plans.add(plan.id)
            self._due.append((self._due_of(plan), plan.id))
        heapq.heapify(self._due)
        self._restoring = {}
        there = len(self.plans), self.trip_count
        if self._counted is not None and there != self._counted:
            raise StateError(
                f"it holds {there[0]} plans and {there[1]} trips, and should hold {self._counted[0]} and "
                f"{self._counted[1]}: records are missing"
            )
        return self._counted is not None

    @property
    def trip_count(self) -> int:
        """How many trips are remembered."""
        return self._trip_count

    @property
    def link_count(self) -> int:
        """How many trips are linked to a plan."""
        return sum(len(trips) for trips in self._linked.values())

    # -- linking ---------------------------------------------------------------------------------------------------

    def _choose(self, trip: Trip) -> int | None:
        """The plan that a trip belongs to.

        The one that the driver had accepted last when the trip began. If none had been accepted by then: the one that
        was accepted first after that. Of two that were accepted at the same instant the one with the lower id.
        """
        if trip.gone is not None:
            return None
        plans = [self.plans[number] for number in self._vehicles[trip.vehicle_id].plans]
        accepted = [(plan.accepted, plan.id) for plan in plans if plan.accepted is not None and plan.covers(trip.start)]
        before = [(instant, -number) for instant, number in accepted if instant <= trip.start]
        if before:
            return -max(before)[1]
        return min(accepted)[1] if accepted else None

    def _relink_all(self, plan: Plan, at_ms: int) -> None:
        trips = self._vehicles[plan.vehicle_id].trips.values()
        near = sorted((trip for trip in trips if plan.start <= trip.start <= plan.end), key=lambda one: one.id)
        for trip in near:  # ids are in the order of starts
            self._relink(trip, at_ms, moved=False)

    def _relink(self, trip: Trip, at_ms: int, *, moved: bool) -> None:
        """Compare the link of a trip with what it should be, and tell the difference."""
        before, after = trip.plan, self._choose(trip)
        if before == after:
            if after is not None and moved:
                self._tell(
                    "TripLinkCorrected", self.plans[after], at_ms, trip.end or trip.start, {"trip": _names(trip)}
                )
            return
        trip.plan = after
        self._touched_trips[trip.id] = trip
        self._hear(trip.vehicle_id, trip.heard)
        if before is not None:
            self._linked[before].discard(trip.id)
            plan = self.plans[before]
            why = trip.gone or ("OTHER_PLAN" if after is not None else "PLAN_CLOSED")
            # Of a trip that was deleted nothing is told but its id; of the others when they began.
            told = {"id": trip.id, "revision": trip.revision}
            self._tell("TripUnlinked", plan, at_ms, trip.start or at_ms, {"reason": why, "trip": told})
        if after is not None:
            self._linked.setdefault(after, set()).add(trip.id)
            self._tell("TripLinked", self.plans[after], at_ms, trip.start, {"trip": _names(trip)})

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _find(self, body: UpdateBody) -> Plan | None:
        number = body.trip_id if body.tms_trip_id is None else self._by_tms.get(body.tms_trip_id)
        return None if number is None else self.plans.get(number)

    def _add_plan(self, plan: Plan) -> None:
        self.plans[plan.id] = plan
        self._by_tms[plan.tms_trip_id] = plan.id
        self._vehicles.setdefault(plan.vehicle_id, _Vehicle()).plans.add(plan.id)
        heapq.heappush(self._due, (self._due_of(plan), plan.id))

    def _due_of(self, plan: Plan) -> int:
        last = plan.changed if plan.state in TERMINAL else max(plan.changed, plan.end)
        return last + self._retention

    def _forget_plan(self, plan: Plan, now_ms: int) -> None:
        self._tell("TripPlanExpired", plan, now_ms, now_ms, {})
        del self.plans[plan.id], self._by_tms[plan.tms_trip_id]
        vehicle = self._vehicles[plan.vehicle_id]
        vehicle.plans.discard(plan.id)
        for trip_id in self._linked.pop(plan.id, set()):
            del vehicle.trips[trip_id]
            self._trip_count -= 1
            self._touched_trips[trip_id] = None
        self._drop_if_empty(plan.vehicle_id)

    def _hear(self, vehicle_id: str, at_ms: int) -> None:
        known = self._heard.get(vehicle_id)
        if known is None:
            heapq.heappush(self._quiet, (at_ms, vehicle_id))
        self._heard[vehicle_id] = at_ms if known is None else max(known, at_ms)

    def _forget_trips(self, vehicle_id: str, since: int) -> None:
        vehicle = self._vehicles.get(vehicle_id)
        if vehicle is None:
            return
        for trip in list(vehicle.trips.values()):
            if trip.plan is None and trip.heard < since:
                del vehicle.trips[trip.id]
                self._trip_count -= 1
                self._touched_trips[trip.id] = None
        self._drop_if_empty(vehicle_id)

    def _drop_if_empty(self, vehicle_id: str) -> None:
        vehicle = self._vehicles[vehicle_id]
        if not vehicle.plans and not vehicle.trips:
            del self._vehicles[vehicle_id]

    def _tell(self, kind: str, plan: Plan, at_ms: int, occurred: int, more: Mapping[str, Any]) -> None:
        plan.revision += 1
        self._touched_plans.add(plan.id)
        name = event_id(at_ms, f"plan {plan.id}", kind, plan.revision)
        payload = {
            "metadata": {"id": name, "type": kind, "schema_major_version": 1, "occurred_at": _rfc3339(at_ms)},
            "data": {
                "occurred_at": _rfc3339(occurred),
                "plan": {
                    "id": plan.id,
                    "tms_trip_id": plan.tms_trip_id,
                    "revision": plan.revision,
                    "vehicle_id": plan.vehicle_id,
                    "status": plan.state.value,
                    "window": {"start": _rfc3339(plan.start), "end": _rfc3339(plan.end)},
                },
                **more,
            },
        }
        event = Event(kind, plan.id, plan.vehicle_id, name, _rfc3339(at_ms), orjson.dumps(payload))
        self._changes.events.append(event)

    def _restore(self, key: bytes, value: bytes | None) -> None:
        if key == META_KEY:
            meta = orjson.loads(value or b"")
            if meta["format"] > FORMAT:
                raise StateError(f"it has format version {meta['format']}, and this program reads up to {FORMAT}")
            self.next_id, self.positions = meta["next_id"], meta["positions"]
            self._counted = meta["plans"], meta["trips"]
        elif key.startswith(_PLAN):
            number = int(key[1:])
            if value is None:
                self.plans.pop(number, None)
            else:
                self.plans[number] = _unpack_plan(number, orjson.loads(value))
        elif key.startswith(_TRIP):
            trip_id = key[1:].decode()
            if value is None:
                self._restoring.pop(trip_id, None)
            else:
                self._restoring[trip_id] = Trip(trip_id, *orjson.loads(value))


def plan_key(plan_id: int) -> bytes:
    """The key of a plan's record."""
    return b"%b%d" % (_PLAN, plan_id)


def trip_key(trip_id: str) -> bytes:
    """The key of a trip's record."""
    return _TRIP + trip_id.encode()


def _pack_plan(plan: Plan) -> bytes:
    return orjson.dumps({name: getattr(plan, name) for name in Plan.__slots__ if name != "id"})


def _unpack_plan(number: int, fields: dict[str, Any]) -> Plan:
    fields["state"] = State(fields["state"])
    return Plan(id=number, **fields)


def _pack_trip(trip: Trip) -> bytes:
    # There are many more of these than of plans: without names, in the order of the fields.
    return orjson.dumps([getattr(trip, name) for name in Trip.__slots__ if name != "id"])


def read_trip(announcement: Mapping[str, Any], at_ms: int) -> Trip:
    """What an announcement says of a trip.

    Args:
        announcement: as in ``trip-events``, decoded.
        at_ms: Kafka's timestamp of its record.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    kind, data = announcement["metadata"]["type"], announcement["data"]
    trip = data["trip"]
    gone = None
    if kind == "TripDeleted":
        gone = _DELETED
    elif kind == "TripDiscarded":
        gone = str(data["reason"])
    deleted = gone == _DELETED  # of such a trip nothing is kept but that it is
    end = None if deleted else trip.get("end")
    return Trip(
        id=str(trip["id"]),
        vehicle_id=str(trip["vehicle_id"]),
        start=0 if deleted else _milliseconds(trip["start"]["timestamp"]),
        end=None if end is None else _milliseconds(end["timestamp"]),
        revision=int(trip["revision"]),
        stage=_STAGES[kind],
        gone=gone,
        heard=at_ms,
    )


def _names(trip: Trip) -> dict[str, Any]:
    names: dict[str, Any] = {
        "id": trip.id,
        "revision": trip.revision,
        "start": {"timestamp": _rfc3339(trip.start)},
    }
    if trip.end is not None:
        names["end"] = {"timestamp": _rfc3339(trip.end)}
    return names


def _location(location: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(location)
    if "device_time" in told:
        told["device_time"] = _rfc3339(told["device_time"])
    return told


def _mark(body: UpdateBody) -> str:
    """What identifies an update to a plan: all that it says."""
    said = orjson.dumps([int(body.status), body.time_ms, body.location], option=orjson.OPT_SORT_KEYS)
    return blake2b(said, digest_size=8).hexdigest()


def _milliseconds(written: str) -> int:
    return (datetime.fromisoformat(written) - _EPOCH) // _MILLISECOND


def _rfc3339(instant: int) -> str:
    moment = _EPOCH + instant * _MILLISECOND
    text = moment.isoformat(timespec="milliseconds" if instant % 1000 else "seconds")
    return text.replace("+00:00", "Z")
