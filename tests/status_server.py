"""The trip status in a process of its own: uvicorn with nothing but its routes, and who it is that decides."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import generate_latest

from streams.delivery.producer import CheckpointProducer
from streams.runtime.logs import configure_logs
from streams.settings import Settings
from streams.status.engine import StatusEngine
from streams.status.routes import status_router

__all__ = ["status_app"]


def status_app(engine):
    """A bare app around an engine."""

    @asynccontextmanager
    async def lifespan(_):
        await engine.start()
        yield
        await engine.stop()

    app = FastAPI(lifespan=lifespan)
    app.include_router(status_router(engine))

    @app.get("/health/ready")
    async def ready():
        return Response(status_code=200 if engine.ready else 503)

    @app.get("/metrics")
    async def metrics():
        return Response(generate_latest(engine.metrics.registry))

    @app.get("/deciding")
    async def deciding():
        return engine.deciding

    return app


def plan_fault():
    """``TRIPS_TEST_STATUS_FAULT=before:7``: kill -9 before (or after) the seventh commit."""
    where, _, count = os.environ.get("TRIPS_TEST_STATUS_FAULT", "").partition(":")
    if not where:
        return
    left, commit = int(count), CheckpointProducer.commit_transaction

    async def faulty(producer):
        nonlocal left
        left -= 1
        if left == 0 and where == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await commit(producer)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointProducer.commit_transaction = faulty


async def main():
    plan_fault()
    configure_logs()
    settings = Settings.load()
    engine = StatusEngine(settings)
    server = uvicorn.Server(
        uvicorn.Config(status_app(engine), host="127.0.0.1", port=settings.http_port, log_config=None, access_log=False)
    )
    serving = asyncio.create_task(server.serve())
    failed = asyncio.create_task(engine.failed.wait())
    await asyncio.wait([serving, failed], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    failed.cancel()
    return 1 if engine.failure else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
