"""The properties of telemetry: their names, the values that are allowed, and the steps that they are kept in.

The one table behind both ways of reading a message, the quick one and the one that explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from streams.trips.samples import Property

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ALTITUDE_STEPS",
    "DEGREE_STEPS",
    "MAX_ALTITUDE",
    "MAX_LATITUDE",
    "MAX_LONGITUDE",
    "MAX_TEXT",
    "NUMBERS",
    "PROPERTIES",
    "WORDS",
    "Number",
]


class Number(NamedTuple):
    """A number from 0 to ``highest``, kept to ``1 / steps`` of its unit."""

    highest: int
    steps: int


PROPERTIES: Final[Mapping[str, Property]] = {
    "ignition": Property.IGNITION,
    "immobilizer": Property.IMMOBILIZER,
    "driving_enabled": Property.DRIVING_ENABLED,
    "position": Property.POSITION,
    "mileage_in_kilometers": Property.MILEAGE,
    "speed_in_kmh": Property.SPEED,
    "heading_in_degrees": Property.HEADING,
    "state_of_charge_or_fuel_level_in_percent": Property.ENERGY,
    "state_of_charge_in_percent": Property.STATE_OF_CHARGE,
    "fuel_level_in_percent": Property.FUEL,
    "doors_status": Property.DOORS,
    "windows_status": Property.WINDOWS,
    "telematics_unit": Property.UNIT,
}
"""Names as in messages, in the order of a row's values."""

WORDS: Final[Mapping[Property, Mapping[str | bool, int]]] = {
    # Accessory mode is not ON: the radio plays, the engine does not run.
    Property.IGNITION: {"ON": 1, True: 1, "OFF": 0, "ACCESSORY": 0, False: 0},
    Property.IMMOBILIZER: {"UNLOCKED": 1, "LOCKED": 0},
    Property.DRIVING_ENABLED: {True: 1, False: 0},
    Property.DOORS: {"OPEN": 1, "CLOSED": 0},
    Property.WINDOWS: {"OPEN": 1, "CLOSED": 0},
}
"""To be asked with text or a bool only: to Python, 1 and 1.0 are True."""

NUMBERS: Final[Mapping[Property, Number]] = {
    Property.MILEAGE: Number(10_000_000, 10_000),
    Property.SPEED: Number(400, 100),
    Property.HEADING: Number(360, 10),
    Property.ENERGY: Number(100, 100),
    Property.STATE_OF_CHARGE: Number(100, 100),
    Property.FUEL: Number(100, 100),
}

MAX_LATITUDE: Final = 90
MAX_LONGITUDE: Final = 180
DEGREE_STEPS: Final = 10_000_000
MAX_ALTITUDE: Final = 100_000
"""Metres, either way: beyond it is no place a vehicle can be, and altitudes stay packable."""
ALTITUDE_STEPS: Final = 10

MAX_TEXT: Final = 256
"""Characters of a vehicle id, a telematics unit's id and brand, and a flow id. None of them may be empty."""
