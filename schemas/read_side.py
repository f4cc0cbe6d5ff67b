"""What the read side answers, as models: for its OpenAPI document, and for those who read its answers in Python."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.announcements import (
    Announcement,
    Boundary,
    EndedTrip,
    FinishedTrip,
    StartedTrip,
    SupersededTrip,
    TooShortTrip,
)
from schemas.base import Part, ShortText, Ulid, UtcTimestamp

__all__ = [
    "DiscardedTripView",
    "LastAnnouncement",
    "LastEnd",
    "LinkedPlan",
    "Problem",
    "RouteFeature",
    "RouteGeometry",
    "RouteProperties",
    "SupersededTripView",
    "TripDeletion",
    "TripDetail",
    "TripPage",
    "TripView",
    "VehicleState",
]


class DiscardedTripView(TooShortTrip):
    """A trip that is too short to count."""

    discard_reason: Literal["TOO_SHORT", "TOO_SHORT_DISTANCE"]


class SupersededTripView(SupersededTrip):
    """A trip that never was, as a correction has shown."""

    discard_reason: Literal["SUPERSEDED"]
    superseded_by: list[Ulid]


TripView = StartedTrip | EndedTrip | FinishedTrip | DiscardedTripView | SupersededTripView
"""The last word about a trip: the ``trip`` of its announcement, and why it was discarded if it was."""


class TripPage(Part):
    """A part of a list of trips, in order of their starts."""

    items: list[TripView]
    next_cursor: str | None = Field(
        None, description="For the next part: the parameter cursor, beside the same others. Absent: this is the end."
    )


class LinkedPlan(Part):
    """The planned trip that a trip is linked to; GET /trip/plan/{tripId} has more."""

    tripId: Annotated[int, Field(ge=1)]  # noqa: N815 - as the trip status calls it, like the next two
    tmsTripId: ShortText  # noqa: N815
    tripStatus: Literal["Planned", "Received", "InProgress", "Rejected", "Completed", "Canceled"]  # noqa: N815


class TripDetail(Part):
    """A trip, and how it came to be what it is."""

    trip: TripView
    plan: LinkedPlan | None = Field(None, description="Absent: there is none, or it is not kept any more.")
    plan_unknown: Literal[True] | None = Field(
        None,
        description="Whether there is one is not known: this process has just started, or not reached Kafka yet.",
    )
    history: list[Announcement] = Field(
        description="What was announced about it, as it stands in trip-events, the oldest first; as far back as the "
        "projection saw, at most the newest 1000."
    )


class LastEnd(Part):
    """Where a vehicle's last trip ended."""

    trip_id: Ulid
    end: Boundary


class LastAnnouncement(Part):
    """The newest announcement about a vehicle; of those that came from trip-events since the projection began."""

    id: Ulid = Field(description="metadata.id")
    type: str = Field(description="metadata.type")
    occurred_at: UtcTimestamp = Field(description="metadata.occurred_at")
    trip_id: Ulid
    revision: Annotated[int, Field(ge=0)]


class VehicleState(Part):
    """What is known of a vehicle now."""

    vehicle_id: ShortText
    on_trip: bool = Field(description="Whether a trip of it is on, by its last announcement.")
    current_trip: StartedTrip | None = Field(None, description="That trip.")
    last_end: LastEnd | None = Field(None, description="Of its last trip that has ended and counts.")
    last_announcement: LastAnnouncement | None = None


Coordinates = Annotated[list[float], Field(min_length=2, max_length=2)]


class RouteGeometry(Part):
    """A GeoJSON LineString (RFC 7946): longitude before latitude."""

    type: Literal["LineString"]
    coordinates: Annotated[list[Coordinates], Field(min_length=2)]


class RouteProperties(Part):
    """What the line is."""

    trip_id: Ulid
    vehicle_id: ShortText
    revision: Annotated[int, Field(ge=0)] | None = None
    source: Literal["ROUTE", "ENDPOINTS"] = Field(
        description="ROUTE: the simplified route in the trip's data. ENDPOINTS: there is none; from the start to the "
        "end, as far as they are known."
    )


class RouteFeature(Part):
    """A trip's route as a GeoJSON Feature; its geometry is null where no two positions are known."""

    type: Literal["Feature"]
    id: Ulid
    geometry: RouteGeometry | None
    properties: RouteProperties


class TripDeletion(Part):
    """What became of the wish to delete a trip."""

    trip_id: Ulid
    state: Literal["DELETED", "REQUESTED"]
    requested_at: UtcTimestamp = Field(description="Of this request; of one that was deleted before: of the first.")


class Problem(Part):
    """What went wrong (RFC 9457, application/problem+json)."""

    type: str = Field(description="urn:ignition-trips:problem:… or about:blank, where the status says it all.")
    title: str
    status: int
    detail: str | None = None
