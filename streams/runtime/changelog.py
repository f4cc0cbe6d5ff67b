"""Reading the state of partitions back from their changelog.

The end is known, and not waited for: once a partition's producer is fenced, its last stable offset does not move, and
a reader that has reached it has read all there is, whatever the last offsets hold. (Under transactions they hold
markers, which no reader ever sees as records: Faust's own recovery waits for those for ever.)
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from streams.errors import ClusterError, StateError
from streams.runtime.headers import as_fetched
from streams.runtime.positions import START_ANEW
from streams.runtime.source import close

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["read_changelog"]

_MAX_RECORDS: Final = 5000
# Where a fetch ends in nothing but markers, aiokafka moves its position and waits on; it looks up this often (seconds).
_LOOK_UP: Final = 0.05
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
        take: called with a partition and its next records, in order.
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
    consumer = AIOKafkaConsumer(
        **settings,
        isolation_level="read_committed",
        auto_offset_reset="none",  # a position that is not there any more is an error
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 * 2**20,
        value_deserializer=as_fetched,
    )
    count = 0
    try:
        left, positions = await _begin(consumer, topic, places, anew)
        moved = time.monotonic()
        while left:
            fetched = await _fetch(consumer, topic)
            for place, records in fetched.items():
                take(place.partition, records)
                count += len(records)
            await asyncio.sleep(0)  # a take is work without a pause: let the heartbeat and the probes have their turn
            now = {place: await consumer.position(place) for place in left}
            if now != positions:
                positions, moved = now, time.monotonic()
            elif time.monotonic() - moved > _STALLED:
                raise ClusterError(f"Reading the state back from {topic} stalls at {_places(now)}: is the broker away?")
            for place in [place for place, end in left.items() if now[place] >= end]:
                del left[place]
                consumer.pause(place)
    finally:
        await close(consumer)
    return count


async def _begin(
    consumer: AIOKafkaConsumer, topic: str, places: Sequence[TopicPartition], anew: str
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Set positions to the beginnings; returns the ends of what there is to be read, and the positions."""
    try:
        async with asyncio.timeout(_STALLED):
            await consumer.start()
            consumer.assign(places)
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
        consumer.seek(place, begin)
    left = {place: end for place, end in ends.items() if end > begins[place]}
    consumer.pause(*(place for place in places if place not in left))
    return left, {place: begins[place] for place in left}


async def _fetch(consumer: AIOKafkaConsumer, topic: str) -> Mapping[TopicPartition, Sequence[Any]]:
    try:
        fetched: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
            timeout_ms=int(_LOOK_UP * 1000), max_records=_MAX_RECORDS
        )
    except OffsetOutOfRangeError as error:
        raise StateError(f"{topic} was cut off or created anew while it was being read: {error}.") from error
    return fetched


def _places(positions: Mapping[TopicPartition, int]) -> str:
    return ", ".join(f"partition {place.partition} offset {offset}" for place, offset in sorted(positions.items()))
