"""From the bytes of a telemetry message to rows of samples, or to what is wrong with it.

Every message takes this path, so there are two ways through it. :meth:`Reader.read` knows what a clean message looks
like and reads one in a single pass, without an object for each sample. At the first thing that it does not expect it
starts over with :func:`streams.telemetry.explain.explain`, which is slower, takes everything, and says why.
"""

from __future__ import annotations

# Not for type checkers only: when compiled, a named tuple looks its fields' types up.
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import floor
from typing import Any, Final, NamedTuple

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

__all__ = ["Problem", "Reader", "Reading", "Reason"]

_ALTITUDE_MASK: Final = 1 << Property.ALTITUDE
_POSITION: Final = int(Property.POSITION)
_UNIT: Final = int(Property.UNIT)
_SWITCHES_MASK: Final = sum(1 << switch for switch in SWITCHES)
_FLOW_ID_MASK: Final = 1 << FLOW_ID_BIT
_SHAPES: Final = 1_024
"""Shapes to remember: a device model has a few dozen, one that makes up field names must not fill the memory."""
_LONGEST_SHAPE: Final = 64


class Reading(NamedTuple):
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


class _Plan:
    """How messages of one shape, that is with the same field names in the same order, are read.

    Attributes:
        envelope: whether the fields are those of an envelope.
        unknown: the names of fields to ignore.
        steps: the properties there are, in the order of a row's values.
        switches, position, numbers, words, unit: the same by kind, which is the same order again.
        mask: the row's, if all are plain values.
        timed: whether there was a property with a time of its own in such a message: then there will be one again.
    """

    __slots__ = ("envelope", "mask", "numbers", "position", "steps", "switches", "timed", "unit", "unknown", "words")

    def __init__(self, names: Collection[str]) -> None:
        self.envelope = "metadata" in names and "data" in names
        known = {"metadata", "data"} if self.envelope else {"vehicle_id", "timestamp", *PROPERTIES}
        self.unknown = tuple(name for name in names if name not in known)
        self.steps = tuple(step for step in _STEPS if step.name in names)
        self.switches = tuple((step.name, step.words) for step in self.steps if step.words and step.bit < _POSITION)
        self.position = "position" in names
        self.numbers = tuple((step.name, step.highest, step.steps) for step in self.steps if step.steps)
        self.words = tuple((step.name, step.words) for step in self.steps if step.words and step.bit > _POSITION)
        self.unit = "telematics_unit" in names
        self.mask = sum(1 << step.bit for step in self.steps)
        self.timed = False


class Reader:
    """Reads telemetry messages. One for each source partition, or one for all: it only remembers spellings.

    Args:
        max_clock_skew_ms: how much later than its Kafka record a sample may be; None: any (offline, where there is
            no record time to compare with).

    Attributes:
        skew: the same in ms; of any, one that no sample exceeds.
    """

    def __init__(self, *, max_clock_skew_ms: int | None) -> None:
        self.skew = LATEST * 2 if max_clock_skew_ms is None else max_clock_skew_ms
        self._instants = Instants()
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def read(self, value: bytes | None, key: bytes | None, timestamp_ms: int) -> Reading:
        """Reads one record. Never raises, whatever the bytes.

        Args:
            value: the record's value.
            key: the record's key: the vehicle id, if the message has none.
            timestamp_ms: the record's timestamp in epoch milliseconds.
        """
        latest = timestamp_ms + self.skew
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
                if plan.unknown and _too_deep(message, plan.unknown, MAX_DEPTH - 1):
                    return self._explained(value, key, latest)
                message = data
                plan = self._plans.get(tuple(message)) or self._plan(message)
                if plan.envelope:  # of the envelope's content these are names like any other
                    return self._explained(value, key, latest)
            # One level less than there are for a message without an envelope: that one is left to explain().
            if plan.unknown and _too_deep(message, plan.unknown, MAX_DEPTH - 2):
                return self._explained(value, key, latest)

            vehicle_id = message.get("vehicle_id")
            if vehicle_id is None:
                if key is None or "vehicle_id" in message:
                    return self._explained(value, key, latest)
                vehicle_id = key.decode()
            if type(vehicle_id) is not str or not 0 < len(vehicle_id) <= MAX_TEXT:
                return self._explained(value, key, latest)

            time = message.get("timestamp")
            if type(time) is str or type(time) is int:
                time = self._instants[time]
                if time > latest:
                    return self._explained(value, key, latest)
            elif time is not None or "timestamp" in message:
                return self._explained(value, key, latest)

            row = None if plan.timed or time is None else _plain_row(message, plan, time)
            if row is not None:
                rows = [row] if row[1] else []
            else:
                timed = self._timed_rows(message, plan, time, latest)
                if timed is None:
                    return self._explained(value, key, latest)
                rows = timed
                plan.timed = True
        except (ValueError, LookupError, TypeError, Unusable):
            # Not JSON, a key that is not UTF-8, a field or word that is not there, a timestamp that is none.
            return self._explained(value, key, latest)

        if flow_id is not None:
            rows = [_with_flow_id(row, flow_id) for row in rows]
        return Reading(vehicle_id, rows, flow_id, ())

    def _timed_rows(self, message: Mapping[str, Any], plan: _Plan, time: int | None, latest: int) -> list[Row] | None:
        """The rows of a message in which properties may have times of their own; None: it is not clean."""
        instants = self._instants
        values: dict[int, list[Any]] = {}
        masks: dict[int, int] = {}
        for name, bit, highest, steps, words in plan.steps:
            field = message[name]
            own = time
            if type(field) is dict and "value" in field:
                written = field["timestamp"]
                if type(written) is not str and type(written) is not int:
                    return None
                own = instants[written]
                if own > latest or (len(field) != 2 and _nested(field)):
                    return None
                field = field["value"]
            elif own is None:
                if bit != _UNIT or not values:
                    return None
                own = max(values)
            into = values.get(own)
            if into is None:
                into = values[own] = []
                masks[own] = 0
            masks[own] |= 1 << bit

            kind = type(field)
            if steps:
                if (kind is not float and kind is not int) or not 0 <= field <= highest:
                    return None
                into.append(floor(field * steps + 0.5))
            elif words is not None:
                if kind is not str and kind is not bool:
                    return None
                into.append(words[field])
            elif bit == _UNIT:
                into.append(_unit(field))
            else:
                place = _place(field)
                into += place
                if len(place) == 3:
                    masks[own] |= _ALTITUDE_MASK
        return [(own, masks[own], tuple(values[own])) for own in sorted(values)]

    def _explained(self, value: bytes | None, key: bytes | None, latest: int) -> Reading:
        message = explain(value, key, latest, self._instants)
        return Reading(message.vehicle_id, message.rows, message.flow_id, message.problems)

    def _plan(self, message: Mapping[str, object]) -> _Plan:
        """Works out how messages of this shape are read, and remembers it."""
        plan = _Plan(message.keys())
        if len(message) <= _LONGEST_SHAPE:
            if len(self._plans) >= _SHAPES:
                self._plans.clear()
            self._plans[tuple(message)] = plan
        return plan


# What follows expects the fields of a clean message. Whatever it cannot take for one it says with None, or with the
# exception that Python raises anyway when a field is missing or of another kind (LookupError, TypeError).


def _plain_row(message: Mapping[str, Any], plan: _Plan, time: int) -> Row | None:
    """The one row of a message in which all properties take its time; None: it is not clean, or not such a one."""
    values: list[Any] = []
    mask = plan.mask
    for name, words in plan.switches:
        field = message[name]
        if type(field) is not str and type(field) is not bool:
            return None
        values.append(words[field])
    if plan.position:
        field = message["position"]
        if "value" in field:
            return None
        place = _place(field)
        values += place
        if len(place) == 3:
            mask |= _ALTITUDE_MASK
    for name, highest, steps in plan.numbers:
        field = message[name]
        if (type(field) is not float and type(field) is not int) or not 0 <= field <= highest:
            return None
        values.append(floor(field * steps + 0.5))
    for name, words in plan.words:
        field = message[name]
        if type(field) is not str:
            return None
        values.append(words[field])
    if plan.unit:
        field = message["telematics_unit"]
        if "value" in field:
            return None
        values.append(_unit(field))
    return time, mask, tuple(values)


def _place(field: Mapping[str, Any]) -> tuple[int, ...]:
    """Latitude, longitude and, if there is one, altitude."""
    latitude, longitude = field["lat"], field["lon"]
    if (
        (type(latitude) is not float and type(latitude) is not int)
        or (type(longitude) is not float and type(longitude) is not int)
        or not -MAX_LATITUDE <= latitude <= MAX_LATITUDE
        or not -MAX_LONGITUDE <= longitude <= MAX_LONGITUDE
        or (latitude == 0 and longitude == 0)
    ):
        raise TypeError
    place = floor(latitude * DEGREE_STEPS + 0.5), floor(longitude * DEGREE_STEPS + 0.5)
    if len(field) == 2:
        return place
    if "timestamp" in field or _nested(field):
        raise TypeError
    if "altitude" not in field:
        return place
    altitude = field["altitude"]
    if (type(altitude) is not float and type(altitude) is not int) or not -MAX_ALTITUDE <= altitude <= MAX_ALTITUDE:
        raise TypeError
    return *place, floor(altitude * ALTITUDE_STEPS + 0.5)


def _unit(field: Mapping[str, Any]) -> tuple[str, str]:
    """Id and brand."""
    identity, brand = field["id"], field["brand"]
    if (
        type(identity) is not str
        or type(brand) is not str
        or not 0 < len(identity) <= MAX_TEXT
        or not 0 < len(brand) <= MAX_TEXT
        or (len(field) != 2 and ("timestamp" in field or _nested(field)))
    ):
        raise TypeError
    return identity, brand


def _too_deep(message: Mapping[str, object], names: Iterable[str], levels: int) -> bool:
    """Whether one of these fields is nested in more than so many levels."""
    for name in names:
        field = message[name]
        if (type(field) is dict or type(field) is list) and deeper_than(field, levels):
            return True
    return False


def _nested(fields: Mapping[str, object]) -> bool:
    """Whether there is an object or list in it. For where there should be none, so that nothing can be too deep."""
    return any(type(field) is dict or type(field) is list for field in fields.values())


def _with_flow_id(row: Row, flow_id: str) -> Row:
    """The row with the flow id, if it has a switch that is on."""
    instant, mask, values = row
    if 1 in values[: (mask & _SWITCHES_MASK).bit_count()]:  # switches come first
        return instant, mask | _FLOW_ID_MASK, (*values, flow_id)
    return row
