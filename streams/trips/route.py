"""A simplified route: few enough points to be kept in the totals of a trip, however long it lasts.

It goes by the positions in the order of time, and so is the same whatever order they came in. A position becomes a
point of the route when it is a step away from the last one. When there are too many points the step is doubled, and
the points are gone through once more. So each position that was left out is less than twice the last step away from a
point that stayed: less than one step from a point that was there then, that less than two from one that stayed, and
so on.
"""

from __future__ import annotations

from typing import Final

from streams.trips.geo import leg_mm

__all__ = ["MOST_POINTS", "Place", "decode", "encode", "extend"]

MOST_POINTS: Final = 256
"""About 1.5 KB of a trip's announcement, and of the state while it is on."""

Place = tuple[int, int]
"""Latitude and longitude in 1e-7 degrees."""

# The Encoded Polyline Algorithm: 1e-5 degrees, five bits a letter, from "?" on.
_UNIT: Final = 100
_FIRST_LETTER: Final = 63


def extend(route: tuple[Place, ...], step_mm: int, place: Place) -> tuple[tuple[Place, ...], int]:
    """A route with one more position, and its step."""
    if route and leg_mm(*route[-1], *place) < step_mm:
        return route, step_mm
    route += (place,)
    while len(route) > MOST_POINTS:
        step_mm *= 2
        kept = [route[0]]
        for point in route:
            if leg_mm(*kept[-1], *point) >= step_mm:
                kept.append(point)
        route = tuple(kept)
    return route, step_mm


def encode(route: tuple[Place, ...]) -> str:
    """As an encoded polyline of precision 5."""
    letters: list[str] = []
    before = (0, 0)
    for place in route:
        here = (_rounded(place[0]), _rounded(place[1]))
        for difference in (here[0] - before[0], here[1] - before[1]):
            value = difference << 1 if difference >= 0 else ~(difference << 1)
            while value >= 0x20:
                letters.append(chr((0x20 | value & 0x1F) + _FIRST_LETTER))
                value >>= 5
            letters.append(chr(value + _FIRST_LETTER))
        before = here
    return "".join(letters)


def _rounded(degrees: int) -> int:
    """1e-7 degrees as 1e-5, half away from zero."""
    return (degrees + 50) // _UNIT if degrees >= 0 else -((50 - degrees) // _UNIT)


def decode(polyline: str) -> list[tuple[float, float]]:
    """Latitude and longitude in degrees, of an encoded polyline of precision 5.

    Raises:
        ValueError: it is none.
    """
    numbers: list[int] = []
    value = shift = 0
    for letter in polyline:
        bits = ord(letter) - _FIRST_LETTER
        if not 0 <= bits < 0x40:
            raise ValueError(f"{letter!r} is no letter of an encoded polyline")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits < 0x20:
            numbers.append(~(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    if shift or len(numbers) % 2:
        raise ValueError("an encoded polyline that is cut off")
    route: list[tuple[float, float]] = []
    latitude = longitude = 0
    for index in range(0, len(numbers), 2):
        latitude, longitude = latitude + numbers[index], longitude + numbers[index + 1]
        route.append((latitude / 1e5, longitude / 1e5))
    return route
