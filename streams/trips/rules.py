"""The rules by which trips are told: what can be set about a derivation, in its own units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streams.trips.samples import SWITCHES, Property

__all__ = ["Rules"]

_MINUTE = 60_000
_HOUR = 60 * _MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides which trips a timeline holds, and how they are announced. Times in milliseconds.

    Args:
        trigger: the switch whose change starts and ends trips.
        unknown_start: whether an ON of which nothing is known before starts a trip (``start``), or waits for an
            observed OFF and ON (``ignore``).
        min_duration_ms: trips shorter than this are discarded.
        min_distance_m: trips shorter than this, in metres, are discarded; 0: off.
        merge_gap_ms: an OFF followed by an ON at most that much later does not end the trip; 0: off.
        ready_delay_ms: how much longer than a trip's end its data may still come in before it is ready; 0: off.
        silence_timeout_ms: without any sample for longer than this a trip that is on has a data gap; 0: never.
        correction_horizon_ms: how far behind a vehicle's newest sample late samples still change its trips.
        revision_base: added to the offset to make a revision.
        ready_event_name: the event that tells that a trip's data are complete.
        route_tolerance_m: how far apart the points of a trip's simplified route are, in metres, as long as there are
            not too many; 0: none is kept.

    Raises:
        ValueError: a combination that has no meaning; the message names both settings.
    """

    trigger: Property = Property.IGNITION
    unknown_start: Literal["start", "ignore"] = "start"
    min_duration_ms: int = _MINUTE
    min_distance_m: int = 0
    merge_gap_ms: int = 0
    ready_delay_ms: int = 0
    silence_timeout_ms: int = _HOUR
    correction_horizon_ms: int = 24 * _HOUR
    revision_base: int = 0
    ready_event_name: Literal["TripDataReady", "TripMetricsReady"] = "TripDataReady"
    route_tolerance_m: int = field(default=0, repr=False)  # state knows its rules by how they look: see vehicle.py

    def __post_init__(self) -> None:
        if self.trigger not in SWITCHES:
            raise ValueError(f"trigger must be a switch, not {self.trigger.name}")
        for name in (
            "min_duration_ms",
            "min_distance_m",
            "merge_gap_ms",
            "ready_delay_ms",
            "silence_timeout_ms",
            "revision_base",
            "route_tolerance_m",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.correction_horizon_ms <= 0:
            raise ValueError("correction_horizon_ms must be positive")
        if self.silence_timeout_ms and self.merge_gap_ms >= self.silence_timeout_ms:
            raise ValueError("merge_gap must be less than silence_timeout: a gap that long is a data gap")
        if self.merge_gap_ms >= self.correction_horizon_ms:
            raise ValueError("merge_gap must be less than correction_horizon: an end must stand before it is settled")
