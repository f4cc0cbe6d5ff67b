"""The job of the peers, in its cheapest honest form: trips of messages that are valid, in order, and all alike.

One record a vehicle with running totals: no late data, no corrections, no dead letters, no topic of trips, no silence.
It is also the reference by which all outputs are checked. Imported by programs in environments of their own: orjson
apart, the standard library is all that it may use.
"""
# ruff: noqa: INP001

from __future__ import annotations

import hashlib
from datetime import datetime
from math import asin, cos, pi, sin, sqrt
from typing import Any, Final

EARTH_RADIUS_M: Final = 6_371_008.8
MIN_DURATION_MS: Final = 60_000
_RADIANS: Final = pi / 180


def distance_m(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Along the great circle, by the haversine formula."""
    phi_a, phi_b = lat_a * _RADIANS, lat_b * _RADIANS
    half_lat = sin((phi_b - phi_a) * 0.5)
    half_lon = sin((lon_b - lon_a) * _RADIANS * 0.5)
    return 2 * EARTH_RADIUS_M * asin(sqrt(half_lat * half_lat + cos(phi_a) * cos(phi_b) * half_lon * half_lon))


def epoch_ms(text: str) -> int:
    """Of an RFC 3339 timestamp with an offset."""
    return int(datetime.fromisoformat(text).timestamp() * 1000 + 0.5)


def trip_id(vehicle: str, start: int) -> str:
    """The same for the same trip."""
    return hashlib.blake2b(f"{vehicle}|{start}".encode(), digest_size=16).hexdigest()


class State:
    """What is kept of a vehicle. Times in epoch ms, lengths in metres, speeds in km/h."""

    __slots__ = ("distance", "lat", "lon", "newest", "odometer_km", "on", "points", "speed_max", "speed_sum", "start")

    def __init__(self) -> None:
        self.on = False
        self.newest = 0
        self.start = self.points = 0
        self.lat = self.lon = self.distance = self.speed_max = self.speed_sum = self.odometer_km = 0.0


FIELDS: Final = State.__slots__


def stored(state: State) -> dict[str, Any]:
    """As it goes to a changelog."""
    return {name: getattr(state, name) for name in FIELDS}


def step(states: dict[str, State], message: dict[str, Any], out: list[dict[str, Any]]) -> None:
    """Apply a message; what is to be announced is appended to ``out``."""
    vehicle = message["vehicle_id"]
    state = states.get(vehicle)
    if state is None:
        state = states[vehicle] = State()
    now = epoch_ms(message["timestamp"])
    if now <= state.newest:
        return
    state.newest = now
    on = message["ignition"] == "ON"
    position = message["position"]
    lat, lon, speed = position["lat"], position["lon"], message["speed_in_kmh"]
    if state.on:
        state.distance += distance_m(state.lat, state.lon, lat, lon)
        state.lat, state.lon = lat, lon
        state.points += 1
        state.speed_sum += speed
        if speed > state.speed_max:
            state.speed_max = speed
        if not on:
            state.on = False
            start = state.start
            trip = {"trip_id": trip_id(vehicle, start), "vehicle_id": vehicle, "start": start, "end": now}
            if now - start < MIN_DURATION_MS:
                out.append({"type": "TripDiscarded", **trip, "reason": "TOO_SHORT"})
                return
            out.append({"type": "TripEnded", **trip})
            out.append(
                {
                    "type": "TripDataReady",
                    **trip,
                    "distance_m": state.distance,
                    "odometer_m": round((message["mileage_in_kilometers"] - state.odometer_km) * 1000),
                    "points": state.points,
                    "max_kmh": state.speed_max,
                    "average_kmh": state.speed_sum / state.points,
                }
            )
    elif on:
        state.on = True
        state.start = now
        state.lat, state.lon, state.distance, state.points = lat, lon, 0.0, 1
        state.speed_max = state.speed_sum = speed
        state.odometer_km = message["mileage_in_kilometers"]
        out.append(
            {
                "type": "TripStarted",
                "trip_id": trip_id(vehicle, now),
                "vehicle_id": vehicle,
                "start": now,
                "lat": lat,
                "lon": lon,
            }
        )
