"""``derive``: the trips of a timeline. The definition of the product; everything else computes the same in steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from streams.trips.holes import Hole, along
from streams.trips.machine import Machine
from streams.trips.rules import Rules
from streams.trips.samples import Row, merge
from streams.trips.trip import Trip

__all__ = ["derive", "in_order"]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The rows in the order of time, those of one instant merged into one: repeated ones collapse."""
    ordered: list[Row] = []
    for row in sorted(rows, key=lambda row: row[0]):
        if ordered and ordered[-1][0] == row[0]:
            ordered[-1] = merge(ordered[-1], row)
        else:
            ordered.append(row)
    return ordered


def derive(timeline: Iterable[Row], rules: Rules, quiet: float = 0, holes: Sequence[Hole] = ()) -> list[Trip]:
    """The trips of a timeline, in the order of their starts.

    Args:
        timeline: rows in any order, repeated or not.
        rules: by which trips are told.
        quiet: for how long, in ms, nothing has arrived from the vehicle.
        holes: its deleted trips, in order; rows inside of them do not count.

    Returns:
        The trips. All but the last have ended.
    """
    machine = Machine(rules)
    rows = (row for row in in_order(timeline) if not any(hole.covers(row[0]) for hole in holes))
    for step in along(rows, holes, -inf, inf):
        machine.go(step)
    current = machine.current(quiet)
    return machine.ended if current is None else [*machine.ended, current]
