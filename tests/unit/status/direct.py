"""The routes over a book in memory: all of the trip status but Kafka."""

import asyncio

import httpx
import orjson
from fastapi import FastAPI

from streams.settings import Settings
from streams.status.bodies import UpdateBody
from streams.status.book import Book
from streams.status.engine import UndecidedError
from streams.status.metrics import StatusMetrics
from streams.status.routes import status_router
from streams.status.view import View
from streams.status.wire import Request, pack_request, read_request

__all__ = ["DirectEngine", "client_of", "new_book"]

HOUR = 3_600_000
DAY = 24 * HOUR


def new_book(retention_ms=30 * DAY, memory_ms=DAY):
    return Book(retention_ms=retention_ms, memory_ms=memory_ms)


class DirectEngine:
    """Decides at once, with a book of its own; every request and record goes through its bytes."""

    def __init__(self, **settings):
        self.settings = Settings.given(**settings)
        self.metrics = StatusMetrics()
        self.book = new_book()
        self.view = View()
        self.time = 1_772_352_000.0  # 2026-03-01T08:00:00Z
        self.undecided = None
        self.following = True
        self.events = []

    def now(self):
        return self.time

    async def decide(self, body):
        if self.undecided is not None:
            raise UndecidedError(sent=self.undecided)
        body = read_request(pack_request(Request("id", body))).body
        ask = self.book.update if isinstance(body, UpdateBody) else self.book.plan
        answer = ask(body, int(self.time * 1000))
        self.take()
        return answer

    def take(self):
        """What the book has put out."""
        changes = self.book.take()
        self.events += [orjson.loads(event.payload) for event in changes.events]
        for key, value in changes.records.items():
            self.view.take(key, value)

    def find(self, plan_id=None, *, tms_trip_id=None):
        return self.view.find(plan_id, tms_trip_id=tms_trip_id)

    def plan_of(self, trip_id):
        return self.view.plan_of(trip_id)


class Client:
    """Asks an app in this process; what it raises is raised here."""

    def __init__(self, app):
        self._app = app

    def __call__(self, method, path, **more):
        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())


def client_of(engine):
    app = FastAPI()
    app.include_router(status_router(engine))
    return Client(app)
