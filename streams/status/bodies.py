"""The bodies of requests: bytes → what is asked for, or what is wrong with them. No I/O, no clock.

Types are strict: text is no number, true is not 1. Unknown fields are ignored. A field that is null is not supplied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from streams.status.rules import Status
from streams.telemetry.timestamps import EARLIEST, LATEST

__all__ = ["MAX_BODY", "MAX_WINDOW", "BodyError", "PlanBody", "UpdateBody", "read_plan", "read_update"]

MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body. The largest sensible one has about 1 KiB."""
MAX_WINDOW: Final = timedelta(days=31)
"""From the start of a planned trip's window to its end."""

_LONGEST_ID: Final = 256
_LONGEST_TIME: Final = 48
_INTEGERS: Final = range(-1_000_000, 1_000_001)
"""Of speed, heading and altitude, whose units the seed does not tell."""

# Calendar dates and times of ISO 8601, extended or basic; which of them exist is datetime's to say.
_ISO_8601: Final = re.compile(
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?"
    r"|[0-9]{8}T[0-9]{4}(?:[0-9]{2}(?:[.,][0-9]+)?)?)"
    r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_DEGREES: Final = re.compile(r"[+-]?[0-9]{1,3}\.[0-9]{4,20}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TRY_AGAIN: Final = "Correct the error and try again."
_ISO_ALLOWED: Final = 'a date and time in ISO-8601 format, such as "2018-03-20T15:00:42.624Z", from the year 2000 on'


class BodyError(Exception):
    """A body that cannot be used.

    Args:
        description: what is wrong, and what is allowed.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        super().__init__(description)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBody:
    """A status update, as it goes into the log.

    Attributes:
        tms_trip_id: decides, if it is there, whatever ``trip_id`` is.
        time_ms: when it was sent, epoch milliseconds.
        location: where the vehicle was: ``lat`` and ``lon`` in degrees; ``speed``, ``heading``, ``altitude`` and
            ``device_time`` (epoch milliseconds), if told.
    """

    trip_id: int | None
    tms_trip_id: str | None
    status: Status
    time_ms: int
    location: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBody:
    """A trip to be planned. The window is in epoch milliseconds, both ends included."""

    tms_trip_id: str
    vehicle_id: str
    start_ms: int
    end_ms: int


def read_update(body: bytes, *, latest_ms: int) -> UpdateBody:
    """A status update.

    Args:
        body: as it was sent.
        latest_ms: a ``timeStamp`` after this is refused: nothing older could be said of the trip any more.

    Raises:
        BodyError: with the text for the ``Description``.
    """
    fields = _object(body)
    tms_trip_id = fields.get("tmsTripId")
    if tms_trip_id == "" and fields.get("tripId") is not None:
        tms_trip_id = None  # as clients send it whose fields are always there
    if tms_trip_id is not None:
        tms_trip_id, trip_id = _identifier(tms_trip_id, "tmsTripId"), None
    else:
        trip_id = fields.get("tripId")
        if trip_id is None:
            raise _missing("'tripId' or 'tmsTripId'")
        if type(trip_id) is not int:
            raise _invalid("tripId", "an integer")
    status = _required(fields, "status")
    if type(status) is not int or status not in tuple(Status):
        raise _invalid("status", "0 (Rejected), 1 (Accepted), 2 (Completed), 3 (Canceled) or 4 (Received), an integer")
    time_ms = _instant(_required(fields, "timeStamp"), "timeStamp")
    if time_ms > latest_ms:
        raise _invalid("timeStamp", "a time that is not in the future")
    return UpdateBody(
        trip_id=trip_id, tms_trip_id=tms_trip_id, status=Status(status), time_ms=time_ms, location=_location(fields)
    )


def read_plan(body: bytes) -> PlanBody:
    """A trip to be planned.

    Raises:
        BodyError: it cannot be.
    """
    fields = _object(body)
    tms_trip_id = _identifier(_required(fields, "tmsTripId"), "tmsTripId")
    vehicle_id = _identifier(_required(fields, "vehicleId"), "vehicleId")
    start_ms = _instant(_required(fields, "windowStart"), "windowStart")
    end_ms = _instant(_required(fields, "windowEnd"), "windowEnd")
    if not 0 < end_ms - start_ms <= MAX_WINDOW // timedelta(milliseconds=1):
        raise _invalid("windowEnd", f"after windowStart, by at most {MAX_WINDOW.days} days")
    return PlanBody(tms_trip_id=tms_trip_id, vehicle_id=vehicle_id, start_ms=start_ms, end_ms=end_ms)


def _location(fields: dict[str, Any]) -> dict[str, Any]:
    loc = _required(fields, "loc")
    if not isinstance(loc, dict):
        raise _invalid("loc", "an object with coords")
    coords = _either(loc, "coords", "loc.")
    if coords is None:
        raise _missing("'loc.coords'")
    if not isinstance(coords, dict):
        raise _invalid("loc.coords", "an object with lat and lon")
    location: dict[str, Any] = {
        name: _degrees(_either(coords, name, "loc.coords."), f"loc.coords.{name}", most)
        for name, most in (("lat", 90), ("lon", 180))
    }
    for name in ("speed", "heading", "altitude"):
        number = _either(loc, name, "loc.")
        if number is not None:
            if type(number) is not int or number not in _INTEGERS:
                raise _invalid(f"loc.{name}", "an integer")
            location[name] = number
    device_time = _either(loc, "deviceDT", "loc.")
    if device_time is not None:
        location["device_time"] = _instant(device_time, "loc.deviceDT")
    return location


def _degrees(written: Any, where: str, most: int) -> float:
    if written is None:
        raise _missing(f"'{where}'")
    if not isinstance(written, str) or _DEGREES.fullmatch(written) is None or abs(float(written)) > most:
        raise _invalid(where, f"a string of degrees from -{most} to {most} with at least 4 decimal digits")
    return float(written)


def _instant(written: Any, where: str) -> int:
    """Epoch milliseconds; finer than that is cut off. A time without an offset is taken as UTC."""
    if not isinstance(written, str) or len(written) > _LONGEST_TIME:
        raise _invalid(where, _ISO_ALLOWED)
    text = written.upper()
    try:
        moment = datetime.fromisoformat(text) if _ISO_8601.fullmatch(text) else None
    except ValueError:
        moment = None
    if moment is None:
        raise _invalid(where, _ISO_ALLOWED)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    instant = (moment - _EPOCH) // timedelta(milliseconds=1)
    if not EARLIEST <= instant <= LATEST:
        raise _invalid(where, _ISO_ALLOWED)
    return instant


def _identifier(written: Any, where: str) -> str:
    if not isinstance(written, str) or not 1 <= len(written) <= _LONGEST_ID:
        raise _invalid(where, f"a string of 1 to {_LONGEST_ID} characters")
    return written


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise BodyError(f"An invalid value was passed: the body must be a JSON object. {_TRY_AGAIN}")
    return fields


def _required(fields: dict[str, Any], name: str) -> Any:
    value = fields.get(name)
    if value is None:
        raise _missing(f"'{name}'")
    return value


def _either(fields: dict[str, Any], name: str, where: str) -> Any:
    """A field that the seed's table writes in one way and its sample in another: ``coords`` and ``Coords``."""
    capital = name[0].upper() + name[1:]
    value, other = fields.get(name), fields.get(capital)
    if value is not None and other is not None:
        raise _invalid(where + name, f"given once, not also as {capital}")
    return other if value is None else value


def _missing(what: str) -> BodyError:
    return BodyError(f"A required field was not supplied: {what}. {_TRY_AGAIN}")


def _invalid(where: str, allowed: str) -> BodyError:
    return BodyError(f"An invalid value was passed: '{where}' must be {allowed}. {_TRY_AGAIN}")
