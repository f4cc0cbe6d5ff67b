"""Headers of the records that go out. Kafka's headers are bytes; all of these are UTF-8 text.

The values of dead letters and late records are not modelled: they are the bytes that came in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema

from schemas.base import Part, Ulid, UtcTimestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AnnouncementHeaders", "DeadLetterHeaders", "LateHeaders", "StatusHeaders"]

# Headers are text, so numbers are written in digits.
_Count = Annotated[int, Field(strict=False, ge=0), WithJsonSchema({"type": "string", "pattern": "^[0-9]+$"})]


class _Headers(Part):
    model_config = ConfigDict(serialize_by_alias=True)

    @classmethod
    def of(cls, headers: Iterable[tuple[str, bytes | None]]) -> Self:
        """The headers of a record, as Kafka clients give them.

        Of a header that is there several times the last counts: a record that was already a dead letter somewhere
        else keeps those headers in front of ours.

        Raises:
            pydantic.ValidationError: one is missing, or is not what it should be.
        """
        return cls.model_validate({name: value.decode() for name, value in headers if value is not None})


class _CloudEvent(_Headers):
    ce_specversion: Literal["1.0"]
    ce_id: Ulid = Field(description="metadata.id")
    ce_source: str = Field(description="Who announces: /ignition-trips/ and the application id.", min_length=1)
    ce_time: UtcTimestamp = Field(description="metadata.occurred_at")
    content_type: Literal["application/json"] = Field(alias="content-type")


class AnnouncementHeaders(_CloudEvent):
    """CloudEvents 1.0 in Kafka's binary mode: what an announcement is about, without reading its value."""

    ce_type: Literal[
        "TripStarted", "TripEnded", "TripDataReady", "TripMetricsReady", "TripDiscarded", "TripDeleted"
    ] = Field(description="metadata.type")
    ce_subject: Ulid = Field(description="The trip's id.")
    traceparent: str | None = Field(
        None, description="W3C Trace Context of the telemetry record that brought this revision, if it had one."
    )
    partition: Annotated[str, Field(pattern="^[0-9]+$")] | None = Field(
        None,
        alias="ignition-trips.partition",
        description="The partition of the source that the vehicle is in. Commands about the trip go to that one of "
        "trip-commands. Older announcements do not have it.",
    )


class StatusHeaders(_CloudEvent):
    """The same of an event about a planned trip."""

    ce_type: Literal[
        "TripPlanned", "TripStatusUpdated", "TripLinked", "TripLinkCorrected", "TripUnlinked", "TripPlanExpired"
    ] = Field(description="metadata.type")
    ce_subject: str = Field(pattern="^[1-9][0-9]*$", description="The planned trip's tripId.")


class _Errors(_Headers):
    """Kafka Connect's headers of dead letters."""

    topic: str = Field(alias="__connect.errors.topic", description="Where the record came from.")
    partition: _Count = Field(alias="__connect.errors.partition")
    offset: _Count = Field(alias="__connect.errors.offset", description="The whole record is there.")
    stage: Literal["VALUE_CONVERTER"] = Field(alias="__connect.errors.stage", description="Reading the value.")
    message: str = Field(
        alias="__connect.errors.exception.message",
        min_length=1,
        description="What is wrong and what is allowed, in sentences for people.",
    )
    original_size: _Count | None = Field(
        None,
        alias="ignition-trips.original-size",
        description="How many bytes its value had; fewer are left if the record did not fit and is cut short.",
    )


class DeadLetterHeaders(_Errors):
    """Of a record in ``vehicle-telemetry-dead-letters``: telemetry, or a refused command.

    Key, value and other headers are as they came.
    """

    reason: str = Field(
        alias="__connect.errors.exception.class.name",
        pattern=r"^ignition_trips\.[a-z0-9_]+$",
        description="The first reason, in the place of an exception's class.",
    )
    reasons: str = Field(
        alias="ignition-trips.reasons",
        pattern=r"^[a-z0-9_]+(,[a-z0-9_]+)*$",
        description="All reasons, as they are counted in the metrics, separated by commas.",
    )
    partial: Literal["true", "false"] | None = Field(
        None,
        alias="ignition-trips.partial",
        description="true if the good properties of the record were applied; false or absent if nothing of it was.",
    )


class LateHeaders(_Errors):
    """Of a record in ``late-telemetry``: something in it is older than the correction horizon."""

    reason: Literal["ignition_trips.late"] = Field(alias="__connect.errors.exception.class.name")
