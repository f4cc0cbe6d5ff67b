"""The push worker: the runtime's worker over ``trip-events``, and what goes on beside its batches.

Beside the batches there are the attempts (``dispatcher``), the book of subscriptions, and requests to deliver again.
All of them change the state of a partition in the event loop, between two checkpoints, like a batch does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.errors import ClusterError, TripsError
from streams.push.book import switch
from streams.push.checkpoint import PushCheckpointer, rfc3339
from streams.push.dispatcher import Dispatcher
from streams.push.processor import PushProcessor, Retry
from streams.push.subscriptions import Switch
from streams.runtime.source import close
from streams.runtime.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from streams.delivery.checkpoint import Destinations
    from streams.push.book import BookReader
    from streams.push.deliveries import Delivery
    from streams.push.dispatcher import Clock, Sender
    from streams.push.metrics import PushMetrics
    from streams.push.processor import Outcome, PushOutput
    from streams.push.subscriptions import Entry, Subscription
    from streams.runtime.batches import BatchConsumer
    from streams.runtime.fences import Fence
    from streams.runtime.partition import CheckpointTaker
    from streams.settings import Settings

__all__ = ["PushWorker"]

_log = structlog.get_logger(__name__)

# Partitions that are given up wait so long for attempts that are under way (seconds); the others are made again.
_GRACE: Final = 3.0
_POLL_MS: Final = 500
# What an endpoint has said of itself is written down again after this, if the brokers did not take it (seconds).
_DISABLE_AGAIN: Final = 5.0
# How often failures of one subscription are told of (seconds); the report and the metrics have all of them.
_TELL_EVERY: Final = 30.0


class PushWorker(Worker):
    """What a process does for pushes.

    Args:
        settings: where everything is.
        destinations: where checkpoints go.
        reader: of the book.
        new_sender: makes what sends for a subscription.
        clock: time.
        metrics: are told what happens.
        arguments: of :class:`streams.runtime.worker.Worker`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        destinations: Destinations,
        reader: BookReader,
        new_sender: Callable[[Subscription], Sender],
        clock: Clock,
        metrics: PushMetrics,
        **arguments: Any,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._clock = clock
        self._push_destinations = destinations
        self._push_metrics = metrics
        self._dispatcher = Dispatcher(reader.book, new_sender, clock, self._settle, self.fail)
        self._scheduling = False
        self._told: dict[str, tuple[float, int]] = {}
        self._requests: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        super().__init__(destinations=destinations, metrics=metrics, **arguments)

    @property
    def under_way(self) -> int:
        """How many attempts are."""
        return self._dispatcher.under_way

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        return len(self._reader.book.entries)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside everything else; if it fails, so does the worker."""
        task = asyncio.create_task(self._guarded(work))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - nobody else would tell
            self.fail(error)

    # -- assignments ---------------------------------------------------------------------------------------------

    async def take_over(self, numbers: set[int], generation: int, consumer: BatchConsumer) -> None:
        """See :meth:`streams.runtime.worker.Worker.take_over`."""
        await super().take_over(numbers, generation, consumer)
        # What waits was due to subscriptions that are in the book, which we may not have read that far.
        await self._reader.catch_up()

    def checkpointer(self, fence: Fence, number: int) -> CheckpointTaker:
        """What commits the checkpoints of a partition."""
        return PushCheckpointer(
            fence.producer, number, self._push_destinations, lambda output: self._on_committed(number, output)
        )

    def open(self, generation: int) -> None:
        """See :meth:`streams.runtime.worker.Worker.open`; from here on attempts are made."""
        super().open(generation)
        self._scheduling = True
        self.book_changed()
        for number, partition in self.partitions.items():
            self._dispatcher.schedule(number, _processor(partition).waiting())
        self._requests = asyncio.create_task(self._guarded(self._read_requests()), name="requests")

    async def drain(self) -> None:
        """Begin no attempts, commit what came of the last ones, and give the partitions up."""
        self._scheduling = False
        await self._stop_requests()
        if self.partitions and self.failure is None:
            await self._dispatcher.forget(self.partitions, _GRACE)
        await super().drain()

    async def close(self) -> None:
        """End for good."""
        self._scheduling = False
        await self._stop_requests()
        for task in list(self._beside):
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._dispatcher.close()
        await super().close()

    # -- attempts ------------------------------------------------------------------------------------------------

    def _on_committed(self, number: int, output: PushOutput) -> None:
        """What is due is known to whoever comes next: now it may be attempted."""
        if self._scheduling:
            self._dispatcher.schedule(number, output.scheduled)

    def _settle(self, number: int, delivery: Delivery, entry: Entry, outcome: Outcome) -> None:
        name = entry.definition.id
        self._push_metrics.attempt(name, outcome)
        if outcome.error is not None:
            self._tell_of_failure(name, delivery.id, outcome.error)
        partition = self.partitions.get(number)
        if partition is not None and self.failure is None:
            is_due = _processor(partition).settle(delivery, entry.definition.profile, outcome)
            partition.changed()
            if is_due and self._scheduling:
                self._dispatcher.schedule(number, [delivery])
        if outcome.gone and entry.off is None:
            reason = "the endpoint says that it is gone (HTTP 410)"
            if self._dispatcher.rest(entry.uid, Switch(at=rfc3339(self._clock.now_ms()), reason=reason)):
                _log.warning("subscription disabled", subscription=name, reason=reason)
                self.begin(self._disable(entry, reason))

    def _tell_of_failure(self, name: str, delivery_id: str, error: str) -> None:
        """The first one, and then one in a while: an endpoint that is dead fails many times a second."""
        told, untold = self._told.get(name, (-_TELL_EVERY, 0))
        now = self._clock.monotonic()
        if now - told < _TELL_EVERY:
            self._told[name] = told, untold + 1
            return
        self._told[name] = now, 0
        _log.info("push failed", subscription=name, delivery=delivery_id, error=error, more_since_last=untold)

    async def _disable(self, entry: Entry, reason: str) -> None:
        """Write down that it rests; until then it rests here, and another worker asks the endpoint once more."""
        while True:
            try:
                await switch(self._settings, entry.definition.id, reason, uid=entry.uid)
                await self._reader.catch_up()
                break
            except TripsError as error:
                _log.warning("not written down yet", subscription=entry.definition.id, error=str(error))
            await asyncio.sleep(_DISABLE_AGAIN)
        self._dispatcher.rest_by_book(entry.uid)

    def book_changed(self) -> None:
        """Subscriptions have come, gone or changed."""
        self._dispatcher.book_changed()
        for partition in self.partitions.values():
            if _processor(partition).drop_strangers():
                partition.changed()

    # -- requests to deliver again -------------------------------------------------------------------------------

    async def _read_requests(self) -> None:
        """Apply what is asked of the partitions that we have, each request once."""
        if not self.partitions:
            return
        place = TopicPartition(self._settings.topics.push_requests, 0)
        consumer = AIOKafkaConsumer(
            **self._settings.client(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
            consumer.assign([place])
            applied = min(_processor(partition).requests for partition in self.partitions.values())
            begin = (await consumer.beginning_offsets([place]))[place]
            consumer.seek(place, max(begin, applied))
            while True:
                for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    # Somebody may have added a subscription, and asked for something, in one breath.
                    await self._reader.catch_up()
                    for record in records:
                        self._request(record)
        finally:
            await close(consumer)

    def _request(self, record: Any) -> None:
        try:
            retry = Retry.read(record.value or b"")
        except ValueError:
            _log.warning("a request that cannot be read is left out", offset=record.offset)
            return
        partition = self.partitions.get(retry.partition)
        if partition is not None:
            refused = _processor(partition).request(record.offset, retry)
            if refused is not None:
                self._push_metrics.refused()
                _log.warning(
                    "a request to deliver again is not followed",
                    subscription=retry.subscription,
                    event=retry.event.id,
                    reason=refused,
                )
            partition.changed()

    async def _stop_requests(self) -> None:
        task, self._requests = self._requests, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


def _processor(partition: Any) -> PushProcessor:
    return cast("PushProcessor", partition.processor)


def check_partitions(events: str, changelog: str, have: int, state: int) -> None:
    """The deliveries of a partition of the events are in the changelog's partition of the same number.

    Raises:
        ClusterError: the counts differ.
    """
    if have != state:
        raise ClusterError(
            f"{events} has {have} partitions, but the deliveries in {changelog} are of {state}: give {events} its old "
            "number again, or start anew with another TRIPS_APPLICATION_ID."
        )
