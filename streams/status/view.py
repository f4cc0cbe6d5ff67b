"""What every process knows of the planned trips, by following the changelog: for looking things up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

__all__ = ["PlannedTrip", "View"]

_PLAN: Final = b"p"
_TRIP: Final = b"t"


@dataclass(frozen=True, slots=True)
class LinkedTrip:
    """A trip of the vehicle that is linked to a planned one. Times are epoch milliseconds; ``end``: None: it is on."""

    id: str
    revision: int
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class PlannedTrip:
    """A planned trip and how it stands.

    Attributes:
        fields: as the book keeps them.
        trips: linked to it, in the order in which they began.
    """

    id: int
    fields: dict[str, Any]
    trips: list[LinkedTrip]

    def to_json(self) -> dict[str, Any]:
        """As it is answered; what is not known is left out."""
        fields = self.fields
        shown = {
            "tripId": self.id,
            "tmsTripId": fields["tms_trip_id"],
            "vehicleId": fields["vehicle_id"],
            "windowStart": _rfc3339(fields["start"]),
            "windowEnd": _rfc3339(fields["end"]),
            "tripStatus": fields["state"],
        }
        if fields["updated"] is not None:
            shown["lastUpdate"] = _rfc3339(fields["updated"])
        return shown | {"trips": [_shown(trip) for trip in self.trips]}


def _shown(trip: LinkedTrip) -> dict[str, Any]:
    shown = {"id": trip.id, "revision": trip.revision, "start": _rfc3339(trip.start)}
    return shown if trip.end is None else shown | {"end": _rfc3339(trip.end)}


class View:
    """The plans and their links; encoded, because few of them are ever asked for."""

    def __init__(self) -> None:
        self._plans: dict[int, bytes] = {}
        self._by_tms: dict[str, int] = {}
        self._trips: dict[str, tuple[int, LinkedTrip]] = {}
        self._linked: dict[int, set[str]] = {}

    def take(self, key: bytes, value: bytes | None) -> None:
        """A record of the changelog; one that is of no interest is left."""
        if key.startswith(_PLAN):
            self._take_plan(int(key[1:]), value)
        elif key.startswith(_TRIP):
            self._take_trip(key[1:].decode(), value)

    def find(self, plan_id: int | None = None, *, tms_trip_id: str | None = None) -> PlannedTrip | None:
        """A planned trip, by one of its ids."""
        number = self._by_tms.get(tms_trip_id) if tms_trip_id is not None else plan_id
        value = None if number is None else self._plans.get(number)
        if number is None or value is None:
            return None
        trips = [self._trips[trip_id][1] for trip_id in sorted(self._linked.get(number, ()))]
        return PlannedTrip(number, orjson.loads(value), trips)

    def plan_of(self, trip_id: str) -> PlannedTrip | None:
        """The planned trip that a trip is linked to."""
        found = self._trips.get(trip_id)
        return None if found is None else self.find(found[0])

    def _take_plan(self, number: int, value: bytes | None) -> None:
        before = self._plans.pop(number, None)
        if before is not None:
            self._by_tms.pop(orjson.loads(before)["tms_trip_id"], None)
        if value is not None:
            self._plans[number] = value
            self._by_tms[orjson.loads(value)["tms_trip_id"]] = number

    def _take_trip(self, trip_id: str, value: bytes | None) -> None:
        before = self._trips.pop(trip_id, None)
        if before is not None:
            linked = self._linked[before[0]]
            linked.discard(trip_id)
            if not linked:
                del self._linked[before[0]]
        if value is not None:
            _vehicle, start, end, revision, _stage, _gone, _heard, plan = orjson.loads(value)
            if plan is not None:
                self._trips[trip_id] = plan, LinkedTrip(trip_id, revision, start, end)
                self._linked.setdefault(plan, set()).add(trip_id)


def _rfc3339(instant: int) -> str:
    moment = datetime.fromtimestamp(instant // 1000, UTC).replace(microsecond=instant % 1000 * 1000)
    text = moment.isoformat(timespec="milliseconds" if instant % 1000 else "seconds")
    return text.replace("+00:00", "Z")
