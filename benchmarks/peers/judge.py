"""What must have come out: the reference, and what an output lacks against it."""
# ruff: noqa: INP001

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import orjson
from peers.job import State, epoch_ms, step

__all__ = ["Reference", "wrong_with"]

# Kilometres are told with three decimals, the odometer is kept to 0.1 m: half a metre and the rounding of two readings.
_TOLERANCE_M: Final = 1.0
_EVENTS: Final = frozenset({"TripStarted", "TripEnded", "TripDiscarded", "TripDataReady", "TripMetricsReady"})

Boundaries = tuple[str, str, int, int | None]


class Reference:
    """What the job makes of these messages, worked out in this process."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._states: dict[str, State] = {}

    def add(self, value: bytes) -> None:
        """One message more."""
        step(self._states, orjson.loads(value), self.events)


def wrong_with(values: list[bytes], reference: Reference, *, ours: bool) -> str:
    """In a line, what is wrong with an output; empty: nothing."""
    found = [orjson.loads(value) for value in values]
    return _wrong_announcements(found, reference) if ours else _wrong_events(found, reference)


def _wrong_events(found: list[dict[str, Any]], reference: Reference) -> str:
    """A peer's: the same events, each as often; lengths to 0.1 m."""
    there, wanted = Counter(map(_signature, found)), Counter(map(_signature, reference.events))
    return _told(missing=(wanted - there).total(), extra=(there - wanted).total())


def _signature(event: dict[str, Any]) -> tuple[Any, ...]:
    distance = event.get("distance_m")
    return (
        event["type"],
        event["vehicle_id"],
        event["start"],
        event.get("end"),
        None if distance is None else round(distance, 1),
        event.get("points"),
        event.get("odometer_m"),
    )


def _wrong_announcements(found: list[dict[str, Any]], reference: Reference) -> str:
    """Ours, after the consumer's rule: boundaries exactly, both lengths to a metre. A discarded trip has an end."""
    wanted: dict[Boundaries, dict[str, Any]] = {}
    for event in reference.events:
        kind, end = event["type"], event.get("end")
        wanted[kind, event["vehicle_id"], event["start"], end] = event
        if kind == "TripDiscarded":
            wanted["TripEnded", event["vehicle_id"], event["start"], end] = event
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    repeated = 0
    for announcement in found:
        trip, kind = announcement["data"]["trip"], announcement["metadata"]["type"]
        known = newest.get((trip["id"], kind))
        repeated += known is not None and known["revision"] == trip["revision"]
        if known is None or trip["revision"] > known["revision"]:
            newest[trip["id"], kind] = trip
    there = {_boundaries(kind, trip): trip for (_, kind), trip in newest.items()}
    far = sum(_is_far(there[key], wanted[key]) for key in there.keys() & wanted.keys() if key[0] == "TripDataReady")
    return _told(
        missing=len(wanted.keys() - there.keys()), extra=len(there.keys() - wanted.keys()), far=far, repeated=repeated
    )


def _boundaries(kind: str, trip: dict[str, Any]) -> Boundaries:
    if kind not in _EVENTS:
        return kind, trip["vehicle_id"], 0, None
    end = epoch_ms(trip["end"]["timestamp"]) if "end" in trip else None
    kind = kind.replace("MetricsReady", "DataReady")
    return kind, trip["vehicle_id"], epoch_ms(trip["start"]["timestamp"]), end


def _is_far(trip: dict[str, Any], event: dict[str, Any]) -> bool:
    metrics = trip["metrics"]
    return (
        abs(metrics["gps_distance_in_km"] * 1000 - event["distance_m"]) > _TOLERANCE_M
        or abs(metrics["distance_in_km"] * 1000 - event["odometer_m"]) > _TOLERANCE_M
    )


def _told(**counts: int) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
