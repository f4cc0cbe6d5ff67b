"""The routes of the read side: what is asked, and what is answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio.to_thread
import orjson
import structlog
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from schemas.read_side import RouteFeature, TripDeletion, TripDetail, TripPage, VehicleState
from streams.errors import ClusterError, UnknownTripError
from streams.serve.examples import EXAMPLES
from streams.serve.gate import needs
from streams.serve.listing import (
    ExportQuery,
    ListQuery,
    VehicleListQuery,
    csv_lines,
    read_cursor,
    write_cursor,
)
from streams.serve.problems import ProblemError
from streams.serve.words import DELETED
from streams.trips.route import decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from streams.serve.queries import Found, Queries, TripFilter
    from streams.status.engine import StatusEngine

__all__ = ["PROBLEMS", "deletion", "read_side"]

_log = structlog.get_logger(__name__)

_JSON: Final = "application/json"
_GEO_JSON: Final = "application/geo+json"
_EXPORT_PAGE: Final = 1000
_UNTIL_PROJECTED: Final = 40  # twentieths of a second
# Seconds, for finding a trip in Kafka and having it deleted.
_LONGEST_DELETION: Final = 30.0


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    texts = {
        400: "Not what can be asked",
        401: "No key, or one that does not count",
        403: "A key without the scope",
        404: "There is none",
        408: "The body did not come in time",
        410: "It was deleted",
        413: "The body is too large",
        414: "The query is too long",
        422: "A parameter is not what it must be",
        429: "Too many requests: Retry-After says how long to wait",
        503: "The database does not answer, or what is needed is not there",
    }
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": texts[status], "content": content} for status in statuses}


PROBLEMS: Final = _problems(401, 403, 408, 413, 414, 422, 429, 503)
"""Of every route."""

TripId = Annotated[
    str, Path(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$", description="The trip's id.", examples=[EXAMPLES.trip_id])
]
VehicleId = Annotated[
    str, Path(min_length=1, max_length=256, description="The vehicle's id.", examples=[EXAMPLES.vehicle_id])
]


class _GeoJson(Response):
    media_type = _GEO_JSON


class _Csv(Response):
    media_type = "text/csv"


def _answer(model: Any, example: Any, media_type: str = _JSON) -> dict[str, Any]:
    """How an answer is described; it is written without the model, from what is stored."""
    return {
        "model": model,
        "description": "As asked",
        "content": {media_type: {"example": example}},
    }


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(work, *arguments)


def _queries(request: Request) -> Queries:
    queries: Queries = request.app.state.queries
    return queries


read_side: Final = APIRouter(dependencies=[Depends(needs("read"))], responses=PROBLEMS, tags=["trips"])
deletion: Final = APIRouter(dependencies=[Depends(needs("delete"))], responses=PROBLEMS, tags=["trips"])


@read_side.get(
    "/trips",
    summary="List trips",
    response_model=None,
    responses={200: _answer(TripPage, EXAMPLES.page), **_problems(400)},
)
async def list_trips(request: Request, query: Annotated[ListQuery, Query()]) -> Response:
    """Trips in order of their starts, a page at a time: `next_cursor` leads to the next one.

    Trips that are added or change meanwhile neither repeat others nor hide them.
    """
    return await _page(request, query, query.vehicle)


@read_side.get(
    "/trips/export.csv",
    summary="Export trips as CSV",
    response_model=None,
    response_class=_Csv,
    responses={
        200: {"description": "A line for each trip", "content": {"text/csv": {"example": EXAMPLES.csv}}},
    },
)
async def export_trips(request: Request, query: Annotated[ExportQuery, Query()]) -> Response:
    """All trips that the filter lets through, as one file: UTF-8, RFC 4180.

    Text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    wanted = query.wanted(query.vehicle)
    first = await _in_thread(_queries(request).trips, wanted, _EXPORT_PAGE, None)
    return StreamingResponse(
        _export(_queries(request), wanted, first),
        media_type="text/csv; charset=utf-8; header=present",
        headers={"Content-Disposition": 'attachment; filename="trips.csv"', "Cache-Control": "no-store"},
    )


async def _export(queries: Queries, wanted: TripFilter, page: Any) -> AsyncIterator[bytes]:
    head = True
    while True:
        yield await _in_thread(lambda views=page.views, head=head: csv_lines(views, head=head))
        if page.next_after is None:
            return
        head = False
        page = await _in_thread(queries.trips, wanted, _EXPORT_PAGE, page.next_after)


@read_side.get(
    "/trips/{trip_id}",
    summary="Look a trip up",
    response_model=None,
    responses={200: _answer(TripDetail, EXAMPLES.detail), **_problems(404, 410)},
)
async def get_trip(request: Request, trip_id: TripId) -> Response:
    """The last word about a trip, and everything that was announced about it, the oldest first.

    If it is linked to a planned trip, `plan` says to which, and how that stands; `plan_unknown`: that is not known yet.
    """
    found = await _found(request, trip_id)
    status: StatusEngine = request.app.state.status
    planned = status.plan_of(trip_id)
    plan = b""
    if planned is not None:
        names = {
            "tripId": planned.id,
            "tmsTripId": planned.fields["tms_trip_id"],
            "tripStatus": planned.fields["state"],
        }
        plan = b',"plan":' + orjson.dumps(names)
    elif not status.following:
        plan = b',"plan_unknown":true'
    return _json(b'{"trip":', found.view, plan, b',"history":[', b",".join(found.history), b"]}")


@read_side.get(
    "/trips/{trip_id}/route",
    summary="A trip's route as GeoJSON",
    response_model=None,
    response_class=_GeoJson,
    responses={200: _answer(RouteFeature, EXAMPLES.route, _GEO_JSON), **_problems(404, 410)},
)
async def get_route(request: Request, trip_id: TripId) -> Response:
    """A Feature with a LineString.

    It is the simplified route, if the worker keeps one (`TRIPS_ROUTE_TOLERANCE`), else the line from the start to the
    end (`properties.source` says which). Where no two positions are known, the geometry is null.
    """
    found = await _found(request, trip_id, history=False)
    return _GeoJson(orjson.dumps(route_of(orjson.loads(found.view))))


@read_side.get(
    "/vehicles/{vehicle_id:path}/trips",
    summary="List a vehicle's trips",
    tags=["vehicles"],
    response_model=None,
    responses={200: _answer(TripPage, EXAMPLES.page), **_problems(400)},
)
async def list_trips_of_vehicle(
    request: Request, vehicle_id: VehicleId, query: Annotated[VehicleListQuery, Query()]
) -> Response:
    """As `/trips`, of one vehicle. Of one that was never heard of: none."""
    return await _page(request, query, vehicle_id)


@read_side.get(
    "/vehicles/{vehicle_id:path}/state",
    summary="A vehicle now",
    tags=["vehicles"],
    response_model=None,
    responses={200: _answer(VehicleState, EXAMPLES.vehicle), **_problems(404)},
)
async def get_vehicle_state(request: Request, vehicle_id: VehicleId) -> Response:
    """Whether it is on a trip, where its last one ended, and what was last announced about it."""
    found = await _in_thread(_queries(request).vehicle, vehicle_id)
    if found is None:
        raise ProblemError(404, "Nothing was ever announced about this vehicle.", kind="vehicle-unknown")
    state: dict[str, Any] = {"vehicle_id": vehicle_id, "on_trip": found.current is not None}
    if found.current is not None:
        state["current_trip"] = orjson.Fragment(found.current)
    if found.ended is not None:
        trip = orjson.loads(found.ended)
        state["last_end"] = {"trip_id": trip["id"], "end": trip["end"]}
    if found.last is not None:
        state["last_announcement"] = orjson.Fragment(found.last)
    return _json(orjson.dumps(state))


@deletion.delete(
    "/trips/{trip_id}",
    summary="Delete a trip",
    response_model=None,
    responses={
        200: {**_answer(TripDeletion, EXAMPLES.deleted), "description": "It is deleted, by this request or before"},
        202: {
            **_answer(TripDeletion, EXAMPLES.requested),
            "description": "Its vehicle's worker does not answer; the command stays, and will be carried out",
        },
        **_problems(404),
    },
)
async def delete_trip(request: Request, trip_id: TripId) -> Response:
    """Delete a trip for good: its vehicle's worker erases it, and so does this.

    Safe to repeat. Late telemetry does not bring it back.
    """
    found: Found | None = await _in_thread(lambda: _queries(request).trip(trip_id, history=False))
    if found is None:
        raise _unknown()
    if found.status == DELETED:
        return _deletion(trip_id, orjson.loads(found.view)["deleted_at"], status=200)
    try:
        async with asyncio.timeout(_LONGEST_DELETION), request.app.state.deleting:
            done = await request.app.state.delete(trip_id, orjson.loads(found.view)["vehicle_id"])
    except UnknownTripError:
        raise _unknown() from None
    except ClusterError as error:
        _log.error("a trip could not be deleted", trip_id=trip_id, reason=str(error))
        raise ProblemError(
            503, "Kafka does not take it. Try again in a moment.", headers={"Retry-After": "5"}
        ) from None
    except TimeoutError:
        raise ProblemError(
            503,
            "It takes too long to find the trip in Kafka. Try again, or `trips delete`.",
            headers={"Retry-After": "30"},
        ) from None
    if done.state == "requested":
        return _deletion(trip_id, done.requested_at, status=202)
    # Whoever asks next is not to be told of what is deleted: the projection is a moment behind.
    for _ in range(_UNTIL_PROJECTED):
        found = await _in_thread(lambda: _queries(request).trip(trip_id, history=False))
        if found is None or found.status == DELETED:
            break
        await asyncio.sleep(0.05)
    return _deletion(trip_id, done.requested_at, status=200)


def _deletion(trip_id: str, requested_at: str, *, status: int) -> Response:
    state = "DELETED" if status == 200 else "REQUESTED"
    return Response(
        orjson.dumps({"trip_id": trip_id, "state": state, "requested_at": requested_at}), status, media_type=_JSON
    )


async def _page(request: Request, query: VehicleListQuery, vehicle_id: str | None) -> Response:
    wanted = query.wanted(vehicle_id)
    after = read_cursor(query.cursor, newest_first=wanted.newest_first)
    page = await _in_thread(_queries(request).trips, wanted, query.limit, after)
    end = b"]}"
    if page.next_after is not None:
        end = b'],"next_cursor":"%b"}' % write_cursor(page.next_after, newest_first=wanted.newest_first).encode()
    return _json(b'{"items":[', b",".join(page.views), end)


async def _found(request: Request, trip_id: str, *, history: bool = True) -> Found:
    found: Found | None = await _in_thread(lambda: _queries(request).trip(trip_id, history=history))
    if found is None:
        raise _unknown()
    if found.status == DELETED:
        deleted_at = orjson.loads(found.view)["deleted_at"]
        raise ProblemError(410, "This trip was deleted.", kind="trip-deleted", deleted_at=deleted_at)
    return found


def _unknown() -> ProblemError:
    return ProblemError(404, "There is no such trip, or it is not known here yet.", kind="trip-unknown")


def _json(*parts: bytes) -> Response:
    return Response(b"".join(parts), media_type=_JSON)


def route_of(trip: dict[str, Any]) -> dict[str, Any]:
    """A trip's route as a GeoJSON Feature."""
    route = trip.get("route")
    if route is not None:
        coordinates = [[longitude, latitude] for latitude, longitude in decode(route["polyline"])]
    else:
        ends = [trip[name]["position"]["value"] for name in ("start", "end") if (trip.get(name) or {}).get("position")]
        coordinates = [[value["lon"], value["lat"]] for value in ends]
    return {
        "type": "Feature",
        "id": trip["id"],
        "geometry": {"type": "LineString", "coordinates": coordinates} if len(coordinates) > 1 else None,
        "properties": {
            "trip_id": trip["id"],
            "vehicle_id": trip["vehicle_id"],
            "revision": trip.get("revision", 0),
            "source": "ENDPOINTS" if route is None else "ROUTE",
        },
    }
