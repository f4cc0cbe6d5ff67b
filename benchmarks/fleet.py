"""The telemetry of a fleet that drives, as messages of the contract: the same bytes for the same arguments.

A vehicle sends a message every five seconds while it drives, ten minutes nothing, and drives again. Every tenth trip is
shorter than a minute. The vehicles take turns. A message has a switch, a position, three numbers and about 255 bytes.
"""
# ruff: noqa: INP001, S311

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

import orjson

from streams.trips.content import iso

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE_MS: Final = 600_000
EVERY_MS: Final = 5_000


class Vehicle:
    """One that drives."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = f"vehicle-{number:06}"
        self._chance = chance
        self._clock = chance.randrange(EVERY_MS)
        self._latitude = 52.0 + chance.random()
        self._longitude = 12.9 + chance.random()
        self._odometer = chance.randrange(1_000_000, 90_000_000)
        self._trip = 0
        self._left = chance.randrange(1, 60)
        self._heading = chance.random() * 2 * math.pi

    def message(self, since: int) -> bytes:
        """The next one; times count from ``since`` (epoch ms)."""
        self._clock += EVERY_MS
        on = self._left > 0
        if on:
            self._left -= 1
        else:
            self._trip += 1
            self._left = 7 if self._trip % 10 == 0 else self._chance.randrange(40, 80)
        instant = since + self._clock
        if not on:
            self._clock += PAUSE_MS
        speed = 30 + 40 * self._chance.random()
        metres = speed / 3.6 * EVERY_MS / 1000
        self._heading += self._chance.random() - 0.5
        self._latitude += metres / 111_320 * math.cos(self._heading)
        self._longitude += metres / 68_000 * math.sin(self._heading)
        self._odometer += int(metres)
        return orjson.dumps(
            {
                "vehicle_id": self.name,
                "timestamp": iso(instant),
                "ignition": "ON" if on else "OFF",
                "position": {"lat": round(self._latitude, 6), "lon": round(self._longitude, 6)},
                "speed_in_kmh": round(speed, 1),
                "heading_in_degrees": round(math.degrees(self._heading) % 360, 1),
                "mileage_in_kilometers": self._odometer / 1000,
                "state_of_charge_or_fuel_level_in_percent": round(100 * self._chance.random(), 1),
            }
        )


def messages(count: int, vehicles: int, since: int, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """So many of them: key and value.

    Args:
        count: of the messages.
        vehicles: who sends them in turns.
        since: the time of the first, epoch ms.
        seed: of all that is random.
    """
    chance = random.Random(seed)
    fleet = [Vehicle(number, chance) for number in range(vehicles)]
    for number in range(count):
        vehicle = fleet[number % vehicles]
        yield vehicle.name.encode(), vehicle.message(since)


def span_ms(count: int, vehicles: int) -> int:
    """At most so much time passes in them."""
    each = count // vehicles + 1
    return each * EVERY_MS + (each // 8 + 2) * PAUSE_MS
