"""Which delivery is attempted when: a lane for each subscription, with its own limits.

Lanes share nothing but the event loop. An endpoint that is slow, dead or without a name server fills its own lane; what
waits there is state of its partition, and here it is only an entry in a queue.

Attempts of a lane are begun in the order in which they are due. That is the order of the events for as long as
everything is delivered at once; with more than one attempt at a time, and after the first failure, it is none.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streams.push.deliveries import Delivery
    from streams.push.processor import Outcome
    from streams.push.subscriptions import Book, Entry, Subscription, Switch

__all__ = ["Clock", "Dispatcher", "Sender", "SystemClock"]

_log = structlog.get_logger(__name__)

# The wall clock may be set: what is due is looked at this often at least (seconds).
_LOOK_EVERY: Final = 15.0


class Clock(Protocol):
    """Time, for tests to hold in their hands."""

    def now_ms(self) -> int:
        """The wall clock, epoch ms."""

    def monotonic(self) -> float:
        """Seconds, on a clock that nobody sets."""

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set, or so much time has passed."""


class SystemClock:
    """The one on the wall."""

    def now_ms(self) -> int:
        """The wall clock, epoch ms."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds, on a clock that nobody sets."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set, or so much time has passed."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            waiting.cancel()


class Sender(Protocol):
    """What makes the attempts of a lane: :class:`streams.push.sender.Endpoint`."""

    async def attempt(self, payload: bytes, delivery_id: str, *, is_test: bool = False) -> Outcome:
        """Make one; never raises."""

    async def close(self) -> None:
        """No more."""


class _Lane:
    """The queue of a subscription.

    Args:
        entry: of which one.
        new_sender: makes what sends.
        clock: time.
        settle: is told how an attempt has ended: partition, delivery, subscription, outcome.
        fail: called with what must not happen: a delivery would be forgotten by this worker.
    """

    def __init__(
        self,
        entry: Entry,
        new_sender: Callable[[Subscription], Sender],
        clock: Clock,
        settle: Callable[[int, Delivery, Entry, Outcome], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.entry = entry
        self._new_sender = new_sender
        self._sender = new_sender(entry.definition)
        self._clock = clock
        self._settle = settle
        self._fail = fail
        self._queue: list[tuple[int, int, int, Delivery]] = []
        self._order = itertools.count()
        self._woken = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._next_start = 0.0  # monotonic, by the rate
        self._closing: dict[asyncio.Task[Any], Sender] = {}
        self._run_task = asyncio.create_task(self._run(), name=f"push lane {entry.definition.id}")
        self._run_task.add_done_callback(self._look_at)

    @property
    def under_way(self) -> int:
        """How many attempts are."""
        return len(self._tasks)

    def put(self, partition: int, delivery: Delivery) -> None:
        """Attempt it when it is due."""
        heapq.heappush(self._queue, (delivery.due_ms, next(self._order), partition, delivery))
        self._woken.set()

    def change(self, entry: Entry) -> None:
        """The subscription has changed."""
        before, self.entry = self.entry, entry
        # What was reckoned with an old rate must not hold up a higher one.
        self._next_start = min(self._next_start, self._clock.monotonic() + 1 / entry.definition.limits.rate)
        if before.definition != entry.definition:
            sender, self._sender = self._sender, self._new_sender(entry.definition)
            # What is under way with the old one ends with it.
            task = asyncio.create_task(self._close_later(sender, list(self._tasks)))
            self._closing[task] = sender
            task.add_done_callback(self._closing.pop)
        self._woken.set()

    async def forget(self, partitions: Iterable[int], grace: float) -> None:
        """The partitions are given up: begin nothing more of them, and wait a while for what is under way."""
        gone = set(partitions)
        self._queue = [item for item in self._queue if item[2] not in gone]
        heapq.heapify(self._queue)
        tasks = [task for task, partition in self._tasks.items() if partition in gone]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def close(self) -> None:
        """End at once."""
        senders = [self._sender, *self._closing.values()]
        tasks = [self._run_task, *self._tasks, *self._closing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sender in senders:
            await sender.close()

    async def _close_later(self, sender: Sender, tasks: list[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        await sender.close()

    async def _run(self) -> None:
        while True:
            wait = self._start_due()
            self._woken.clear()
            await self._clock.wait(self._woken, wait)

    def _start_due(self) -> float:
        """Begin what is due and allowed; returns after how many seconds to look again."""
        limits = self.entry.definition.limits
        if self.entry.off is not None:
            return _LOOK_EVERY
        while self._queue:
            now = self._clock.now_ms()
            due, _, partition, delivery = self._queue[0]
            if delivery.gone:
                heapq.heappop(self._queue)
                continue
            if due > now:
                return min((due - now) / 1000, _LOOK_EVERY)
            if len(self._tasks) >= limits.concurrency:
                return _LOOK_EVERY
            monotonic = self._clock.monotonic()
            if monotonic < self._next_start:
                return self._next_start - monotonic
            # A rate, and no bursts but of what a scheduler's hiccup has held up.
            self._next_start = max(self._next_start, monotonic - 0.05) + 1 / limits.rate
            heapq.heappop(self._queue)
            task = asyncio.create_task(self._attempt(partition, delivery))
            self._tasks[task] = partition
            task.add_done_callback(self._ended)
        return _LOOK_EVERY

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._woken.set()
        self._look_at(task)

    def _look_at(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def _attempt(self, partition: int, delivery: Delivery) -> None:
        entry = self.entry
        if delivery.gone:  # since the task was made
            return
        outcome = await self._sender.attempt(delivery.payload, delivery.id)
        self._settle(partition, delivery, entry, outcome)


class Dispatcher:
    """All lanes of this worker.

    Args:
        book: the subscriptions.
        new_sender: makes what sends.
        clock: time.
        settle: is told how an attempt has ended: partition, delivery, subscription, outcome.
        fail: called with what must not happen: a delivery would be forgotten by this worker.
    """

    def __init__(
        self,
        book: Book,
        new_sender: Callable[[Subscription], Sender],
        clock: Clock,
        settle: Callable[[int, Delivery, Entry, Outcome], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._book = book
        self._new_sender = new_sender
        self._clock = clock
        self._settle = settle
        self._fail = fail
        self._lanes: dict[str, _Lane] = {}
        self._resting: dict[str, Switch] = {}  # what the book does not say yet, by uid
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """How many attempts are."""
        return sum(lane.under_way for lane in self._lanes.values())

    def schedule(self, partition: int, deliveries: Iterable[Delivery]) -> None:
        """Attempt these when they are due."""
        for delivery in deliveries:
            lane = self._lanes.get(delivery.uid)
            if lane is None:
                entry = self._book.entries.get(delivery.subscription)
                if entry is None or entry.uid != delivery.uid:
                    continue  # it was removed; the processor drops it
                lane = self._lanes[delivery.uid] = _Lane(
                    self._as_it_is(entry), self._new_sender, self._clock, self._settle, self._fail
                )
            if not delivery.gone:
                lane.put(partition, delivery)

    def book_changed(self) -> None:
        """Subscriptions have come, gone or changed."""
        there = {entry.uid: entry for entry in self._book.entries.values()}
        for uid, lane in list(self._lanes.items()):
            if uid in there:
                lane.change(self._as_it_is(there[uid]))
            else:
                del self._lanes[uid]
                self._resting.pop(uid, None)
                task = asyncio.create_task(lane.close())
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    def rest(self, uid: str, off: Switch) -> bool:
        """Begin nothing more of a subscription, whatever the book says, until :meth:`rest_by_book`.

        Returns:
            Whether there is such a subscription, and it did not rest so before.
        """
        lane = self._lanes.get(uid)
        if lane is None or uid in self._resting:
            return False
        self._resting[uid] = off
        lane.change(self._as_it_is(lane.entry))
        return True

    def rest_by_book(self, uid: str) -> None:
        """From now on the book says whether a subscription rests."""
        self._resting.pop(uid, None)
        self.book_changed()

    def _as_it_is(self, entry: Entry) -> Entry:
        off = self._resting.get(entry.uid)
        return entry if off is None else entry.model_copy(update={"off": off})

    async def forget(self, partitions: Iterable[int], grace: float) -> None:
        """The partitions are given up: see :meth:`_Lane.forget`."""
        numbers = list(partitions)
        await asyncio.gather(*(lane.forget(numbers, grace) for lane in self._lanes.values()))

    async def close(self) -> None:
        """End at once. Attempts that are under way are made again by whoever comes next."""
        lanes, self._lanes = self._lanes, {}
        await asyncio.gather(*(lane.close() for lane in lanes.values()), *self._ending, return_exceptions=True)
