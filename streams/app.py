"""The worker, put together: read this first.

::

    Kafka ── vehicle-telemetry ──► BatchConsumer ──► Worker ──► Partition ──► Processor      (bytes → announcements)
                                  (one event =                 │    │            │
                                   one fetch)                  │    │            └─ reader, timelines, trips: no I/O
                                                               │    └─ Checkpointer: one transaction per checkpoint
                                                               └─ take over, give up, fail

- ``streams.processor`` is everything between the bytes of one partition and the bytes that it puts out.
- ``streams.delivery.checkpoint`` has the steps of the transaction that publishes them, numbered.
- ``streams.runtime`` is when: Faust's agent, assignments, recovery, the clock of quiet partitions.
- This module makes one of each from the settings, and runs them until somebody or something ends it.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from streams.delivery.checkpoint import BATCH_BYTES, Destinations
from streams.errors import ClusterError, UsageError
from streams.processor import COMPILED, Processor
from streams.refusals import find_refusal
from streams.runtime.cluster import look_at_cluster
from streams.runtime.commands import Commands
from streams.runtime.decoding import InPortions
from streams.runtime.fences import Fences
from streams.runtime.garbage import spare_the_state
from streams.runtime.health import serve_health
from streams.runtime.logs import configure_logs
from streams.runtime.metrics import Metrics
from streams.runtime.watchdog import Watchdog
from streams.runtime.worker import App, Worker, run_and_end
from streams.telemetry.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from streams.runtime.cluster import Cluster
    from streams.runtime.partition import PartitionProcessor
    from streams.settings import Settings

    NewProcessor = Callable[[int], PartitionProcessor]

__all__ = [
    "REBALANCE_TIMEOUT",
    "build_app",
    "consumer_settings",
    "end_when_refused",
    "producer_settings",
    "run_worker",
    "shown",
    "unless",
    "work",
]

_log = structlog.get_logger(__name__)

# The group waits for a member that is finishing its last checkpoints for so long (seconds).
REBALANCE_TIMEOUT: Final = 30.0
# From the first connection to the first assignment and the end of recovery there is no limit: state may be large. From
# SIGTERM to the end there is one (seconds): after it, what is not committed is left to the next owner.
_STOP_TIMEOUT: Final = 25.0
# Without an answer for so long, or not ready, we ask the brokers whether they refuse us (seconds). Twice: nobody ends
# because of a moment.
_LOOK_EVERY: Final = 5.0
# With at_least_once nobody waits for a checkpoint that announces nothing, and one that is under way holds the next
# announcement up (seconds).
_PATIENCE: Final = 1.0
# Records that are worked through without a pause for everything else in the process: some 30 and 70 ms.
_PORTION: Final = 8000 if COMPILED else 4000
# A transaction that is abandoned holds read-committed readers up for so long, unless a successor ends it before.
_TRANSACTION_TIMEOUT_MS: Final = 30_000


def build_app(settings: Settings, cluster: Cluster, new_processor: NewProcessor | None = None) -> App:
    """Put the worker together.

    Args:
        settings: checked.
        cluster: what :func:`streams.runtime.cluster.look_at_cluster` found.
        new_processor: makes the empty processor of a partition, if not the one that tells trips.
    """
    topics, client, rules = settings.topics, settings.client(), settings.rules()
    at_least_once = settings.processing_guarantee == "at_least_once"
    reader = Reader(max_clock_skew_ms=settings.max_clock_skew_ms)  # one: it remembers timestamps that it has parsed

    def new_trips_processor(_: int) -> Processor:
        return Processor(rules, reader, outbox=at_least_once)

    worker = Worker(
        topics=topics,
        destinations=Destinations(
            application_id=settings.application_id,
            telemetry=topics.telemetry,
            events=topics.events,
            trips=topics.trips,
            dead_letters=topics.dead_letters,
            late=topics.late,
            changelog=topics.changelog,
            max_bytes=cluster.max_bytes,
            commands=topics.commands,
        ),
        client=client,
        consumer_settings=consumer_settings(settings, client, settings.application_id),
        fences=Fences(settings.application_id, producer_settings(client), with_plain=at_least_once),
        new_processor=new_processor or new_trips_processor,
        partition_count=cluster.partitions,
        commit_interval=settings.commit_interval_s,
        patience=max(settings.commit_interval_s, _PATIENCE) if at_least_once else None,
        metrics=Metrics(),
        commands=Commands(topics.commands, client) if new_processor is None else None,
    )
    return App(worker, application_id=settings.application_id, rebalance_timeout=REBALANCE_TIMEOUT)


def consumer_settings(settings: Settings, client: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The keyword arguments of a consumer of the group."""
    session_ms = int(settings.session_timeout_s * 1000)
    return {
        **client,
        "client_id": group,
        "group_id": group,
        "auto_offset_reset": "none",  # positions are set to where the state goes on; one that is gone is an error
        "enable_auto_commit": False,  # offsets are part of the checkpoints
        "isolation_level": "read_committed",
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": min(3000, session_ms // 4),
        "rebalance_timeout_ms": int(REBALANCE_TIMEOUT * 1000),
        # A topic that has got more partitions is noticed within this, and the group shares them out anew.
        "metadata_max_age_ms": 10_000,
        "request_timeout_ms": max(40_000, session_ms + 5_000),
        # An empty answer tells that a partition is still at its end; the clock of quiet partitions lives on it.
        "fetch_max_wait_ms": 500,
        # Each fetch and each portion has its price; more than this at once is slower again.
        "max_partition_fetch_bytes": 2 * 2**20,
        "value_deserializer": InPortions(_PORTION),
        "max_poll_records": 8,  # portions
    }


def producer_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a partition's producer."""
    return {
        **client,
        "acks": "all",
        "linger_ms": 0,  # a checkpoint is sent whole: there is nothing to wait for
        "max_batch_size": BATCH_BYTES,
        "max_request_size": 4 * 2**20,
        "request_timeout_ms": 20_000,
        "retry_backoff_ms": 20,
        "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
    }


def run_worker(settings: Settings, *, debug: bool = False, new_processor: NewProcessor | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT, or until it fails.

    Args:
        settings: checked.
        debug: log everything, with tracebacks.
        new_processor: as of :func:`build_app`.

    Returns:
        The exit code: 0 when it was asked to stop, 1 when it failed (the log says why).

    Raises:
        TripsError: it cannot start: the cluster is away, or is not as it must be.
    """
    if not __debug__:
        raise UsageError("Run the worker without -O and PYTHONOPTIMIZE: aiokafka checks transactions with asserts.")
    configure_logs(debug=debug)
    return run_and_end(_run(settings, new_processor))


async def _run(settings: Settings, new_processor: NewProcessor | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    topics = settings.topics
    _log.info(
        "starting",
        application_id=settings.application_id,
        telemetry=topics.telemetry,
        compiled=COMPILED,
        **shown(settings.client()),
    )
    cluster = await unless(stop, look_at_cluster(settings))
    if cluster is None:
        return 0
    app, client = build_app(settings, cluster, new_processor), settings.client()
    async with serve_health(app.worker, settings.http_host, settings.http_port):
        watch = asyncio.create_task(end_when_refused(app.worker, settings, client))
        try:
            return await work(app, stop)
        finally:
            watch.cancel()


async def end_when_refused(worker: Worker, settings: Settings, client: Mapping[str, Any]) -> None:
    """A broker that is away comes back. One that does not let us in any more does not, however long we try."""
    refused = False
    while worker.failure is None:
        await asyncio.sleep(_LOOK_EVERY)
        newest = max((partition.answered for partition in worker.partitions.values()), default=math.inf)
        if worker.ready and time.monotonic() - newest < _LOOK_EVERY:
            refused = False
            continue
        # With what the connections were made with: a certificate may have been renewed on the disk since.
        refusal = await find_refusal(settings, client)
        if refusal is not None and refused:
            worker.fail(refusal)
        refused = refusal is not None


async def work(app: App, stop: asyncio.Event) -> int:
    """Run a worker's app until it is to stop or fails; returns the exit code."""
    spare_the_state()
    worker, hook = app.worker, threading.excepthook
    leave = Watchdog(_STOP_TIMEOUT, lambda: _leave_by_force(worker))
    clock = asyncio.create_task(worker.keep_time())
    start = asyncio.create_task(app.start())
    try:
        await _first(start, stop.wait(), worker.failed.wait())
        if start.done() and start.exception() is not None:
            worker.fail(start.exception() or ClusterError("The worker did not start."))
        await _first(stop.wait(), worker.failed.wait())
        if worker.failure is None:
            _log.info("stopping")
            # Whatever hangs on the way out (brokers that do not answer), a supervisor is not kept waiting.
            leave.let_loose()
        threading.excepthook = _tell_briefly
        await app.stop()
    except BaseException:
        worker.must_end()
        raise
    finally:
        threading.excepthook = hook
        for task in (clock, start):
            task.cancel()
        await asyncio.gather(clock, start, return_exceptions=True)
        await worker.close()
    leave.call_off()
    worker.stand_down()
    _log.info("stopped")
    return 0 if worker.failure is None else 1


def _tell_briefly(ended: threading.ExceptHookArgs) -> None:
    """How a thread has ended while we leave: without brokers, closing Faust's consumer is cancelled, and no mistake."""
    if isinstance(ended.exc_value, asyncio.CancelledError):
        _log.info("the consumer was not closed in order")
    else:
        threading.__excepthook__(ended)


def _leave_by_force(worker: Worker) -> None:
    """End the process at once. What is not committed is read again by the next owner."""
    _log.warning("the brokers do not answer: left without saying goodbye", seconds=_STOP_TIMEOUT)
    os._exit(0 if worker.failure is None and not worker.partitions else 1)


async def _first(*these: Any) -> None:
    """Wait until one of these is done."""
    tasks = [asyncio.ensure_future(one) for one in these]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, one in zip(tasks, these, strict=True):
        if task is not one and not task.done():
            task.cancel()


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of some work; None: it was ended because of ``stop``."""
    task = asyncio.ensure_future(work)
    await _first(task, stop.wait())
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


def shown(client: Mapping[str, Any]) -> dict[str, str]:
    """What of the connection may be in a log."""
    return {
        "bootstrap_servers": ",".join(client["bootstrap_servers"]),
        "security_protocol": client["security_protocol"],
    }
