"""From the bytes of a telemetry message to rows of samples, or to what is wrong with it.

Every message takes this path, so there are two ways through it. :meth:`Reader.read` knows what a clean message looks
like and reads one in a single pass, without an object for each sample. At the first thing that it does not expect it
starts over with :func:`streams.telemetry.explain.explain`, which is slower, takes everything, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from streams.telemetry.explain import MAX_BYTES, MAX_DEPTH, deeper_than, explain
from streams.telemetry.problems import Problem, Reason, Unusable
from streams.telemetry.properties import (
    ALTITUDE_STEPS,
    DEGREE_STEPS,
    MAX_ALTITUDE,
    MAX_LATITUDE,
    MAX_LONGITUDE,
    MAX_TEXT,
    NUMBERS,
    PROPERTIES,
    WORDS,
)
from streams.telemetry.timestamps import LATEST, Instants
from streams.trips.samples import FLOW_ID_BIT, SWITCHES, Property, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Problem", "Reader", "Reading", "Reason"]

_ALTITUDE_MASK: Final = 1 << Property.ALTITUDE
_UNIT: Final = int(Property.UNIT)
_SWITCHES_MASK: Final = sum(1 << switch for switch in SWITCHES)
_FLOW_ID_MASK: Final = 1 << FLOW_ID_BIT
_SHAPES: Final = 1_024
"""Shapes to remember: a device model has a few dozen, one that makes up field names must not fill the memory."""
_LONGEST_SHAPE: Final = 64


@dataclass(slots=True)
class Reading:
    """What a message says.

    Attributes:
        vehicle_id: whose it is; None: the record cannot be used at all, and ``problems`` says why.
        rows: the samples, one row for each distinct instant, in time order; may be empty.
        flow_id: the flow id of the envelope. Rows with a switch that is on carry it too.
        problems: what could not be used; empty: nothing was wrong.
    """

    vehicle_id: str | None
    rows: Sequence[Row]
    flow_id: str | None
    problems: Sequence[Problem]


class _Step(NamedTuple):
    """How one property is read; a number if it has ``steps``, a word if it has ``words``."""

    name: str
    bit: int
    highest: int
    steps: int
    words: Mapping[str | bool, int] | None


_STEPS: Final = tuple(
    _Step(
        name,
        int(bit),
        NUMBERS[bit].highest if bit in NUMBERS else 0,
        NUMBERS[bit].steps if bit in NUMBERS else 0,
        WORDS.get(bit),
    )
    for name, bit in PROPERTIES.items()
)


class _Plan(NamedTuple):
    """How messages of one shape, that is with the same field names in the same order, are read.

    Attributes:
        steps: the properties there are, in the order of a row's values.
        mask: the row's, if all are plain values.
        unknown: the names of fields to ignore.
        envelope: whether the fields are those of an envelope.
    """

    steps: tuple[_Step, ...]
    mask: int
    unknown: tuple[str, ...]
    envelope: bool


class Reader:
    """Reads telemetry messages. One for each source partition, or one for all: it only remembers spellings.

    Args:
        max_clock_skew_ms: how much later than its Kafka record a sample may be; None: any (offline, where there is
            no record time to compare with).
    """

    def __init__(self, *, max_clock_skew_ms: int | None) -> None:
        self._skew = LATEST * 2 if max_clock_skew_ms is None else max_clock_skew_ms
        self._instants = Instants()
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def read(self, value: bytes | None, key: bytes | None, timestamp_ms: int) -> Reading:
        """Reads one record. Never raises, whatever the bytes.

        Args:
            value: the record's value.
            key: the record's key: the vehicle id, if the message has none.
            timestamp_ms: the record's timestamp in epoch milliseconds.
        """
        instants = self._instants
        latest = timestamp_ms + self._skew
        if not value or len(value) > MAX_BYTES:
            return self._explained(value, key, latest)
        try:
            message = orjson.loads(value)
            if type(message) is not dict:
                return self._explained(value, key, latest)
            flow_id = None
            plan = self._plans.get(tuple(message)) or self._plan(message)
            if plan.envelope:
                metadata, data = message["metadata"], message["data"]
                if type(data) is not dict or type(metadata) is not dict or _nested(metadata):
                    return self._explained(value, key, latest)
                flow_id = metadata.get("flow_id")
                if (type(flow_id) is not str or not 0 < len(flow_id) <= MAX_TEXT) and "flow_id" in metadata:
                    return self._explained(value, key, latest)
                for name in plan.unknown:
                    if type(message[name]) is dict or type(message[name]) is list:
                        return self._explained(value, key, latest)
                message = data
                plan = self._plans.get(tuple(message)) or self._plan(message)
                if plan.envelope:  # of the envelope's content these are names like any other
                    return self._explained(value, key, latest)
            steps, mask, unknown, _ = plan

            vehicle_id = message.get("vehicle_id")
            if vehicle_id is None:
                if key is None or "vehicle_id" in message:
                    return self._explained(value, key, latest)
                vehicle_id = key.decode()
            if type(vehicle_id) is not str or not 0 < len(vehicle_id) <= MAX_TEXT:
                return self._explained(value, key, latest)

            time = message.get("timestamp")
            if type(time) is str or type(time) is int:
                time = instants[time]
                if time > latest:
                    return self._explained(value, key, latest)
            elif time is not None or "timestamp" in message:
                return self._explained(value, key, latest)

            for name in unknown:
                field = message[name]
                # One level for the message, one for an envelope: a field that is too deep by one is left to explain().
                if (type(field) is dict or type(field) is list) and deeper_than(field, MAX_DEPTH - 2):
                    return self._explained(value, key, latest)

            # ``values`` takes what has the message's time; what has another has its own list in ``others``.
            values: list[Any] = []
            others: dict[int, list[Any]] = {}
            for name, bit, highest, scale, words in steps:
                field = message[name]
                kind = type(field)
                if kind is dict and "value" in field:
                    own = field["timestamp"]
                    if type(own) is not str and type(own) is not int:
                        return self._explained(value, key, latest)
                    own = instants[own]
                    if own > latest or (len(field) != 2 and _nested(field)):
                        return self._explained(value, key, latest)
                    field = field["value"]
                    kind = type(field)
                elif time is not None:
                    own = time
                elif bit == _UNIT and others:
                    own = max(others)
                else:
                    return self._explained(value, key, latest)
                if own is time or own == time:
                    into = values
                else:
                    mask ^= 1 << bit
                    into = others.setdefault(own, [0])
                    into[0] |= 1 << bit

                if scale:
                    if (kind is not float and kind is not int) or not 0 <= field <= highest:
                        return self._explained(value, key, latest)
                    into.append(floor(field * scale + 0.5))
                elif words is not None:
                    if kind is not str and kind is not bool:
                        return self._explained(value, key, latest)
                    into.append(words[field])
                elif bit == _UNIT:
                    identity, brand = field["id"], field["brand"]
                    if (
                        type(identity) is not str
                        or type(brand) is not str
                        or not 0 < len(identity) <= MAX_TEXT
                        or not 0 < len(brand) <= MAX_TEXT
                        or (len(field) != 2 and (_nested(field) or "timestamp" in field))
                    ):
                        return self._explained(value, key, latest)
                    into.append((identity, brand))
                else:
                    latitude, longitude = field["lat"], field["lon"]
                    if (
                        (type(latitude) is not float and type(latitude) is not int)
                        or (type(longitude) is not float and type(longitude) is not int)
                        or not -MAX_LATITUDE <= latitude <= MAX_LATITUDE
                        or not -MAX_LONGITUDE <= longitude <= MAX_LONGITUDE
                        or (latitude == 0 and longitude == 0)
                    ):
                        return self._explained(value, key, latest)
                    into.append(floor(latitude * DEGREE_STEPS + 0.5))
                    into.append(floor(longitude * DEGREE_STEPS + 0.5))
                    if len(field) != 2:
                        if _nested(field) or "timestamp" in field:
                            return self._explained(value, key, latest)
                        if "altitude" in field:
                            altitude = field["altitude"]
                            if (
                                type(altitude) is not float and type(altitude) is not int
                            ) or not -MAX_ALTITUDE <= altitude <= MAX_ALTITUDE:
                                return self._explained(value, key, latest)
                            into.append(floor(altitude * ALTITUDE_STEPS + 0.5))
                            if into is values:
                                mask |= _ALTITUDE_MASK
                            else:
                                into[0] |= _ALTITUDE_MASK
        except (ValueError, LookupError, TypeError, Unusable):
            # Not JSON, a key that is not UTF-8, a field or word that is not there, a timestamp that is none.
            return self._explained(value, key, latest)

        rows: list[Row] = [] if time is None or not values else [(time, mask, tuple(values))]
        if others:
            rows += [(instant, other[0], tuple(other[1:])) for instant, other in others.items()]
            rows.sort()
        if flow_id is not None:
            rows = [_with_flow_id(row, flow_id) for row in rows]
        return Reading(vehicle_id, rows, flow_id, ())

    def _explained(self, value: bytes | None, key: bytes | None, latest: int) -> Reading:
        message = explain(value, key, latest, self._instants)
        return Reading(message.vehicle_id, message.rows, message.flow_id, message.problems)

    def _plan(self, message: Mapping[str, object]) -> _Plan:
        """Works out how messages of this shape are read, and remembers it."""
        steps = tuple(step for step in _STEPS if step.name in message)
        known = {step.name for step in steps} | {"vehicle_id", "timestamp"}
        envelope = "metadata" in message and "data" in message
        if envelope:
            known = {"metadata", "data"}
        plan = _Plan(
            steps,
            sum(1 << step.bit for step in steps),
            tuple(name for name in message if name not in known),
            envelope,
        )
        if len(message) <= _LONGEST_SHAPE:
            if len(self._plans) >= _SHAPES:
                self._plans.clear()
            self._plans[tuple(message)] = plan
        return plan


def _nested(fields: Mapping[str, object]) -> bool:
    """Whether there is an object or list in it. For where there should be none, so that nothing can be too deep."""
    return any(type(field) is dict or type(field) is list for field in fields.values())


def _with_flow_id(row: Row, flow_id: str) -> Row:
    """The row with the flow id, if it has a switch that is on."""
    instant, mask, values = row
    if 1 in values[: (mask & _SWITCHES_MASK).bit_count()]:  # switches come first
        return instant, mask | _FLOW_ID_MASK, (*values, flow_id)
    return row
