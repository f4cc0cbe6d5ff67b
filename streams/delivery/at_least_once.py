"""The checkpoint that announces as soon as it can: the state first, with what it owes, and then that.

A transaction is readable some milliseconds after its records, and only as a whole. Here announcements are records
without a transaction, which are readable at once. In which order, and why, stands in
:meth:`AtLeastOnceCheckpointer.commit`, and nowhere else.

What is owed is part of the state, in its outbox (``streams.processor``), from the transaction that stores it to the one
after, which says that it is settled. Whoever takes over in between announces it again, before anything new.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

from aiokafka.structs import TopicPartition

from streams.delivery.checkpoint import Batches, Checkpointer, Destinations, Messages, begin, state_bytes, transact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.delivery.producer import CheckpointProducer
    from streams.records import Announcement, Output

__all__ = ["AtLeastOnceCheckpointer"]

# Seconds. For those who look at the lag of the group; whoever comes next goes by the state.
_TELL_EVERY: Final = 1.0


class AtLeastOnceCheckpointer(Checkpointer):
    """Commits the checkpoints of one source partition, and announces after that.

    Args:
        producer: the partition's transactional producer, started.
        plain: a producer without transactions, started.
        partition: the source partition.
        destinations: the topics.
    """

    def __init__(
        self, producer: CheckpointProducer, plain: CheckpointProducer, partition: int, destinations: Destinations
    ) -> None:
        super().__init__(producer, partition, destinations)
        self._plain = plain
        self._trips = Messages(list)  # what the announcements of the last checkpoint do to the records of their trips
        self._delivered: int | None = None  # the source offset to go on from, not known to the group yet
        self._told = -math.inf  # when the group was told of it with announcements, last (monotonic)

    async def commit(self, output: Output, next_offset: int | None) -> int:
        """Deliver an output. Arguments and result as of :meth:`Checkpointer.commit`.

        Raises:
            KafkaError, AssertionError, InternalError: what is not delivered is made again or, once it is in the outbox,
                delivered by whoever comes next. The producers are of no use any more.
        """
        # 1. Dead letters and late records, before the state that goes on behind their records. Whoever comes next, if
        #    that is not stored, makes them again.
        await self._plain.deliver(self._built(self._plain, await self._letters(output)))

        # 2. The state, with the outbox. This is the fence: a worker whose partition has moved gets no further.
        #    With it goes what the checkpoint before could not say yet, because its announcements were not delivered:
        #    its records of `trips`. So those, of which an older one must never come after a newer one, are written in
        #    transactions alone, once and in order.
        #    The announcements are made while that is on its way.
        batches = self._built(self._producer, self._trips | self._state(output))
        delivered = self._delivered if next_offset is None else next_offset
        offsets = None if output.announcements or delivered is None else self._offsets(delivered)
        _, (events, trips) = await asyncio.gather(
            transact(self._producer, batches, offsets, self._group, begun=self.unsettled),
            self._ready(output.announcements),
        )

        # 3. The announcements. If we are frozen right here, and others take over, they come again, and late. Their
        #    order is told by their revisions.
        await self._plain.deliver(events)
        self._trips, self._delivered, self.unsettled = trips, delivered if events else None, bool(events)

        # 4. Where there were announcements, another transaction comes soon, which settles them: have its partitions
        #    added meanwhile, and now and then the offset. That takes more than half of its time. Nobody is held up by
        #    it: a partition is open to readers until a record is in it.
        if self.unsettled:
            await begin(self._producer, [TopicPartition(self._to.changelog, self._source.partition), *trips])
            if self._delivered is not None and time.monotonic() - self._told > _TELL_EVERY:
                await self._producer.send_offsets_to_transaction(self._offsets(self._delivered), self._group)
                self._told, self._delivered = time.monotonic(), None
        return state_bytes(output)

    async def _ready(self, announcements: Sequence[Announcement]) -> tuple[Batches, Messages]:
        """Announcements, ready to be delivered, and what they do to the records of their trips."""
        events, trips = await self._announced(announcements)
        return self._built(self._plain, events), trips
