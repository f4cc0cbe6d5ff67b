"""Timestamps as they are written in messages, to milliseconds since 1970-01-01 UTC.

Two forms are read: RFC 3339 (section 5.6: ``T`` and ``Z`` in either case, an offset is required), and an integer of
epoch milliseconds. What is finer than a millisecond is cut off, not rounded: a sample must not move past an edge.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from streams.telemetry.problems import Reason, Unusable, shown

__all__ = ["EARLIEST", "LATEST", "Instants"]

EARLIEST: Final = 946_684_800_000
"""2000-01-01T00:00:00Z: a device without a clock says 1970 or 1980, the start of Unix or GPS time."""
LATEST: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: the last instant that RFC 3339 can write."""

_RFC_3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"([Zz]|([+-])([0-9]{2}):([0-9]{2}))?"
)
_EPOCH: Final = date(1970, 1, 1).toordinal()
_SECONDS: Final = {f":{second:02}": second * 1000 for second in range(60)}
_CACHED: Final = 16_384
"""Entries per cache: with about 150 B each, 2.5 MB."""
_LONGEST: Final = 40
"""Longer texts are not cached: a fraction may have any number of digits."""


class Instants(dict[str | int, int]):
    """Epoch milliseconds of timestamps as written: ``instants["2026-03-01T08:00:00Z"]``.

    A dictionary because most lookups find their answer: vehicles report at the same seconds, and a state repeats old
    timestamps for properties that have not changed. Only text and integers may be looked up; a caller checks that,
    for ``True`` and ``1.0`` would find what ``1`` means.

    Raises:
        Unusable: on lookup of what is no timestamp or out of range.
    """

    __slots__ = ("_minutes", "_rests")

    def __init__(self) -> None:
        super().__init__()
        # An unknown text is put together from parts that are known: the minute, its second, and what comes after.
        # Both hold only parts of texts that were parsed once.
        self._minutes: dict[str, int] = {}
        self._rests: dict[str, int] = {}

    def __missing__(self, written: str | int) -> int:
        if isinstance(written, int):
            instant = written
        else:
            try:
                instant = self._minutes[written[:16]] + _SECONDS[written[16:19]] + self._rests[written[19:]]
            except KeyError:
                instant = self._parse(written)
        if not EARLIEST <= instant <= LATEST:
            raise _out_of_range(written, instant)
        if isinstance(written, int) or len(written) <= _LONGEST:
            if len(self) >= _CACHED:
                self.clear()
            self[written] = instant
        return instant

    def _parse(self, text: str) -> int:
        found = _RFC_3339.fullmatch(text)
        if found is None:
            raise Unusable(
                Reason.BAD_TIMESTAMP,
                f"{shown(text)} is no timestamp: write RFC 3339 with an offset, such as "
                '"2026-03-01T08:00:00Z", or an integer of epoch milliseconds',
            )
        day, hour, minute, second, fraction, zone, sign, zone_hour, zone_minute = found.groups()
        if zone is None:
            raise Unusable(
                Reason.BAD_TIMESTAMP,
                f'{shown(text)} is a local time without an offset: end it with "Z" or an offset such as "+01:00"',
            )
        if second == "60":
            raise Unusable(Reason.BAD_TIMESTAMP, f"{shown(text)} is a leap second: seconds go from 00 to 59")
        try:
            days = date.fromisoformat(day).toordinal() - _EPOCH
        except ValueError:
            raise Unusable(Reason.BAD_TIMESTAMP, f"{shown(text)} names a day that does not exist") from None
        if hour > "23" or minute > "59" or second > "59" or (sign and (zone_hour > "23" or zone_minute > "59")):
            raise Unusable(Reason.BAD_TIMESTAMP, f"{shown(text)} names a time of day that does not exist")
        at_minute = ((days * 24 + int(hour)) * 60 + int(minute)) * 60_000
        rest = int(fraction[:3].ljust(3, "0")) if fraction else 0
        if sign:
            ahead = (int(zone_hour) * 60 + int(zone_minute)) * 60_000
            rest += ahead if sign == "-" else -ahead
        if len(text) <= _LONGEST:
            if max(len(self._minutes), len(self._rests)) >= _CACHED:
                self._minutes.clear()
                self._rests.clear()
            self._minutes[text[:16]] = at_minute
            self._rests[text[19:]] = rest
        return at_minute + _SECONDS[f":{second}"] + rest


def _out_of_range(written: str | int, instant: int) -> Unusable:
    if instant > LATEST:
        return Unusable(Reason.BAD_TIMESTAMP, f"{shown(written)} is after the year 9999")
    message = f"{shown(written)} is before 2000-01-01, as from a device whose clock was never set"
    if isinstance(written, int) and EARLIEST <= written * 1000 <= LATEST:
        message += " (or are these seconds? Epoch timestamps are in milliseconds)"
    return Unusable(Reason.BEFORE_2000, message)
