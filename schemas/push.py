"""Pushes that were given up: the records of ``trip-push-dead-letters``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.base import Part, ShortText, UtcTimestamp

__all__ = ["PushDeadLetter"]


class PushAttempt(Part):
    """An attempt that failed."""

    at: UtcTimestamp = Field(description="When it began.")
    status: Annotated[int, Field(ge=100, le=999)] | None = Field(None, description="HTTP; absent: no answer.")
    error: str = Field(min_length=1, description="What happened, for people.", examples=["HTTP 503"])


class PushedEvent(Part):
    """The announcement that was to be pushed."""

    id: ShortText = Field(description="Its metadata.id.")
    type: ShortText = Field(description="Its metadata.type.")
    trip_id: ShortText
    vehicle_id: ShortText
    partition: Annotated[int, Field(ge=0)] = Field(description="Where it is in trip-events.")
    offset: Annotated[int, Field(ge=0)]


class PushDeadLetter(Part):
    """A push that was given up, with its history. `trips push retry` delivers it again."""

    id: ShortText = Field(description="Of the delivery; the same at every attempt: webhook-id.")
    subscription: ShortText
    subscription_uid: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] = Field(
        description="Another one each time that a subscription is added, whatever its name."
    )
    reason: str = Field(min_length=1, description="Why it was given up, for people.")
    discarded_at: UtcTimestamp
    due_since: UtcTimestamp = Field(description="When it came to be due.")
    attempts: list[PushAttempt] = Field(description="Oldest first; empty: too many deliveries waited already.")
    event: PushedEvent
    payload: str | None = Field(
        None, description="The announcement itself, as text; absent where it did not fit into the record."
    )
