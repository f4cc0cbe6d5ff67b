"""Distances on the earth, in whole millimetres, so that a path is an exact sum of its legs."""

from __future__ import annotations

from math import asin, cos, floor, radians, sin, sqrt
from typing import Final

__all__ = ["DIAMETER_MM", "STEP", "cosine", "is_jump", "leg_and_cosine", "leg_mm"]

DIAMETER_MM: Final = 2 * 6_371_008_800
"""Twice the mean earth radius R1 = 6371.0088 km (Moritz 2000, Geodetic Reference System 1980)."""

STEP: Final = radians(1e-7)
"""Of latitudes and longitudes, in radians."""


def leg_mm(latitude: int, longitude: int, to_latitude: int, to_longitude: int) -> int:
    """The great circle between two positions in 1e-7 degrees, by the haversine formula, rounded half up to 1 mm."""
    return leg_and_cosine(latitude, longitude, cosine(latitude), to_latitude, to_longitude)[0]


def cosine(latitude: int) -> float:
    """Of a latitude in 1e-7 degrees, for :func:`leg_and_cosine`."""
    return cos(latitude * STEP)


def leg_and_cosine(
    latitude: int, longitude: int, cosine_there: float, to_latitude: int, to_longitude: int
) -> tuple[int, float]:
    """As :func:`leg_mm`, for a path: takes the cosine of where it comes from, gives that of where it goes to."""
    half = sin((to_latitude - latitude) * STEP / 2)
    across = sin((to_longitude - longitude) * STEP / 2)
    cosine_here = cos(to_latitude * STEP)
    root = sqrt(half * half + cosine_there * cosine_here * across * across)
    return floor(DIAMETER_MM * asin(min(1.0, root)) + 0.5), cosine_here


def is_jump(leg: int, elapsed_ms: int) -> bool:
    """Whether a leg in mm within that time implies more than 300 km/h, which is 250 m in 3 s."""
    return leg * 3 > elapsed_ms * 250
