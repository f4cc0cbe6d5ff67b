"""Reading the state of partitions back from their changelog.

The end is known, and not waited for: once a partition's producer is fenced, its last stable offset does not move, and
a reader that has reached it has read all there is, whatever the last offsets hold. (Under transactions they hold
markers, which no reader ever sees as records: Faust's own recovery waits for those for ever.)

It is read without aiokafka's own fetching, which hands out record by record and waits until all that it has fetched is
taken. Here records are taken by the batch, as aiokafka's decoder makes them, and the next fetches are under way
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from streams.errors import ClusterError, StateError
from streams.runtime.decoding import InPortions, replace_decoder
from streams.runtime.positions import START_ANEW
from streams.runtime.source import close, know_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from aiokafka.client import AIOKafkaClient

    from streams.records import Record

__all__ = ["read_changelog"]

# Of one partition (bytes): to work through so much takes about as long as a heartbeat or a probe may wait.
_FETCH: Final = 2**20
# One is worked through while the others come.
_FETCHES_AT_A_TIME: Final = 4
# A broker that has nothing for us, because it has only now become the leader, answers after this (ms).
_WAIT: Final = 100
_WITH_REPLICA: Final = 11
_NOBODY: Final = -1
# After an error; as aiokafka's (seconds).
_RETRY: Final = 0.1
# No answer, or no record and no step forward, for so long (seconds): the broker is away; a restart may find another.
_STALLED: Final = 60.0


async def read_changelog(
    topic: str,
    partitions: Iterable[int],
    settings: Mapping[str, Any],
    take: Callable[[int, Sequence[Any]], None],
    anew: str = START_ANEW,
) -> int:
    """Read partitions of a changelog from their beginning to their end.

    Args:
        topic: the changelog.
        partitions: which ones.
        settings: keyword arguments for the consumer: where the cluster is.
        take: called with a partition and its next records, in order. They have offset, key and value.
        anew: what to do where records are missing, for the message.

    Returns:
        How many records there were.

    Raises:
        ClusterError: the brokers stopped answering.
        StateError: records have been deleted from it.
    """
    places = [TopicPartition(topic, partition) for partition in partitions]
    if not places:
        return 0
    replace_decoder()
    # It tells where the ends are, and keeps connections and metadata. Nothing is assigned to it: it fetches nothing.
    consumer = AIOKafkaConsumer(**settings, isolation_level="read_committed", enable_auto_commit=False)
    fetches: dict[asyncio.Task[_Fetched | None], TopicPartition] = {}
    count = 0
    try:
        positions, ends = await _begin(consumer, topic, places, anew)
        client, waiting = consumer._client, deque(positions)  # noqa: SLF001 - no public way to it
        loop = asyncio.get_running_loop()
        stalled_at = loop.time() + _STALLED

        def begin_fetches() -> None:
            while waiting and len(fetches) < _FETCHES_AT_A_TIME:
                place = waiting.popleft()
                fetches[asyncio.create_task(_fetch(client, place, positions[place]))] = place

        begin_fetches()
        while positions:
            patience = max(0.0, stalled_at - loop.time())
            done, _ = await asyncio.wait(fetches, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for fetch in done:
                place, fetched = fetches.pop(fetch), fetch.result()
                if fetched is not None and fetched.position > positions[place]:
                    positions[place] = fetched.position
                    stalled_at = loop.time() + _STALLED
                if positions[place] < ends[place]:
                    waiting.append(place)
                else:
                    del positions[place]
                begin_fetches()
                await asyncio.sleep(0)  # let it be sent; and heartbeat and probes have their turn: a take has no pause
                for records in () if fetched is None else fetched.batches:
                    count += len(records)
                    take(place.partition, records)
            if positions and loop.time() >= stalled_at:
                raise ClusterError(
                    f"Reading the state back from {topic} stalls at {_places(positions)}: is the broker away?"
                )
    finally:
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        await close(consumer)
    return count


async def _begin(
    consumer: AIOKafkaConsumer, topic: str, places: Sequence[TopicPartition], anew: str
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """The positions to begin at, of what there is to be read, and all ends."""
    try:
        async with asyncio.timeout(_STALLED):
            await consumer.start()
            await know_topic(consumer, topic)
            ends = await consumer.end_offsets(places)  # for a reader of committed records: the last stable offsets
            begins = await consumer.beginning_offsets(places)
    except (KafkaError, TimeoutError) as error:
        raise ClusterError(
            f"The brokers do not let us read the state back from {topic} ({error!r}): are they away?"
        ) from error
    for place, begin in sorted(begins.items()):
        # Compaction leaves the beginning where it is.
        if begin > 0:
            raise StateError(
                f"{topic} partition {place.partition} begins at offset {begin}: records have been deleted from it "
                "(by kafka-delete-records.sh, or by a cleanup.policy with delete), and state is missing. Set its "
                f"cleanup.policy to compact, and {anew}."
            )
    return {place: begins[place] for place in places if ends[place] > begins[place]}, ends


class _Fetched(NamedTuple):
    """Of one fetch.

    Attributes:
        position: behind all that it has brought.
        batches: their records, decoded when they are asked for: each batch is worked through while it is in the
            processor's caches.
    """

    position: int
    batches: Iterator[Sequence[Record]]


async def _fetch(client: AIOKafkaClient, place: TopicPartition, position: int) -> _Fetched | None:
    """The next records of a partition; None: to be tried again.

    Raises:
        StateError: the position is not there any more.
        KafkaError: it cannot be read.
    """
    wanted = [(place.topic, [(place.partition, position, _FETCH)])]
    try:
        node = client.cluster.leader_for_partition(place)
        if node is None or node == _NOBODY:
            raise LeaderNotAvailableError
        answer = await client.send(node, FetchRequest(_WAIT, 1, _FETCH, READ_COMMITTED, wanted, rack_id=""))
    except (KafkaError, OSError, EOFError):  # the last two: a broker that goes away in the middle of an answer
        answer = None
    for _, partitions in () if answer is None else answer.topics:
        for _, code, _, *rest, raw in partitions:
            if not code:
                # Since version 11 of the request a replica that is to be preferred stands between them.
                aborted = rest[-2 if answer.API_VERSION >= _WITH_REPLICA else -1]
                return _Fetched(_end(raw, position), _read(place, position, raw, aborted))
            error = for_code(code)
            if error is OffsetOutOfRangeError:
                raise StateError(
                    f"{place.topic} was cut off or created anew while it was being read: partition {place.partition} "
                    f"has no offset {position}."
                )
            if error is TopicAuthorizationFailedError:
                raise TopicAuthorizationFailedError(place.topic)
    client.force_metadata_update()  # somebody else may lead the partition
    await asyncio.sleep(_RETRY)
    return None


def _read(
    place: TopicPartition, position: int, raw: bytes, aborted: Sequence[tuple[int, int]] | None
) -> Iterator[Sequence[Record]]:
    """The records of a fetch from a position on: checked, without those of transactions that were aborted."""
    found = fetcher.PartitionRecords(
        place,
        fetcher.MemoryRecords(raw),
        aborted,
        position,
        None,
        InPortions(),
        True,  # check the checksums of batches
        READ_COMMITTED,
    )
    for portion in found:
        yield portion.records


def _end(raw: bytes, position: int) -> int:
    """The offset behind the last batch of a fetch; where there is none, the position."""
    batches = fetcher.MemoryRecords(raw)
    while batches.has_next():
        position = batches.next_batch().next_offset
    return position


def _places(positions: Mapping[TopicPartition, int]) -> str:
    return ", ".join(f"partition {place.partition} offset {offset}" for place, offset in sorted(positions.items()))
