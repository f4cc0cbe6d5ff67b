"""The read side, put together: read this first.

::

    Kafka ── trips, trip-events ──► Projector ──► database ──► Queries ──► routes ──► Gate ──► uvicorn ──► HTTP
                                    (offsets and rows in         (SQL)      (JSON)     (keys, rates,
                                     one transaction)                                   sizes)

- ``streams.serve.projector`` reads Kafka, ``projection`` says what an announcement changes, ``words`` what it means.
- ``streams.serve.tables`` are the tables, ``database`` how they are connected to, ``migrations`` how they came to be.
- ``streams.serve.routes`` are the routes, ``queries`` what they ask, ``gate`` and ``keys`` who may.
- ``streams.status`` is the trip status: its routes are served beside these, and its engine runs beside the projector.
- This module makes one of each from the settings, and runs them until somebody or something ends it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request

from schemas.read_side import Problem
from streams.deletion import request_deletion
from streams.errors import ClusterError, RefusedError, SettingsError, StateError, TripsError
from streams.runtime.health import serve_health
from streams.runtime.logs import configure_logs
from streams.serve.database import open_database, writing
from streams.serve.gate import Gate, needs
from streams.serve.keys import KeyStore
from streams.serve.metrics import ServeMetrics
from streams.serve.problems import handle_problems
from streams.serve.projection import begin_anew
from streams.serve.projector import Projector
from streams.serve.queries import Queries
from streams.serve.routes import PROBLEMS, deletion, read_side
from streams.settings import Settings
from streams.status.engine import StatusEngine
from streams.status.routes import status_router

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Engine
    from starlette.types import ASGIApp

    from streams.deletion import Deletion

    Delete = Callable[[str, str], Awaitable[Deletion]]

__all__ = ["behind_gate", "build_api", "openapi_document", "run_server"]

_log = structlog.get_logger(__name__)

# Answers that are under way have so long when it ends (seconds).
_STOP_TIMEOUT: Final = 15
# The request line and headers together (bytes).
_LARGEST_HEAD: Final = 16_384
_CONNECTIONS: Final = 1000
_KEEP_ALIVE: Final = 30
# Each has connections of its own to Kafka, and may read a good part of a partition.
_DELETIONS: Final = 4
_DELETED_WITHIN: Final = 10.0
_START_AGAIN: Final = 5.0
_ABOUT: Final = """\
Trips that were told from vehicle telemetry: look them up, export them, delete them.

Every request needs an API key, `Authorization: Bearer trips_…`, that is for what is asked: `read`, `delete`,
`status`, or `admin` for all of them. Errors are problem details (RFC 9457). What is not known is left out, never null.
"""

_description: Final = APIRouter(dependencies=[Depends(needs("admin"))], responses=PROBLEMS)


@_description.get("/openapi.json", summary="This description", tags=["about"])
def _describe(request: Request) -> dict[str, Any]:
    """The OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return document


def build_api(
    engine: Engine | None, metrics: ServeMetrics, *, status: StatusEngine, delete: Delete | None = None
) -> FastAPI:
    """The application, without the gate around it.

    Args:
        engine: the database; None: for its description only.
        metrics: what is counted.
        status: of planned trips; it is started and stopped by whoever serves.
        delete: has a trip deleted: its id, its vehicle's. None: for its description only.
    """
    app = FastAPI(
        title="ignition-trips",
        version=metadata.version("ignition-trips"),
        summary="Trips from vehicle telemetry",
        description=_ABOUT,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_url=None,  # a route of ours, behind a key as all others
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.metrics, app.state.delete, app.state.status = metrics, delete, status
    app.state.deleting = asyncio.Semaphore(_DELETIONS)
    if engine is not None:
        app.state.queries = Queries(engine, status.settings.topics)
    handle_problems(app)
    for router in (read_side, deletion, _description):
        app.include_router(router)
    app.include_router(status_router(status), dependencies=[Depends(needs("status"))], responses=PROBLEMS)
    _describe_security(app)
    return app


def _describe_security(app: FastAPI) -> None:
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            components["securitySchemes"] = {
                "ApiKey": {"type": "http", "scheme": "bearer", "description": "`trips keys create` makes one."}
            }
            document["security"] = [{"ApiKey": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of everything that ``trips serve`` answers."""
    return build_api(None, ServeMetrics(), status=StatusEngine(Settings.given())).openapi()


def behind_gate(app: FastAPI, settings: Settings, keys: KeyStore, metrics: ServeMetrics, *, public: bool) -> ASGIApp:
    """The application as it is served.

    Args:
        app: of :func:`build_api`.
        settings: the limits.
        keys: who may ask.
        metrics: what is counted.
        public: others than this machine can ask.
    """
    return Gate(
        app,
        keys=keys,
        metrics=metrics,
        rate=settings.serve_rate_limit,
        max_bytes=settings.serve_max_request_bytes,
        open_on_loopback=not public,
    )


def run_server(settings: Settings, *, rebuild: bool = False, debug: bool = False) -> int:
    """Serve until SIGTERM or SIGINT, or until it fails.

    Args:
        settings: checked.
        rebuild: make the projection anew from what Kafka holds.
        debug: log everything, with tracebacks.

    Returns:
        The exit code: 0 when it was asked to stop, 1 when it failed (the log says why).

    Raises:
        TripsError: it cannot start.
    """
    configure_logs(debug=debug)
    listening, public = _listen(settings)
    try:
        engine = open_database(settings)
        try:
            keys = KeyStore(engine)
            if public and not keys.any_counts():
                problem = (
                    f"TRIPS_SERVE_HOST={settings.serve_host}: others than this machine could ask, and there is no API "
                    "key that counts. Make one first: trips keys create NAME --scope read"
                )
                raise SettingsError([problem])
            if rebuild:
                with writing(engine) as (connection, _):
                    begin_anew(connection)
            return asyncio.run(_run(settings, engine, keys, listening, public=public))
        finally:
            engine.dispose()
    finally:
        listening.close()


def _listen(settings: Settings) -> tuple[socket.socket, bool]:
    """The socket, and whether others than this machine can reach it."""
    host, port = settings.serve_host, settings.serve_port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address, family=family, backlog=2048, reuse_port=False)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise SettingsError(
            [f"TRIPS_SERVE_PORT={port}: cannot listen on {host}:{port} ({reason}). Choose another."]
        ) from None
    listening.setblocking(False)
    return listening, not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


class _Health:
    """What the probes ask for."""

    def __init__(self, projector: Projector, status: StatusEngine, metrics: ServeMetrics) -> None:
        self._projector, self._status, self.metrics = projector, status, metrics
        self.failure: BaseException | None = None

    @property
    def ready(self) -> bool:
        return self.failure is None and self._projector.ready and self._status.ready


async def _run(settings: Settings, engine: Engine, keys: KeyStore, listening: socket.socket, *, public: bool) -> int:
    metrics = ServeMetrics()
    projector = Projector(settings, engine, metrics)
    metrics.show(projector)
    status = StatusEngine(settings, registry=metrics.registry)
    health = _Health(projector, status, metrics)

    def delete(trip_id: str, vehicle_id: str) -> Awaitable[Deletion]:
        return request_deletion(settings, trip_id, vehicle_id=vehicle_id, within=_DELETED_WITHIN)

    app = behind_gate(build_api(engine, metrics, status=status, delete=delete), settings, keys, metrics, public=public)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            http="h11",
            ws="none",
            h11_max_incomplete_event_size=_LARGEST_HEAD,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_STOP_TIMEOUT,
        )
    )
    # uvicorn has these while it serves, and raises them once more when it is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    host, port = listening.getsockname()[:2]
    if not public and not await asyncio.to_thread(keys.any_ever):
        _log.warning("there is no API key: everybody on this machine may do everything (trips keys create makes one)")
    async with serve_health(health, settings.http_host, settings.serve_http_port, variable="TRIPS_SERVE_HTTP_PORT"):

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None and health.failure is None:
                health.failure = task.exception()
                _log.critical(_reason(task.exception()))
                server.should_exit = True

        work = [asyncio.create_task(projector.run()), asyncio.create_task(_keep_status(status))]
        for task in work:
            task.add_done_callback(ended)
        _log.info("serving", url=f"http://{host}:{port}")
        try:
            await server.serve(sockets=[listening])
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    _log.info("stopped")
    return 0 if health.failure is None else 1


async def _keep_status(status: StatusEngine) -> None:
    """Run the trip status until cancelled; a cluster that is away at the start is waited for.

    Raises:
        TripsError: it cannot go on.
    """
    while True:
        try:
            await status.start()
        except (RefusedError, StateError):
            raise
        except ClusterError as error:
            _log.warning("the trip status does not start", reason=str(error), next_try_seconds=_START_AGAIN)
            await asyncio.sleep(_START_AGAIN)
        else:
            break
    try:
        await status.failed.wait()
    finally:
        await status.stop()
    if status.failure is not None:
        raise status.failure


def _reason(error: BaseException | None) -> str:
    return str(error) if isinstance(error, TripsError) else f"this should not happen: {error!r}"
