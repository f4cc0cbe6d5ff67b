"""Identity: the same trip has the same ids everywhere, always. No random number and no clock goes into one."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from ulid import ULID

__all__ = ["TripIdentity", "event_id", "identify", "start_of"]

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class TripIdentity(NamedTuple):
    """The names of a trip.

    Attributes:
        id: a ULID: 48 bits of the start in epoch milliseconds, 80 bits of a hash of vehicle and start.
        key: five characters of Crockford's base32, for people.
        flow_id: a UUID of the same hash, for a trip whose first signal came with none.
    """

    id: str
    key: str
    flow_id: str


@lru_cache(maxsize=4096)  # a trip is told several times
def identify(vehicle_id: str, start: int) -> TripIdentity:
    """The names of the trip of this vehicle that starts at this instant (epoch milliseconds)."""
    digest = blake2b(b"%b\0%d" % (vehicle_id.encode(), start), digest_size=16).digest()
    bits = int.from_bytes(digest[10:14], "big") >> 7  # the first 25 of 32
    key = "".join(_CROCKFORD[bits >> shift & 31] for shift in (20, 15, 10, 5, 0))
    return TripIdentity(_ulid(start, digest[:10]), key, _uuid(digest))


def event_id(time_ms: int, trip_id: str, event: str, revision: int) -> str:
    """The id of one announcement: a ULID of its time and a hash of what it is about."""
    digest = blake2b(f"{trip_id}|{event}|{revision}".encode(), digest_size=10).digest()
    return _ulid(time_ms, digest)


def _ulid(time_ms: int, digest: bytes) -> str:
    """The text of a ULID of 48 bits of time and 80 others. In parts of two letters: each announcement has some."""
    high, low = int.from_bytes(digest[:5], "big"), int.from_bytes(digest[5:], "big")
    pairs = [_PAIRS[time_ms >> shift & 1023] for shift in (40, 30, 20, 10, 0)]
    pairs += [_PAIRS[part >> shift & 1023] for part in (high, low) for shift in (30, 20, 10, 0)]
    return "".join(pairs)


def _uuid(digest: bytes) -> str:
    """Version 8 of RFC 9562: a UUID whose bits mean what its maker says."""
    text = digest.hex()
    variant = "89ab"[digest[8] >> 4 & 3]
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def start_of(trip_id: str) -> int | None:
    """The start in a trip's id, in epoch ms; None: it is no such id."""
    if _ULID.fullmatch(trip_id) is None:
        return None
    return int.from_bytes(ULID.from_str(trip_id).bytes[:6], "big")
