"""A consumer of announcements that knows nothing but the contract's rule, and checks what it is promised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from streams.records import Announcement, TripsRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["View", "check_announcement", "check_one_payload", "check_order", "final_view", "trips_topic"]

READY: Final = ("TripDataReady", "TripMetricsReady")
RANK: Final = {"TripStarted": 0, "TripEnded": 1, "TripDataReady": 2, "TripMetricsReady": 2, "TripDiscarded": 2}
DELETED: Final = "TripDeleted"


@dataclass(frozen=True)
class View:
    """What a consumer holds of a trip.

    ``status``: ``on``, ``ended``, ``ready``, ``discarded``, ``superseded`` or ``deleted``.
    """

    status: str
    revision: int
    trip: dict[str, Any]
    data: dict[str, Any]


def final_view(payloads: Iterable[dict[str, Any]]) -> dict[str, View]:
    """The consumer's rule: per trip id the highest revision wins; within one, started < ended < ready or discarded.

    The order of the payloads does not matter. Deleted beats all.
    """
    best: dict[str, tuple[tuple[bool, int, int], View]] = {}
    for payload in payloads:
        event = payload["metadata"]["type"]
        data = payload["data"]
        trip = data["trip"]
        view = View(_status(event, data), trip["revision"], trip, data)
        rank = (event == DELETED, trip["revision"], RANK.get(event, 3))
        if trip["id"] not in best or rank >= best[trip["id"]][0]:
            best[trip["id"]] = (rank, view)
    return {trip_id: view for trip_id, (_, view) in best.items()}


def _status(event: str, data: dict[str, Any]) -> str:
    if event == "TripDiscarded":
        return "superseded" if data["reason"] == "SUPERSEDED" else "discarded"
    if event in READY:
        return "ready"
    return {"TripStarted": "on", "TripEnded": "ended", DELETED: "deleted"}[event]


def trips_topic(announcements: Iterable[Announcement]) -> dict[str, dict[str, Any]]:
    """What the compacted ``trips`` topic holds in the end."""
    topic: dict[str, dict[str, Any]] = {}
    for announcement in announcements:
        if announcement.trips_record is TripsRecord.PUT:
            assert announcement.event in READY
            topic[announcement.trip_id] = json.loads(announcement.payload)
        elif announcement.trips_record is TripsRecord.DELETE:
            topic.pop(announcement.trip_id, None)
    return topic


def check_announcement(announcement: Announcement) -> None:
    """What stands beside the payload is what stands in it."""
    payload = json.loads(announcement.payload)
    metadata, data = payload["metadata"], payload["data"]
    assert metadata["id"] == announcement.event_id
    assert metadata["type"] == announcement.event
    assert metadata["schema_major_version"] == 1
    assert data["trip"]["id"] == announcement.trip_id
    assert data["trip"]["revision"] == announcement.revision
    assert data["trip"]["vehicle_id"] == announcement.vehicle_id
    assert "null" not in announcement.payload.decode()


def check_one_payload(announcements: Iterable[Announcement]) -> None:
    """(trip id, type, revision) names one payload, byte for byte, for ever."""
    said: dict[tuple[str, str, int], bytes] = {}
    for announcement in announcements:
        name = (announcement.trip_id, announcement.event, announcement.revision)
        assert said.setdefault(name, announcement.payload) == announcement.payload, name


def check_order(announcements: Iterable[Announcement]) -> None:
    """Within each trip: revisions never fall, and started comes before ended before ready or discarded.

    After a trip was deleted nothing is said of it.
    """
    last: dict[str, Announcement] = {}
    for announcement in announcements:
        before = last.get(announcement.trip_id)
        last[announcement.trip_id] = announcement
        event = announcement.event
        assert before is None or before.event != DELETED, (announcement.trip_id, before, announcement)
        if event == DELETED:
            assert before is None or announcement.revision >= before.revision, (announcement.trip_id, before)
            continue
        superseded = event == "TripDiscarded" and json.loads(announcement.payload)["data"]["reason"] == "SUPERSEDED"
        if before is None:
            assert event == "TripStarted", (announcement.trip_id, event, "first")
            continue
        assert announcement.revision >= before.revision, (announcement.trip_id, before, announcement)
        if announcement.revision == before.revision:
            assert RANK[event] > RANK[before.event], (announcement.trip_id, before, announcement)
        was_superseded = (
            before.event == "TripDiscarded" and json.loads(before.payload)["data"]["reason"] == "SUPERSEDED"
        )
        if was_superseded:
            assert event == "TripStarted", (announcement.trip_id, before, announcement)
        elif event == "TripStarted" or (not superseded and event != "TripEnded"):
            assert before.event != "TripStarted", (announcement.trip_id, before, announcement)
