"""The telemetry of a fleet that drives, as messages of the contract: the same bytes for the same arguments.

A vehicle sends a message every five seconds while it drives, ten minutes nothing, and drives again. Every tenth trip is
shorter than a minute. The vehicles take turns. A message has a switch, a position, four numbers and about 255 bytes.
Other loads are made of that one: at other rates, of other sizes, shuffled, repeated, late, or mostly of one vehicle.
"""
# ruff: noqa: INP001, S311

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from streams.trips.content import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SINCE: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
PAUSE_MS: Final = 600_000
EVERY_MS: Final = 5_000

# A message without its numbers has less than this.
_SHORT_BYTES: Final = 200
_TEN_MINUTES_MS: Final = 600_000
_HOUR_MS: Final = 3_600_000


class Message(NamedTuple):
    """One as it arrives: when (epoch ms), its key and its value."""

    at: int
    key: bytes
    value: bytes


class Vehicle:
    """One that drives.

    Args:
        number: names it.
        chance: of all that is random.
        every_ms: from one message to the next.
        size: of a message, in bytes, at least; None: as it comes.
    """

    def __init__(
        self, number: int, chance: random.Random, *, every_ms: int = EVERY_MS, size: int | None = None
    ) -> None:
        self.name = f"vehicle-{number:06}"
        self._chance = chance
        self._every = every_ms
        self._size = size
        self._clock = chance.randrange(every_ms)
        self._latitude = 52.0 + chance.random()
        self._longitude = 12.9 + chance.random()
        self._odometer = chance.randrange(1_000_000, 90_000_000)
        self._trip = 0
        self._left = chance.randrange(1, 60)
        self._heading = chance.random() * 2 * math.pi

    def message(self, since: int) -> bytes:
        """The next one; times count from ``since`` (epoch ms)."""
        return self.next(since).value

    def next(self, since: int) -> Message:
        """The same, with its time."""
        self._clock += self._every
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
        metres = speed / 3.6 * self._every / 1000
        self._heading += self._chance.random() - 0.5
        self._latitude += metres / 111_320 * math.cos(self._heading)
        self._longitude += metres / 68_000 * math.sin(self._heading)
        self._odometer += int(metres)
        content: dict[str, object] = {
            "vehicle_id": self.name,
            "timestamp": iso(instant),
            "ignition": "ON" if on else "OFF",
            "position": {"lat": round(self._latitude, 6), "lon": round(self._longitude, 6)},
        }
        charge = round(100 * self._chance.random(), 1)
        if self._size is None or self._size >= _SHORT_BYTES:
            content |= {
                "speed_in_kmh": round(speed, 1),
                "heading_in_degrees": round(math.degrees(self._heading) % 360, 1),
                "mileage_in_kilometers": self._odometer / 1000,
                "state_of_charge_or_fuel_level_in_percent": charge,
            }
        value = orjson.dumps(content)
        if self._size is not None and len(value) < self._size:
            # A property that nobody knows: it is parsed, and that is all.
            value = value[:-1] + b',"x":"%s"}' % (b"x" * max(0, self._size - len(value) - 7))
        return Message(instant, self.name.encode(), value)


def telemetry(
    count: int,
    vehicles: int,
    since: int,
    seed: int = 1,
    *,
    every_ms: int = EVERY_MS,
    size: int | None = None,
    skewed: bool = False,
) -> Iterator[Message]:
    """So many messages.

    Args:
        count: of the messages.
        vehicles: who sends them in turns.
        since: the time of the first, epoch ms.
        seed: of all that is random.
        every_ms: from one message of a vehicle to its next.
        size: of a message, in bytes; None: as it comes.
        skewed: every second message is of the first vehicle.
    """
    chance = random.Random(seed)
    fleet = [Vehicle(number, chance, every_ms=every_ms, size=size) for number in range(vehicles)]
    for number in range(count):
        turn = (0 if number % 2 else number // 2) if skewed else number
        yield fleet[turn % vehicles].next(since)


def messages(count: int, vehicles: int, since: int, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """The same as key and value."""
    return ((key, value) for _, key, value in telemetry(count, vehicles, since, seed))


def recent(count: int, vehicles: int, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """The same, of the time up to now."""
    return messages(count, vehicles, int(time.time() * 1000) - span_ms(count, vehicles), seed)


def delayed(load: Iterable[Message], share: float, at_least_ms: int, at_most_ms: int, seed: int = 1) -> list[Message]:
    """A share of the messages arrives later than it was sent, by a time between the two; all in order of arrival."""
    chance = random.Random(seed)
    late = (
        message._replace(at=message.at + chance.randint(at_least_ms, at_most_ms))
        if chance.random() < share
        else message
        for message in load
    )
    return sorted(late, key=lambda message: message.at)


def shuffled(load: Iterable[Message]) -> list[Message]:
    """Each message arrives at some moment within ten minutes."""
    return delayed(load, 1.0, 0, _TEN_MINUTES_MS)


def late(load: Iterable[Message], share: float = 0.05) -> list[Message]:
    """A share of them arrives an hour late."""
    return delayed(load, share, _HOUR_MS, _HOUR_MS)


def repeated(load: Iterable[Message], share: float = 0.2, seed: int = 1) -> list[Message]:
    """A share of them arrives once more within ten minutes."""
    chance = random.Random(seed)
    known = list(load)
    again = [
        message._replace(at=message.at + chance.randint(1, _TEN_MINUTES_MS))
        for message in known
        if chance.random() < share
    ]
    return sorted([*known, *again], key=lambda message: message.at)


def span_ms(count: int, vehicles: int, every_ms: int = EVERY_MS) -> int:
    """At most so much time passes in them."""
    each = count // vehicles + 1
    return each * every_ms + (each // 8 + 2) * PAUSE_MS
