"""Commands: what is asked of the workers about trips."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Part, ShortText, Ulid, UtcTimestamp

__all__ = ["DeleteTrip"]


class DeleteTrip(Part):
    """A trip is to be deleted: erased from the state and from ``trips``, and announced as deleted for good."""

    type: Literal["DeleteTrip"]
    id: Ulid = Field(description="The command's id.")
    trip_id: Ulid = Field(description="Which trip. The id proves that the trip is this vehicle's.")
    vehicle_id: ShortText
    requested_at: UtcTimestamp = Field(description="When somebody asked for it: data.occurred_at of TripDeleted.")
    revision: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Of the last announcement of the trip that the one who asks has found; absent: of none. Without "
        "it a worker that does not know the trip refuses.",
    )
    end: UtcTimestamp | None = Field(
        None,
        description="The trip's end in that announcement; absent: it had none. For a worker that has forgotten it.",
    )
