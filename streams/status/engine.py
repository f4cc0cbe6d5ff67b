"""The trip status inside a process that serves it: ask, look up, and take one's turn at deciding.

Log first. A request is a record in the topic of requests, acknowledged by all in-sync replicas, before anything else.
One process decides all requests in the order in which they stand there (:mod:`streams.status.owner`), and commits what
it has decided. Every process follows what is committed, and answers its own callers when it has read their decision. So
it makes no difference which process is asked, and an answer is never ahead of what is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.structs import TopicPartition

from streams.delivery.checkpoint import BATCH_BYTES
from streams.errors import ClusterError, InternalError, RefusedError, StateError, TripsError
from streams.runtime.fences import Fences
from streams.runtime.source import close
from streams.status.metrics import StatusMetrics
from streams.status.owner import REQUESTS, Term
from streams.status.view import PlannedTrip, View
from streams.status.wire import ANSWER, Request, pack_request, read_answer
from streams.topics import connect, describe, status_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry

    from streams.settings import Settings
    from streams.status.bodies import PlanBody, UpdateBody

__all__ = ["StatusEngine", "UndecidedError"]

_log = structlog.get_logger(__name__)

# Seconds. A cluster that starts together with us is up within the first; a changelog is read within the second.
_PATIENCE: Final = 30.0
_FOLLOW_WITHIN: Final = 60.0
# A term in the middle of a transaction ends within this; after it, its producer is taken away (seconds).
_END_WITHIN: Final = 10.0
# After a failure, so that brokers that are away are not asked all the time (seconds).
_AGAIN_AFTER: Final = 1.0
_POLL_MS: Final = 500
_TRANSACTION_TIMEOUT_MS: Final = 30_000
# Requests that wait at the same time. More would only wait longer.
_MOST_WAITING: Final = 5000


class UndecidedError(Exception):
    """No decision came in time.

    Args:
        sent: whether the request may be in the log, and so may yet be decided.
    """

    def __init__(self, *, sent: bool) -> None:
        self.sent = sent
        super().__init__("may yet be decided" if sent else "was not accepted")


class StatusEngine:
    """Planned trips and their status, in this process.

    Args:
        settings: checked.
        registry: where metrics are registered; None: in one of their own.
        now: epoch seconds.
    """

    def __init__(
        self, settings: Settings, *, registry: CollectorRegistry | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.metrics = StatusMetrics(registry)
        self.now = now
        self.failure: TripsError | None = None
        """Why this process cannot go on; only a person can help."""
        self.failed = asyncio.Event()
        """Set with :attr:`failure`: whoever runs the engine ends the process."""
        self._group = f"{settings.application_id}-status"
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._view = View()
        self._following = asyncio.Event()
        self._member = False
        self._producer: AIOKafkaProducer | None = None
        self._term: Term | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._fences = Fences(self._group, self._term_producer())
        self.metrics.show(lambda: self._term.book if self._term is not None else None, lambda: len(self._waiting))

    # -- for whoever runs it ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow, and to stand for deciding.

        Raises:
            TripsError: the cluster is away, or is not as it must be.
        """
        await self._look_at_topics()
        timeout_ms = max(1000, int(self.settings.status_answer_timeout_s * 1000))
        # What is not delivered in time is given up, as its caller has done.
        producer = AIOKafkaProducer(**self.settings.client(), acks="all", request_timeout_ms=timeout_ms)
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            await producer.stop()
            raise ClusterError(f"The Kafka cluster at {self.settings.bootstrap_servers} is gone: {error!r}") from error
        self._producer = producer
        follow = asyncio.create_task(self._keep_on(self._follow, "following"), name="status: follow")
        self._tasks = [follow]
        followed = asyncio.create_task(self._following.wait())
        try:
            async with asyncio.timeout(_FOLLOW_WITHIN):
                await asyncio.wait([followed, follow], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            await self.stop()
            topic = self.settings.topics.status_changelog
            raise ClusterError(f"Reading {topic} back takes longer than {_FOLLOW_WITHIN:.0f} s.") from None
        except BaseException:
            await self.stop()
            raise
        finally:
            followed.cancel()
        if self.failure is not None:
            await self.stop()
            raise self.failure
        self._tasks.append(asyncio.create_task(self._keep_on(self._stand, "deciding"), name="status: decide"))

    async def stop(self) -> None:
        """End. What waits for a decision is told that there is none yet."""
        tasks, self._tasks = self._tasks, []
        for task in reversed(tasks):
            task.cancel()
            await asyncio.wait([task])
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.cancel()
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_END_WITHIN):
                    await producer.stop()
        self._following.clear()

    @property
    def following(self) -> bool:
        """Whether planned trips can be looked up: all that were there when this process began have been read."""
        return self._following.is_set()

    @property
    def ready(self) -> bool:
        """What is committed is followed, we are in the group of those that could decide, and nothing has failed."""
        return self.following and self._member and self.failure is None

    @property
    def deciding(self) -> bool:
        """Whether it is this process that decides."""
        return self._term is not None and self._term.book is not None

    # -- for its callers -------------------------------------------------------------------------------------------

    async def decide(self, body: UpdateBody | PlanBody) -> dict[str, Any]:
        """Have something decided.

        Returns:
            As :meth:`streams.status.book.Book.update` and :meth:`~streams.status.book.Book.plan` say; committed.

        Raises:
            UndecidedError: no decision came in time.
        """
        producer = self._producer
        if producer is None or len(self._waiting) >= _MOST_WAITING:
            raise UndecidedError(sent=False)
        began = time.monotonic()
        request_id = uuid.uuid4().hex
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            async with asyncio.timeout(self.settings.status_answer_timeout_s):
                topic = self.settings.topics.status_requests
                value = pack_request(Request(request_id, body))
                # Shielded: aiokafka goes on with the record whatever becomes of who waits for it.
                await asyncio.shield(await producer.send(topic, value, key=request_id.encode(), partition=REQUESTS))
                decided = await asyncio.shield(answer)
        except asyncio.CancelledError:
            if answer.cancelled():  # we are stopping; else it is the caller that does
                raise UndecidedError(sent=True) from None
            raise
        except (KafkaError, TimeoutError) as error:
            _log.warning("a request is not decided in time", error=type(error).__name__)
            raise UndecidedError(sent=True) from None
        finally:
            del self._waiting[request_id]
        self.metrics.decided(time.monotonic() - began)
        return decided

    def find(self, plan_id: int | None = None, *, tms_trip_id: str | None = None) -> PlannedTrip | None:
        """A planned trip, by one of its ids; not older than the last decision that this process has given back."""
        return self._view.find(plan_id, tms_trip_id=tms_trip_id)

    def plan_of(self, trip_id: str) -> PlannedTrip | None:
        """The planned trip that a trip, by its id in the announcements, is linked to."""
        return self._view.plan_of(trip_id)

    # -- following -------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Read the changelog, from its beginning and for ever."""
        place = TopicPartition(self.settings.topics.status_changelog, REQUESTS)
        consumer = AIOKafkaConsumer(
            **self.settings.client(),
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=4 * 2**20,
        )
        try:
            await consumer.start()
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            await consumer.seek_to_beginning(place)
            view = View()
            while True:
                # Before the first end is reached there may be nothing but markers to come: no record wakes us.
                wait = _POLL_MS if view is self._view else 50
                for records in (await consumer.getmany(place, timeout_ms=wait, max_records=1000)).values():
                    for record in records:
                        self._take(view, record)
                if view is not self._view and await consumer.position(place) >= end:
                    self._view = view
                    self._following.set()
                if view is self._view:
                    self._hand_out()
                await asyncio.sleep(0)
        finally:
            await close(consumer)

    def _take(self, view: View, record: Any) -> None:
        key = record.key or b""
        if key.startswith(ANSWER):
            request_id, answer = read_answer(record.value)
            if request_id in self._waiting:
                self._answers[request_id] = answer
        else:
            view.take(key, record.value)

    def _hand_out(self) -> None:
        """Answer who waits: only once the view shows what their answers are about."""
        answers, self._answers = self._answers, {}
        for request_id, answer in answers.items():
            waiting = self._waiting.get(request_id)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    # -- deciding --------------------------------------------------------------------------------------------------

    async def _stand(self) -> None:
        """Be in the group; decide for as long as it has given us the requests."""
        settings = self.settings
        session_ms = int(settings.session_timeout_s * 1000)
        candidate = AIOKafkaConsumer(
            **settings.client(),
            client_id=self._group,
            group_id=self._group,
            auto_offset_reset="latest",
            enable_auto_commit=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(3000, session_ms // 4),
            request_timeout_ms=max(40_000, session_ms + 5_000),
        )
        turn = _Turn(self, candidate)
        try:
            await candidate.start()
            candidate.subscribe([settings.topics.status_requests], listener=turn)
            while True:
                # It only says that we are here: what is to be read is read by the term.
                await candidate.getmany(timeout_ms=_POLL_MS)
                turn.check()
        finally:
            self._member = False
            await turn.end()
            await close(candidate)
            await self._fences.close()

    def joined(self) -> None:
        """The group has told us what we have, be it nothing."""
        self._member = True

    async def serve_term(self, candidate: AIOKafkaConsumer, ending: asyncio.Event) -> None:
        """One term of deciding, from the fence on.

        Raises:
            TripsError, KafkaError: it cannot go on.
        """
        place = TopicPartition(self.settings.topics.status_requests, REQUESTS)
        fence = (await self._fences.renew([REQUESTS]))[REQUESTS]
        committed = await candidate.committed(place)
        self._term = term = Term(self.settings, fence, self.metrics, self.now)
        try:
            await term.run(ending, committed)
        finally:
            self._term = None
            await self._fences.close()

    # -- failing ---------------------------------------------------------------------------------------------------

    async def _keep_on(self, work: Callable[[], Any], what: str) -> None:
        """Do it again when it fails: every try begins with what is committed, so nothing wrong is built upon."""
        while True:
            try:
                await work()
            except (StateError, InternalError, RefusedError) as error:
                self._fail(error)
                return
            except (ProducerFenced, InvalidProducerEpoch):
                _log.warning("another process decides now; what was not committed is decided there")
            except (KafkaError, ClusterError, OSError, AssertionError) as error:  # aiokafka checks with asserts
                _log.warning(f"{what} is interrupted, and begins again", error=repr(error))
            except Exception as error:  # noqa: BLE001 - a mistake of ours: a person should look at it
                _log.exception(f"{what} failed")
                self._fail(InternalError(f"{type(error).__name__}: {error}"))
                return
            await asyncio.sleep(_AGAIN_AFTER)

    def _fail(self, error: TripsError) -> None:
        if self.failure is None:
            self.failure = error
            _log.critical(str(error))
            self.failed.set()

    async def _look_at_topics(self) -> None:
        wanted = {topic.name: topic for topic in status_topics(self.settings)}
        names = [*wanted, self.settings.topics.events]
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                async with connect(self.settings) as admin:
                    found = await describe(admin, names)
                break
            except RefusedError:
                raise
            except ClusterError:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(_AGAIN_AFTER)
        missing = [name for name in names if name not in found]
        if missing:
            raise ClusterError(
                f"{'Topics are' if len(missing) > 1 else 'A topic is'} missing on {self.settings.bootstrap_servers}: "
                f"{', '.join(missing)}. `trips topics create` creates what is missing."
            )
        for name, topic in wanted.items():
            if topic.fixed and found[name].partitions != topic.partitions:
                raise ClusterError(
                    f"{name} has {found[name].partitions} partitions, and must have {topic.partitions}: stop what uses "
                    "it, delete it, and create it with `trips topics create`."
                )

    def _term_producer(self) -> dict[str, Any]:
        return {
            **self.settings.client(),
            "acks": "all",
            "linger_ms": 0,
            "max_batch_size": BATCH_BYTES,
            "request_timeout_ms": 20_000,
            "retry_backoff_ms": 20,
            "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
        }


class _Turn(ConsumerRebalanceListener):  # type: ignore[misc]
    """Begins a term when the group gives us the requests, and ends it when it takes them away."""

    def __init__(self, engine: StatusEngine, candidate: AIOKafkaConsumer) -> None:
        self._engine = engine
        self._candidate = candidate
        self._task: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called by the consumer."""
        self._engine.joined()
        places = list(assigned)
        if places:
            self._candidate.pause(*places)
            self._ending = asyncio.Event()
            term = self._engine.serve_term(self._candidate, self._ending)
            self._task = asyncio.create_task(term, name="status: term")

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        """Called by the consumer, before the partitions are somebody else's."""
        await self.end()

    def check(self) -> None:
        """Raise what has ended the term, if something has."""
        task = self._task
        if task is not None and task.done():
            self._task = None
            task.result()

    async def end(self) -> None:
        """End the term, with what it is committing; by force if that hangs."""
        task, self._task = self._task, None
        if task is None:
            return
        self._ending.set()
        _, late = await asyncio.wait([task], timeout=_END_WITHIN)
        for one in late:
            one.cancel()
            await asyncio.wait([one])
        if not task.cancelled() and task.exception() is not None:
            _log.warning("the end of deciding was not clean", error=repr(task.exception()))
