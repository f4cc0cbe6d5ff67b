"""What an announcement means for the projection: no database, no Kafka.

The consumer's rule in one key: :attr:`Word.rank`. Per trip id the highest revision wins; within one revision,
started < ended < ready or discarded; deleted beats all.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import orjson

__all__ = ["DELETED", "FLAGS", "STATUSES", "Word", "first_id", "read_word", "to_column"]

FLAGS: Final = {
    name: 1 << bit
    for bit, name in enumerate(
        ("START_UNOBSERVED", "END_INFERRED", "DATA_GAP", "ODOMETER_IMPLAUSIBLE", "POSITION_JUMPS")
    )
}
"""The bit of each flag in the column. A flag that is not known here is in the view all the same."""
STATUSES: Final = ("ONGOING", "PENDING", "FINISHED", "DISCARDED")
"""The ``data_completion_status`` of trips that can be asked for."""
DELETED: Final = "DELETED"

_UNKNOWN_FLAG: Final = 1 << 30
_KINDS: Final = {
    "TripStarted": (0, "ONGOING"),
    "TripEnded": (1, "PENDING"),
    "TripDataReady": (2, "FINISHED"),
    "TripMetricsReady": (2, "FINISHED"),
    "TripDiscarded": (2, "DISCARDED"),
    "TripDeleted": (3, DELETED),
}
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LARGEST: Final = 2**63 - 1
_LONGEST_NAME: Final = 256


class Word(NamedTuple):
    """One announcement.

    Attributes:
        stage: its place within a revision: started 0, ended 1, ready or discarded 2, deleted 3.
        vehicle_id: as in the database's columns: see :func:`to_column`.
        flags: the bits of :data:`FLAGS`.
        view: the trip as it is answered, JSON.
        last: what is kept of it as its vehicle's newest announcement, JSON.
        payload: as it stands in Kafka.
    """

    trip_id: str
    revision: int
    stage: int
    type: str
    status: str
    vehicle_id: str
    flags: int
    view: bytes
    last: bytes
    payload: bytes

    @property
    def deleted(self) -> bool:
        """Whether this is the last word, whatever its revision."""
        return self.status == DELETED

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The consumer's rule: of two words about one trip, the one with the higher rank counts."""
        return self.deleted, self.revision, self.stage


def read_word(payload: bytes) -> Word:
    """The announcement in a record.

    Only what the projection itself needs is looked at: fields that a newer version adds go through as they are.

    Raises:
        ValueError: it is no announcement; the message says why.
    """
    try:
        event = orjson.loads(payload)
        metadata, data = event["metadata"], event["data"]
        trip = data["trip"]
        kind = metadata["type"]
        stage, status = _KINDS[kind]
        trip_id, revision, vehicle_id = trip["id"], trip.get("revision", 0), trip["vehicle_id"]
        if not (isinstance(trip_id, str) and _ULID.fullmatch(trip_id)):
            raise ValueError("trip.id is no ULID")
        if type(revision) is not int or not 0 <= revision <= _LARGEST:
            raise ValueError("trip.revision is no whole number from 0 to 2^63 - 1")
        if not (isinstance(vehicle_id, str) and 0 < len(vehicle_id) <= _LONGEST_NAME):
            raise ValueError("trip.vehicle_id is no text of 1 to 256 characters")
        last = {
            "id": metadata["id"],
            "type": kind,
            "occurred_at": metadata["occurred_at"],
            "trip_id": trip_id,
            "revision": revision,
        }
        return Word(
            trip_id=trip_id,
            revision=revision,
            stage=stage,
            type=kind,
            status=status,
            vehicle_id=to_column(vehicle_id),
            flags=sum(FLAGS.get(flag, _UNKNOWN_FLAG) for flag in set(trip.get("flags") or ())),
            view=orjson.dumps(_view(status, trip, data)),
            last=orjson.dumps(last),
            payload=payload,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no announcement: {type(error).__name__} {error}") from None


def _view(status: str, trip: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    if status == DELETED:
        names = {name: trip[name] for name in ("id", "key", "revision", "vehicle_id") if name in trip}
        return names | {"deleted_at": data["occurred_at"]}
    view = dict(trip)
    if status == "DISCARDED":
        view["discard_reason"] = data["reason"]
        if "superseded_by" in data:
            view["superseded_by"] = data["superseded_by"]
    return view


def to_column(text: str) -> str:
    """Text as a database can hold it: PostgreSQL has none with the character 0. Different texts stay different."""
    return text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")


def first_id(instant: int) -> str:
    """The lowest id that a trip with this start (epoch ms, of 48 bits) can have."""
    return "".join(_CROCKFORD[instant >> shift & 31] for shift in range(45, -1, -5)) + "0" * 16
