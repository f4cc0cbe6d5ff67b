"""Which samples count when a stream is read record by record: the contract's horizon, with everything kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from oracle.derive import Sample, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.trips.rules import Rules

__all__ = ["Timeline"]


class Timeline:
    """All samples of one vehicle that were not late, in the order in which they came.

    Where the contract leaves room: "the last known one of its property as of the horizon" is the last that lies behind
    the horizon, and a property "of which nothing is known" has no sample at all.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.samples: list[Sample] = []
        self._newest: int | None = None
        self._chosen: dict[tuple[int, int], Sample] = {}

    @property
    def horizon(self) -> float:
        """That of a record that comes now."""
        return -math.inf if self._newest is None else self._newest - self.rules.correction_horizon_ms

    def offer(self, samples: Iterable[Sample]) -> tuple[bool, list[Sample]]:
        """Take in the samples of one record; returns whether it changed the timeline, and which of them are late."""
        newest = self._newest
        added = False
        late: list[Sample] = []
        for sample in samples:
            t, prop, value = sample
            if newest is None or t >= newest - self.rules.correction_horizon_ms:
                added |= self._add(sample)
                continue
            known = [kept for kept in self._chosen.values() if kept[1] == prop]
            behind = [kept for kept in known if kept[0] < newest - self.rules.correction_horizon_ms]
            if behind and max(behind) == sample:
                continue
            if not known and not (prop == self.rules.trigger and value):
                added |= self._add(sample)
            else:
                late.append(sample)
        return added, late

    def _add(self, sample: Sample) -> bool:
        at = (sample[0], sample[1])
        before = self._chosen.get(at)
        [after] = resolve([sample] if before is None else [before, sample])
        if after == before:
            return False
        self._chosen[at] = after
        self.samples.append(sample)
        self._newest = max(sample[0], sample[0] if self._newest is None else self._newest)
        return True
