"""What the tests do with a cluster besides running workers: feed it, wait for it, read it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition

__all__ = ["caught_up", "feed", "read"]


async def feed(settings: Any, messages: list[tuple[bytes | None, bytes | None]]) -> None:
    """Send telemetry, (key, value) each, in this order."""
    producer = AIOKafkaProducer(
        **settings.client(), acks="all", enable_idempotence=True, linger_ms=5, max_request_size=4_000_000
    )
    await producer.start()
    try:
        sent = [await producer.send(settings.topics.telemetry, value, key=key) for key, value in messages]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def caught_up(settings: Any, count: int, *, within: float = 120.0) -> None:
    """Wait until so many records of telemetry are committed by the application's group."""
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        deadline = time.monotonic() + within
        committed = -1
        while committed < count:
            assert time.monotonic() < deadline, f"{committed} of {count} records committed within {within} s"
            await asyncio.sleep(0.05)
            offsets = await admin.list_consumer_group_offsets(settings.application_id)
            committed = sum(max(0, place.offset) for place in offsets.values())
    finally:
        await admin.close()


async def read(settings: Any, topic: str, *, isolation: str = "read_committed") -> list[Any]:
    """All records of a topic, partition by partition."""
    consumer = AIOKafkaConsumer(**settings.client(), isolation_level=isolation, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        places = places or [
            TopicPartition(topic, number) for number in sorted(await consumer._client._wait_on_metadata(topic))
        ]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        records: list[Any] = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for some in (await consumer.getmany(timeout_ms=200)).values():
                records += some
        return sorted(records, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()
