"""aiokafka's producer, with less waiting between the requests of a checkpoint.

aiokafka has a loop for all that a producer sends. It makes each request of a transaction when the answer to the one
before has come through that loop, which takes several turns of the process's event loop each time. In a busy worker
those turns are most of a checkpoint. Here whoever waits for a request sends it (:class:`CheckpointProducer`): what can
be asked for together is, and an answer wakes up who waits for it. The requests, what their answers mean, and what is
asked again after how long are aiokafka's own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.client import CoordinationType
from aiokafka.errors import ConcurrentTransactions, KafkaError, for_code
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.util import commit_structure_validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aiokafka.structs import OffsetAndMetadata, TopicPartition

__all__ = ["CheckpointProducer"]

# How long to wait before a transaction is asked for again while the one before is being finished (seconds): that takes
# the coordinator some milliseconds, and aiokafka waits for 20.
_BUSY_WAIT: Final = 0.005
sender.BACKOFF_OVERRIDE = _BUSY_WAIT


class CheckpointProducer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer, transactional or idempotent.

    Records of a transaction go through :meth:`deliver`, when their partitions are part of it: :meth:`join`. After an
    error in a transaction it is of no use any more: there is no other transaction, and nothing of this one is
    committed, unless the answer to the commit itself was lost.

    Args:
        settings: keyword arguments of aiokafka's producer, with ``transactional_id`` or ``enable_idempotence``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._ahead: asyncio.Task[None] | None = None
        self._posting: set[TopicPartition] = set()  # where something is on its way that aiokafka's loop has not sent

    async def start(self) -> None:
        """Connect, and fence off whoever had this transactional id."""
        await super().start()
        self._sender._maybe_do_transactional_request = _nothing  # noqa: SLF001 - the loop leaves transactions to us

    async def stop(self) -> None:
        """Close; a transaction that is open stays open."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait([ahead])
            if not ahead.cancelled():
                ahead.exception()  # whatever it is, nothing of that transaction is committed
        await super().stop()

    async def deliver(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Send records, partitions side by side, the batches of one in order; and wait until they are delivered.

        Args:
            batches: aiokafka's, made by this producer, in order for each partition.

        Raises:
            KafkaError: some of them are not, perhaps.
        """
        direct: defaultdict[int, dict[TopicPartition, Any]] = defaultdict(dict)
        through_the_loop: list[tuple[TopicPartition, Sequence[Any]]] = []
        for place, builders in batches.items():
            leader = self.client.cluster.leader_for_partition(place)
            if leader in {None, -1} or len(builders) != 1 or self._is_busy(place):
                through_the_loop.append((place, builders))
            else:
                direct[leader][place] = self._numbered(place, builders[0])
        numbered = [batch for some in direct.values() for batch in some.values()]
        try:
            await self._deliver(direct, through_the_loop, [batch.future for batch in numbered])
        finally:
            self._give_up(numbered)

    async def _deliver(
        self,
        direct: Mapping[int, dict[TopicPartition, Any]],
        through_the_loop: Iterable[tuple[TopicPartition, Sequence[Any]]],
        deliveries: list[asyncio.Future[Any]],
    ) -> None:
        requests = [self._post(node, some) for node, some in direct.items()]
        if len(requests) == 1 and not through_the_loop:
            await requests[0]
        else:
            queues = [self._queue(place, builders, deliveries) for place, builders in through_the_loop]
            _raise_first(await asyncio.gather(*queues, *requests, return_exceptions=True))
        if deliveries:
            await asyncio.wait(deliveries)  # which leaves them alone where it is cancelled
            _raise_first([delivery.exception() for delivery in deliveries])

    def _is_busy(self, place: TopicPartition) -> bool:
        """Something is on its way there, and what comes now has to go behind it; or nothing is taken any more."""
        queues = self._message_accumulator
        return place in self._sender._muted_partitions or place in queues._batches or queues._exception is not None  # noqa: SLF001

    def _numbered(self, place: TopicPartition, builder: Any) -> Any:
        """A batch with its sequence number, as aiokafka's loop makes it when it is its turn; it keeps others back."""
        queues = self._message_accumulator
        builder.close()
        self._sender._muted_partitions.add(place)  # noqa: SLF001
        self._posting.add(place)
        queues._batches[place].append(MessageBatch(place, builder, self._request_timeout_ms / 1000, 0))  # noqa: SLF001
        return queues._pop_batch(place)  # noqa: SLF001

    async def _post(self, node: int, batches: dict[TopicPartition, Any]) -> None:
        """Send batches to the leader of their partitions. What has to be sent again goes through aiokafka's loop."""
        queues = self._message_accumulator
        try:
            await sender.SendProduceReqHandler(self._sender, batches).do(node)
        finally:
            self._sender._muted_partitions.difference_update(batches)  # noqa: SLF001
            self._posting.difference_update(batches)
            if queues._batches:  # noqa: SLF001 - what is to be sent again, or waits behind these
                queues._wakeup(queues._waiter_future)  # noqa: SLF001

    async def _queue(
        self, place: TopicPartition, builders: Sequence[Any], deliveries: list[asyncio.Future[Any]]
    ) -> None:
        for builder in builders:
            deliveries.append(await self.send_batch(builder, place.topic, partition=place.partition))  # noqa: PERF401

    def _give_up(self, batches: Iterable[Any]) -> None:
        """Nobody waits for these any more: what of them waits to be sent is not sent."""
        muted, queues = self._sender._muted_partitions, self._message_accumulator  # noqa: SLF001
        for batch in batches:
            if batch.future.done():
                continue
            place = batch.tp
            batch.future.add_done_callback(_look_at)
            if place in muted and place not in self._posting:
                continue  # aiokafka's loop is sending it
            waiting = queues._batches.get(place, ())  # noqa: SLF001
            if batch in waiting:
                waiting.remove(batch)
                if not waiting:
                    del queues._batches[place]  # noqa: SLF001
                queues._pending_batches.add(batch)  # noqa: SLF001 - where its end looks for it
            muted.discard(place)
            self._posting.discard(place)
            batch._drain_waiter.cancel()  # noqa: SLF001 - nobody waits for that either
            batch.failure(KafkaError("given up"))

    def join_ahead(self, places: Iterable[TopicPartition]) -> None:
        """Have partitions added to the transaction that is open, without waiting for it: :meth:`join` does."""
        self._mark(places)
        self._ahead = asyncio.create_task(self._join(None), name="add partitions to a transaction")

    async def join(self, places: Iterable[TopicPartition], group: str | None = None) -> None:
        """Have partitions, and the offsets of a consumer group, added to the transaction that is open.

        Both are asked for at once: a broker takes the requests of a connection one after the other.

        Raises:
            KafkaError, AssertionError: the transaction cannot be committed.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await ahead
        self._mark(places)
        await self._join(group)

    async def tell(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: str) -> None:
        """Write offsets of a consumer group that was added to the transaction.

        Raises:
            KafkaError, AssertionError: the transaction cannot be committed.
        """
        told = self._txn_manager.add_offsets_to_txn(commit_structure_validate(dict(offsets)), group)

        def request() -> Any:
            pending, _ = self._txn_manager.offsets_to_commit()
            return sender.TxnOffsetCommitHandler(self._sender, pending, group)

        try:
            await self._ask(CoordinationType.GROUP, group, request, until=told.done)
        finally:
            told.cancel()  # nobody else waits for it

    async def send_offsets_to_transaction(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group_id: str
    ) -> None:
        """As aiokafka's: :meth:`join` and :meth:`tell` in one."""
        await self.join((), group_id)
        await self.tell(offsets, group_id)

    async def commit_transaction(self) -> None:
        """As aiokafka's: everything that was sent is delivered, and committed."""
        await self.join(())
        manager = self._txn_manager
        manager.committing_transaction()
        await self._message_accumulator.flush_for_commit()
        if manager.is_empty_transaction():
            manager.complete_transaction()
            return
        result = manager.needs_transaction_commit()
        await self._ask(
            CoordinationType.TRANSACTION,
            manager.transactional_id,
            lambda: sender.EndTxnHandler(self._sender, result),
            until=lambda: manager.state is TransactionState.READY,
        )

    async def abort_transaction(self) -> None:
        """Not needed: who fails ends, and whoever comes next ends the transaction by opening its producer."""
        raise NotImplementedError

    def _mark(self, places: Iterable[TopicPartition]) -> None:
        for place in places:
            self._txn_manager.maybe_add_partition_to_txn(place)

    async def _join(self, group: str | None) -> None:
        manager = self._txn_manager
        requests = []
        if manager.partitions_to_add():
            requests.append(
                self._ask(
                    CoordinationType.TRANSACTION,
                    manager.transactional_id,
                    lambda: sender.AddPartitionsToTxnHandler(self._sender, set(manager.partitions_to_add())),
                    until=lambda: not manager.partitions_to_add(),
                )
            )
        if group is not None and manager._txn_consumer_group is None:  # noqa: SLF001 - no public way to it
            requests.append(
                self._ask(
                    CoordinationType.TRANSACTION,
                    manager.transactional_id,
                    lambda: _AddOffsets(self._sender, group),
                    until=lambda: manager._txn_consumer_group is not None,  # noqa: SLF001
                )
            )
        if len(requests) > 1:
            await asyncio.gather(*requests)
        elif requests:
            await requests[0]

    async def _ask(self, kind: Any, key: str, request: Callable[[], Any], *, until: Callable[[], bool]) -> None:
        """Send a request to the coordinator, again and again: until it has done it, or the caller is cancelled."""
        manager = self._txn_manager
        try:
            while not until():
                node = await self._sender._find_coordinator(kind, key)  # noqa: SLF001
                await request().do(node)
                if manager.state is TransactionState.ABORTABLE_ERROR:
                    manager.wait_for_transaction_end().result()  # raises it
        except Exception as error:
            if not manager.is_fatal_error():
                manager.fatal_error(error)
                manager.wait_for_transaction_end().exception()  # it is raised here, and nobody else waits for it
            raise


class _AddOffsets(sender.AddOffsetsToTxnHandler):  # type: ignore[misc]
    """Asks again as soon as aiokafka does for partitions, if the transaction before is still being finished."""

    def handle_response(self, response: Any) -> float | None:
        wait: float | None = super().handle_response(response)
        return min(wait, _BUSY_WAIT) if wait and for_code(response.error_code) is ConcurrentTransactions else wait


def _look_at(delivery: asyncio.Future[Any]) -> None:
    """There is a reason already why nobody else does, and asyncio need not complain of it."""
    if not delivery.cancelled():
        delivery.exception()


def _raise_first(results: Iterable[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _nothing() -> None:
    """What is left to do of transactions, for aiokafka's loop."""
