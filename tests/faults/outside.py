"""What people and brokers do to topics, groups and state behind a worker's back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.delivery.checkpoint import OFFSET_MARK
from streams.runtime.source import Bounds, log_bounds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

__all__ = [
    "add_partitions",
    "admin",
    "bounds",
    "committed",
    "configure",
    "create_anew",
    "delete_records",
    "forget_group",
    "overwrite",
    "set_offsets",
    "until_ours",
]


@asynccontextmanager
async def admin(settings: Any) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**settings.client())
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def bounds(settings: Any, topic: str) -> dict[int, Bounds]:
    """First offset, and the one behind the last, of each partition."""
    async with admin(settings) as client:
        (found,) = await client.describe_topics([topic])
    return await log_bounds(topic, range(len(found["partitions"])), settings.client())


@asynccontextmanager
async def _as_the_group(settings: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """As kafka-consumer-groups.sh does it: a member without a subscription. The group must have no others."""
    consumer = AIOKafkaConsumer(**settings.client(), group_id=settings.application_id, enable_auto_commit=False)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def committed(settings: Any) -> Mapping[int, OffsetAndMetadata]:
    """The group's offsets with their metadata, by partition."""
    places = [TopicPartition(settings.topics.telemetry, number) for number in range(settings.partitions)]
    async with _as_the_group(settings) as consumer:
        found = await consumer._coordinator.fetch_committed_offsets(places)
    return {place.partition: at for place, at in found.items()}


async def set_offsets(settings: Any, offsets: Mapping[int, int]) -> None:
    """``--reset-offsets --to-offset … --execute``."""
    topic = settings.topics.telemetry
    async with _as_the_group(settings) as consumer:
        places = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
        consumer.assign(list(places))
        await consumer.commit(places)


async def forget_group(settings: Any) -> None:
    """``--delete --group``: what is left when all of its offsets have expired."""
    async with admin(settings) as client:
        coordinator = await client.find_coordinator(settings.application_id)
        answer = await client._client.send(coordinator, DeleteGroupsRequest([settings.application_id]))
        assert [code for _, code in answer.results] == [0], answer


async def until_ours(settings: Any, within: float = 20.0) -> None:
    """Wait until the offsets are what a worker has committed."""
    async with asyncio.timeout(within):
        while {at.metadata for at in (await committed(settings)).values()} != {OFFSET_MARK}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def delete_records(settings: Any, topic: str, before: Mapping[int, int]) -> None:
    """Delete what is before these offsets, by partition: as retention does."""
    async with admin(settings) as client:
        await client.delete_records(
            {TopicPartition(topic, number): RecordsToDelete(before_offset=offset) for number, offset in before.items()}
        )


async def configure(settings: Any, topic: str, **configs: str) -> None:
    """Set what a topic is like; all else in it is back at its default."""
    named = {name.replace("_", "."): value for name, value in configs.items()}
    async with admin(settings) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, named)])


async def create_anew(settings: Any, topic: str, partitions: int | None = None, **configs: str) -> None:
    """Delete a topic, and create it again."""
    named = {name.replace("_", "."): value for name, value in configs.items()}
    async with admin(settings) as client:
        await client.delete_topics([topic])
        async with asyncio.timeout(30):
            while topic in await client.list_topics():  # noqa: ASYNC110 - it happens in Kafka
                await asyncio.sleep(0.05)
            while True:
                answer = await client.create_topics(
                    [NewTopic(topic, partitions or settings.partitions, 1, topic_configs=named)]
                )
                if not answer.topic_errors[0][1]:
                    break
                await asyncio.sleep(0.05)
            while topic not in await client.list_topics():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def add_partitions(settings: Any, topic: str, total: int) -> None:
    async with admin(settings) as client:
        await client.create_partitions({topic: NewPartitions(total)})


async def overwrite(
    settings: Any, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]
) -> list[int]:
    """Write records, key and value each, without asking anybody; returns their offsets."""
    producer = AIOKafkaProducer(**settings.client(), acks="all")
    await producer.start()
    try:
        return [
            (await producer.send_and_wait(topic, value, key=key, partition=partition)).offset for key, value in records
        ]
    finally:
        await producer.stop()
