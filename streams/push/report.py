"""What has become of pushes: read from their changelog, which is what the workers themselves go by."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.errors import ClusterError, UsageError
from streams.local.tail import open_topic, read_to_end
from streams.push.book import read_book
from streams.push.checkpoint import rfc3339
from streams.push.deliveries import FORMAT_VERSION, Delivery, Totals
from streams.push.guard import shown_url
from streams.push.processor import Event, Retry
from streams.trips.state import open_value

if TYPE_CHECKING:
    from collections.abc import Collection

    from streams.push.subscriptions import Book, Entry
    from streams.settings import Settings

__all__ = ["Line", "can_be_retried", "describe_subscription", "report", "request_retries"]


@dataclass
class Line:
    """The report on one subscription.

    Attributes:
        state: ``on``, ``off`` (it rests: ``why``) or ``removed``.
        delivered: taken by the endpoint.
        waiting: deliveries that are due, now or later.
        failing: those of them that have failed before.
        discarded: given up, and in the dead letters.
        dropped: the subscription was removed before.
        erased: the trip was deleted before.
        attempts: made, whatever came of them.
        oldest: since when the oldest waits.
        next: when the next attempt is due; None: none waits, or it rests. In the past: it waits for its turn, or for a
            credential.
        errors: the last ones, newest first.
    """

    subscription: str
    state: str = "on"
    why: str | None = None
    delivered: int = 0
    waiting: int = 0
    failing: int = 0
    discarded: int = 0
    dropped: int = 0
    erased: int = 0
    attempts: int = 0
    last_delivered: str | None = None
    oldest: str | None = None
    next: str | None = None
    errors: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _Sum:
    """Of one subscription, over all partitions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.totals: list[Totals] = []
        self.waiting: list[Delivery] = []

    def line(self, entry: Entry | None) -> Line:
        line = Line(self.name)
        if entry is None:
            line.state = "removed"
        elif entry.off is not None:
            line.state, line.why = "off", f"{entry.off.reason}, since {entry.off.at}"
        for one in self.totals:
            line.delivered += one.delivered
            line.discarded += one.discarded
            line.dropped += one.dropped
            line.erased += one.erased
            line.attempts += one.attempts
        delivered = [one.last_delivered_ms for one in self.totals if one.last_delivered_ms is not None]
        line.last_delivered = rfc3339(max(delivered)) if delivered else None
        line.waiting = len(self.waiting)
        line.failing = sum(1 for one in self.waiting if one.attempts)
        if self.waiting:
            line.oldest = rfc3339(min(one.created_ms for one in self.waiting))
            if line.state == "on":
                line.next = rfc3339(min(one.due_ms for one in self.waiting))
        errors = sorted((error for one in self.totals for error in one.errors), reverse=True)[:5]
        line.errors = [
            {"at": rfc3339(at_ms), "error": error, "delivery": delivery} for at_ms, error, delivery in errors
        ]
        return line


async def report(settings: Settings, only: str | None = None) -> list[Line]:
    """How it is, subscription by subscription.

    Args:
        settings: where it all is.
        only: one subscription.

    Raises:
        UsageError: there is none of this name, and never was.
        ClusterError: the brokers do not tell.
    """
    entries = {entry.uid: entry for entry in (await read_book(settings)).entries.values()}
    values: dict[tuple[int, bytes], bytes | None] = {}
    async with open_topic(settings, settings.topics.push_changelog, from_beginning=True) as consumer:
        async for record in read_to_end(consumer):
            if record.key[:1] in (b"d", b"s"):
                values[record.partition, record.key] = record.value
    sums = {uid: _Sum(entry.definition.id) for uid, entry in entries.items()}
    for (_, key), value in values.items():
        if value is None:
            continue
        content = open_value(key, value, FORMAT_VERSION)
        if key[:1] == b"s":
            totals = Totals.unpack(content)
            sums.setdefault(key[1:].decode(), _Sum(totals.subscription)).totals.append(totals)
        else:
            delivery = Delivery.unpack(key, content)
            sums.setdefault(delivery.uid, _Sum(delivery.subscription)).waiting.append(delivery)
    lines = [one.line(entries.get(uid)) for uid, one in sums.items() if only in (None, one.name)]
    if only is not None and not lines:
        raise UsageError(f"there is no subscription {only}, and nothing is known of one")
    return sorted(lines, key=lambda line: (line.subscription, line.state == "removed"))


def describe_subscription(entry: Entry) -> dict[str, Any]:
    """A subscription as it may be shown: credentials by reference, and of the URL what is no secret."""
    definition = entry.definition.model_dump(mode="json", exclude_none=True)
    return {
        **definition,
        "url": shown_url(entry.definition.url),
        "events": sorted(entry.definition.wanted),
        "added_at": entry.added_at,
        "source": entry.source,
        "off": None if entry.off is None else entry.off.model_dump(),
    }


async def _asked_for(settings: Settings) -> set[tuple[str, str]]:
    """What has been asked for: the ids of deliveries, and when they were given up."""
    asked = set()
    async with open_topic(settings, settings.topics.push_requests, from_beginning=True) as consumer:
        async for record in read_to_end(consumer):
            with contextlib.suppress(ValueError):
                retry = Retry.read(record.value or b"")
                asked.add((retry.delivery_id, retry.discarded_at))
    return asked


def can_be_retried(book: Book, letter: dict[str, Any], asked: Collection[tuple[str, str]] = ()) -> bool:
    """Whether what was given up may still be delivered: to the subscription that it was due to, and to no other.

    Args:
        book: the subscriptions.
        letter: what was given up.
        asked: what has been asked for: ids of deliveries, and when they were given up.
    """
    entry = book.by_uid(letter.get("subscription_uid", ""))
    event = letter["event"]
    return (
        entry is not None
        and letter.get("payload") is not None
        and (letter["id"], letter["discarded_at"]) not in asked
        and book.asks_for(entry, event["type"], event["vehicle_id"])
    )


async def request_retries(
    settings: Settings, *, subscription: str | None, ids: Collection[str]
) -> tuple[int, list[str]]:
    """Ask for what was discarded to be delivered again: the same id, and all attempts anew.

    What has been asked for already is not asked for again, unless it was given up once more; but by its id it is.

    Args:
        settings: where it all is.
        subscription: all of this one; None: of all.
        ids: only these; empty: all.

    Returns:
        How many requests were made; and the ids of ``ids`` that are not in the dead letters, or cannot be delivered.

    Raises:
        UsageError: there is no such subscription.
        ClusterError: the brokers do not tell, or do not take it.
    """
    book = await read_book(settings)
    if subscription is not None and subscription not in book.entries:
        raise UsageError(f"there is no subscription {subscription}: what was discarded has nowhere to go")
    letters: dict[str, dict[str, Any]] = {}
    async with open_topic(settings, settings.topics.push_dead_letters, from_beginning=True) as consumer:
        async for record in read_to_end(consumer):
            letter = orjson.loads(record.value)
            letters[letter["id"]] = letter
    asked: set[tuple[str, str]] = set() if ids else await _asked_for(settings)
    wanted = [
        letter
        for letter in letters.values()
        if subscription in (None, letter["subscription"])
        and (not ids or letter["id"] in ids)
        and can_be_retried(book, letter, asked)
    ]
    producer = AIOKafkaProducer(**settings.client(), acks="all", enable_idempotence=True, max_request_size=4 * 2**20)
    try:
        await producer.start()
        for letter in wanted:
            event = letter["event"]
            retry = Retry(
                partition=event["partition"],
                offset=event["offset"],
                uid=letter["subscription_uid"],
                subscription=letter["subscription"],
                event=Event(event["id"], event["type"], event["trip_id"], event["vehicle_id"]),
                payload=letter["payload"],
                discarded_at=letter["discarded_at"],
            )
            await producer.send_and_wait(
                settings.topics.push_requests, retry.record(), key=event["vehicle_id"].encode(), partition=0
            )
    except KafkaError as error:
        raise ClusterError(f"The requests cannot be written: {error!r}") from error
    finally:
        await producer.stop()
    found = {letter["id"] for letter in wanted}
    return len(wanted), [one for one in ids if one not in found]
