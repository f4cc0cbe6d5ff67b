"""Consumers besides the group's: what the brokers say of the source, and how to be done with one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streams.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Bounds", "close", "know_topic", "log_bounds"]

# Brokers that are about to elect a leader answer within this, in seconds.
_TIMEOUT: Final = 60.0
_CLOSE_TIMEOUT: Final = 10.0


class Bounds(NamedTuple):
    """Of a partition's log.

    Attributes:
        begin: the first offset that is there.
        end: the one behind the last.
    """

    begin: int
    end: int


async def log_bounds(topic: str, partitions: Iterable[int], settings: Mapping[str, Any]) -> dict[int, Bounds]:
    """The bounds of partitions.

    Args:
        topic: its name.
        partitions: which ones.
        settings: keyword arguments for a consumer: where the cluster is.

    Raises:
        ClusterError: the brokers do not tell.
    """
    places = [TopicPartition(topic, partition) for partition in partitions]
    if not places:
        return {}
    # Reading uncommitted: an offset that somebody has set the group to may lie behind a transaction that is open.
    consumer = AIOKafkaConsumer(**settings, isolation_level="read_uncommitted", enable_auto_commit=False)
    try:
        async with asyncio.timeout(_TIMEOUT):
            await consumer.start()
            await know_topic(consumer, topic)
            # In this order: the log may be cut off at its beginning in between.
            end = await consumer.end_offsets(places)
            begin = await consumer.beginning_offsets(places)
    except (KafkaError, TimeoutError) as error:
        raise ClusterError(
            f"The brokers do not tell where the partitions of {topic} begin and end ({error!r}): are they away?"
        ) from error
    finally:
        await close(consumer)
    return {place.partition: Bounds(begin[place], end[place]) for place in places}


async def know_topic(consumer: AIOKafkaConsumer, topic: str) -> None:
    """Have a consumer that nothing is assigned to ask for a topic's metadata.

    It would do so by itself when it misses them, and then wait for its retry backoff, 100 ms, whatever comes meanwhile.
    """
    await consumer._client.set_topics([topic])  # noqa: SLF001 - no public way to it


async def close(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, whatever comes of it.

    While brokers are away, aiokafka's own ``stop`` raises ``CancelledError``: that of a task of its own, which is
    waiting for its next try. It would pass for a cancellation of ours, and hide why we stop.
    """
    stop = asyncio.ensure_future(consumer.stop())
    done, late = await asyncio.wait([stop], timeout=_CLOSE_TIMEOUT)
    for one in late:
        one.cancel()
    for one in done:
        if one.cancelled() or one.exception() is not None:
            with contextlib.suppress(Exception):
                await consumer._client.close()  # noqa: SLF001 - what is left of it
