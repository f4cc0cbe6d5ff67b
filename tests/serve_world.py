"""Announcements made by hand, and a read side without Kafka, for the tests of the read side."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import httpx
from unit.status.direct import DirectEngine

from streams.serve.app import behind_gate, build_api
from streams.serve.database import open_database, writing
from streams.serve.keys import KeyStore
from streams.serve.metrics import ServeMetrics
from streams.serve.projection import Position, apply_announcements, put_positions, read_positions
from streams.serve.words import read_word
from streams.settings import Settings
from streams.trips.identity import event_id, identify

__all__ = ["DAY", "ReadSide", "announcement", "at", "trip_id"]

DAY = 1_772_323_200_000
"""2026-03-01T00:00:00Z."""


def at(instant):
    text = datetime.fromtimestamp(instant / 1000, UTC).isoformat(
        timespec="milliseconds" if instant % 1000 else "seconds"
    )
    return text.replace("+00:00", "Z")


def trip_id(vehicle, start):
    return identify(vehicle, start).id


def announcement(
    kind,
    vehicle="v1",
    start=DAY,
    revision=1,
    *,
    end=None,
    flags=(),
    reason=None,
    superseded_by=(),
    position=(50.1, 7.3),
):
    """One, as the worker would write it; ``end`` in epoch ms, ten minutes after the start if not given."""
    names = identify(vehicle, start)
    end = start + 600_000 if end is None else end
    occurred = DAY + revision
    trip = {"id": names.id, "key": names.key, "revision": revision, "vehicle_id": vehicle}
    data = {"occurred_at": at(start if kind == "TripStarted" else end)}
    if kind == "TripDeleted":
        data["occurred_at"] = at(occurred)
    elif reason == "SUPERSEDED":
        trip |= {"data_completion_status": "DISCARDED", "start": {"timestamp": at(start)}}
        data |= {"occurred_at": at(start), "reason": reason, "superseded_by": list(superseded_by)}
    else:
        status = {"TripStarted": "ONGOING", "TripEnded": "PENDING", "TripDiscarded": "DISCARDED"}.get(kind, "FINISHED")
        place = {"lat": position[0], "lon": position[1]}
        trip |= {"is_flagged": bool(flags), "flags": list(flags), "data_completion_status": status}
        trip["start"] = {"timestamp": at(start), "position": {"timestamp": at(start), "value": place}}
        if kind != "TripStarted":
            there = {"lat": position[0], "lon": round(position[1] + 0.1, 7)}
            trip["end"] = {"timestamp": at(end), "position": {"timestamp": at(end), "value": there}}
        if status in ("FINISHED", "DISCARDED"):
            trip["metrics"] = {"duration_in_ms": end - start, "position_count": 2, "longest_gap_in_ms": 1000}
        if reason is not None:
            data["reason"] = reason
    metadata = {
        "id": event_id(occurred, names.id, kind, revision),
        "type": kind,
        "schema_major_version": 1,
        "occurred_at": at(occurred),
    }
    return json.dumps({"metadata": metadata, "data": data | {"trip": trip}}, separators=(",", ":")).encode()


class ReadSide:
    """A database, and HTTP in front of it. ``projected``: it is as after a projection of topics that are empty."""

    def __init__(self, url, *, public=True, delete=None, projected=True, **settings):
        self.settings = Settings.given(serve_database=url, **{"serve_rate_limit": 0, **settings})
        self.engine = open_database(self.settings)
        if projected:
            with writing(self.engine) as (connection, _):
                names = {self.settings.topics.trips, self.settings.topics.events}
                names -= {topic for topic, _ in read_positions(connection)}
                put_positions(connection, {(name, 0): Position("", 0, 0) for name in names})
        self.metrics, self.keys = ServeMetrics(), KeyStore(self.engine)
        self.status = DirectEngine()
        self.api = build_api(self.engine, self.metrics, status=self.status, delete=delete)
        self.gate = behind_gate(self.api, self.settings, self.keys, self.metrics, public=public)

    def say(self, *payloads):
        with writing(self.engine) as (connection, _):
            apply_announcements(connection, [read_word(payload) for payload in payloads])

    def client(self, *scopes, **headers):
        """A client whose key has these scopes; without any: it has none."""
        if scopes:
            headers["Authorization"] = f"Bearer {self.keys.create('test', scopes)[1]}"
        return _Client(self.gate, headers)

    def close(self):
        self.engine.dispose()


class _Client:
    """Asks the application itself, without a network."""

    def __init__(self, app, headers):
        self._app, self._headers = app, headers

    def request(self, method, path, **options):
        return asyncio.run(self._request(method, path, **options))

    async def _request(self, method, path, **options):
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False, client=("127.0.0.1", 40_000))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8000", headers=self._headers
        ) as client:
            return await client.request(method, path, **options)

    def get(self, path, **parameters):
        return self.request("GET", path, params=parameters or None)

    def delete(self, path):
        return self.request("DELETE", path)
