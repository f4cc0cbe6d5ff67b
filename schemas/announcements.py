"""Announcements: the events about trips that go out.

What one reads of them, and what they promise. Fields that only this software has are optional here, so that the same
models read the events of INVERS: whoever needs ``revision`` finds it in every announcement of ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from schemas.base import Altitude, Latitude, Longitude, Part, Percent, ShortText, TelematicsUnit, Ulid, UtcTimestamp

__all__ = [
    "Announcement",
    "TripDataReady",
    "TripDeleted",
    "TripDiscarded",
    "TripEnded",
    "TripMetricsReady",
    "TripStarted",
    "read_announcement",
]

Milliseconds = Annotated[int, Field(ge=0)]
Kilometres = Annotated[float, Field(ge=0)]
KilometresPerHour = Annotated[float, Field(ge=0)]
Flag = Literal["START_UNOBSERVED", "END_INFERRED", "DATA_GAP", "ODOMETER_IMPLAUSIBLE", "POSITION_JUMPS"]
OpenOrClosed = Literal["OPEN", "CLOSED"]


class Position(Part):
    """A place."""

    lat: Latitude = Field(description="Latitude in degrees, WGS 84.")
    lon: Longitude = Field(description="Longitude in degrees, WGS 84.")
    altitude: Altitude | None = Field(None, description="Metres, if the vehicle told.")


class PositionAt(Part):
    """Where the vehicle was last known to be, and when that was."""

    timestamp: UtcTimestamp
    value: Position


class Address(Part):
    """A postal address. INVERS has it; this software does not produce it yet."""

    city: str | None = None
    street: str | None = None
    house_number: str | None = None


class Boundary(Part):
    """The start or the end of a trip."""

    timestamp: UtcTimestamp = Field(description="When the trigger changed.")
    position: PositionAt | None = Field(
        None, description="The last position at or before; for a start without one, the first inside the trip."
    )
    address: Address | None = None


class Metrics(Part):
    """What a trip amounts to. What is not known is left out."""

    duration_in_ms: Milliseconds = Field(description="End minus start.")
    time_since_last_trip_in_ms: Milliseconds | None = Field(
        None, description="Since the end of the vehicle's previous trip that was kept."
    )
    distance_in_km: Kilometres | None = Field(
        None, description="By the odometer where it is plausible, else along the positions; at most 3 decimals."
    )
    distance_source: Literal["ODOMETER", "GPS"] | None = Field(None, description="Where the distance is from.")
    state_of_charge_or_fuel_level_at_trip_start_in_percent: Percent | None = None
    state_of_charge_or_fuel_level_at_trip_end_in_percent: Percent | None = Field(
        None, description="Higher than at the start after charging or refuelling."
    )
    doors_status_at_trip_end: OpenOrClosed | None = None
    windows_status_at_trip_end: OpenOrClosed | None = None
    gps_distance_in_km: Kilometres | None = Field(None, description="Along the positions; at most 3 decimals.")
    max_speed_in_kmh: KilometresPerHour | None = Field(None, description="The highest that was told.")
    average_speed_in_kmh: KilometresPerHour | None = Field(None, description="Distance by duration; 2 decimals.")
    idle_time_in_ms: Milliseconds | None = Field(
        None, description="Between speeds below 3 km/h that are at most 60 s apart."
    )
    position_count: Annotated[int, Field(ge=0)] | None = Field(None, description="Positions inside the trip.")
    longest_gap_in_ms: Milliseconds | None = Field(
        None, description="The longest time inside the trip without a sample of any property."
    )


class _Names(Part):
    """How a trip is called."""

    id: Ulid = Field(description="ULID of the start and a hash of vehicle and start: the same everywhere, always.")
    key: str = Field(pattern=r"^[0-9A-HJKMNP-TV-Z]{5}$", description="Five characters for people; not unique.")
    revision: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Which state of knowledge this rests on: per trip id the highest wins. In every announcement of "
        "this software; INVERS does not have it.",
    )
    vehicle_id: ShortText


class _Told(_Names):
    """A trip of which something is told."""

    is_flagged: bool = Field(description="Whether there are flags.")
    flags: list[Flag] | None = Field(
        None,
        description="What is unusual about the trip. In every announcement of this software; INVERS does not have it.",
    )
    telematics_unit: TelematicsUnit | None = Field(
        None, description="The last one known at or before the end (in TripStarted: the start)."
    )
    start: Boundary

    @model_validator(mode="after")
    def _flagged_with_flags(self) -> Self:
        if self.flags is not None and self.is_flagged != bool(self.flags):
            raise ValueError("is_flagged says whether there are flags")
        return self


class StartedTrip(_Told):
    """A trip that is on, as of its start."""

    data_completion_status: Literal["ONGOING"]


class EndedTrip(_Told):
    """A trip whose end is known."""

    data_completion_status: Literal["PENDING"]
    end: Boundary


class Route(Part):
    """A simplified route. Only this software has it, if it is set so."""

    polyline: Annotated[str, Field(min_length=2)] = Field(
        description="Encoded Polyline Algorithm Format: at most 257 points, from the first position inside the trip "
        "that counts to the last one."
    )
    precision: Literal[5] = Field(description="Decimals of a degree.")


class FinishedTrip(_Told):
    """A trip with everything that is known of it."""

    data_completion_status: Literal["FINISHED"]
    end: Boundary
    metrics: Metrics
    route: Route | None = None


class TooShortTrip(_Told):
    """A trip that is too short to count, with everything that is known of it."""

    data_completion_status: Literal["DISCARDED"]
    end: Boundary
    metrics: Metrics


class SupersededStart(Part):
    """When the trip was thought to start."""

    timestamp: UtcTimestamp


class SupersededTrip(_Names):
    """A trip that never was, as a correction has shown: its names only."""

    data_completion_status: Literal["DISCARDED"]
    start: SupersededStart


class DeletedTrip(_Names):
    """A trip that was deleted on request: its names only."""


class _Metadata(Part):
    """About the event itself."""

    id: Ulid = Field(description="The event's id: the same for the same announcement, so repetitions can be told.")
    schema_major_version: Literal[1] = Field(description="Fields may be added in a major version, never removed.")
    occurred_at: UtcTimestamp = Field(description="The time of the record that brought this revision.")
    flow_id: ShortText | None = Field(
        None, description="That of the message that started the trip, else a UUID; a deleted trip may have none."
    )


class StartedMetadata(_Metadata):
    """About a TripStarted."""

    type: Literal["TripStarted"]


class EndedMetadata(_Metadata):
    """About a TripEnded."""

    type: Literal["TripEnded"]


class DataReadyMetadata(_Metadata):
    """About a TripDataReady."""

    type: Literal["TripDataReady"]


class MetricsReadyMetadata(_Metadata):
    """About a TripMetricsReady."""

    type: Literal["TripMetricsReady"]


class DiscardedMetadata(_Metadata):
    """About a TripDiscarded."""

    type: Literal["TripDiscarded"]


class DeletedMetadata(_Metadata):
    """About a TripDeleted."""

    type: Literal["TripDeleted"]


class _Data(Part):
    occurred_at: UtcTimestamp = Field(
        description="The instant the event is about: the start for TripStarted, the request for TripDeleted, the end "
        "for the others (the start of a trip that never was)."
    )


class StartedData(_Data):
    """What has started."""

    trip: StartedTrip


class EndedData(_Data):
    """What has ended."""

    trip: EndedTrip


class ReadyData(_Data):
    """What is complete."""

    trip: FinishedTrip


class TooShortData(_Data):
    """What is too short."""

    reason: Literal["TOO_SHORT", "TOO_SHORT_DISTANCE"] = Field(description="By time or by distance.")
    trip: TooShortTrip


class SupersededData(_Data):
    """What never was."""

    reason: Literal["SUPERSEDED"]
    superseded_by: list[Ulid] = Field(
        description="The trip whose interval contains this one's start by what is known now, if there is one."
    )
    trip: SupersededTrip


class DeletedData(_Data):
    """What was deleted."""

    trip: DeletedTrip


class TripStarted(Part):
    """A trip is on. Comes again if its end is revoked, or if a superseded trip exists after all."""

    metadata: StartedMetadata
    data: StartedData


class TripEnded(Part):
    """A trip's end is known, observed or inferred. Comes again if a correction moved the end."""

    metadata: EndedMetadata
    data: EndedData


class TripDataReady(Part):
    """A trip is complete with its metrics. Comes again if a correction changed anything in it."""

    metadata: DataReadyMetadata
    data: ReadyData


class TripMetricsReady(Part):
    """TripDataReady by the name that newer INVERS documents use, if it is set so."""

    metadata: MetricsReadyMetadata
    data: ReadyData


class TripDiscarded(Part):
    """A trip does not count: too short, or, as a correction has shown, it never was."""

    metadata: DiscardedMetadata
    data: Annotated[TooShortData | SupersededData, Field(discriminator="reason")]


class TripDeleted(Part):
    """A trip was deleted on request. Final, whatever its revision."""

    metadata: DeletedMetadata
    data: DeletedData


def tag_of(event: Any) -> str | None:
    """What tells events apart: ``metadata.type``."""
    if isinstance(event, dict):
        metadata = event.get("metadata")
        return metadata.get("type") if isinstance(metadata, dict) else None
    return getattr(getattr(event, "metadata", None), "type", None)


Announcement = Annotated[
    Annotated[TripStarted, Tag("TripStarted")]
    | Annotated[TripEnded, Tag("TripEnded")]
    | Annotated[TripDataReady, Tag("TripDataReady")]
    | Annotated[TripMetricsReady, Tag("TripMetricsReady")]
    | Annotated[TripDiscarded, Tag("TripDiscarded")]
    | Annotated[TripDeleted, Tag("TripDeleted")],
    Discriminator(tag_of),
]
"""Any announcement, told apart by ``metadata.type``."""

_ANNOUNCEMENT: Final[TypeAdapter[Announcement]] = TypeAdapter(Announcement)


def read_announcement(payload: bytes | str) -> Announcement:
    """The announcement in a record of ``trip-events`` or ``trips``.

    Raises:
        pydantic.ValidationError: it is none; the message says which fields are wrong.
    """
    return _ANNOUNCEMENT.validate_json(payload)
