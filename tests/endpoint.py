"""A real HTTP server on 127.0.0.1 that pushes go to, and that does whatever a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import orjson
from aiokafka import AIOKafkaProducer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HttpEndpoint", "Received", "announcement", "publish"]

GIGABYTE = 2**30


@dataclass
class Received:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class HttpEndpoint:
    """Listens for as long as the block lasts.

    Args:
        answer: what is done with a request: a status; (status, headers); (``slow body``, status, headers); or ``hang``,
            ``cut`` (in the middle of the body), ``flood`` (1 GB), ``close`` (without an answer), ``garbage``, ``drip``
            (headers without an end).
        tls: a server's context.
    """

    def __init__(self, answer: Callable[[Received], Any] = lambda _: 200, *, tls: Any = None) -> None:
        self.answer = answer
        self.requests: list[Received] = []
        self.flooded = 0
        self.connections = 0
        self._tls = tls
        self._tasks: set[asyncio.Task[Any]] = set()
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/push"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def received(self, count: int, within: float = 20.0) -> list[Received]:
        """Wait for so many requests."""
        async with asyncio.timeout(within), self._came:
            await self._came.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer, number):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Received(head[0], headers, body, number)
        async with self._came:
            self.requests.append(request)
            self._came.notify_all()
        answer = self.answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        match answer:
            case "hang":
                await asyncio.Event().wait()
            case "close":
                return False
            case "garbage":
                writer.write(b"\x00\x01 this is no HTTP\r\n\r\n" * 4)
                await writer.drain()
                return False
            case "drip":
                writer.write(b"HTTP/1.1 200 OK\r\n")
                while True:
                    writer.write(b"X-Drip: 1\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            case "cut":
                writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nhalf of it")
                await writer.drain()
                return False
            case "cut after 200":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
                await writer.drain()
                return False
            case "flood":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
                chunk = bytes(2**16)
                while self.flooded < GIGABYTE:
                    writer.write(chunk)
                    await writer.drain()
                    self.flooded += len(chunk)
            case ("slow body", status, more):
                lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
                writer.write(f"HTTP/1.1 {status} Something\r\n{lines}Content-Length: 100\r\n\r\nthe r".encode())
                await writer.drain()
                await asyncio.Event().wait()
            case (status, more):
                lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
                writer.write(f"HTTP/1.1 {status} Something\r\n{lines}Content-Length: 0\r\n\r\n".encode())
                await writer.drain()
            case status:
                empty = "" if status == 204 else "Content-Length: 2\r\n"
                writer.write(f"HTTP/1.1 {status} Something\r\n{empty}\r\n{'' if status == 204 else 'ok'}".encode())
                await writer.drain()
        return True


def announcement(number: int, *, event: str = "TripDataReady", vehicle: str = "JQ7RP", trip: str | None = None) -> Any:
    """(key, value, headers) of a record of trip-events."""
    trip_id = trip or f"01TRIP{number:020d}"
    event_id = f"01EVENT{number:019d}"
    moment = datetime(2026, 3, 1, 8, 0, 0, tzinfo=UTC)
    text = moment.isoformat().replace("+00:00", "Z")
    value = {
        "metadata": {
            "id": event_id,
            "type": event,
            "schema_major_version": 1,
            "occurred_at": text,
            "flow_id": "flow",
        },
        "data": {
            "occurred_at": text,
            "trip": {"id": trip_id, "key": "H5XAV", "revision": number, "vehicle_id": vehicle},
        },
    }
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", b"/ignition-trips/test"),
        ("ce_type", event.encode()),
        ("ce_time", text.encode()),
        ("ce_subject", trip_id.encode()),
        ("content-type", b"application/json"),
    ]
    return vehicle.encode(), orjson.dumps(value), headers


async def publish(settings: Any, *records: Any) -> None:
    """Put announcements into trip-events, as the trips' worker does."""
    producer = AIOKafkaProducer(**settings.client(), acks="all", enable_idempotence=True)
    await producer.start()
    try:
        sent = [
            await producer.send(settings.topics.events, value, key=key, headers=headers)
            for key, value, headers in records
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
