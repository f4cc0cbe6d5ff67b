"""How lists of trips are asked for: parameters, cursors, CSV."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from streams.serve.problems import ProblemError
from streams.serve.queries import TripFilter
from streams.serve.words import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CSV_COLUMNS", "ExportQuery", "ListQuery", "VehicleListQuery", "csv_lines", "read_cursor", "write_cursor"]

Status = Literal["ONGOING", "PENDING", "FINISHED", "DISCARDED"]
Flag = Literal["START_UNOBSERVED", "END_INFERRED", "DATA_GAP", "ODOMETER_IMPLAUSIBLE", "POSITION_JUMPS"]

_COUNTING: Final = ("ONGOING", "PENDING", "FINISHED")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = 2**48 - 1  # what an id has room for
_CURSOR: Final = re.compile(r"1([ad])([0-7][0-9A-HJKMNP-TV-Z]{25})")


class _Filter(BaseModel):
    """Which trips, in any list."""

    model_config = ConfigDict(extra="forbid")

    start_from: AwareDatetime | None = Field(
        None,
        description="Trips that start at this instant or later: RFC 3339 with an offset.",
        examples=["2026-03-01T00:00:00Z"],
    )
    start_before: AwareDatetime | None = Field(
        None, description="Trips that start before this instant.", examples=["2026-04-01T00:00:00Z"]
    )
    status: list[Status] = Field(
        default_factory=list,
        max_length=8,
        description="Trips with one of these as their data_completion_status; without it all but DISCARDED.",
        examples=[["FINISHED"]],
    )
    flag: list[Flag] = Field(
        default_factory=list, max_length=8, description="Trips that have all of these flags.", examples=[[]]
    )
    flagged: bool | None = Field(None, description="Trips that have any flag, or none.")
    order: Literal["desc", "asc"] = Field("desc", description="By start: the newest first, or the oldest.")

    def wanted(self, vehicle_id: str | None) -> TripFilter:
        """As the database is asked."""
        flags = 0
        for flag in self.flag:
            flags |= FLAGS[flag]
        return TripFilter(
            statuses=tuple(dict.fromkeys(self.status)) or _COUNTING,
            vehicle_id=vehicle_id,
            start_from=_ms(self.start_from),
            start_before=_ms(self.start_before),
            flags=flags,
            flagged=self.flagged,
            newest_first=self.order == "desc",
        )


class VehicleListQuery(_Filter):
    """A list of one vehicle's trips."""

    limit: int = Field(100, ge=1, le=1000, description="At most so many in one answer.")
    cursor: str | None = Field(
        None, max_length=100, description="next_cursor of the answer before; all else as it was there."
    )


_Vehicle = Annotated[
    str | None, Field(min_length=1, max_length=256, description="Trips of this vehicle.", examples=["JQ7RP"])
]


class ListQuery(VehicleListQuery):
    """A list of trips."""

    vehicle: _Vehicle = None


class ExportQuery(_Filter):
    """All trips that a filter lets through."""

    vehicle: _Vehicle = None


def _ms(moment: datetime | None) -> int | None:
    """Epoch milliseconds, rounded up, as starts are whole milliseconds; within what an id has room for."""
    if moment is None:
        return None
    milliseconds = -((_EPOCH - moment) // timedelta(milliseconds=1))
    return min(max(milliseconds, 0), _LATEST)


def write_cursor(after: str, *, newest_first: bool) -> str:
    """A cursor: which way, and after which trip. It stays right whatever is added meanwhile."""
    return base64.urlsafe_b64encode(f"1{'d' if newest_first else 'a'}{after}".encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *, newest_first: bool) -> str | None:
    """The id in a cursor.

    Raises:
        ProblemError: it is none, or one of a list the other way round.
    """
    if cursor is None:
        return None
    try:
        written = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        written = ""
    match = _CURSOR.fullmatch(written)
    if match is None:
        raise ProblemError(400, "cursor is not the next_cursor of an answer.", kind="cursor")
    if (match[1] == "d") is not newest_first:
        raise ProblemError(400, "cursor is of a list in the other order: leave order as it was.", kind="cursor")
    return match[2]


_METRICS: Final = (
    "duration_in_ms",
    "time_since_last_trip_in_ms",
    "distance_in_km",
    "distance_source",
    "gps_distance_in_km",
    "max_speed_in_kmh",
    "average_speed_in_kmh",
    "idle_time_in_ms",
    "state_of_charge_or_fuel_level_at_trip_start_in_percent",
    "state_of_charge_or_fuel_level_at_trip_end_in_percent",
    "doors_status_at_trip_end",
    "windows_status_at_trip_end",
    "position_count",
    "longest_gap_in_ms",
)
CSV_COLUMNS: Final = (
    "id",
    "key",
    "revision",
    "vehicle_id",
    "data_completion_status",
    "discard_reason",
    "flags",
    "telematics_unit_id",
    "telematics_unit_brand",
    "start",
    "start_lat",
    "start_lon",
    "end",
    "end_lat",
    "end_lon",
    *_METRICS,
)
# What a spreadsheet takes for a formula (some take full-width signs for the others), or skips before it looks for one.
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n", " ", "|", "%")


def csv_lines(views: Iterable[bytes], *, head: bool) -> bytes:
    """Trips as CSV (RFC 4180, UTF-8).

    Text that a spreadsheet would take for a formula gets an apostrophe in front. Numbers are ours, and stay.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    if head:
        writer.writerow(CSV_COLUMNS)
    for view in views:
        writer.writerow([_cell(value) for value in _row(orjson.loads(view))])
    return out.getvalue().encode()


def _row(trip: dict[str, Any]) -> list[Any]:
    unit = trip.get("telematics_unit") or {}
    metrics = trip.get("metrics") or {}
    row = [trip.get(name) for name in CSV_COLUMNS[:6]]
    row += [" ".join(trip.get("flags") or ()), unit.get("id"), unit.get("brand")]
    for name in ("start", "end"):
        boundary = trip.get(name) or {}
        value = (boundary.get("position") or {}).get("value") or {}
        row += [boundary.get("timestamp"), value.get("lat"), value.get("lon")]
    return row + [metrics.get(name) for name in _METRICS]


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace("\x00", "")
    return f"'{value}" if value.startswith(_FORMULA) else value
