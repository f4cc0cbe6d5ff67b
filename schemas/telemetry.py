"""Telemetry: the messages that come in.

For producers, and for people who ask what is allowed. The stream itself is read by :mod:`streams.telemetry`, which
keeps the good properties of a message whose others are bad; a model takes a message as a whole or not at all.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator
from typing_extensions import TypeAliasType

from schemas.base import Altitude, Latitude, Longitude, Part, Percent, ShortText, TelematicsUnit

__all__ = ["Telemetry", "TelemetryEnvelope", "TelemetryMetadata", "TelemetryTimestamp", "Timed"]

_RFC_3339: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_YEAR_2000: Final = 946_684_800_000
_YEAR_9999: Final = 253_402_300_799_999


def _exists(text: str) -> str:
    whole, dot, rest = text.upper().partition(".")
    zone = re.sub("^[0-9]+", "", rest) if dot else ""
    moment = datetime.fromisoformat(whole + zone)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("outside of the years 2000 to 9999") from None
    if moment.year < 2000:
        raise ValueError("before 2000-01-01, as from a device whose clock was never set")
    return text


TelemetryTimestamp = TypeAliasType(
    "TelemetryTimestamp",
    Annotated[
        Annotated[
            str,
            Field(pattern=_RFC_3339),
            AfterValidator(_exists),
            WithJsonSchema({"type": "string", "format": "date-time", "pattern": _RFC_3339}),
        ]
        | Annotated[int, Field(ge=_YEAR_2000, le=_YEAR_9999)],
        Field(
            description="RFC 3339 with an offset, or an integer of epoch milliseconds; from 2000-01-01 on. What is "
            "finer than a millisecond is cut off."
        ),
    ],
)

Value = TypeVar("Value")


class Timed(Part, Generic[Value]):
    """A value with a time of its own, as in the INVERS vehicle state."""

    timestamp: TelemetryTimestamp = Field(description="When the vehicle had this value.")
    value: Value


# A plain object with a time or a value inside would be half of a timed one.
_PLAIN: Final[dict[str, Any]] = {"not": {"anyOf": [{"required": ["timestamp"]}, {"required": ["value"]}]}}


def _refuse_half_a_timed_value(fields: Any) -> Any:
    if isinstance(fields, dict) and ("timestamp" in fields or "value" in fields):
        raise ValueError('with a time of its own it is {"timestamp": …, "value": …}')
    return fields


_NOT_ZERO_ZERO: Final[dict[str, Any]] = {
    "not": {"properties": {"lat": {"const": 0}, "lon": {"const": 0}}, "required": ["lat", "lon"]}
}


class TelemetryPosition(Part):
    """Where the vehicle is. Exactly 0, 0 is no position: that is what a receiver without a fix reports."""

    model_config = ConfigDict(json_schema_extra=_NOT_ZERO_ZERO)

    lat: Latitude = Field(description="Latitude in degrees, WGS 84; kept to 1e-7.")
    lon: Longitude = Field(description="Longitude in degrees, WGS 84; kept to 1e-7.")
    altitude: Altitude | None = Field(None, description="Metres; kept to 0.1.")

    @model_validator(mode="after")
    def _has_a_fix(self) -> Self:
        if self.lat == 0 and self.lon == 0:
            raise ValueError("exactly 0, 0 is what a receiver without a fix reports")
        return self


class PlainPosition(TelemetryPosition):
    """A position that takes the message's time."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_NOT_ZERO_ZERO, _PLAIN]})

    _plain = model_validator(mode="before")(_refuse_half_a_timed_value)


class PlainUnit(TelematicsUnit):
    """A telematics unit that takes the message's time; if that has none, the time of its newest property."""

    model_config = ConfigDict(json_schema_extra=_PLAIN)

    _plain = model_validator(mode="before")(_refuse_half_a_timed_value)


Ignition = Literal["ON", "OFF", "ACCESSORY"] | bool
Immobilizer = Literal["UNLOCKED", "LOCKED"]
Mileage = Annotated[float, Field(ge=0, le=10_000_000)]
Speed = Annotated[float, Field(ge=0, le=400)]
Heading = Annotated[float, Field(ge=0, le=360)]
Opening = Literal["OPEN", "CLOSED"]


class TimedIgnition(Timed[Ignition]):
    """Ignition with its own time."""


class TimedImmobilizer(Timed[Immobilizer]):
    """Immobilizer with its own time."""


class TimedFlag(Timed[bool]):
    """Yes or no with its own time."""


class TimedPosition(Timed[TelemetryPosition]):
    """A position with its own time."""


class TimedMileage(Timed[Mileage]):
    """Odometer with its own time."""


class TimedSpeed(Timed[Speed]):
    """Speed with its own time."""


class TimedHeading(Timed[Heading]):
    """Heading with its own time."""


class TimedPercent(Timed[Percent]):
    """A level with its own time."""


class TimedOpening(Timed[Opening]):
    """Doors or windows with their own time."""


class TimedUnit(Timed[TelematicsUnit]):
    """A telematics unit with its own time."""


_PROPERTIES: Final = (
    "ignition",
    "immobilizer",
    "driving_enabled",
    "position",
    "mileage_in_kilometers",
    "speed_in_kmh",
    "heading_in_degrees",
    "state_of_charge_or_fuel_level_in_percent",
    "state_of_charge_in_percent",
    "fuel_level_in_percent",
    "doors_status",
    "windows_status",
)
_TIMED: Final = {"type": "object", "required": ["timestamp", "value"]}
_EVERYTHING_HAS_A_TIME: Final[dict[str, Any]] = {
    "anyOf": [
        {"required": ["timestamp"]},
        {
            "properties": dict.fromkeys(_PROPERTIES, _TIMED),
            "anyOf": [{"properties": {"telematics_unit": _TIMED}}, *({"required": [name]} for name in _PROPERTIES)],
        },
    ]
}


class Telemetry(Part):
    """What a vehicle says: any of these properties. UTF-8 JSON, at most 1 MiB, nested at most 32 deep.

    A property is a plain value, which takes the message's timestamp, or {"timestamp", "value"}. Unknown ones are
    ignored.
    """

    model_config = ConfigDict(json_schema_extra=_EVERYTHING_HAS_A_TIME)

    vehicle_id: ShortText | None = Field(
        None, description="Whose message it is; if missing, the record's key is the vehicle id.", examples=["JQ7RP"]
    )
    timestamp: TelemetryTimestamp | None = Field(
        None,
        description="The time of all plain properties.",
        examples=["2026-03-01T08:00:00Z", 1_772_352_000_000],
    )
    ignition: Ignition | TimedIgnition | None = Field(
        None, description="Its change from off to on starts a trip. ACCESSORY is off; true is ON, false is OFF."
    )
    immobilizer: Immobilizer | TimedImmobilizer | None = Field(
        None, description="UNLOCKED is on, if trips are told by the immobilizer."
    )
    driving_enabled: bool | TimedFlag | None = Field(None, description="True is on, if trips are told by it.")
    position: PlainPosition | TimedPosition | None = None
    mileage_in_kilometers: Mileage | TimedMileage | None = Field(
        None, description="The odometer in kilometres; kept to 0.1 m.", examples=[12345.6]
    )
    speed_in_kmh: Speed | TimedSpeed | None = Field(None, description="Kilometres per hour; kept to 0.01.")
    heading_in_degrees: Heading | TimedHeading | None = Field(None, description="Degrees; kept to 0.1.")
    state_of_charge_or_fuel_level_in_percent: Percent | TimedPercent | None = Field(
        None, description="Whichever the vehicle has, in percent; kept to 0.01. Preferred to the next two."
    )
    state_of_charge_in_percent: Percent | TimedPercent | None = Field(
        None, description="Of the traction battery, in percent; kept to 0.01."
    )
    fuel_level_in_percent: Percent | TimedPercent | None = Field(None, description="In percent; kept to 0.01.")
    doors_status: Opening | TimedOpening | None = None
    windows_status: Opening | TimedOpening | None = None
    telematics_unit: PlainUnit | TimedUnit | None = Field(
        None, description="Its time is the message's, else that of the newest property."
    )

    @model_validator(mode="after")
    def _everything_has_a_time(self) -> Self:
        if self.timestamp is None:
            there = [name for name in _PROPERTIES if getattr(self, name) is not None]
            plain = [name for name in there if not isinstance(getattr(self, name), Timed)]
            if isinstance(self.telematics_unit, PlainUnit) and not there:
                plain.append("telematics_unit")
            if plain:
                raise ValueError(f"no time for {', '.join(plain)}: there is no timestamp")
        return self


class TelemetryMetadata(Part):
    """The metadata of an envelope. Only the flow id is read."""

    flow_id: ShortText | None = Field(None, description="Carried to the trip that this message starts.")


class TelemetryEnvelope(Part):
    """The same fields inside an INVERS envelope."""

    metadata: TelemetryMetadata
    data: Telemetry
