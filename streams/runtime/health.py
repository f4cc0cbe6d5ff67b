"""Liveness, readiness and metrics over HTTP."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from streams.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import CollectorRegistry

__all__ = ["Healthy", "serve_health"]

_log = structlog.get_logger(__name__)


class _Measured(Protocol):
    @property
    def registry(self) -> CollectorRegistry:
        """What Prometheus reads."""


class Healthy(Protocol):
    """Whose health it is: a worker's, or that of another process of ours."""

    @property
    def failure(self) -> BaseException | None:
        """Why it is about to end, if it is."""

    @property
    def ready(self) -> bool:
        """Whether it does its work."""

    @property
    def metrics(self) -> _Measured:
        """What it has counted."""


@asynccontextmanager
async def serve_health(
    process: Healthy, host: str, port: int, *, variable: str = "TRIPS_HTTP_PORT"
) -> AsyncIterator[None]:
    """Serve ``/health/live``, ``/health/ready`` and ``/metrics`` for as long as the block lasts.

    Live: the event loop turns, and nothing has failed. Ready, of a worker: partitions are assigned (perhaps none: there
    are more workers than partitions) and their state is recovered.

    Args:
        process: whose health.
        host: the address to listen on.
        port: 0: serve nothing.
        variable: the setting that the port is from.

    Raises:
        SettingsError: the port is taken, or the address is not ours.
    """
    if not port:
        yield
        return

    async def live(_: web.Request) -> web.Response:
        return _answer(process.failure is None, "live", "failed")

    async def ready(_: web.Request) -> web.Response:
        return _answer(process.ready, "ready", "not ready")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(process.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    application = web.Application()
    application.add_routes(
        [web.get("/health/live", live), web.get("/health/ready", ready), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise SettingsError(
                [f"{variable}={port}: cannot listen on {host}:{port} ({reason}). Choose another, or 0 for none."]
            ) from None
        _log.info("serving health and metrics", url=f"http://{host}:{port}")
        yield
    finally:
        await runner.cleanup()


def _answer(good: bool, yes: str, no: str) -> web.Response:  # noqa: FBT001 - it is what the answer is about
    return web.Response(status=200 if good else 503, text=f"{yes if good else no}\n")
