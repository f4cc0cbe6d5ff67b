"""What all models have in common, and the types that appear in several of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import TypeAliasType

__all__ = ["Latitude", "Longitude", "Part", "Percent", "ShortText", "TelematicsUnit", "Ulid", "UtcTimestamp"]


class Part(BaseModel):
    """A part of the contract.

    Strict: text is no number, true is not 1. Unknown fields are ignored, because fields may be added within a major
    version. What is not known is left out; null is an error.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_not_null(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            names = {field.alias or name for name, field in cls.model_fields.items()}
            nulls = [name for name, value in fields.items() if value is None and name in names]
            if nulls:
                raise ValueError(f"{', '.join(nulls)}: null is no value; leave out what is not known")
        return fields


_UTC: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z$"


def _moment(written: Any) -> Any:
    """Text as a moment; a moment stays what it is."""
    if isinstance(written, str):
        if re.fullmatch(_UTC[1:-1], written) is None:
            raise ValueError("must be RFC 3339 in UTC, such as 2026-03-01T08:00:00Z or 2026-03-01T08:00:00.500Z")
        return datetime.fromisoformat(written)
    return written


def _rfc3339(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


UtcTimestamp = TypeAliasType(
    "UtcTimestamp",
    Annotated[
        AwareDatetime,
        BeforeValidator(_moment),
        PlainSerializer(_rfc3339, return_type=str, when_used="json"),
        WithJsonSchema(
            {
                "type": "string",
                "format": "date-time",
                "pattern": _UTC,
                "description": "RFC 3339 in UTC with Z; milliseconds only where they are not zero.",
            }
        ),
    ],
)

Ulid = Annotated[str, Field(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
"""26 characters of Crockford base32: 48 bits of epoch milliseconds, then 80 bits."""

ShortText = Annotated[str, Field(min_length=1, max_length=256)]
Latitude = Annotated[float, Field(ge=-90, le=90, description="Degrees, WGS 84.")]
Longitude = Annotated[float, Field(ge=-180, le=180, description="Degrees, WGS 84.")]
Altitude = Annotated[float, Field(ge=-100_000, le=100_000, description="Metres.")]
Percent = Annotated[float, Field(ge=0, le=100)]


class TelematicsUnit(Part):
    """The device in the vehicle that tells."""

    id: ShortText = Field(description="The device's id.", examples=["2A2440843B02F704"])
    brand: ShortText = Field(description="Its make.", examples=["CLOUDBOXX"])
