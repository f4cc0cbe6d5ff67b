"""Samples: what a vehicle says, one property value at one instant, packed into rows.

A *row* is everything that a vehicle says about one instant: ``(timestamp, mask, values)``.

- ``timestamp``: milliseconds since 1970-01-01 UTC;
- ``mask``: one bit for each property that the row holds (``1 << Property.X``), and for a flow id;
- ``values``: the values in the order of the bits, flat: a position is two values, latitude and longitude.

Rows are plain tuples because there are many of them: one for each message, on the path that every message takes.
Values are integers, in the steps of the contract, so that they can be packed and summed exactly:

===================  ===========================================
property             value
===================  ===========================================
switches             1 on (``ON``, ``UNLOCKED``, true), 0 off
position             latitude and longitude in 1e-7 degrees
altitude             0.1 m
mileage              0.1 m
speed                0.01 km/h
heading              0.1 degrees
energy, charge, fuel 0.01 percent
doors, windows       1 open, 0 closed
unit                 ``(id, brand)``
flow id              text
===================  ===========================================
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

__all__ = [
    "FLOW_ID_BIT",
    "SWITCHES",
    "Moment",
    "Property",
    "Row",
    "Unit",
    "column",
    "make_row",
    "merge",
    "row_items",
]

Moment = int | float
"""An instant in epoch ms, or ``-inf`` and ``inf``: before and after all of them."""

Unit = tuple[str, str]
Row = tuple[int, int, tuple[Any, ...]]


class Property(IntEnum):
    """What a sample is about. The value is the bit in a row's mask, and part of the format of stored state."""

    IGNITION = 0
    IMMOBILIZER = 1
    DRIVING_ENABLED = 2
    POSITION = 3
    ALTITUDE = 4  # belongs to the position of the same row, never alone
    MILEAGE = 5
    SPEED = 6
    HEADING = 7
    ENERGY = 8  # state_of_charge_or_fuel_level_in_percent
    STATE_OF_CHARGE = 9
    FUEL = 10
    DOORS = 11
    WINDOWS = 12
    UNIT = 13


FLOW_ID_BIT: Final = 14
"""A row may carry the flow id of the message that it came from: only one with a switch that is on needs it."""

SWITCHES: Final = (Property.IGNITION, Property.IMMOBILIZER, Property.DRIVING_ENABLED)

Item = Any
"""A value as one thing: a position is ``(latitude, longitude, altitude or None)``."""

_COLUMNS: Final[dict[int, tuple[int, ...]]] = {}


def column(mask: int) -> tuple[int, ...]:
    """Where each bit's first value stands in ``values`` of a row with this mask; -1 where the bit is not set."""
    found = _COLUMNS.get(mask)
    if found is None:
        places, place = [], 0
        for bit in range(FLOW_ID_BIT + 1):
            if mask >> bit & 1:
                places.append(place)
                place += 2 if bit == Property.POSITION else 1
            else:
                places.append(-1)
        found = _COLUMNS[mask] = tuple(places)
    return found


def row_items(row: Row) -> dict[int, Item]:
    """The values of a row by bit; a position with its altitude is one value. For the paths that are not hot."""
    _, mask, values = row
    places = column(mask)
    items: dict[int, Item] = {}
    for bit in range(FLOW_ID_BIT + 1):
        place = places[bit]
        if place < 0 or bit == Property.ALTITUDE:
            continue
        if bit == Property.POSITION:
            altitude = values[places[Property.ALTITUDE]] if mask >> Property.ALTITUDE & 1 else None
            items[bit] = (values[place], values[place + 1], altitude)
        else:
            items[bit] = values[place]
    return items


def make_row(timestamp: int, items: dict[int, Item]) -> Row:
    """The inverse of :func:`row_items`."""
    mask, values = 0, []
    for bit in sorted(items):
        item = items[bit]
        mask |= 1 << bit
        if bit == Property.POSITION:
            latitude, longitude, altitude = item
            values += [latitude, longitude]
            if altitude is not None:
                mask |= 1 << Property.ALTITUDE
                values.append(altitude)
        else:
            values.append(item)
    return timestamp, mask, tuple(values)


def _rank(item: Item) -> tuple[object, ...]:
    if isinstance(item, tuple):
        return tuple((part is not None, part) for part in item)
    return (item,)


def merge(one: Row, other: Row) -> Row:
    """Two rows of the same instant as one.

    Where both have a value of one property, a fixed one of the two stays, so that the order of arrival does not
    matter: of a switch OFF, of numbers the larger (positions: by latitude, then longitude, then altitude), of text
    the later in the alphabet, of flow ids the one that sorts last.
    """
    if one == other:
        return one
    items = row_items(one)
    for bit, item in row_items(other).items():
        mine = items.get(bit)
        if mine is None:
            items[bit] = item
        elif bit in SWITCHES:
            items[bit] = min(mine, item)
        elif _rank(item) > _rank(mine):
            items[bit] = item
    return make_row(one[0], items)
