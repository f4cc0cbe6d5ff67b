"""Reading a message step by step, with a reason for everything in it that cannot be used.

The slow one of the two ways of reading, and the definition: whatever the quick one in
:mod:`streams.telemetry.reader` does not find clean comes here, and what it does find clean gives the same rows.
"""

from __future__ import annotations

import json
from math import floor, isfinite
from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson

from streams.telemetry.problems import Problem, Reason, Unusable, shown
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
    Number,
)
from streams.trips.samples import FLOW_ID_BIT, SWITCHES, Item, Property, Row, make_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.telemetry.timestamps import Instants

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Message", "deeper_than", "explain"]

MAX_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 32
"""Objects and lists inside each other, the message itself being the first."""

Object = dict[str, Any]


class Message:
    """What could be read of a message.

    Attributes:
        vehicle_id: None if the record cannot be used at all; then there are no rows.
        rows: one for each instant, in time order.
        flow_id: the envelope's flow id, if there is one that can be used.
        problems: what could not be used, and why.
    """

    __slots__ = ("flow_id", "problems", "rows", "vehicle_id")

    def __init__(self) -> None:
        self.vehicle_id: str | None = None
        self.rows: list[Row] = []
        self.flow_id: str | None = None
        self.problems: list[Problem] = []


def explain(value: bytes | None, key: bytes | None, latest: int, instants: Instants) -> Message:
    """Reads a message of any bytes. Never raises.

    Args:
        value: the record's value.
        key: the record's key.
        latest: the newest timestamp that is believed, in epoch milliseconds.
        instants: reads timestamps.
    """
    message = Message()
    try:
        fields, metadata = _unwrapped(_parsed(value))
        vehicle_id = _vehicle_id(fields, key)
    except Unusable as unusable:
        message.problems.append(unusable.problem)
        return message

    try:
        message.flow_id = _flow_id(metadata)
    except Unusable as unusable:
        message.problems.append(unusable.problem)

    samples = _Samples(fields, latest, instants)
    message.problems += samples.problems
    if samples.timeless:
        return message
    message.vehicle_id = vehicle_id
    for instant, items in sorted(samples.items.items()):
        if message.flow_id is not None and any(items.get(switch) == 1 for switch in SWITCHES):
            items[FLOW_ID_BIT] = message.flow_id
        message.rows.append(make_row(instant, items))
    return message


class _Samples:
    """The samples of a message by instant and property.

    Attributes:
        items: the values by instant, then by bit.
        problems: one at most for each property, and one for the message's timestamp.
        timeless: nothing that the message says has a time that can be used.
    """

    def __init__(self, fields: Object, latest: int, instants: Instants) -> None:
        self.items: dict[int, dict[int, Item]] = {}
        self.problems: list[Problem] = []
        self._latest = latest
        self._instants = instants
        known = [name for name in PROPERTIES if name in fields]
        without_time: list[str] = []

        missing = "timestamp" not in fields
        time: int | None = None
        if not missing:
            try:
                time = self._instant("timestamp", fields["timestamp"])
            except Unusable as unusable:
                self.problems.append(unusable.problem)

        stamped = 0
        for name in known:
            try:
                instant, value = time, fields[name]
                if _is_stamped(value):
                    instant, value = self._stamped(name, value)
                    stamped += 1
                elif instant is None:
                    if name == "telematics_unit" and self.items:
                        instant = max(self.items)
                    else:
                        without_time.append(name)
                        continue
                bit = PROPERTIES[name]
                item = _item(name, bit, value)
            except Unusable as unusable:
                self.problems.append(unusable.problem)
            else:
                self.items.setdefault(instant, {})[bit] = item

        if without_time:
            self._tell_what_has_no_time(without_time, missing=missing)
        self.timeless = bool(self.problems) and time is None and not stamped

    def _tell_what_has_no_time(self, names: list[str], *, missing: bool) -> None:
        """One problem for them all: theirs is the message's timestamp, which is missing or bad."""
        listed = ", ".join(f'"{name}"' for name in names)
        if missing:
            message = (
                f'there is no time for {listed}: give the message a "timestamp", '
                'or the property its own: {"timestamp": …, "value": …}'
            )
            self.problems.append(Problem(Reason.NO_TIME, "timestamp", message))
        else:
            reason, name, message = self.problems[0]
            self.problems[0] = Problem(reason, name, f"{message}; so there is no time for {listed}")

    def _instant(self, name: str, written: object) -> int:
        """The instant of a timestamp as written in a field, no later than the latest that is believed."""
        subject = '"timestamp"' if name == "timestamp" else f'the timestamp of "{name}"'
        if not isinstance(written, str | int) or isinstance(written, bool):
            raise Unusable(
                Reason.BAD_TIMESTAMP,
                f"{subject} is {shown(written)}: allowed is RFC 3339 with an offset, such as "
                '"2026-03-01T08:00:00Z", or an integer of epoch milliseconds',
                name,
            )
        try:
            instant = self._instants[written]
        except Unusable as unusable:
            reason, _, message = unusable.problem
            raise Unusable(reason, f"{subject}: {message}", name) from None
        if instant > self._latest:
            ahead = (instant - self._latest) / 1000
            raise Unusable(
                Reason.CLOCK_SKEW,
                f"{subject} is {shown(written)}: {ahead:,.3f} s later than the time of its Kafka record and "
                "the clock skew that is allowed",
                name,
            )
        return instant

    def _stamped(self, name: str, value: Object) -> tuple[int, object]:
        """A property that comes with its own time."""
        if "timestamp" not in value:
            raise Unusable(
                Reason.NO_TIME,
                f'"{name}" is an object with a "value" but no "timestamp": both belong together',
                name,
            )
        instant = self._instant(name, value["timestamp"])
        if "value" not in value:
            raise Unusable(
                Reason.BAD_VALUE,
                f'"{name}" is an object with a "timestamp" but no "value": both belong together',
                name,
            )
        return instant, value["value"]


def _parsed(value: bytes | None) -> Object:
    """The JSON object that the bytes hold."""
    if not value:
        raise Unusable(Reason.NO_VALUE, "the record has no value: telemetry is a JSON object")
    if len(value) > MAX_BYTES:
        raise Unusable(Reason.TOO_LARGE, f"the message has {len(value):,} bytes: at most {MAX_BYTES:,} are read")
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        parsed = _parsed_leniently(value, error)
    if deeper_than(parsed, MAX_DEPTH):
        _too_deep()
    if not isinstance(parsed, dict):
        raise Unusable(Reason.NOT_AN_OBJECT, f"the message is {shown(parsed)}: it must be a JSON object")
    return parsed


def _parsed_leniently(value: bytes, error: orjson.JSONDecodeError) -> Any:
    """What orjson refuses though it spoils no more than one value.

    Numbers beyond a double (1e999) and halves of surrogate pairs are JSON by its grammar; NaN is not, but many a
    device's library writes it. An ignition edge beside such a value still counts.
    """
    try:
        return json.loads(value.decode("utf-8"), parse_int=_integer)
    except RecursionError:
        _too_deep()
    except UnicodeDecodeError as fault:
        raise Unusable(
            Reason.NOT_JSON, f"the message is not UTF-8: byte {fault.start:,} is 0x{value[fault.start]:02x}"
        ) from None
    except ValueError:
        if "depth limit" in error.msg:
            _too_deep()
        raise Unusable(Reason.NOT_JSON, f"the message is not JSON: {error}") from None


def _integer(digits: str) -> int | float:
    # Python refuses to read more than 4,300 digits, and takes long for them: beyond 64 bits a double will do.
    return int(digits) if len(digits) < 19 else float(digits)


def _too_deep() -> NoReturn:
    raise Unusable(Reason.TOO_DEEP, f"the message is nested too deep: at most {MAX_DEPTH} levels are read")


def deeper_than(value: object, levels: int) -> bool:
    """Whether objects and lists are nested in more than so many levels.

    Layer by layer, for with recursion a message would choose how deep our stack goes.
    """
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def _unwrapped(message: Object) -> tuple[Object, Object]:
    """The fields and the metadata; an INVERS envelope is an object with ``metadata`` and ``data``."""
    if "metadata" not in message or "data" not in message:
        return message, {}
    for name in ("metadata", "data"):
        if not isinstance(message[name], dict):
            raise Unusable(
                Reason.NOT_AN_OBJECT,
                f'"{name}" of the envelope is {shown(message[name])}: it must be an object',
                name,
            )
    return message["data"], message["metadata"]


def _vehicle_id(fields: Object, key: bytes | None) -> str:
    if "vehicle_id" in fields:
        return _text('"vehicle_id"', fields["vehicle_id"], Reason.BAD_VEHICLE, "vehicle_id")
    if not key:
        raise Unusable(Reason.NO_VEHICLE, 'there is no "vehicle_id", and the record has no key to take its place')
    try:
        vehicle_id = key.decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable(
            Reason.NO_VEHICLE,
            'there is no "vehicle_id", and the record\'s key, which would take its place, is not UTF-8',
        ) from None
    return _text('the record\'s key, which stands for the missing "vehicle_id",', vehicle_id, Reason.BAD_VEHICLE, None)


def _flow_id(metadata: Object) -> str | None:
    if "flow_id" not in metadata:
        return None
    return _text('"metadata.flow_id"', metadata["flow_id"], Reason.BAD_FLOW_ID, "flow_id")


def _text(subject: str, value: object, reason: Reason, name: str | None) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise Unusable(reason, f"{subject} is {shown(value)}: allowed is text of 1 to {MAX_TEXT} characters", name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Unusable(reason, f"{subject} is {shown(value)}: half of a surrogate pair is no character", name) from None
    return value


def _is_stamped(value: object) -> bool:
    return isinstance(value, dict) and ("value" in value or "timestamp" in value)


def _item(name: str, bit: Property, value: Any) -> Item:
    """The value in the steps in which samples are kept."""
    if bit in NUMBERS:
        return _number(name, value, NUMBERS[bit])
    if bit in WORDS:
        return _word(name, value, WORDS[bit])
    return _position(name, value) if bit == Property.POSITION else _unit(name, value)


def _number(name: str, value: object, allowed: Number) -> int:
    within = f"allowed is a number from 0 to {allowed.highest:,}"
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise Unusable(Reason.BAD_VALUE, f'"{name}" is {shown(value)}: {within}', name)
    if not 0 <= value <= allowed.highest:
        raise Unusable(Reason.OUT_OF_RANGE, f'"{name}" is {shown(value)}: {within}', name)
    return floor(value * allowed.steps + 0.5)


def _word(name: str, value: object, words: Mapping[str | bool, int]) -> int:
    if isinstance(value, str | bool) and value in words:
        return words[value]
    allowed = ", ".join(json.dumps(word) for word in words)
    raise Unusable(Reason.BAD_VALUE, f'"{name}" is {shown(value)}: allowed are {allowed}', name)


def _position(name: str, value: Any) -> tuple[int, int, int | None]:
    if not isinstance(value, dict):
        raise Unusable(
            Reason.BAD_VALUE, f'"{name}" is {shown(value)}: allowed is {{"lat": …, "lon": …}}, in degrees', name
        )
    latitude = _coordinate(name, value, "lat", MAX_LATITUDE, "degrees")
    longitude = _coordinate(name, value, "lon", MAX_LONGITUDE, "degrees")
    if latitude == 0 and longitude == 0:
        raise Unusable(
            Reason.NO_POSITION_FIX, f'"{name}" is exactly 0, 0: that is what a receiver without a fix reports', name
        )
    altitude = None
    if "altitude" in value:
        altitude = floor(_coordinate(name, value, "altitude", MAX_ALTITUDE, "metres") * ALTITUDE_STEPS + 0.5)
    return floor(latitude * DEGREE_STEPS + 0.5), floor(longitude * DEGREE_STEPS + 0.5), altitude


def _coordinate(name: str, position: Object, field: str, limit: int, unit: str) -> float:
    within = f"allowed is a number from {-limit:,} to {limit:,} {unit}"
    if field not in position:
        raise Unusable(Reason.BAD_VALUE, f'"{name}" has no "{field}": {within}', name)
    value: object = position[field]
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise Unusable(Reason.BAD_VALUE, f'"{field}" of "{name}" is {shown(value)}: {within}', name)
    if not -limit <= value <= limit:
        raise Unusable(Reason.OUT_OF_RANGE, f'"{field}" of "{name}" is {shown(value)}: {within}', name)
    return value


def _unit(name: str, value: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise Unusable(
            Reason.BAD_VALUE, f'"{name}" is {shown(value)}: allowed is {{"id": …, "brand": …}}, both text', name
        )
    for field in ("id", "brand"):
        if field not in value:
            raise Unusable(Reason.BAD_VALUE, f'"{name}" has no "{field}": it needs "id" and "brand"', name)
        _text(f'"{field}" of "{name}"', value[field], Reason.BAD_VALUE, name)
    return value["id"], value["brand"]
