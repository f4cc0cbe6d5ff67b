"""A reader of its own for each shape of messages: what a loop over its properties would do, written out.

A device sends messages of a few shapes, all its life. For each shape the source of a function is put together that
knows its properties by name, without a loop and without a look at a table: half the time of the loop. Nothing of a
message goes into the source, only names of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import floor
from typing import Any, Final

from streams.telemetry.properties import (
    DEGREE_STEPS,
    MAX_LATITUDE,
    MAX_LONGITUDE,
    NUMBERS,
    PROPERTIES,
    WORDS,
)
from streams.trips.samples import Property, Row

__all__ = ["RowReader", "compile_row_reader"]

RowReader = Callable[[Mapping[str, Any], int], Row | None]
"""Takes a message and its instant; None: the message is not clean, or not a plain one, and somebody else has to look.

Raises LookupError or TypeError, as Python does, where a field is missing or of another kind.
"""

_SWITCH: Final = """
    field = message[{name!r}]
    if type(field) is not str and type(field) is not bool:
        return None
    {value} = words_{bit}[field]
"""
_WORD: Final = """
    field = message[{name!r}]
    if type(field) is not str:
        return None
    {value} = words_{bit}[field]
"""
_NUMBER: Final = """
    field = message[{name!r}]
    kind = type(field)
    if (kind is not float and kind is not int) or not 0 <= field <= {highest}:
        return None
    {value} = floor(field * {steps} + 0.5)
"""
_POSITION: Final = f"""
    field = message["position"]
    if len(field) != 2 or "value" in field:
        return None
    latitude, longitude = field["lat"], field["lon"]
    if (
        (type(latitude) is not float and type(latitude) is not int)
        or (type(longitude) is not float and type(longitude) is not int)
        or not {-MAX_LATITUDE} <= latitude <= {MAX_LATITUDE}
        or not {-MAX_LONGITUDE} <= longitude <= {MAX_LONGITUDE}
        or latitude == 0 == longitude
    ):
        return None
    latitude = floor(latitude * {DEGREE_STEPS} + 0.5)
    longitude = floor(longitude * {DEGREE_STEPS} + 0.5)
"""


@lru_cache(maxsize=1_024)
def compile_row_reader(names: tuple[str, ...]) -> RowReader | None:
    """What reads messages with these properties; None: such messages are not for this."""
    if "telematics_unit" in names:
        return None
    lines, values, mask = [], [], 0
    for name, bit in PROPERTIES.items():
        if name not in names:
            continue
        mask |= 1 << bit
        value = f"value_{int(bit)}"
        if bit is Property.POSITION:
            lines.append(_POSITION)
            values += ["latitude", "longitude"]
            continue
        values.append(value)
        if bit in NUMBERS:
            highest, steps = NUMBERS[bit].highest, NUMBERS[bit].steps
            lines.append(_NUMBER.format(name=name, value=value, highest=highest, steps=steps))
        else:
            form = _SWITCH if bit < Property.POSITION else _WORD
            lines.append(form.format(name=name, value=value, bit=int(bit)))
    if not values:
        return None
    source = f"def read_row(message, time):\n{''.join(lines)}\n    return time, {mask}, ({', '.join(values)},)\n"
    known: dict[str, Any] = {f"words_{int(bit)}": words for bit, words in WORDS.items()}
    known["floor"] = floor
    exec(compile(source, f"<reader of {', '.join(names)}>", "exec"), known)  # noqa: S102 - names of ours only
    reader: RowReader = known["read_row"]
    return reader
