"""Which samples count when a stream is read record by record: the contract's horizon, with everything kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.derive import Sample, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.trips.rules import Rules

__all__ = ["Timeline"]


class Timeline:
    """All samples of one vehicle that were not late.

    Where the contract leaves room: "the last known one of its property as of the horizon" is the last that lies behind
    the horizon, and a property "of which nothing is known" has no sample at all.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.samples: set[Sample] = set()

    def offer(self, samples: Iterable[Sample]) -> tuple[bool, list[Sample]]:
        """The samples of one record; returns whether it changed the timeline, and which of them are late."""
        before = resolve(self.samples)
        late: list[Sample] = []
        line = before[-1][0] - self.rules.correction_horizon_ms if before else None
        for sample in samples:
            t, prop, value = sample
            if line is None or t >= line:
                self.samples.add(sample)
                continue
            known = [kept for kept in before if kept[1] == prop]
            behind = [kept for kept in known if kept[0] < line]
            if behind and behind[-1] == sample:
                continue
            if not known and not (prop == self.rules.trigger and value):
                self.samples.add(sample)
            else:
                late.append(sample)
        return resolve(self.samples) != before, late
