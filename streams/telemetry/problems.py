"""What can be wrong with a telemetry message or a command, in words that a person can act on."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["Problem", "Reason", "Unusable", "shown"]

_SHOWN: Final = 60
"""Of a text that is not allowed, so many characters are shown: enough to find it by, and no log is flooded."""


class Reason(StrEnum):
    """A short code for each kind of problem. It is a label of metrics: codes are added, never renamed."""

    # Of a record as a whole
    NO_VALUE = "no_value"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NO_VEHICLE = "no_vehicle"
    BAD_VEHICLE = "bad_vehicle"
    # Of a time: the message's or a property's
    NO_TIME = "no_time"
    BAD_TIMESTAMP = "bad_timestamp"
    BEFORE_2000 = "before_2000"
    CLOCK_SKEW = "clock_skew"
    # Of a value
    BAD_VALUE = "bad_value"
    OUT_OF_RANGE = "out_of_range"
    NO_POSITION_FIX = "no_position_fix"
    BAD_FLOW_ID = "bad_flow_id"
    # Of a command
    BAD_COMMAND = "bad_command"
    UNKNOWN_TRIP = "unknown_trip"
    ALREADY_DELETED = "already_deleted"


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        reason: its kind.
        property: the name of the property or field it is about; None: the record as a whole.
        message: a sentence that names the property, what it is, and what is allowed.
    """

    reason: Reason
    property: str | None
    message: str


class Unusable(Exception):  # noqa: N818 - what it says of a value, not an error of ours
    """Raised while a message is explained: this value (or record) cannot be used. Never leaves this package."""

    def __init__(self, reason: Reason, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(reason, name, message)


def shown(value: object) -> str:
    """A JSON value as people see it in a message: on one line, printable, and never long."""
    match value:
        case dict():
            return "an object" if value else "an empty object"
        case list():
            return "a list"
        case str() if len(value) > _SHOWN:
            text = json.dumps(value[:_SHOWN], ensure_ascii=False)[:-1] + f'…" ({len(value):,} characters)'
        case float() if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN's own test
            return "NaN" if value != value else "a number too large to read"  # noqa: PLR0124
        case _:
            text = json.dumps(value, ensure_ascii=False)
    # Halves of surrogate pairs cannot be encoded, and control characters would act on the reader's terminal.
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)
