"""The checkpoint: everything that a source partition puts out, its changed state and its offset, in one transaction.

In which order, and why, stands in :func:`transact`, and nowhere else. With ``at_least_once`` announcements are not part
of it: :mod:`streams.delivery.at_least_once`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from aiokafka.partitioner import murmur2
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.delivery.messages import Headers, Source, announcement_messages, batch_size, dead_letter, late_letter
from streams.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka import AIOKafkaProducer

    from streams.delivery.producer import CheckpointProducer
    from streams.records import Announcement, Output

__all__ = [
    "BATCH_BYTES",
    "OFFSET_MARK",
    "Batches",
    "Checkpointer",
    "Destinations",
    "Messages",
    "begin",
    "partition_for",
    "state_bytes",
    "transact",
]

BATCH_BYTES: Final = 512 * 1024
"""The largest batch that we make: half of the least that a broker takes (1 MiB). 16 KiB, the default, is slow."""

OFFSET_MARK: Final = "state:2"
"""The metadata of each offset that we commit: the changelog has the state that belongs to it. An offset without it was
set by somebody else, or by a version from before state format 2."""

_HASH_MASK: Final = 0x7FFFFFFF
_NO_HEADERS: Final[Headers] = []

Messages = defaultdict[TopicPartition, list[tuple[bytes | None, bytes | None, Headers]]]
"""Records by topic and partition: key, value, headers."""
Batches = dict[TopicPartition, list[Any]]
"""The same in aiokafka's batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Where a checkpoint goes.

    Attributes:
        application_id: the consumer group whose offset is committed, and who announces.
        telemetry: the source topic.
        events: every announcement, by vehicle id.
        trips: the latest state of each trip, by trip id.
        dead_letters: what could not be read, and commands that were refused.
        late: what came too late.
        changelog: the state; its partitions are the source's.
        max_bytes: ``max.message.bytes`` of each of these topics but the source; it limits records and whole batches.
        commands: where those come from; empty: there are none.
    """

    application_id: str
    telemetry: str
    events: str
    trips: str
    dead_letters: str
    late: str
    changelog: str
    max_bytes: Mapping[str, int]
    commands: str = ""


def partition_for(key: bytes | None, partitions: int, keyless: int) -> int:
    """The partition of a key, as Kafka's default partitioner chooses it.

    Args:
        key: the record's key.
        partitions: how many the topic has.
        keyless: what decides for a record without a key (Kafka: any).
    """
    if key is None:
        return keyless % partitions
    return _hash(key) % partitions


@lru_cache(maxsize=16_384)  # it is Python's, letter by letter; a vehicle's announcements come in a row
def _hash(key: bytes) -> int:
    return int(murmur2(key) & _HASH_MASK)


class Checkpointer:
    """Commits the checkpoints of one source partition.

    Args:
        producer: the partition's transactional producer, started: whoever had the partition before is fenced off.
        partition: the source partition.
        destinations: the topics.
    """

    unsettled = False
    """Another checkpoint has to follow, also if nothing comes in."""

    def __init__(self, producer: CheckpointProducer, partition: int, destinations: Destinations) -> None:
        self._producer = producer
        self._to = destinations
        self._group = destinations.application_id
        self._source = Source(destinations.telemetry, partition)
        self._ce_source = f"/ignition-trips/{destinations.application_id}".encode()

    async def commit(self, output: Output, next_offset: int | None) -> int:
        """Deliver an output, and commit the offset that it reaches to, all or nothing.

        Args:
            output: what the partition's processor has put out since the last checkpoint.
            next_offset: the source offset to go on from; None: no record was read since the last checkpoint (it is
                the timer's).

        Returns:
            How many bytes of state were written.

        Raises:
            KafkaError, AssertionError, InternalError: nothing is committed, unless the answer to the commit itself was
                lost. The producer is of no use any more.
        """
        offsets = None if next_offset is None else self._offsets(next_offset)
        await transact(self._producer, await self._batches(output), offsets, self._group)
        return state_bytes(output)

    def _offsets(self, next_offset: int) -> Mapping[TopicPartition, OffsetAndMetadata]:
        return {TopicPartition(*self._source): OffsetAndMetadata(next_offset, OFFSET_MARK)}

    async def _batches(self, output: Output) -> Batches:
        """The records by topic and partition, in aiokafka's batches (a future for each record would be slow)."""
        events, trips = await self._announced(output.announcements)
        messages = events | trips | await self._letters(output) | self._state(output)
        return self._built(self._producer, messages)

    async def _announced(self, announcements: Sequence[Announcement]) -> tuple[Messages, Messages]:
        """Announcements, and what they do to the records of their trips."""
        to, events, trips = self._to, Messages(list), Messages(list)
        if announcements:
            event_places, trip_places = await self._partitions(to.events), await self._partitions(to.trips)
            for announcement in announcements:
                event, trip = announcement_messages(announcement, self._ce_source, self._source.partition)
                events[self._place(to.events, event.key, event_places)].append(event)
                if trip is not None:
                    trips[self._place(to.trips, trip.key, trip_places)].append(trip)
        return events, trips

    async def _letters(self, output: Output) -> Messages:
        """Dead letters and late records."""
        to, messages = self._to, Messages(list)
        if output.rejected:
            partitions = await self._partitions(to.dead_letters)
            for rejected in output.rejected:
                source = Source(to.commands, self._source.partition) if rejected.is_command else self._source
                letter = dead_letter(rejected, source, to.max_bytes[to.dead_letters])
                messages[self._place(to.dead_letters, rejected.record.key, partitions)].append(letter)
        if output.late:
            partitions = await self._partitions(to.late)
            for late in output.late:
                letter = late_letter(late, self._source, to.max_bytes[to.late])
                messages[self._place(to.late, late.record.key, partitions)].append(letter)
        return messages

    def _state(self, output: Output) -> Messages:
        """Changed state."""
        messages = Messages(list)
        if output.changes:
            changelog = TopicPartition(self._to.changelog, self._source.partition)
            messages[changelog] = list(zip(output.changes, output.changes.values(), repeat(_NO_HEADERS)))
        return messages

    async def _partitions(self, topic: str) -> int:
        return len(await self._producer.partitions_for(topic))

    def _place(self, topic: str, key: bytes | None, partitions: int) -> TopicPartition:
        return TopicPartition(topic, partition_for(key, partitions, self._source.partition))

    def _built(self, producer: AIOKafkaProducer, messages: Messages) -> Batches:
        return {place: self._builders(producer, place, some) for place, some in messages.items()}

    def _builders(
        self,
        producer: AIOKafkaProducer,
        place: TopicPartition,
        messages: Iterable[tuple[bytes | None, bytes | None, Headers]],
    ) -> list[Any]:
        # The producer makes batches of up to 512 KiB; a topic may take less. Adding sizes up is for those only.
        most = self._to.max_bytes.get(place.topic, BATCH_BYTES)
        limit = most if most < BATCH_BYTES else None
        builders = [producer.create_batch()]
        filled = 0
        for key, value, headers in messages:
            size = batch_size(key, value, headers) if limit is not None else 0
            if limit is not None and filled and filled + size > limit:
                builders.append(producer.create_batch())
                filled = 0
            filled += size
            if builders[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
                filled = size
                builders.append(producer.create_batch())
                if builders[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
                    raise InternalError(f"A record for {place.topic} does not fit into a batch of its own.")
        return builders


async def transact(
    producer: CheckpointProducer,
    batches: Mapping[TopicPartition, Sequence[Any]],
    offsets: Mapping[TopicPartition, OffsetAndMetadata] | None,
    group: str,
    *,
    begun: bool = False,
) -> None:
    """Send records and commit offsets in one transaction.

    Args:
        producer: transactional, started, and without an open transaction (unless begun).
        batches: aiokafka's batches, made by this producer, in order for each partition.
        offsets: to be committed with the records; None: none.
        group: the consumer group whose offsets they are.
        begun: the transaction is open: :func:`begin`.

    Raises:
        KafkaError, AssertionError: nothing is committed, unless the answer to the commit itself was lost. The producer
            is of no use any more.
    """
    # 1. Begin. Only now, when everything is ready to be sent: nothing is open between checkpoints, so that a
    #    worker that is killed seldom leaves a transaction behind, which would hold read-committed readers up.
    if not begun:
        await producer.begin_transaction()

    # 2. Add all partitions at once, and the group beside them. While the transaction coordinator still writes down a
    #    change of the transaction, a broker answers a produce request with NotEnoughReplicas (it verifies that the
    #    partition is part of the transaction, KIP-890), and the retry takes time.
    await producer.join(batches, None if offsets is None else group)

    # 3. Write the offset, before the records: of two verifications of one transaction at a time, a broker lets one
    #    fail.
    if offsets is not None:
        await producer.tell(offsets, group)

    # 4. Send the records, and await every delivery. aiokafka commits a transaction although one of its batches has
    #    failed.
    await producer.deliver(batches)

    # 5. Commit. From here on it is visible, and the offset stands behind what it led to.
    await producer.commit_transaction()


async def begin(producer: CheckpointProducer, places: Iterable[TopicPartition]) -> None:
    """Open a transaction, and have partitions added to it: that is not waited for.

    Raises:
        KafkaError, AssertionError: the producer is of no use any more.
    """
    await producer.begin_transaction()
    producer.join_ahead(places)


def state_bytes(output: Output) -> int:
    """How many bytes of state an output has, keys and values."""
    return sum(len(key) + len(value or b"") for key, value in output.changes.items())
