"""Holes: what is left of deleted trips in a vehicle's timeline.

A hole is what a deleted trip was to its neighbours: that the trigger went on at its start, what was known of each
property at its end, and whether the trigger was off by then. All other samples in it are erased, and what comes later
inside it is refused, so that no late data can bring the trip back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from streams.trips.samples import Moment, Row
from streams.trips.state import packb

__all__ = ["Hole", "along", "pack_holes", "unpack_holes"]


@dataclass(frozen=True, slots=True)
class Hole:
    """A deleted trip. Instants in epoch ms.

    Attributes:
        start: the trip's.
        end: the trip's, or the newest sample of one that was on. Before ``start``: nothing is known of what it was,
            or nothing of it is left; it only keeps the trip from being announced again. One that is told after all,
            because of late samples, is erased then.
        trigger_on: whether the trigger was still on at the end (nobody told the end, or the trip was on); None: not
            known.
        kept: the trip counted, so that the time since the last trip is told from its end.
        until: the vehicle's newest sample when it was deleted, or its end. The hole is needed until the horizon has
            passed this; its samples count for what is up to a horizon later.
        samples: the last sample of each property inside, as property, instant and value.
    """

    start: int
    end: int
    trigger_on: bool | None
    kept: bool
    until: int
    samples: tuple[tuple[int, int, Any], ...] = ()

    def covers(self, instant: int) -> bool:
        """Whether a sample of this instant is inside."""
        return self.start <= instant <= self.end

    def emptied(self) -> Hole:
        """The same without its samples: somebody else knows them."""
        return replace(self, samples=())


def along(rows: Iterable[Row], holes: Sequence[Hole], after: Moment, to: Moment) -> Iterator[Row | Hole]:
    """Rows and holes in the order of time.

    Args:
        rows: in order, none of them inside a hole.
        holes: in order.
        after: holes that end later than this,
        to: and up to this.
    """
    left = [hole for hole in holes if hole.start <= hole.end and after < hole.end <= to]
    for row in rows:
        while left and left[0].start <= row[0]:
            yield left.pop(0)
        yield row
    yield from left


def pack_holes(holes: Iterable[Hole]) -> bytes:
    """As bytes for the stored state; of none there are none."""
    packed = [
        (
            hole.start,
            hole.end - hole.start,
            hole.trigger_on,
            hole.kept,
            hole.until - hole.start,
            [(name, instant - hole.start, value) for name, instant, value in hole.samples],
        )
        for hole in holes
    ]
    return packb(packed) if packed else b""


def unpack_holes(packed: bytes) -> list[Hole]:
    """The inverse of :func:`pack_holes`."""
    if not packed:
        return []
    return [
        Hole(
            start,
            start + length,
            trigger_on,
            kept,
            start + until,
            tuple((name, start + age, value) for name, age, value in samples),
        )
        for start, length, trigger_on, kept, until, samples in msgpack.unpackb(packed, use_list=False)
    ]
