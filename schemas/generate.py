"""The contract as files: a JSON Schema for each kind of record, and an AsyncAPI document that ties them to topics.

The committed files are what :func:`write` makes of the models; a test fails when they differ.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from schemas.announcements import (
    TripDataReady,
    TripDeleted,
    TripDiscarded,
    TripEnded,
    TripMetricsReady,
    TripStarted,
)
from schemas.commands import DeleteTrip
from schemas.headers import AnnouncementHeaders, DeadLetterHeaders, LateHeaders, StatusHeaders
from schemas.push import PushDeadLetter
from schemas.status import (
    TripLinkCorrected,
    TripLinked,
    TripPlanExpired,
    TripPlanned,
    TripStatusUpdated,
    TripUnlinked,
)
from schemas.telemetry import Telemetry, TelemetryEnvelope

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic_core import core_schema

__all__ = ["asyncapi", "json_schemas", "write"]

CONTRACT_VERSION: Final = "1.0.0"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_SCHEMAS: Final[dict[str, type[BaseModel]]] = {
    "telemetry": Telemetry,
    "telemetry-envelope": TelemetryEnvelope,
    "trip-started": TripStarted,
    "trip-ended": TripEnded,
    "trip-data-ready": TripDataReady,
    "trip-metrics-ready": TripMetricsReady,
    "trip-discarded": TripDiscarded,
    "trip-deleted": TripDeleted,
    "delete-trip": DeleteTrip,
    "announcement-headers": AnnouncementHeaders,
    "dead-letter-headers": DeadLetterHeaders,
    "late-headers": LateHeaders,
    "trip-planned": TripPlanned,
    "trip-status-updated": TripStatusUpdated,
    "trip-linked": TripLinked,
    "trip-link-corrected": TripLinkCorrected,
    "trip-unlinked": TripUnlinked,
    "trip-plan-expired": TripPlanExpired,
    "status-headers": StatusHeaders,
    "push-dead-letter": PushDeadLetter,
}
"""File name (without its ending) and model."""


class _AbsentNotNull(GenerateJsonSchema):
    """Optional means that a field may be left out, never that it may be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        # Pydantic adds OpenAPI's discriminator: no keyword of JSON Schema, and AsyncAPI has another form of it.
        union = super().tagged_union_schema(schema)
        union.pop("discriminator", None)
        return union

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the name says it already
        return False


def json_schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema (Draft 2020-12) for each kind of record, by file name."""
    return {
        f"{name}.schema.json": {
            "$schema": _DIALECT,
            "$id": f"urn:ignition-trips:schema:1:{name}",
            **model.model_json_schema(schema_generator=_AbsentNotNull),
        }
        for name, model in _SCHEMAS.items()
    }


def write(directory: Path, openapi: dict[str, Any] | None = None) -> list[Path]:
    """Writes the JSON Schemas to ``json`` in this directory, and ``asyncapi.json`` and ``openapi.json`` beside it.

    Args:
        directory: is made if there is none; files of the same names are replaced.
        openapi: the OpenAPI document, which comes from the application that answers; None: none is written.

    Returns:
        The files that it wrote.

    Raises:
        OSError: the directory cannot be written to.
    """
    documents = {directory / "json" / name: schema for name, schema in json_schemas().items()}
    documents[directory / "asyncapi.json"] = asyncapi()
    if openapi is not None:
        documents[directory / "openapi.json"] = openapi
    (directory / "json").mkdir(parents=True, exist_ok=True)
    for path, document in documents.items():
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(documents)


class _Channel(NamedTuple):
    """A topic, as the AsyncAPI document tells of it."""

    address: str
    description: str
    messages: tuple[str, ...]
    cleanup: str
    ours_to_send: bool


class _Message(NamedTuple):
    """A kind of record. Without a payload model the value is the telemetry as it came."""

    payload: type[BaseModel] | None
    headers: type[BaseModel] | None
    key: str
    summary: str


_VEHICLE: Final = "The vehicle's id."
_TRIP: Final = "The trip's id."
_AS_CAME: Final = "As the record came."

_MESSAGES: Final[dict[str, _Message]] = {
    "Telemetry": _Message(Telemetry, None, "The vehicle's id; it stands for a missing vehicle_id.", "From a vehicle"),
    "TelemetryEnvelope": _Message(
        TelemetryEnvelope, None, "The vehicle's id; it stands for a missing vehicle_id.", "In an INVERS envelope"
    ),
    "TripStarted": _Message(TripStarted, AnnouncementHeaders, _VEHICLE, "A trip is on"),
    "TripEnded": _Message(TripEnded, AnnouncementHeaders, _VEHICLE, "A trip's end is known"),
    "TripDataReady": _Message(TripDataReady, AnnouncementHeaders, _VEHICLE, "A trip is complete"),
    "TripMetricsReady": _Message(
        TripMetricsReady, AnnouncementHeaders, _VEHICLE, "TripDataReady by its newer name, if it is set so"
    ),
    "TripDiscarded": _Message(TripDiscarded, AnnouncementHeaders, _VEHICLE, "A trip does not count"),
    "TripDeleted": _Message(TripDeleted, AnnouncementHeaders, _VEHICLE, "A trip was deleted on request"),
    "LatestTrip": _Message(
        TripDataReady, AnnouncementHeaders, _TRIP, "The latest TripDataReady of a trip; without a value: no such trip"
    ),
    "DeleteTrip": _Message(DeleteTrip, None, _VEHICLE, "A trip is to be deleted"),
    "DeadLetter": _Message(
        None, DeadLetterHeaders, _AS_CAME, "Telemetry that could not be used, or not all of it; a refused command"
    ),
    "TripPlanned": _Message(TripPlanned, StatusHeaders, _VEHICLE, "A trip is planned"),
    "TripStatusUpdated": _Message(TripStatusUpdated, StatusHeaders, _VEHICLE, "A status update was applied"),
    "TripLinked": _Message(TripLinked, StatusHeaders, _VEHICLE, "A trip is linked to a planned one"),
    "TripLinkCorrected": _Message(TripLinkCorrected, StatusHeaders, _VEHICLE, "The end of a linked trip has changed"),
    "TripUnlinked": _Message(TripUnlinked, StatusHeaders, _VEHICLE, "A trip is not linked any more"),
    "TripPlanExpired": _Message(TripPlanExpired, StatusHeaders, _VEHICLE, "A planned trip is forgotten"),
    "LateTelemetry": _Message(None, LateHeaders, _AS_CAME, "Telemetry behind the correction horizon"),
    "PushDeadLetter": _Message(PushDeadLetter, None, _VEHICLE, "A push that was given up, with its history"),
}

_CHANNELS: Final[dict[str, _Channel]] = {
    "vehicleTelemetry": _Channel(
        "vehicle-telemetry",
        "What vehicles tell. All records of a vehicle must be in one partition.",
        ("Telemetry", "TelemetryEnvelope"),
        "delete",
        ours_to_send=False,
    ),
    "tripCommands": _Channel(
        "trip-commands",
        "What is to be done with trips. A command is in the partition of the same number as its vehicle's telemetry.",
        ("DeleteTrip",),
        "delete",
        ours_to_send=False,
    ),
    "tripEvents": _Channel(
        "trip-events",
        "Every announcement, in order per vehicle. Read it with isolation level read_committed. Per trip id the "
        "highest revision wins; within one revision started < ended < ready or discarded; deleted beats all.",
        ("TripStarted", "TripEnded", "TripDataReady", "TripMetricsReady", "TripDiscarded", "TripDeleted"),
        "delete",
        ours_to_send=True,
    ),
    "trips": _Channel(
        "trips",
        "The latest TripDataReady of each trip (or TripMetricsReady, if it is set so). A tombstone when the trip is "
        "discarded after all, on again, or deleted.",
        ("LatestTrip",),
        "compact",
        ours_to_send=True,
    ),
    "tripStatusEvents": _Channel(
        "trip-status-events",
        "Every change of a planned trip, in order per plan. Read it with isolation level read_committed. Per plan the "
        "highest revision wins.",
        ("TripPlanned", "TripStatusUpdated", "TripLinked", "TripLinkCorrected", "TripUnlinked", "TripPlanExpired"),
        "delete",
        ours_to_send=True,
    ),
    "deadLetters": _Channel(
        "vehicle-telemetry-dead-letters",
        "Records of telemetry that could not be used, whole or in part, and commands that were refused: as they came, "
        "with the reasons in headers.",
        ("DeadLetter",),
        "delete",
        ours_to_send=True,
    ),
    "lateTelemetry": _Channel(
        "late-telemetry",
        "Records with samples behind the correction horizon: as they came, with the reason in headers.",
        ("LateTelemetry",),
        "delete",
        ours_to_send=True,
    ),
    "pushDeadLetters": _Channel(
        "trip-push-dead-letters",
        "Pushes that were given up. `trips push retry` delivers them again.",
        ("PushDeadLetter",),
        "delete",
        ours_to_send=True,
    ),
}

_KAFKA_BINDING: Final = "0.5.0"


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: topics, what is in them, and who writes and reads."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in _SCHEMAS.values()],
        ref_template="#/components/schemas/{model}",
        schema_generator=_AbsentNotNull,
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ignition-trips",
            "version": CONTRACT_VERSION,
            "description": "Trips from vehicle telemetry in Kafka: any order, any repetition, any crash in between, "
            "the same trips with the same ids. Topics have these names unless a prefix is set.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(channel) for name, channel in _CHANNELS.items()},
        "operations": {
            f"{'send' if channel.ours_to_send else 'receive'}{name[0].upper()}{name[1:]}": {
                "action": "send" if channel.ours_to_send else "receive",
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in channel.messages],
            }
            for name, channel in _CHANNELS.items()
        },
        "components": {
            "messages": {name: _message(name, message) for name, message in _MESSAGES.items()},
            "schemas": definitions["$defs"],
        },
    }


def _channel(channel: _Channel) -> dict[str, Any]:
    return {
        "address": channel.address,
        "description": channel.description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in channel.messages},
        "bindings": {
            "kafka": {
                "topic": channel.address,
                "topicConfiguration": {"cleanup.policy": [channel.cleanup]},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }


def _message(name: str, message: _Message) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "summary": message.summary}
    if message.headers is not None:
        described["headers"] = {"$ref": f"#/components/schemas/{message.headers.__name__}"}
    if message.payload is not None:
        described["payload"] = {"$ref": f"#/components/schemas/{message.payload.__name__}"}
    else:
        described["payload"] = {"description": "The bytes of the record as it came: anything."}
        described["contentType"] = "application/octet-stream"
    described["bindings"] = {
        "kafka": {"key": {"type": "string", "description": message.key}, "bindingVersion": _KAFKA_BINDING}
    }
    return described
