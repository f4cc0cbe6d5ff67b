"""What is checked of the cluster before a worker starts, and what is said when it is not as it must be."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from streams.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from streams.settings import Topics

__all__ = ["Cluster", "check_partition_counts", "look_at_cluster"]

_log = structlog.get_logger(__name__)

# A cluster that starts together with its workers is up within this; after it, somebody should look (seconds).
_PATIENCE: Final = 30.0
_BETWEEN_TRIES: Final = 1.0
_REQUEST_TIMEOUT_MS: Final = 5000
# What a topic has unless somebody says otherwise: Kafka's own default of max.message.bytes.
_DEFAULT_MAX_BYTES: Final = 1_048_588


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a worker needs to know of its cluster.

    Attributes:
        partitions: of the telemetry topic, and of the changelog.
        dead_letter_bytes: ``max.message.bytes`` of the dead-letter topic.
        late_bytes: ``max.message.bytes`` of the late topic.
    """

    partitions: int
    dead_letter_bytes: int
    late_bytes: int


async def look_at_cluster(client: Mapping[str, Any], topics: Topics, patience: float = _PATIENCE) -> Cluster:
    """Wait until the cluster answers, and check that everything is there.

    Args:
        client: where it is (``Settings.client()``).
        topics: what must be there.
        patience: for how long to try, in seconds.

    Raises:
        ClusterError: it does not answer, a topic is missing, or partition counts differ. One line.
    """
    async with _connected(client, patience) as admin:
        # All topics, because asking for one by its name makes a broker create it where that is allowed.
        found = {
            topic["topic"]: len(topic["partitions"])
            for topic in await admin.describe_topics()
            if not topic["error_code"]
        }
        needed = (topics.telemetry, topics.events, topics.trips, topics.dead_letters, topics.late, topics.changelog)
        missing = [name for name in needed if name not in found]
        if missing:
            raise ClusterError(
                f"{'Topics are' if len(missing) > 1 else 'A topic is'} missing on {_servers(client)}: "
                f"{', '.join(missing)}. Create with `trips topics create` (or let us see: Describe is needed)."
            )
        check_partition_counts(topics, found[topics.telemetry], found[topics.changelog])
        return Cluster(
            partitions=found[topics.telemetry],
            dead_letter_bytes=await _max_message_bytes(admin, topics.dead_letters),
            late_bytes=await _max_message_bytes(admin, topics.late),
        )


def check_partition_counts(topics: Topics, telemetry: int, changelog: int) -> None:
    """The state of a source partition is in the changelog's partition of the same number.

    Raises:
        ClusterError: the counts differ.
    """
    if telemetry != changelog:
        raise ClusterError(
            f"{topics.telemetry} has {telemetry} partitions, but the state in {topics.changelog} is of {changelog}: "
            f"vehicles would lose their state. Create {topics.telemetry} anew with {changelog} partitions, or start "
            "with empty state: another TRIPS_APPLICATION_ID and a TRIPS_REVISION_BASE above every published revision "
            "(`trips check` names it)."
        )


@asynccontextmanager
async def _connected(client: Mapping[str, Any], patience: float) -> AsyncIterator[AIOKafkaAdminClient]:
    until, told = time.monotonic() + patience, False
    while True:
        admin = AIOKafkaAdminClient(**client, request_timeout_ms=_REQUEST_TIMEOUT_MS)
        try:
            await admin.start()
            break
        except (KafkaError, OSError, TimeoutError) as error:
            await admin.close()
            if time.monotonic() >= until:
                raise ClusterError(
                    f"No Kafka broker answers at {_servers(client)} (tried for {patience:.0f} s). "
                    "Check TRIPS_BOOTSTRAP_SERVERS and the security settings, or start a local one with `trips broker`."
                ) from error
            if not told:
                _log.info("waiting for Kafka", bootstrap_servers=_servers(client), at_most_seconds=patience)
                told = True
            await asyncio.sleep(_BETWEEN_TRIES)
    try:
        yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        raise ClusterError(f"The Kafka cluster at {_servers(client)} refuses to be looked at: {error!r}.") from error
    finally:
        await admin.close()


async def _max_message_bytes(admin: AIOKafkaAdminClient, topic: str) -> int:
    """Without the right to describe configurations: Kafka's default, which is less than what we create topics with."""
    answers = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None})]
    )
    for answer in answers:
        for code, _, _, _, entries in answer.resources:
            if code:
                _log.warning("cannot read max.message.bytes", topic=topic, error=for_code(code).__name__)
                continue
            for name, value, *_ in entries:
                if name == "max.message.bytes":
                    return int(value)
    return _DEFAULT_MAX_BYTES


def _servers(client: Mapping[str, Any]) -> str:
    return ",".join(client["bootstrap_servers"])
