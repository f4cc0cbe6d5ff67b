"""The checkpoint that announces as soon as it can: the state first, with what it owes, and then that.

A transaction is readable some milliseconds after its records, and only as a whole. Here announcements are records
without a transaction, which are readable at once. In which order, and why, stands in
:meth:`AtLeastOnceCheckpointer.commit`, and nowhere else.

What is owed is part of the state, in its outbox (``streams.processor``), from the transaction that stores it to the one
after, which says that it is settled. Whoever takes over in between announces it again, before anything new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.delivery.checkpoint import Checkpointer, Destinations, Messages, deliver, state_bytes, transact

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from streams.records import Output

__all__ = ["AtLeastOnceCheckpointer"]


class AtLeastOnceCheckpointer(Checkpointer):
    """Commits the checkpoints of one source partition, and announces after that.

    Args:
        producer: the partition's transactional producer, started.
        plain: a producer without transactions, started.
        partition: the source partition.
        destinations: the topics.
    """

    def __init__(
        self, producer: AIOKafkaProducer, plain: AIOKafkaProducer, partition: int, destinations: Destinations
    ) -> None:
        super().__init__(producer, partition, destinations)
        self._plain = plain
        # Of the checkpoint before, if it had announcements: what goes into the next transaction.
        self._trips = Messages(list)
        self._next_offset: int | None = None

    async def commit(self, output: Output, next_offset: int | None) -> int:
        """Deliver an output. Arguments and result as of :meth:`Checkpointer.commit`.

        Where there are announcements, another checkpoint has to follow, which settles them.

        Raises:
            KafkaError, AssertionError, InternalError: what is not delivered is made again or, once it is in the outbox,
                delivered by whoever comes next. The producers are of no use any more.
        """
        # 1. Dead letters and late records, before the state that goes on behind their records. Whoever comes next, if
        #    that is not stored, makes them again.
        await deliver(self._plain, self._built(self._plain, await self._letters(output)))

        # 2. The state, with the outbox. This is the fence: a worker whose partition has moved gets no further.
        #    With it goes what the checkpoint before could not say yet, because its announcements were not delivered:
        #    its records of `trips`, and its offset. So `trips`, where an older record must never come after a newer
        #    one, is written in transactions alone, once and in order; and the offset stands behind what is delivered.
        events, trips = await self._announced(output.announcements)
        done = self._next_offset if events or next_offset is None else next_offset
        messages = self._trips | self._state(output)
        await transact(self._producer, self._built(self._producer, messages), self._offsets(done), self._group)

        # 3. The announcements. If we are frozen right here, and others take over, they come again, and late. Their
        #    order is told by their revisions.
        self._trips = trips
        self._next_offset = next_offset if events else None
        await deliver(self._plain, self._built(self._plain, events))
        return state_bytes(output)
