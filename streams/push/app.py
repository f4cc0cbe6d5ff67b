"""``trips push worker``, put together: read this first.

::

    Kafka ── trip-events ──► PushWorker ──► Partition ──► PushProcessor      (announcements → what is due)
                                │              └─ PushCheckpointer: due deliveries, outcomes, dead letters, offset
    subscriptions ──► Book ─────┤
                                └─ Dispatcher ──► a lane for each subscription ──► Endpoint ──► HTTP

It is a Faust app of its own, with the consumer group ``<application id>-push``, on the runtime that the trips are told
on: batches, fences, one transaction per checkpoint, a changelog with the partitions of its source. What is special:

- A delivery is attempted after the checkpoint that made it due is committed. What came of the attempt is a change of
  state like any other, and is committed with the next checkpoint.
- So whatever dies, what was due is due; an attempt whose outcome was not committed is made again, with the same id.
"""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import structlog

from streams.app import (
    REBALANCE_TIMEOUT,
    consumer_settings,
    end_when_refused,
    producer_settings,
    shown,
    unless,
    work,
)
from streams.delivery.checkpoint import Destinations
from streams.errors import ClusterError, TripsError, UsageError
from streams.push.book import BookReader, sync
from streams.push.dispatcher import SystemClock
from streams.push.guard import Guard, Policy, RefusedAddressError, RefusedUrlError
from streams.push.metrics import PushMetrics
from streams.push.processor import PushProcessor
from streams.push.sender import Endpoint, ssl_context
from streams.push.subscriptions import read_file
from streams.push.worker import PushWorker, check_partitions
from streams.runtime.cluster import find_topics, max_bytes
from streams.runtime.fences import Fences
from streams.runtime.health import serve_health
from streams.runtime.logs import configure_logs
from streams.runtime.worker import App, run_and_end

if TYPE_CHECKING:
    from pathlib import Path

    from streams.push.subscriptions import Book, PushFile, Subscription
    from streams.settings import Settings
    from streams.topics import Found

__all__ = ["build_app", "follow_file", "read_checked", "run_push_worker"]

_log = structlog.get_logger(__name__)

_ANEW: Final = "start anew with another TRIPS_APPLICATION_ID: subscriptions are added again, and what waited is lost"
# How often it is looked whether the file of subscriptions has changed (seconds).
_LOOK_AT_FILE_EVERY: Final = 2.0


def build_app(settings: Settings, found: dict[str, Found], reader: BookReader) -> App:
    """Put the push worker together.

    Args:
        settings: checked.
        found: what its topics are like.
        reader: of the subscriptions, started.
    """
    topics, client, clock = settings.topics, settings.client(), SystemClock()
    chance = random.Random()  # noqa: S311 - it spreads retries
    policy, trust = Policy.of(settings), ssl_context(settings)

    def new_processor(partition: int) -> PushProcessor:
        return PushProcessor(
            partition,
            reader.book,
            now=clock.now_ms,
            chance=chance.random,
            scale=settings.push_retry_scale,
            max_waiting=settings.push_max_waiting,
        )

    def new_sender(subscription: Subscription) -> Endpoint:
        return Endpoint(subscription, policy, settings.push_secrets_folder, trust, clock.now_ms)

    worker = PushWorker(
        settings=settings,
        # To the runtime, the events are the source.
        topics=replace(topics, telemetry=topics.events, changelog=topics.push_changelog),
        destinations=Destinations(
            application_id=settings.push_application_id,
            telemetry=topics.events,
            events=topics.events,
            trips=topics.trips,
            dead_letters=topics.push_dead_letters,
            late=topics.late,
            changelog=topics.push_changelog,
            max_bytes={name: max_bytes(topic) for name, topic in found.items() if name != topics.events},
        ),
        reader=reader,
        new_sender=new_sender,
        clock=clock,
        metrics=PushMetrics(),
        client=client,
        consumer_settings=consumer_settings(settings, client, settings.push_application_id),
        fences=Fences(settings.push_application_id, producer_settings(client)),
        new_processor=new_processor,
        partition_count=found[topics.events].partitions,
        commit_interval=settings.commit_interval_s,
        anew=_ANEW,
    )
    return App(worker, application_id=settings.push_application_id, rebalance_timeout=REBALANCE_TIMEOUT)


def run_push_worker(settings: Settings, *, debug: bool = False) -> int:
    """Run a push worker until SIGTERM or SIGINT, or until it fails.

    Returns:
        The exit code: 0 when it was asked to stop, 1 when it failed (the log says why).

    Raises:
        TripsError: it cannot start.
    """
    if not __debug__:
        raise UsageError("Run the worker without -O and PYTHONOPTIMIZE: aiokafka checks transactions with asserts.")
    configure_logs(debug=debug)
    return run_and_end(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    topics, client = settings.topics, settings.client()
    _log.info("starting", application_id=settings.push_application_id, events=topics.events, **shown(client))
    names = [
        topics.events,
        topics.push_dead_letters,
        topics.push_requests,
        topics.push_subscriptions,
        topics.push_changelog,
    ]
    found = await unless(stop, find_topics(settings, names))
    if found is None:
        return 0
    check_partitions(
        topics.events, topics.push_changelog, found[topics.events].partitions, found[topics.push_changelog].partitions
    )
    seen = _look(settings.push_file)
    if settings.push_file is not None:
        await sync(settings, read_checked(settings, settings.push_file))
    reader = BookReader(settings)
    try:
        await reader.start()
        app = build_app(settings, found, reader)
        worker = cast("PushWorker", app.worker)
        reader.changed = worker.book_changed
        worker.begin(reader.follow())
        if settings.push_file is not None:
            worker.begin(follow_file(settings, settings.push_file, seen, reader.book))
        async with serve_health(worker, settings.http_host, settings.push_http_port, variable="TRIPS_PUSH_HTTP_PORT"):
            watch = asyncio.create_task(end_when_refused(worker, settings, client))
            try:
                return await work(app, stop)
            finally:
                watch.cancel()
    finally:
        await reader.close()


async def follow_file(settings: Settings, path: Path, seen: object, book: Book) -> None:
    """Take the file in whenever it changes. One that is wrong changes nothing; brokers that are away are waited for.

    One that was refused is looked at again when subscriptions of commands come or go, too: it may have been for a name.

    Args:
        settings: where the subscriptions are.
        path: of the file.
        seen: as it was when it was taken in last.
        book: what there is, kept up to date by somebody else.
    """
    refused: frozenset[str] | None = None  # beside these
    while True:
        await asyncio.sleep(_LOOK_AT_FILE_EVERY)
        now = _look(path)
        others = frozenset(name for name, entry in book.entries.items() if entry.source != "file")
        if now == seen and refused in (None, others):
            continue
        try:
            if await sync(settings, read_checked(settings, path)):
                _log.info("subscriptions taken from the file", path=str(path))
            refused = None
        except ClusterError as error:
            _log.warning("the file of subscriptions waits for the brokers", error=str(error))
            continue
        except TripsError as error:
            _log.error("the file of subscriptions changes nothing", error=str(error))
            refused = others
        seen = now


def read_checked(settings: Settings, path: Path) -> PushFile:
    """The file, if all that it names may be pushed to as far as a URL tells; addresses of names are checked later.

    Raises:
        UsageError: it is wrong, or a URL is refused.
    """
    file, policy = read_file(path), Policy.of(settings)
    for one in file.subscriptions:
        try:
            Guard(one.url, policy)
        except (RefusedUrlError, RefusedAddressError) as error:
            raise UsageError(f"TRIPS_PUSH_FILE={path}: subscription {one.id}: this URL is refused: {error}") from None
    return file


def _look(path: Path | None) -> object:
    """Another answer means that the file may have changed."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)
