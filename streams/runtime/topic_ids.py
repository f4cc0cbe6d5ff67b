"""Kafka's ids of topics: a topic that is deleted and created anew has the same name and another id.

aiokafka asks for metadata in a version from before there were ids; here is the one request that tells them, in
aiokafka's own terms. Brokers tell them since Kafka 3.1 (2.8 in versions of the request that are not asked here).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BytesIO

    from aiokafka.client import AIOKafkaClient

__all__ = ["topic_ids"]

_log = structlog.get_logger(__name__)

_METADATA: Final = 3
_VERSION: Final = 12
_NO_ID: Final = bytes(16)  # also in place of one that is not known
# Seconds. Nothing waits for the answer but the taking over of partitions, which goes on without it.
_TIMEOUT: Final = 5.0


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(len(_NO_ID))


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = _METADATA
    API_VERSION = _VERSION
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc]
    API_KEY = _METADATA

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> Any:
        named: list[tuple[bytes, str, dict[int, bytes]]] = [(_NO_ID, topic, {}) for topic in self._topics]
        return request_struct_class(named, False, False, {})  # create nothing, and no more than that


async def topic_ids(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, bytes]:
    """The ids of topics.

    Args:
        client: connected.
        topics: their names.

    Returns:
        By name, 16 bytes each; without those that are not known: the topic is not there, the brokers are too old to
        tell, or do not answer. Never raises for any of these.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            answer = await client.send(client.get_random_node(), _MetadataRequest(topics))
    except (KafkaError, NotImplementedError, OSError, TimeoutError) as error:
        _log.debug("topic ids are not known", error=repr(error))
        return {}
    return {name: topic_id for code, name, topic_id, *_ in answer.topics if not code and topic_id != _NO_ID}
