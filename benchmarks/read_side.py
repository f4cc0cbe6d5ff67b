"""How fast the read side answers at a projection of a million trips, beside a bare answer of the same server.

    python benchmarks/read_side.py [--trips 1000000] [--database URL] [--readers 8] [--seconds 5] [--status]

Fills a database (once: a file that is there is taken as it is), starts a server, and asks over HTTP from several
connections at once. Every line is a question; ``ratio`` compares it with a request that the same server, in the same
process, answers with two bytes before it looks at anything. What is measured on one machine says little of another; the
ratios say more. ``--status`` starts a local Kafka as well, and updates planned trips.
"""
# ruff: noqa: INP001, T201, S311, S603

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvicorn
from fleet import SINCE
from measuring import arguments, emit, markdown
from sqlalchemy import func, select

from streams.local.broker import LocalKafka, free_ports
from streams.serve.app import behind_gate, build_api
from streams.serve.database import open_database, writing
from streams.serve.keys import KeyStore
from streams.serve.metrics import ServeMetrics
from streams.serve.projection import Position, put_positions, read_positions, trip_row
from streams.serve.tables import announcements, trips, vehicles
from streams.serve.words import read_word
from streams.settings import Settings
from streams.status.engine import StatusEngine
from streams.topics import create_topics
from streams.trips.content import iso
from streams.trips.identity import event_id, identify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sqlalchemy import Engine

FLEET: Final = 5_000
PORTION: Final = 20_000
BARE: Final = "a bare answer"


# -- filling ----------------------------------------------------------------------------------------------------------


def trip_at(number: int) -> tuple[str, int]:
    """Vehicle and start of a trip: the fleet drives in turns, a trip each quarter of a second."""
    return f"vehicle-{number * 7919 % FLEET}", SINCE + number * 250


def payload(number: int, count: int) -> bytes:
    """The last announcement of a trip: most are finished, a few flagged, the newest are on."""
    vehicle, start = trip_at(number)
    end, names, chance = start + 900_000, identify(vehicle, start), random.Random(number)
    on = number >= count - FLEET // 10
    position = {"lat": round(48 + chance.random() * 4, 6), "lon": round(7 + chance.random() * 5, 6)}
    flags = ["DATA_GAP"] if chance.random() < 0.02 else []
    trip: dict[str, Any] = {
        "id": names.id,
        "key": names.key,
        "revision": number,
        "is_flagged": bool(flags),
        "flags": flags,
        "data_completion_status": "ONGOING" if on else "FINISHED",
        "vehicle_id": vehicle,
        "telematics_unit": {"id": f"unit-{vehicle}", "brand": "CLOUDBOXX"},
        "start": {"timestamp": iso(start), "position": {"timestamp": iso(start), "value": position}},
    }
    if not on:
        trip["end"] = {"timestamp": iso(end), "position": {"timestamp": iso(end), "value": position}}
        trip["metrics"] = {
            "duration_in_ms": end - start,
            "time_since_last_trip_in_ms": 350_000,
            "distance_in_km": round(chance.random() * 40, 3),
            "distance_source": "ODOMETER",
            "max_speed_in_kmh": 92.5,
            "average_speed_in_kmh": 45.2,
            "idle_time_in_ms": 120_000,
            "position_count": 371,
            "longest_gap_in_ms": 5_000,
        }
    kind = "TripStarted" if on else "TripDataReady"
    metadata = {
        "id": event_id(end, names.id, kind, number),
        "type": kind,
        "schema_major_version": 1,
        "occurred_at": iso(end),
        "flow_id": names.flow_id,
    }
    return orjson.dumps({"metadata": metadata, "data": {"occurred_at": iso(start if on else end), "trip": trip}})


def fill(engine: Engine, count: int) -> None:
    """Put so many trips into the database, unless they are there, as if topics were projected that are empty by now."""
    topics = Settings.given().topics
    with writing(engine) as (connection, _):
        missing = {topics.trips, topics.events} - {topic for topic, _ in read_positions(connection)}
        put_positions(connection, {(topic, 0): Position("", 0, 0) for topic in missing})
    with engine.connect() as connection:
        there = connection.execute(select(func.count()).select_from(trips)).scalar_one()
    if there >= count:
        print(f"{there:,} trips are there")
        return
    began = time.perf_counter()
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA synchronous = OFF")
    for first in range(there, count, PORTION):
        words = [read_word(payload(number, count)) for number in range(first, min(first + PORTION, count))]
        with writing(engine) as (connection, _):
            connection.execute(
                trips.insert(),
                [trip_row(word) for word in words],
            )
            connection.execute(
                announcements.insert(),
                [
                    {
                        "trip_id": word.trip_id,
                        "revision": word.revision,
                        "stage": word.stage,
                        "type": word.type,
                        "payload": word.payload,
                    }
                    for word in words
                ],
            )
            if first == 0:
                newest = {word.vehicle_id: word.last for word in words}
                connection.execute(vehicles.insert(), [{"id": name, "last": last} for name, last in newest.items()])
        print(f"\r{first + len(words):,} trips", end="", flush=True)
    print(f" in {time.perf_counter() - began:.0f} s")


# -- the server, in a process of its own ------------------------------------------------------------------------------


def serve(url: str, port: int, kafka: str | None) -> None:
    """Serve until it is killed."""
    values: dict[str, Any] = {"serve_database": url, "serve_rate_limit": 0}
    if kafka:
        values |= {"bootstrap_servers": kafka, "partitions": 4, "session_timeout": 6}
    settings = Settings.given(**values)
    engine, metrics = open_database(settings), ServeMetrics()
    status = StatusEngine(settings, registry=metrics.registry)
    api = build_api(engine, metrics, status=status)
    gate = behind_gate(api, settings, KeyStore(engine), metrics, public=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/bare":
            await gate(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def run() -> None:
        config = uvicorn.Config(app, port=port, log_level="warning", access_log=False, lifespan="off", http="h11")
        server = uvicorn.Server(config)
        async with AsyncExitStack() as stack:
            if kafka:
                await status.start()
                stack.push_async_callback(status.stop)
                while not status.ready:  # noqa: ASYNC110 - it has no event for that
                    await asyncio.sleep(0.1)
            await server.serve()

    asyncio.run(run())


# -- asking -----------------------------------------------------------------------------------------------------------


class Connection:
    """HTTP/1.1 over one connection, as little of it as there has to be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer = reader, writer
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of an answer."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lines = answer.decode("latin-1").split("\r\n")
        (length,) = [int(line[15:]) for line in lines if line.lower().startswith("content-length:")]
        return int(lines[0].split(" ")[1]), await self._reader.readexactly(length)


Question = "Callable[[Connection, random.Random], Awaitable[tuple[int, bytes]]]"


@asynccontextmanager
async def connections(port: int, token: str, count: int) -> AsyncIterator[list[Connection]]:
    """So many of them."""
    opened = [await asyncio.open_connection("127.0.0.1", port, limit=2**24) for _ in range(count)]
    try:
        yield [Connection(reader, writer, token) for reader, writer in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def measure(asked: list[Connection], seconds: float, question: Any) -> tuple[float, float, float]:
    """Requests a second, median and p99 in ms."""
    times: list[float] = []

    async def go_on(connection: Connection, seed: int, until: float, *, count: bool) -> None:
        chance = random.Random(seed)
        while (began := time.perf_counter()) < until:
            status, body = await question(connection, chance)
            if status != 200:
                raise SystemExit(f"{status}: {body[:300]!r}")
            if count:
                times.append(time.perf_counter() - began)

    for length, count in ((min(1.0, seconds), False), (seconds, True)):
        began = time.perf_counter()
        until = began + length
        await asyncio.gather(
            *(go_on(connection, number, until, count=count) for number, connection in enumerate(asked))
        )
    took = time.perf_counter() - began
    times.sort()
    return len(times) / took, times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000


def questions(count: int) -> Iterator[tuple[str, Any]]:
    """What is asked, by its name."""

    def get(path: Callable[[random.Random], str]) -> Any:
        return lambda connection, chance: connection.ask("GET", path(chance))

    def moment(chance: random.Random) -> int:
        return SINCE + chance.randrange(count) * 250

    def trip(chance: random.Random) -> str:
        return identify(*trip_at(chance.randrange(count))).id

    yield BARE, get(lambda _: "/bare")
    yield "one trip with its history", get(lambda chance: f"/trips/{trip(chance)}")
    yield "a trip's route", get(lambda chance: f"/trips/{trip(chance)}/route")
    yield "a vehicle's state", get(lambda chance: f"/vehicles/vehicle-{chance.randrange(FLEET)}/state")
    yield "the newest 20", get(lambda _: "/trips?limit=20")
    yield "20 of a vehicle", get(lambda chance: f"/trips?limit=20&vehicle=vehicle-{chance.randrange(FLEET)}")
    yield "20 before some moment", get(lambda chance: f"/trips?limit=20&start_before={iso(moment(chance))}")
    yield "20 that are on", get(lambda _: "/trips?limit=20&status=ONGOING")
    yield (
        "20 with a flag, before some moment",
        get(lambda chance: f"/trips?limit=20&flag=DATA_GAP&start_before={iso(moment(chance))}"),
    )
    yield "100 after some moment", get(lambda chance: f"/trips?order=asc&start_from={iso(moment(chance))}")


async def updates(asked: list[Connection]) -> Any:
    """Planned trips, one for each connection, and how they are updated."""
    now = datetime.now(UTC) - timedelta(minutes=30)
    plans: dict[int, int] = {}
    for number, connection in enumerate(asked):
        plan = {
            "tmsTripId": f"bench-{time.time_ns()}-{number}",
            "vehicleId": f"vehicle-{number}",
            "windowStart": now.isoformat(),
            "windowEnd": (now + timedelta(hours=8)).isoformat(),
        }
        status, answer = await connection.ask("POST", "/trip/plan", json.dumps(plan).encode())
        if status != 200:
            raise SystemExit(f"{status}: {answer!r}")
        plans[id(connection)] = json.loads(answer)["tripId"]
    sent: dict[int, int] = {}

    async def update(connection: Connection, _: random.Random) -> tuple[int, bytes]:
        sent[id(connection)] = sent.get(id(connection), 0) + 1
        body = {
            "tripId": plans[id(connection)],
            "status": 4,
            "timeStamp": (now + timedelta(milliseconds=sent[id(connection)])).isoformat(timespec="milliseconds"),
            "loc": {"Coords": {"Lat": "42.364551", "Lon": "-71.180604"}},
        }
        return await connection.ask("POST", "/trip/tripStatus", json.dumps(body).encode())

    return update


async def ask(port: int, token: str, options: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """All questions, and what was measured of each."""
    async with connections(port, token, options.readers) as asked:
        found = {name: await measure(asked, options.seconds, question) for name, question in questions(options.trips)}
        if options.status:
            found["a status update, decided"] = await measure(asked, options.seconds, await updates(asked))
        return found


def table(found: dict[str, tuple[float, float, float]]) -> str:
    """A line for each question."""
    bare_rate, _, bare_p99 = found[BARE]
    rows = [
        (name, f"{rate:,.0f}", f"{rate / bare_rate:.2f}", f"{median:.2f}", f"{p99:.2f}", f"{p99 / bare_p99:.1f}")
        for name, (rate, median, p99) in found.items()
    ]
    return markdown(("question", "requests/s", "ratio", "median ms", "p99 ms", "p99 ratio"), rows)


async def until_there(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    while True:
        try:
            async with connections(port, "", 1) as (connection,):
                await connection.ask("GET", "/bare")
                return
        except OSError:
            if process.poll() is not None:
                raise SystemExit("the server has ended") from None
            await asyncio.sleep(0.1)


def main() -> None:
    """Fill, serve, ask."""
    parser = arguments(__doc__)
    parser.add_argument("--trips", type=int, default=1_000_000)
    parser.add_argument("--database", help="a URL; a temporary SQLite file if not given")
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--status", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.database, int(options.serve[0]), options.serve[1] or None)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = options.database or f"sqlite:///{Path(folder) / 'trips.sqlite3'}"
        engine = open_database(Settings.given(serve_database=url))
        fill(engine, options.trips)
        token = KeyStore(engine).create("benchmark", ["admin"])[1]
        engine.dispose()
        port, kafka_port = free_ports(2)
        servers = ""
        if options.status:
            servers = stack.enter_context(LocalKafka(port=kafka_port)).bootstrap_servers
            asyncio.run(create_topics(Settings.given(bootstrap_servers=servers, partitions=4)))
        command = [sys.executable, __file__, "--database", url, "--serve", str(port), servers]
        process = stack.enter_context(subprocess.Popen(command))
        stack.callback(process.terminate)
        asyncio.run(until_there(port, process))
        found = asyncio.run(ask(port, token, options))
    title = f"{options.trips:,} trips, {options.readers} connections, {options.seconds:g} s each"
    emit(title, table(found), {"questions": found}, options.json)


if __name__ == "__main__":
    main()
