"""A vehicle's timeline, packed: the rows that are still kept, in the order in which they arrived.

Rows are only ever appended. Where they belong in time is found out when they are read. They wait in the *tail*, which
is stored with the vehicle's head; a full tail becomes a *small* chunk under a key of its own, and when the ring of
small chunks is full they are *sealed* into one compressed chunk. So a checkpoint writes only what is new, a row is
written about three times however long a trip lasts, and keys are reused instead of deleted.

A row is packed as its mask, its instant and its values, each in a fixed width; text comes after, and a telematics unit
only where it differs from that of the row before it in the same chunk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from math import inf
from operator import itemgetter
from struct import Struct
from typing import Any, Final, NamedTuple

from streams.trips.samples import FLOW_ID_BIT, Moment, Property, Row, Unit, merge

__all__ = ["FORMATS", "SAME_UNIT", "SMALL_CHUNKS", "Chunk", "Timeline", "unpack"]

SMALL_CHUNKS: Final = 16
"""How many small chunks there are before they are sealed: with about 130 bytes each, a sealed chunk holds 2 KiB."""

SMALL: Final = b"s"
SEALED: Final = b"c"
_TAIL_LIMIT: Final = 16_384
"""A tail that grows to this within one checkpoint (a backlog) is sealed by itself."""

FORMATS: Final = {
    Property.IGNITION: "B",
    Property.IMMOBILIZER: "B",
    Property.DRIVING_ENABLED: "B",
    Property.POSITION: "ii",
    Property.ALTITUDE: "i",
    Property.MILEAGE: "q",
    Property.SPEED: "H",
    Property.HEADING: "H",
    Property.ENERGY: "H",
    Property.STATE_OF_CHARGE: "H",
    Property.FUEL: "H",
    Property.DOORS: "B",
    Property.WINDOWS: "B",
}
"""How the values of a row are packed, in the letters of :mod:`struct`."""

_FIXED: Final = (1 << Property.UNIT) - 1
_UNIT: Final = 1 << Property.UNIT
_FLOW_ID: Final = 1 << FLOW_ID_BIT
SAME_UNIT: Final = 1 << 15
"""In a packed mask: the unit is that of the row before."""

_LOOK_AHEAD: Final = 64  # rows; more at once would be looked at again and again where masks take turns
_SPAN: Final = Struct("<qq")
_MASK: Final = Struct("<H")
_LENGTH: Final = Struct("<H")
_STRUCTS: Final[dict[int, Struct]] = {}


def _struct(mask: int) -> Struct:
    found = _STRUCTS.get(mask)
    if found is None:
        fields = "".join(width for name, width in FORMATS.items() if mask >> name & 1)
        found = _STRUCTS[mask] = Struct("<Hq" + fields)
    return found


class Chunk(NamedTuple):
    """Packed rows, and the span of their instants."""

    oldest: int
    newest: int
    packed: bytes

    def dump(self) -> bytes:
        """As one value for the stored state."""
        return _SPAN.pack(self.oldest, self.newest) + self.packed

    @classmethod
    def load(cls, value: bytes) -> Chunk:
        """The inverse of :meth:`dump`."""
        oldest, newest = _SPAN.unpack_from(value)
        return cls(oldest, newest, value[_SPAN.size :])


class Timeline:
    """The kept rows of one vehicle.

    Attributes:
        tail: the newest arrivals, packed.
        unit: of the newest row with one in the tail.
        small: chunks of the ring, oldest first; the number of a chunk is its place.
        sealed: compressed chunks by the number of their key.
        changed: which chunks are not stored yet, by the kind and number of their key.
        stale: keys whose stored chunks are not needed any more.
        erased: there is something among those that must not stay.
    """

    __slots__ = (
        "_by_instant",
        "_chunk_bytes",
        "_read",
        "changed",
        "erased",
        "sealed",
        "small",
        "stale",
        "tail",
        "tail_newest",
        "tail_oldest",
        "unit",
    )

    def __init__(self) -> None:
        self.tail = bytearray()
        self.tail_oldest = self.tail_newest = 0
        self.unit: Unit | None = None
        self._by_instant: dict[int, Row] | None = None
        self._read = 0
        self.small: list[Chunk] = []
        self.sealed: dict[int, Chunk] = {}
        self._chunk_bytes: int | None = 0  # of both; None: to be added up
        self.changed: set[tuple[bytes, int]] = set()
        self.stale: set[tuple[bytes, int]] = set()
        self.erased = False

    def append(self, row: Row) -> None:
        """Keep a row, of any instant."""
        timestamp, mask, values = row
        tail = self.tail
        if not tail:
            self.tail_oldest = self.tail_newest = timestamp
        elif timestamp > self.tail_newest:
            self.tail_newest = timestamp
        elif timestamp < self.tail_oldest:
            self.tail_oldest = timestamp
        if mask <= _FIXED:
            tail += _struct(mask).pack(mask, timestamp, *values)
        else:
            self._append_text(timestamp, mask, values)
        if len(tail) > _TAIL_LIMIT:
            self.seal()
        if self._by_instant is not None:
            kept = self._by_instant.get(timestamp)
            self._by_instant[timestamp] = row if kept is None else merge(kept, row)

    def extend(self, packed: bytes, oldest: int, newest: int, unit: Unit | None) -> None:
        """Keep rows that are packed already, and newer than all others.

        Args:
            packed: rows, one behind the other.
            oldest: the instant of the first.
            newest: the instant of the last.
            unit: of the newest row with one, among these or before them.
        """
        if self._by_instant is not None:
            self._by_instant |= {row[0]: row for row in unpack(packed, self.unit)}
        if not self.tail:
            self.tail_oldest = oldest
        self.tail_newest = newest
        self.tail += packed
        self.unit = unit

    @property
    def room(self) -> int:
        """Bytes of packed rows that :meth:`extend` may be given; what is more is for :meth:`append`, row by row."""
        return _TAIL_LIMIT - len(self.tail)

    def _append_text(self, timestamp: int, mask: int, values: tuple[Any, ...]) -> None:
        fixed = list(values)
        flow_id = fixed.pop() if mask & _FLOW_ID else None
        unit = fixed.pop() if mask & _UNIT else None
        same = unit is not None and unit == self.unit
        texts = []
        if unit is not None and not same:
            texts += [*unit]
            self.unit = unit
        if flow_id is not None:
            texts.append(flow_id)
        self.tail += _struct(mask & _FIXED).pack(mask | SAME_UNIT if same else mask, timestamp, *fixed)
        for text in texts:
            encoded = text.encode()
            self.tail += _LENGTH.pack(len(encoded)) + encoded

    def store_tail(self) -> None:
        """Make the tail a chunk of its own; the ring, when it is full, a sealed one."""
        if not self.tail:
            return
        if len(self.small) == SMALL_CHUNKS:
            self.seal()
            return
        self.changed.add((SMALL, len(self.small)))
        self.small.append(Chunk(self.tail_oldest, self.tail_newest, bytes(self.tail)))
        self._chunk_bytes = None
        self._clear_tail()

    def seal(self) -> None:
        """Compress the ring and the tail into one chunk."""
        chunks = [*self.small]
        if self.tail:
            chunks.append(Chunk(self.tail_oldest, self.tail_newest, bytes(self.tail)))
        if not chunks:
            return
        number = next(number for number in range(len(self.sealed) + 1) if number not in self.sealed)
        self.sealed[number] = Chunk(
            min(chunk.oldest for chunk in chunks),
            max(chunk.newest for chunk in chunks),
            zlib.compress(b"".join(chunk.packed for chunk in chunks)),
        )
        self.changed.add((SEALED, number))
        self._leave((SMALL, place) for place in range(len(self.small)))
        self.small = []
        self._chunk_bytes = None
        self._clear_tail()

    def _clear_tail(self) -> None:
        self.tail = bytearray()
        self.unit = None

    def drop(self, before: int) -> None:
        """Forget the sealed chunks that hold only rows before this instant; their keys are free again."""
        for number in [number for number, chunk in self.sealed.items() if chunk.newest < before]:
            del self.sealed[number]
            self._chunk_bytes = None
            self._leave([(SEALED, number)])

    def repack(self, begin: Moment) -> None:
        """Keep only the rows from this instant on, in as few chunks as they need."""
        self._keep(self.rows(begin - 1, inf))

    def erase(self, begin: int, end: int) -> None:
        """Forget the rows of a span, both ends included, wherever they are: no chunk stays that holds one of them."""
        self._keep([*self.rows(-inf, begin - 1), *self.rows(end, inf)])
        self.erased = True

    def _keep(self, rows: list[Row]) -> None:
        self._leave((SMALL, place) for place in range(len(self.small)))
        self._leave((SEALED, number) for number in self.sealed)
        self.small, self.sealed = [], {}
        self._chunk_bytes = None
        self._clear_tail()
        self.close()
        for row in rows:
            self.append(row)

    def _leave(self, keys: Iterable[tuple[bytes, int]]) -> None:
        for key in keys:
            self.changed.discard(key)
            self.stale.add(key)

    @property
    def has_new_sealed(self) -> bool:
        """Whether there is a sealed chunk that is not stored yet."""
        return any(kind == SEALED for kind, _ in self.changed)

    def store(self, *, clear: bool) -> list[tuple[bytes, int, bytes]]:
        """What has changed since the last time: kind and number of a key, and its value.

        Args:
            clear: empty the keys that are not needed any more. While a vehicle drives they are soon needed again.
        """
        self.stale -= self.changed
        values = [
            (kind, number, (self.sealed if kind == SEALED else self.small)[number].dump())
            for kind, number in self.changed
        ]
        if clear or self.erased:
            values += [(kind, number, b"") for kind, number in self.stale]
            self.stale = set()
            self.erased = False
        self.changed = set()
        return values

    def clear(self) -> set[tuple[bytes, int]]:
        """The keys that are not needed any more, to be emptied now. After :meth:`store`."""
        stale, self.stale = self.stale, set()
        return stale

    def dump(self) -> tuple[tuple[tuple[int, bytes], ...], tuple[tuple[int, bytes], ...]]:
        """All small and all sealed chunks, with their numbers."""
        return (
            tuple((number, chunk.dump()) for number, chunk in enumerate(self.small)),
            tuple((number, chunk.dump()) for number, chunk in self.sealed.items()),
        )

    @classmethod
    def load(
        cls,
        tail: bytes,
        small: Iterable[tuple[int, bytes]],
        count: int,
        sealed: Iterable[tuple[int, bytes]],
        folded: int | None,
    ) -> Timeline:
        """The inverse of :meth:`dump`.

        Args:
            tail: the packed tail.
            small: stored small chunks, in the order of their numbers.
            count: how many of them are in use.
            sealed: stored sealed chunks.
            folded: rows before this are not needed; None: all are.
        """
        timeline = cls()
        timeline.restore_tail(tail)
        for number, value in small:
            if number < count:
                timeline.small.append(Chunk.load(value))
            else:
                timeline.stale.add((SMALL, number))
        timeline.sealed = {number: Chunk.load(value) for number, value in sealed}
        timeline._chunk_bytes = None
        if folded is not None:
            timeline.drop(folded)
        return timeline

    @property
    def oldest(self) -> int | None:
        """An instant at or before the oldest row that is kept."""
        instants = [chunk.oldest for chunk in (*self.small, *self.sealed.values())]
        if self.tail:
            instants.append(self.tail_oldest)
        return min(instants, default=None)

    def rows(self, after: Moment, to: Moment) -> list[Row]:
        """The rows with ``after`` < instant <= ``to`` in the order of time, those of one instant merged into one."""
        if self._by_instant is not None:
            return [self._by_instant[instant] for instant in sorted(self._by_instant) if after < instant <= to]
        found = self._unpacked(after, to)
        found.sort(key=itemgetter(0))
        if len({row[0] for row in found}) == len(found):
            return found
        ordered: list[Row] = []
        newest = None
        for row in found:
            if row[0] == newest:
                ordered[-1] = merge(ordered[-1], row)
            else:
                ordered.append(row)
                newest = row[0]
        return ordered

    def parts(self, after: Moment, to: Moment) -> list[bytes]:
        """The packed rows of all chunks that may have some with ``after`` < instant <= ``to``, and of the tail.

        Empty where all are unpacked anyway: see :meth:`at`.
        """
        if self._by_instant is not None:
            return []
        return [chunk.packed for chunk in self._chunks(after, to)]

    def at(self, instant: int) -> Row | None:
        """All that is kept of one instant.

        Rows that come a little late lie in few chunks, and unpacking those is cheap. Where much comes late (a backlog
        in no order), all is unpacked once, and kept so until :meth:`close`.
        """
        if self._by_instant is None and self._read > 4 * self.size:
            self._by_instant = {row[0]: row for row in self.rows(-inf, inf)}
        if self._by_instant is not None:
            return self._by_instant.get(instant)
        rows = self.rows(instant - 1, instant)
        return rows[0] if rows else None

    def close(self) -> None:
        """End of a batch: what was unpacked for it need not be kept."""
        self._by_instant = None
        self._read = 0

    def _unpacked(self, after: Moment, to: Moment) -> list[Row]:
        rows: list[Row] = []
        for chunk in self._chunks(after, to):
            rows += _within(unpack(chunk.packed), chunk.oldest, chunk.newest, after, to)
        return rows

    def _chunks(self, after: Moment, to: Moment) -> list[Chunk]:
        """Those that may have rows with ``after`` < instant <= ``to``, not compressed; the tail as one of them."""
        found: list[Chunk] = []
        for chunk in self.sealed.values():
            if chunk.newest > after and chunk.oldest <= to:
                self._read += len(chunk.packed)
                found.append(chunk._replace(packed=zlib.decompress(chunk.packed)))
        for chunk in self.small:
            if chunk.newest > after and chunk.oldest <= to:
                self._read += len(chunk.packed)
                found.append(chunk)
        if self.tail and self.tail_newest > after and self.tail_oldest <= to:
            self._read += len(self.tail)
            found.append(Chunk(self.tail_oldest, self.tail_newest, bytes(self.tail)))
        return found

    def restore_tail(self, tail: bytes) -> None:
        """Take over a stored tail."""
        self.tail = bytearray(tail)
        self.unit = None
        instants = [row[0] for row in unpack(tail)]
        self.tail_oldest, self.tail_newest = min(instants, default=0), max(instants, default=0)

    @property
    def size(self) -> int:
        """Bytes that the rows take."""
        return len(self.tail) + self.chunk_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes that the chunks take."""
        if self._chunk_bytes is None:
            chunks = (*self.small, *self.sealed.values())
            self._chunk_bytes = sum(_SPAN.size + len(chunk.packed) for chunk in chunks)
        return self._chunk_bytes


def _within(rows: list[Row], oldest: int, newest: int, after: Moment, to: Moment) -> list[Row]:
    if oldest > after and newest <= to:
        return rows
    return [row for row in rows if after < row[0] <= to]


def unpack(packed: bytes, unit: Unit | None = None) -> list[Row]:
    """Rows in the order in which they were packed.

    Args:
        packed: rows, one behind the other.
        unit: of the row before them.
    """
    rows: list[Row] = []
    place = 0
    size = len(packed)
    while place < size:
        (stored,) = _MASK.unpack_from(packed, place)
        layout = _struct(stored & _FIXED)
        if stored <= _FIXED:
            # A vehicle sends the same properties again and again: rows of one width, unpacked at once.
            end = place + layout.size * _alike(packed, place, layout.size)
            rows += [(row[1], stored, row[2:]) for row in layout.iter_unpack(packed[place:end])]
            place = end
            continue
        _, timestamp, *values = layout.unpack_from(packed, place)
        place += layout.size
        if stored & _UNIT:
            if not stored & SAME_UNIT:
                identifier, place = _text(packed, place)
                brand, place = _text(packed, place)
                unit = (identifier, brand)
            values.append(unit)
        if stored & _FLOW_ID:
            flow_id, place = _text(packed, place)
            values.append(flow_id)
        rows.append((timestamp, stored & ~SAME_UNIT, tuple(values)))
    return rows


def _alike(packed: bytes, place: int, size: int) -> int:
    """How many rows of this size follow each other that have one and the same mask; it may be some fewer."""
    end = place + _LOOK_AHEAD * size
    low, high = packed[place:end:size], packed[place + 1 : end : size]
    alike = min(len(column) - len(column.lstrip(column[:1])) for column in (low, high))
    return min(alike, (len(packed) - place) // size)


def _text(packed: bytes, place: int) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(packed, place)
    place += _LENGTH.size
    return packed[place : place + length].decode(), place + length
