"""The trip status over HTTP: Trimble's ``POST /trip/tripStatus`` as it is, and what we need around it.

``POST /trip/tripStatus`` answers as the seed says: a ``success`` and an ``errorCode``, or an error of three fields. All
else answers errors as problem+json (RFC 9457), and so does what refuses a request before it comes here (``Gate``).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from streams.status.bodies import MAX_BODY, BodyError, read_plan, read_update
from streams.status.engine import UndecidedError

if TYPE_CHECKING:
    from streams.status.engine import StatusEngine

__all__ = ["status_router"]

_OUTDATED: Final = "Can't update trip status with timestamp older than trip last modified time"
_RETRY_AFTER: Final = "1"
_MAY_YET_BE: Final = (
    "No decision came in time. The request may yet be applied. Send it again as it is: what has been applied already "
    "is not applied twice, and is answered as if it were the first time."
)
_NOT_TAKEN: Final = (
    "This process is not ready, or too many requests are waiting. This one was not taken, and will not be applied. "
    "Send it again."
)
_NOT_READ_YET: Final = "The planned trips are being read from Kafka. Try again in a moment."
_TOO_LARGE: Final = f"The body is larger than {MAX_BODY} bytes."


class StatusAnswer(BaseModel):
    """What came of an update."""

    success: bool
    errorCode: Literal[0, -1, -3] = Field(  # noqa: N815 - the seed's name
        description="0: none. -1: trip can't be found. -3: trip last modification happened after the timestamp of this "
        "request."
    )


class ArgumentError(BaseModel):
    """A required field was not supplied, an invalid value was passed or an inappropriate action was attempted."""

    ErrorType: Literal["ArgumentException"]
    Description: str = Field(description="What went wrong, or how to fix it.")
    ErrorCode: None = None


class UnavailableError(BaseModel):
    """No decision came in time."""

    ErrorType: Literal["UnavailableException"]
    Description: str = Field(description="Whether the update may yet be applied, and what to do.")
    ErrorCode: None = None


class LinkedTripOut(BaseModel):
    """A trip that the vehicle made for the plan."""

    id: str = Field(description="As in trip-events.")
    revision: int
    start: str
    end: str | None = Field(None, description="Absent: it is on.")


class PlannedTripOut(BaseModel):
    """A planned trip and how it stands."""

    tripId: int  # noqa: N815
    tmsTripId: str  # noqa: N815
    vehicleId: str  # noqa: N815
    windowStart: str  # noqa: N815
    windowEnd: str  # noqa: N815
    tripStatus: Literal["Planned", "Received", "InProgress", "Rejected", "Completed", "Canceled"]  # noqa: N815
    lastUpdate: str | None = Field(None, description="The timeStamp of the last update that was applied.")  # noqa: N815
    trips: list[LinkedTripOut]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def _text(most: int = 256, **more: Any) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most, **more}


_TIME: Final = {"type": "string", "format": "date-time", "description": "ISO-8601; without an offset: UTC."}


def _degrees(most: int) -> dict[str, Any]:
    return {
        "type": "string",
        "pattern": r"^[+-]?[0-9]{1,3}\.[0-9]{4,20}$",
        "description": f"Degrees from -{most} to {most}, with at least 4 decimal digits.",
    }


def _both(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A field in both spellings."""
    return {name: schema, name[0].upper() + name[1:]: schema}


_UPDATE_SCHEMA: Final = {
    "type": "object",
    "required": ["status", "timeStamp", "loc"],
    "anyOf": [{"required": ["tmsTripId"]}, {"required": ["tripId"]}],
    "properties": {
        "tripId": {"type": "integer", "description": "Ignored if tmsTripId is there."},
        "tmsTripId": _text(minLength=0, description="Empty beside a tripId: as if it were not there."),
        "status": {
            "type": "integer",
            "enum": [0, 1, 2, 3, 4],
            "description": "0 = Rejected, 1 = Accepted, 2 = Completed, 3 = Canceled, 4 = Received.",
        },
        "timeStamp": _TIME,
        "loc": {
            "type": "object",
            "anyOf": [{"required": ["coords"]}, {"required": ["Coords"]}],
            "description": "Each field in here begins with a small or a capital letter, as you like.",
            "properties": {
                **_both(
                    "coords",
                    {
                        "type": "object",
                        "anyOf": [{"required": ["lat", "lon"]}, {"required": ["Lat", "Lon"]}],
                        "properties": _both("lat", _degrees(90)) | _both("lon", _degrees(180)),
                    },
                ),
                **_both("speed", {"type": "integer"}),
                **_both("heading", {"type": "integer"}),
                **_both("altitude", {"type": "integer"}),
                **_both("deviceDT", _TIME),
            },
        },
    },
    "example": {
        "tripId": 12345,
        "status": 2,
        "timeStamp": "2018-03-20T15:00:42.624Z",
        "loc": {"Coords": {"Lat": "42.364551", "Lon": "-71.180604"}},
    },
}
_PLAN_SCHEMA: Final = {
    "type": "object",
    "required": ["tmsTripId", "vehicleId", "windowStart", "windowEnd"],
    "properties": {
        "tmsTripId": _text(description="Your id of the trip."),
        "vehicleId": _text(),
        "windowStart": _TIME,
        "windowEnd": {
            **_TIME,
            "description": "After windowStart, by at most 31 days. ISO-8601; without an offset: UTC.",
        },
    },
    "example": {
        "tmsTripId": "TOUR-4711",
        "vehicleId": "JQ7RP",
        "windowStart": "2026-03-01T06:00:00Z",
        "windowEnd": "2026-03-01T18:00:00Z",
    },
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _problem_response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }


_LOOKED_UP: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": PlannedTripOut, "description": "How it stands."},
    404: _problem_response("There is no such planned trip, or not any more."),
    503: _problem_response("The planned trips are being read from Kafka."),
}


def status_router(engine: StatusEngine) -> APIRouter:
    """The routes, for an app that starts and stops the engine.

    Args:
        engine: started before the first request.
    """
    router = APIRouter(tags=["trip status"])
    latest_skew_ms = engine.settings.max_clock_skew_ms
    outdated_is_error = engine.settings.status_outdated == "argument_exception"

    @router.post(
        "/trip/tripStatus",
        summary="Update the status of a planned trip",
        response_class=Response,
        responses={
            200: {"model": StatusAnswer, "description": "Decided."},
            400: {"model": ArgumentError, "description": "The request is wrong; nothing has changed."},
            413: {"model": ArgumentError, "description": f"The body is larger than {MAX_BODY} bytes."},
            503: {"model": UnavailableError, "description": "No decision in time: the update may yet be applied."},
        },
        openapi_extra=_body(_UPDATE_SCHEMA),
    )
    async def update_trip_status(request: Request) -> Response:
        body = await _read(request)
        if body is None:
            engine.metrics.request("update", "invalid")
            return _argument_exception(_TOO_LARGE, 413)
        try:
            update = read_update(body, latest_ms=int(engine.now() * 1000) + latest_skew_ms)
        except BodyError as error:
            engine.metrics.request("update", "invalid")
            return _argument_exception(error.description)
        try:
            answer = await engine.decide(update)
        except UndecidedError as error:
            engine.metrics.request("update", "unanswered")
            description = _MAY_YET_BE if error.sent else _NOT_TAKEN
            content = {"ErrorType": "UnavailableException", "Description": description, "ErrorCode": None}
            return _json(content, 503, {"Retry-After": _RETRY_AFTER})
        engine.metrics.request("update", answer["outcome"])
        match answer["outcome"]:
            case "unknown":
                return _json({"success": False, "errorCode": -1})
            case "outdated" if outdated_is_error:
                return _argument_exception(_OUTDATED)
            case "outdated":
                return _json({"success": False, "errorCode": -3})
            case "refused":
                return _argument_exception(answer["text"])
            case _:
                return _json({"success": True, "errorCode": 0})

    @router.post(
        "/trip/plan",
        summary="Plan a trip",
        response_class=Response,
        responses={
            200: {"model": PlannedTripOut, "description": "Planned, now or before with the same content."},
            409: _problem_response("Planned before, with other content; nothing has changed."),
            413: _problem_response(_TOO_LARGE),
            422: _problem_response("The request is wrong; nothing has changed."),
            503: _problem_response("No decision in time: the trip may yet be planned."),
        },
        openapi_extra=_body(_PLAN_SCHEMA),
    )
    async def plan_trip(request: Request) -> Response:
        body = await _read(request)
        if body is None:
            engine.metrics.request("plan", "invalid")
            return _problem(413, HTTPStatus(413).phrase, _TOO_LARGE)
        try:
            plan = read_plan(body)
        except BodyError as error:
            engine.metrics.request("plan", "invalid")
            return _problem(422, HTTPStatus(422).phrase, error.description)
        try:
            answer = await engine.decide(plan)
        except UndecidedError as error:
            engine.metrics.request("plan", "unanswered")
            return _problem(503, "Service Unavailable", _MAY_YET_BE if error.sent else _NOT_TAKEN, _RETRY_AFTER)
        engine.metrics.request("plan", answer["outcome"])
        if answer["outcome"] == "conflict":
            return _problem(
                409,
                "Conflict",
                f"tmsTripId {plan.tms_trip_id!r} is planned already, as tripId {answer['plan']}, with another "
                f"{' and '.join(answer['differs'])}. Send the same content, or choose another tmsTripId.",
            )
        return _found(answer["plan"])

    @router.get(
        "/trip/plan",
        summary="Look a planned trip up by your id",
        response_class=Response,
        responses=_LOOKED_UP,
    )
    async def find_planned_trip(
        tms_trip_id: Annotated[str, Query(alias="tmsTripId", min_length=1, max_length=256)],
    ) -> Response:
        return _found(None, tms_trip_id)

    @router.get(
        "/trip/plan/{tripId}",
        summary="Look a planned trip up",
        response_class=Response,
        responses=_LOOKED_UP,
    )
    async def get_planned_trip(trip_id: Annotated[int, Path(alias="tripId", ge=1)]) -> Response:
        return _found(trip_id)

    def _found(plan_id: int | None, tms_trip_id: str | None = None) -> Response:
        if not engine.following:
            return _problem(503, "Service Unavailable", _NOT_READ_YET, _RETRY_AFTER)
        plan = engine.find(plan_id, tms_trip_id=tms_trip_id)
        if plan is None:
            return _problem(404, "Not Found", "There is no such planned trip, or not any more.")
        return _json(plan.to_json())

    return router


async def _read(request: Request) -> bytes | None:
    """The body; None: it is too large, and not read any further."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return body


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _argument_exception(description: str, status: int = 400) -> Response:
    return _json({"ErrorType": "ArgumentException", "Description": description, "ErrorCode": None}, status)


def _problem(status: int, title: str, detail: str, retry_after: str | None = None) -> Response:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    headers = None if retry_after is None else {"Retry-After": retry_after}
    return Response(orjson.dumps(content), status, headers, media_type="application/problem+json")
