"""The book of subscriptions in Kafka: one partition of a compacted topic. All read all of it; one at a time writes.

Whoever writes opens the book's transactional producer, which shuts out whoever had it open; reads what is there; and
writes what follows from that in one transaction. Had somebody else been shut out in the middle, nothing of theirs is
there; had we been, we begin again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.structs import TopicPartition

from streams.delivery.checkpoint import BATCH_BYTES, transact
from streams.delivery.producer import CheckpointProducer
from streams.errors import ClusterError, UsageError
from streams.push.subscriptions import Book, Entry, Subscription, Switch, subscription_key, tenant_records
from streams.runtime.source import close, log_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.push.subscriptions import PushFile
    from streams.settings import Settings

__all__ = ["BookReader", "add", "edit", "read_book", "remove", "switch", "sync"]

_log = structlog.get_logger(__name__)

Changes = dict[bytes, bytes | None]

_TRIES: Final = 20
_PAUSE: Final = 1.0
_POLL_MS: Final = 500
# Seconds. Reading a few records of brokers that are there takes some milliseconds.
_TIMEOUT: Final = 30.0


class BookReader:
    """Keeps a book up to date for as long as it runs.

    Args:
        settings: where it is.

    Attributes:
        changed: called after each change.
    """

    def __init__(self, settings: Settings) -> None:
        self.book = Book()
        self.changed: Callable[[], None] | None = None
        self._place = TopicPartition(settings.topics.push_subscriptions, 0)
        self._consumer = AIOKafkaConsumer(
            **settings.client(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        self._moved = asyncio.Condition()

    async def start(self) -> None:
        """Read what is there.

        Raises:
            ClusterError: the brokers do not tell.
        """
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._consumer.start()
                self._consumer.assign([self._place])
                await self._consumer.seek_to_beginning(self._place)
                end = await self._end()
                while await self._consumer.position(self._place) < end:
                    self._take(await self._consumer.getmany(timeout_ms=_POLL_MS // 10))
        except (KafkaError, TimeoutError) as error:
            raise ClusterError(f"The subscriptions in {self._place.topic} cannot be read: {error!r}") from error

    async def follow(self) -> None:
        """Take in what comes, for ever."""
        while True:
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
            some = self._take(fetched)
            async with self._moved:
                self._moved.notify_all()
            if some and self.changed is not None:
                self.changed()

    async def catch_up(self) -> None:
        """Wait until all is taken in that is there by now; :meth:`follow` must be running.

        Raises:
            ClusterError: the brokers do not tell.
        """
        try:
            async with asyncio.timeout(_TIMEOUT), self._moved:
                end = await self._end()
                while await self._consumer.position(self._place) < end:
                    await self._moved.wait()
        except (KafkaError, TimeoutError) as error:
            raise ClusterError(f"The subscriptions in {self._place.topic} cannot be read: {error!r}") from error

    async def close(self) -> None:
        """End."""
        await close(self._consumer)

    async def _end(self) -> int:
        end: int = (await self._consumer.end_offsets([self._place]))[self._place]
        return end

    def _take(self, fetched: Mapping[Any, Any]) -> bool:
        records = [record for some in fetched.values() for record in some]
        for record in records:
            self.book.take(record.key or b"", record.value)
        return bool(records)


async def read_book(settings: Settings) -> Book:
    """What there is now.

    Raises:
        ClusterError: the brokers do not tell.
    """
    reader = BookReader(settings)
    try:
        await reader.start()
    finally:
        await reader.close()
    return reader.book


async def edit(settings: Settings, change: Callable[[Book], Changes]) -> bool:
    """Change the book.

    Args:
        settings: where it is.
        change: says what is to be written, given what is there. May be called several times.

    Returns:
        Whether there was anything to be written.

    Raises:
        ClusterError: the brokers do not take it.
    """
    for _ in range(_TRIES):
        producer = CheckpointProducer(
            **settings.client(),
            transactional_id=f"{settings.push_application_id}-subscriptions",
            acks="all",
            max_batch_size=BATCH_BYTES,
            transaction_timeout_ms=30_000,
        )
        try:
            async with asyncio.timeout(_TIMEOUT):
                await producer.start()
                await producer.partitions_for(settings.topics.push_subscriptions)
                records = change(await read_book(settings))
                if records:
                    await _write(producer, settings.topics.push_subscriptions, records)
                return bool(records)
        except (KafkaError, TimeoutError) as error:
            if not _was_shut_out(error):
                raise ClusterError(f"The subscriptions cannot be changed: {error!r}") from error
        finally:
            with contextlib.suppress(KafkaError):
                await producer.stop()
        await asyncio.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - others wait, too
    raise ClusterError("The subscriptions cannot be changed: others change them all the time. Try again.")


async def _write(producer: CheckpointProducer, topic: str, records: Changes) -> None:
    batch = producer.create_batch()
    for key, value in records.items():
        if batch.append(timestamp=None, key=key, value=value, headers=[]) is None:
            raise UsageError("These are more subscriptions than can be changed at once: change them in several steps.")
    batch.close()
    await transact(producer, {TopicPartition(topic, 0): [batch]}, None, "")


def _was_shut_out(error: BaseException | None) -> bool:
    """Somebody else has opened the book; IllegalOperation: it shows when aiokafka is looking for the leader."""
    while error is not None and not isinstance(error, ProducerFenced | InvalidProducerEpoch | IllegalOperation):
        error = error.__cause__
    return error is not None


async def add(settings: Settings, definition: Subscription) -> None:
    """Add a subscription: the events from now on are its business.

    Raises:
        UsageError: there is one of this name already, or no such tenant.
        ClusterError: the brokers do not take it.
    """
    begins = await _now_ends(settings)

    def change(book: Book) -> Changes:
        if definition.id in book.entries:
            raise UsageError(
                f"there is a subscription {definition.id} already: `trips push remove {definition.id}` first"
            )
        if definition.tenant is not None and definition.tenant not in book.tenants:
            there = ", ".join(sorted(book.tenants)) or "none"
            raise UsageError(
                f"there is no tenant {definition.tenant} (there are: {there}); tenants are in TRIPS_PUSH_FILE"
            )
        return {subscription_key(definition.id): _new(definition, "command", begins).record()}

    await edit(settings, change)


async def remove(settings: Settings, name: str) -> None:
    """Remove a subscription that was added by a command; what waits for it is dropped.

    Raises:
        UsageError: there is none of this name, or it is from the file: the next worker would add it again.
        ClusterError: the brokers do not take it.
    """

    def change(book: Book) -> Changes:
        if entry(book, name).source == "file":
            raise UsageError(
                f"subscription {name} is from TRIPS_PUSH_FILE: take it out of that file, and the workers remove it"
            )
        return {subscription_key(name): None}

    await edit(settings, change)


async def switch(settings: Settings, name: str, reason: str | None, *, uid: str | None = None) -> bool:
    """Let a subscription rest, or go on.

    Args:
        settings: where it is.
        name: of the subscription.
        reason: why nothing is to be sent; None: go on.
        uid: only if it is still this one.

    Returns:
        Whether that changed anything.

    Raises:
        UsageError: there is none of this name.
        ClusterError: the brokers do not take it.
    """

    def change(book: Book) -> Changes:
        if uid is not None and (name not in book.entries or book.entries[name].uid != uid):
            return {}
        was = entry(book, name)
        if (was.off is None) == (reason is None):
            return {}
        off = None if reason is None else Switch(at=_now(), reason=reason)
        return {subscription_key(name): was.model_copy(update={"off": off}).record()}

    return await edit(settings, change)


async def sync(settings: Settings, file: PushFile) -> bool:
    """Make tenants, and the subscriptions that are from the file, what the file says; others are left alone.

    A subscription whose definition has changed goes on, and so does what waits for it; one with another profile is
    another subscription.

    Returns:
        Whether that changed anything.

    Raises:
        UsageError: a subscription of the file has the name of one that was added by a command.
        ClusterError: the brokers do not take it.
    """
    begins = await _now_ends(settings)
    wanted = {one.id: one for one in file.subscriptions}

    def change(book: Book) -> Changes:
        records = tenant_records(file.tenants, book)
        for name, was in book.entries.items():
            if was.source == "file" and name not in wanted:
                records[subscription_key(name)] = None
        for name, definition in wanted.items():
            there = book.entries.get(name)
            if there is not None and there.source != "file":
                raise UsageError(
                    f"TRIPS_PUSH_FILE={settings.push_file}: subscription {name} was added by a command: "
                    f"`trips push remove {name}` first, or give it another name"
                )
            if there is None or there.definition.profile != definition.profile:
                records[subscription_key(name)] = _new(definition, "file", begins).record()
            elif there.definition != definition:
                records[subscription_key(name)] = there.model_copy(update={"definition": definition}).record()
        return records

    return await edit(settings, change)


def entry(book: Book, name: str) -> Entry:
    """The subscription of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in book.entries:
        there = ", ".join(sorted(book.entries)) or "none"
        raise UsageError(f"there is no subscription {name} (there are: {there})")
    return book.entries[name]


def _new(definition: Subscription, source: Any, begins: dict[int, int]) -> Entry:
    return Entry(uid=secrets.token_hex(8), added_at=_now(), source=source, begins=begins, definition=definition)


async def _now_ends(settings: Settings) -> dict[int, int]:
    """Where the partitions of the events end now."""
    consumer = AIOKafkaConsumer(**settings.client())
    try:
        async with asyncio.timeout(_TIMEOUT):
            await consumer.start()
            numbers = await consumer._client._wait_on_metadata(settings.topics.events)  # noqa: SLF001 - no public way
    except (KafkaError, TimeoutError) as error:
        raise ClusterError(f"The partitions of {settings.topics.events} are not known: {error!r}") from error
    finally:
        await close(consumer)
    bounds = await log_bounds(settings.topics.events, sorted(numbers), settings.client())
    return {number: one.end for number, one in bounds.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
