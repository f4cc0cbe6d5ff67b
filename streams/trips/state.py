"""How state is stored: each value names its format and proves that it is whole.

A value is one byte of format version, four bytes of CRC-32 over version, key and content, and the content. Keys are one
letter for the kind of value, for chunks and pages their number, and the vehicle's id:

=====  =======================================================================
key    value
=====  =======================================================================
``k``  the partition's clock, how many vehicles there are, and where in the source they stand
``h``  a vehicle's head: what every message changes, and the newest rows
``b``  its base: the machine that has seen all that is folded
``t``  its tip: the machine as it was after the last edge of the trigger
``w``  a page of its words: what was last announced about each trip that is not settled
``d``  its holes: what is left of its deleted trips
``s``  a small chunk of rows
``c``  a sealed chunk of rows
``o``  a page of the outbox: announcements that are owed, because they are delivered after the state
=====  =======================================================================

Format 1 had nothing but the clock under ``k``, format 2 neither holes nor the place in the commands; the checksum of
both left the version out. Format 3 had no outbox. All else is as it was.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgpack

from streams.records import Announcement, Standing, TripsRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CLOCK_KEY",
    "FORMAT_VERSION",
    "FRAME_SIZE",
    "OUTBOX",
    "OUTBOX_KEY_SIZE",
    "BrokenStateError",
    "open_value",
    "outbox_key",
    "pack_clock",
    "pack_outbox",
    "packb",
    "seal_value",
    "unpack_clock",
    "unpack_outbox",
]

packb: Final = msgpack.Packer().pack
"""As ``msgpack.packb`` does; that makes a packer each time, which takes longer than to pack a vehicle."""

FORMAT_VERSION: Final = 4
CLOCK_KEY: Final = b"k"
OUTBOX: Final = b"o"
"""The first byte of the keys of the outbox; the number of the page follows, in two bytes."""
OUTBOX_KEY_SIZE: Final = 3
_VERSION_IN_CHECKSUM: Final = 3
_FRAME: Final = Struct("<BI")
FRAME_SIZE: Final = _FRAME.size
# A page is one record: far from the 1 MiB that a topic takes at least, and few of them for a large checkpoint.
_PAGE_BYTES: Final = 256 * 1024


class BrokenStateError(Exception):
    """A stored value that this program cannot take for state: damaged, or written by a newer version."""


def seal_value(key: bytes, content: bytes, version: int = FORMAT_VERSION) -> bytes:
    """Content as a stored value of a format version."""
    return _FRAME.pack(version, _checksum(version, key, content)) + content


def _checksum(version: int, key: bytes, content: bytes) -> int:
    return crc32(content, crc32(key, version if version >= _VERSION_IN_CHECKSUM else 0))


def open_value(key: bytes, value: bytes, newest: int = FORMAT_VERSION) -> bytes:
    """The content of a stored value.

    Args:
        key: its key.
        value: as stored.
        newest: the newest format version that the caller understands.

    Raises:
        BrokenStateError: it is damaged, or its format is newer than this program.
    """
    if len(value) < FRAME_SIZE:
        raise BrokenStateError(f"the record with key {key!r} is cut short: {len(value)} bytes")
    version, checksum = _FRAME.unpack_from(value)
    if version > newest:
        raise BrokenStateError(
            f"the record with key {key!r} has format version {version}, and this program reads up to {newest}: "
            "start the newer version of ignition-trips that wrote it (or a later one)"
        )
    content = value[FRAME_SIZE:]
    if version < 1 or _checksum(version, key, content) != checksum:
        raise BrokenStateError(f"the record with key {key!r} is damaged: its checksum does not match")
    return content


def pack_clock(clock: int, vehicles: int, standing: Standing) -> bytes:
    """The content of the clock record.

    Args:
        clock: of the partition, epoch ms.
        vehicles: how many have state, as of this checkpoint.
        standing: where the state stands, as of this checkpoint.
    """
    packed: bytes = packb(
        (
            clock,
            standing.next_offset,
            vehicles,
            standing.telemetry_id,
            standing.changelog_id,
            standing.next_command,
            standing.commands_id,
            standing.backlog_end,
        )
    )
    return packed


def unpack_clock(content: bytes) -> tuple[int, int | None, Standing]:
    """The inverse of :func:`pack_clock`; of format 1 nothing but the clock is known, of format 2 no commands."""
    unpacked = msgpack.unpackb(content)
    if isinstance(unpacked, int):
        return unpacked, None, Standing()
    clock, next_offset, vehicles, *rest = unpacked
    return clock, vehicles, Standing(next_offset, *rest)


def outbox_key(page: int) -> bytes:
    """The key of a page of the outbox; pages count from 0."""
    return OUTBOX + page.to_bytes(OUTBOX_KEY_SIZE - len(OUTBOX), "big")


def pack_outbox(announcements: Iterable[Announcement]) -> list[bytes]:
    """The contents of the pages that hold these announcements, in their order."""
    pages: list[list[bytes]] = []
    room = 0
    for one in announcements:
        packed: bytes = packb(
            (
                one.vehicle_id,
                one.trip_id,
                one.event,
                one.event_id,
                one.revision,
                one.time_ms,
                one.traceparent,
                one.payload,
                one.trips_record.value,
            )
        )
        if len(packed) > room:
            pages.append([])
            room = _PAGE_BYTES
        pages[-1].append(packed)
        room -= len(packed)
    return [b"".join(page) for page in pages]


def unpack_outbox(content: bytes) -> list[Announcement]:
    """The inverse of :func:`pack_outbox`, of one page."""
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(content)
    return [
        Announcement(vehicle, trip, event, event_id, revision, time_ms, traceparent, payload, TripsRecord(trips_record))
        for vehicle, trip, event, event_id, revision, time_ms, traceparent, payload, trips_record in unpacker
    ]
