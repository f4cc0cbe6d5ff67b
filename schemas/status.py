"""Events about planned trips: what goes to ``trip-status-events``.

Each is a change of one planned trip and tells how it stands after it. ``plan.revision`` counts them: per plan the
highest one wins, and none is missing in between.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter

from schemas.announcements import tag_of
from schemas.base import Latitude, Longitude, Part, ShortText, Ulid, UtcTimestamp

__all__ = [
    "StatusEvent",
    "TripLinkCorrected",
    "TripLinked",
    "TripPlanExpired",
    "TripPlanned",
    "TripStatusUpdated",
    "TripUnlinked",
    "read_status_event",
]

PlanState = Literal["Planned", "Received", "InProgress", "Rejected", "Completed", "Canceled"]


class Window(Part):
    """When the planned trip is to be driven; both ends included."""

    start: UtcTimestamp
    end: UtcTimestamp


class Plan(Part):
    """A planned trip, as it stands after the event."""

    id: Annotated[int, Field(ge=1)] = Field(description="The tripId: of the planned trip, not of one that was driven.")
    tms_trip_id: ShortText = Field(description="The planner's own id.")
    revision: Annotated[int, Field(ge=1)] = Field(description="Counts the events of this plan: the highest wins.")
    vehicle_id: ShortText
    status: PlanState = Field(description="The tripStatus.")
    window: Window


class UpdateLocation(Part):
    """Where the vehicle was when the update was sent."""

    lat: Latitude
    lon: Longitude
    speed: int | None = None
    heading: int | None = None
    altitude: int | None = None
    device_time: UtcTimestamp | None = None


class Update(Part):
    """A status update that was applied."""

    status: Annotated[int, Field(ge=0, le=4)] = Field(description="As it was sent.")
    action: Literal["Rejected", "Accepted", "Completed", "Canceled", "Received"] = Field(description="Its word.")
    from_state: PlanState = Field(alias="from", description="How the plan stood before.")
    timestamp: UtcTimestamp = Field(description="The update's timeStamp: what decides which update is the newer one.")
    location: UpdateLocation


class Instant(Part):
    """An instant of a trip."""

    timestamp: UtcTimestamp


class LinkedTrip(Part):
    """A trip that the vehicle made, by its last announcement."""

    id: Ulid = Field(description="As in trip-events.")
    revision: Annotated[int, Field(ge=0)] = Field(description="Of the announcement that this is from.")
    start: Instant
    end: Instant | None = Field(None, description="Absent: the trip is on.")


class UnlinkedTrip(Part):
    """A trip that is not linked any more: its names only."""

    id: Ulid
    revision: Annotated[int, Field(ge=0)]


class _Metadata(Part):
    """About the event itself."""

    id: Ulid = Field(description="The event's id.")
    schema_major_version: Literal[1] = Field(description="Fields may be added in a major version, never removed.")
    occurred_at: UtcTimestamp = Field(description="The time of the record that this comes from.")


class PlannedMetadata(_Metadata):
    """About a TripPlanned."""

    type: Literal["TripPlanned"]


class StatusUpdatedMetadata(_Metadata):
    """About a TripStatusUpdated."""

    type: Literal["TripStatusUpdated"]


class LinkedMetadata(_Metadata):
    """About a TripLinked."""

    type: Literal["TripLinked"]


class LinkCorrectedMetadata(_Metadata):
    """About a TripLinkCorrected."""

    type: Literal["TripLinkCorrected"]


class UnlinkedMetadata(_Metadata):
    """About a TripUnlinked."""

    type: Literal["TripUnlinked"]


class PlanExpiredMetadata(_Metadata):
    """About a TripPlanExpired."""

    type: Literal["TripPlanExpired"]


class PlanData(Part):
    """Which plan, and when."""

    occurred_at: UtcTimestamp = Field(
        description="The instant the event is about: the update's timeStamp, the trip's start or end, the request."
    )
    plan: Plan


class UpdatedData(PlanData):
    """What was said of it."""

    update: Update


class LinkedData(PlanData):
    """Both ids: of the plan and of the trip."""

    trip: LinkedTrip


class UnlinkedData(PlanData):
    """What is not linked any more, and why."""

    reason: Literal["SUPERSEDED", "TOO_SHORT", "TOO_SHORT_DISTANCE", "DELETED", "OTHER_PLAN", "PLAN_CLOSED"] = Field(
        description="The trip was discarded (by the reason of its TripDiscarded) or deleted; it belongs to another "
        "plan after all; or the plan was closed before the trip began, as has turned out."
    )
    trip: UnlinkedTrip


class TripPlanned(Part):
    """A trip is planned."""

    metadata: PlannedMetadata
    data: PlanData


class TripStatusUpdated(Part):
    """A status update was applied; it may have left the status as it was."""

    metadata: StatusUpdatedMetadata
    data: UpdatedData


class TripLinked(Part):
    """A trip that began in the window of an accepted plan is linked to it."""

    metadata: LinkedMetadata
    data: LinkedData


class TripLinkCorrected(Part):
    """The end of a linked trip is known, has moved, or is revoked."""

    metadata: LinkCorrectedMetadata
    data: LinkedData


class TripUnlinked(Part):
    """A trip is not linked any more."""

    metadata: UnlinkedMetadata
    data: UnlinkedData


class TripPlanExpired(Part):
    """A plan was kept for long enough, and is forgotten with its links. Its tmsTripId may be used again."""

    metadata: PlanExpiredMetadata
    data: PlanData


StatusEvent = Annotated[
    Annotated[TripPlanned, Tag("TripPlanned")]
    | Annotated[TripStatusUpdated, Tag("TripStatusUpdated")]
    | Annotated[TripLinked, Tag("TripLinked")]
    | Annotated[TripLinkCorrected, Tag("TripLinkCorrected")]
    | Annotated[TripUnlinked, Tag("TripUnlinked")]
    | Annotated[TripPlanExpired, Tag("TripPlanExpired")],
    Discriminator(tag_of),
]
"""Any event about a planned trip, told apart by ``metadata.type``."""

_EVENT: TypeAdapter[StatusEvent] = TypeAdapter(StatusEvent)


def read_status_event(payload: bytes | str) -> StatusEvent:
    """The event in a record of ``trip-status-events``.

    Raises:
        pydantic.ValidationError: it is none; the message says which fields are wrong.
    """
    return _EVENT.validate_json(payload)
