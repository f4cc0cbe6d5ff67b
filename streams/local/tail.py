"""Follows the announcements in ``trip-events``."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.errors import ClusterError
from streams.topics import connect, describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from streams.settings import Settings

__all__ = ["follow", "open_topic", "read_to_end"]

# Where the last offsets hold no records (markers of transactions), the position moves without any: look up so often.
_LOOK_EVERY_MS: Final = 100
# No step forward for so long (seconds), and there are brokers that do not answer, or not in time.
_NOTHING_WITHIN: Final = 15.0


@asynccontextmanager
async def open_topic(settings: Settings, topic: str, *, from_beginning: bool) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all partitions of a topic that belongs to no group and reads committed.

    Raises:
        ClusterError: the cluster is away, or the topic is missing.
    """
    async with connect(settings) as admin:
        found = (await describe(admin, [topic])).get(topic)
    if found is None:
        raise ClusterError(f"Topic {topic} is missing. Create it with `trips topics create`.")
    consumer = AIOKafkaConsumer(
        **settings.client(),
        # What an aborted checkpoint has written is not true.
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, number) for number in range(found.partitions)]
        consumer.assign(partitions)
        if from_beginning:
            await consumer.seek_to_beginning(*partitions)
        else:
            await consumer.seek_to_end(*partitions)
        yield consumer
    except BrokenPipeError:
        raise  # it is our own reader that is gone
    except (KafkaError, OSError) as error:
        raise ClusterError(f"The Kafka cluster at {settings.bootstrap_servers} is gone: {error!r}") from error
    finally:
        await consumer.stop()


async def read_to_end(consumer: AIOKafkaConsumer) -> AsyncIterator[Any]:
    """The records of all assigned partitions from where the consumer is to what is now their end.

    Raises:
        ClusterError: the end is not reached. (It lies before any transaction that is still open.)
    """
    ends = await consumer.end_offsets(sorted(consumer.assignment()))
    before: dict[TopicPartition, int] = {}
    moved = time.monotonic()
    while True:
        positions = {partition: await consumer.position(partition) for partition in ends}
        if all(positions[partition] >= end for partition, end in ends.items()):
            return
        if positions != before:
            before, moved = positions, time.monotonic()
        elif time.monotonic() - moved > _NOTHING_WITHIN:
            left = ", ".join(
                f"{place.topic} partition {place.partition}" for place in ends if positions[place] < ends[place]
            )
            raise ClusterError(f"Nothing has come of {left} for {_NOTHING_WITHIN:.0f} s, and its end is not reached.")
        for records in (await consumer.getmany(timeout_ms=_LOOK_EVERY_MS)).values():
            for record in records:
                yield record


async def follow(settings: Settings, show: Callable[[bytes], object], *, from_beginning: bool = False) -> None:
    """Show announcements as they come, for ever.

    Raises:
        ClusterError: the cluster is away, or the topic is missing.
    """
    async with open_topic(settings, settings.topics.events, from_beginning=from_beginning) as consumer:
        async for record in consumer:
            if record.value is not None:
                show(record.value)
