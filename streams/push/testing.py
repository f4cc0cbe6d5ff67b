"""``trips push test``: one event that is marked as a test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
from ulid import ULID

from streams.push.book import entry, read_book
from streams.push.dispatcher import SystemClock
from streams.push.guard import Policy
from streams.push.sender import Endpoint, ssl_context

if TYPE_CHECKING:
    from streams.push.processor import Outcome
    from streams.settings import Settings

__all__ = ["send_test", "test_event"]


def test_event(moment: datetime) -> tuple[str, bytes]:
    """An announcement of the deletion of a trip that never was.

    Returns:
        Its id, and the announcement.
    """
    event_id, trip_id = str(ULID.from_datetime(moment)), f"test-{ULID.from_datetime(moment)}"
    text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    announcement = {
        "metadata": {
            "id": event_id,
            "type": "PushTest",
            "schema_major_version": 1,
            "occurred_at": text,
            "flow_id": "push-test",
        },
        "data": {
            "occurred_at": text,
            "trip": {"id": trip_id, "key": "TEST0", "revision": 0, "vehicle_id": "test"},
        },
    }
    return event_id, orjson.dumps(announcement)


async def send_test(settings: Settings, name: str) -> Outcome:
    """Send one to a subscription's endpoint, from here.

    Raises:
        UsageError: there is no such subscription.
        ClusterError: the brokers do not tell.
    """
    definition = entry(await read_book(settings), name).definition
    endpoint = Endpoint(
        definition,
        Policy.of(settings),
        settings.push_secrets_folder,
        ssl_context(settings),
        SystemClock().now_ms,
    )
    event_id, payload = test_event(datetime.now(UTC))
    try:
        return await endpoint.attempt(payload, f"{event_id}-{name}", is_test=True)
    finally:
        await endpoint.close()
