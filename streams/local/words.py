"""Announcements in words and numbers for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "clock_time",
    "day_and_time",
    "distance",
    "duration",
    "in_words",
    "parse_time",
    "reasons",
    "speed",
    "time_of_day",
]

_EVENT_WORDS = {
    "TripStarted": "started",
    "TripEnded": "ended",
    "TripDataReady": "ready",
    "TripMetricsReady": "ready",
    "TripDiscarded": "discarded",
    "TripDeleted": "deleted",
}


def parse_time(text: str) -> datetime:
    """A timestamp of an announcement."""
    return datetime.fromisoformat(text)


def day_and_time(text: str | None) -> str:
    """``2019-05-26 21:31:08``, UTC, as everything is."""
    return "" if text is None else parse_time(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock_time(text: str | None) -> str:
    """``21:31:08``."""
    return "" if text is None else parse_time(text).astimezone(UTC).strftime("%H:%M:%S")


def time_of_day(milliseconds: int) -> str:
    """``2019-05-26 21:31:08`` of epoch milliseconds; 0: nothing."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if milliseconds else ""


def duration(milliseconds: int | None) -> str:
    """``53 s``, ``12:05 min`` or ``1:02:03 h``."""
    if milliseconds is None:
        return ""
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02} h"
    return f"{minutes}:{seconds:02} min" if minutes else f"{seconds} s"


def distance(metrics: Mapping[str, Any]) -> str:
    """``8.359 km``; with ``(GPS)`` where the odometer does not know."""
    kilometres = metrics.get("distance_in_km")
    if kilometres is None:
        return ""
    return f"{kilometres:.3f} km" + (" (GPS)" if metrics.get("distance_source") == "GPS" else "")


def speed(metrics: Mapping[str, Any]) -> str:
    """The largest speed, ``92 km/h``."""
    fastest = metrics.get("max_speed_in_kmh")
    return "" if fastest is None else f"{fastest:.0f} km/h"


def reasons(data: Mapping[str, Any]) -> str:
    """Why a trip was discarded, and its flags."""
    flags = data["trip"].get("flags") or []
    return ", ".join([*([data["reason"]] if data.get("reason") else []), *flags])


def in_words(announcement: Mapping[str, Any]) -> str:
    """An announcement on one line."""
    kind, data = announcement["metadata"]["type"], announcement["data"]
    trip = data["trip"]
    metrics = trip.get("metrics") or {}
    parts = [
        day_and_time(data["occurred_at"]),
        f"{trip['vehicle_id']:<12}",
        f"trip {trip['key']}",
        f"{_EVENT_WORDS.get(kind, kind):<9}",
        duration(metrics.get("duration_in_ms")),
        distance(metrics),
        speed(metrics) and f"up to {speed(metrics)}",
        reasons(data) and f"[{reasons(data)}]",
    ]
    return "  ".join(part for part in parts if part).rstrip()
