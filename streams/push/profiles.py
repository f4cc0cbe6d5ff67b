"""Profiles: what a request looks like, and when it is tried again. No I/O, no clock, no randomness.

``drivequant``
    As DriveQuant pushes deleted trips: the body and date format of its documents, the customer's ``Authorization``.
    2xx is success. Anything else is tried again once a day from the day after; after 30 attempts that failed it is
    given up.
``standard``
    Standard Webhooks (https://www.standardwebhooks.com, version 1): the announcement itself, signed. Anything but 2xx
    is tried again after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h, give or take a tenth, and later where
    the answer says so (``Retry-After``); 410 says that the endpoint is gone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "JITTER",
    "MAX_RETRY_AFTER_S",
    "RETRIES",
    "Request",
    "WrongEventError",
    "delay_s",
    "drivequant",
    "retry_after_s",
    "standard",
]

DAY: Final = 86_400
JITTER: Final = 0.1
MAX_RETRY_AFTER_S: Final = float(DAY)
"""An endpoint that asks for more than this is asked again all the same."""
RETRIES: Final[dict[str, tuple[int, ...]]] = {
    "drivequant": (DAY,) * 29,
    "standard": (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
}
"""Seconds from each attempt that failed to the next. One attempt more than there are numbers."""


class WrongEventError(Exception):
    """An announcement that the profile has no request for."""


class Request(NamedTuple):
    """What is posted."""

    headers: dict[str, str]
    body: bytes


def drivequant(payload: bytes, authorization: str | None) -> Request:
    """The push of a deleted trip.

    Args:
        payload: the TripDeleted.
        authorization: the value of the header.

    Raises:
        WrongEventError: it is something else: it would say of a trip that is there that it was deleted.
    """
    announcement = orjson.loads(payload)
    event, data = announcement["metadata"]["type"], announcement["data"]
    if event not in ("TripDeleted", "PushTest"):
        raise WrongEventError(f"the profile drivequant tells of TripDeleted only, and not of {event}")
    body = {
        "itinId": data["trip"]["id"],
        "event": "TRIP_DELETION",
        "date": drivequant_date(data["occurred_at"]),
    }
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    if authorization is not None:
        headers["Authorization"] = authorization
    return Request(headers, orjson.dumps(body))


def drivequant_date(timestamp: str) -> str:
    """An RFC 3339 timestamp as ``yyyy-MM-dd'T'HH:mm:ss.SSSZ``, in UTC."""
    moment = datetime.fromisoformat(timestamp).astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}+0000"


def standard(
    payload: bytes, message_id: str, seconds: int, keys: Sequence[bytes], authorization: str | None
) -> Request:
    """A Standard Webhooks request.

    Args:
        payload: the announcement; it is the body, byte for byte.
        message_id: the same at every attempt.
        seconds: when this attempt is made, Unix time.
        keys: each signs; the receiver accepts what one of its own keys has signed.
        authorization: the value of an Authorization header, if the endpoint wants one besides.
    """
    signed = b"%s.%d.%s" % (message_id.encode(), seconds, payload)
    signatures = (base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
    if authorization is not None:
        headers["Authorization"] = authorization
    return Request(headers, payload)


def delay_s(profile: str, failed: int, chance: float, asked_s: float | None) -> float | None:
    """Seconds from the start of an attempt that failed to the next one.

    Args:
        profile: which one.
        failed: how many attempts have failed, this one included.
        chance: 0 to 1, evenly distributed.
        asked_s: what ``Retry-After`` said; None: nothing.

    Returns:
        None: that was the last one.
    """
    delays = RETRIES[profile]
    if failed > len(delays):
        return None
    delay: float = delays[failed - 1]
    if profile == "standard":
        delay *= 1 + JITTER * (2 * chance - 1)
        if asked_s is not None:
            delay = max(delay, min(asked_s, MAX_RETRY_AFTER_S))
    return delay


def retry_after_s(value: str | None, now_ms: int) -> float | None:
    """What a ``Retry-After`` header asks for, in seconds from now; None: nothing that could be understood."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) < 10 else MAX_RETRY_AFTER_S
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": a time in UTC
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_ms / 1000)
