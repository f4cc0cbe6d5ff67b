"""What is checked of the cluster before a worker starts, and what is said when it is not as it must be."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from streams.errors import ClusterError, RefusedError
from streams.runtime.positions import START_ANEW
from streams.topics import Found, connect, describe, wanted_topics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings import Settings, Topics

__all__ = ["Cluster", "check_partition_counts", "find_topics", "look_at_cluster", "max_bytes"]

_log = structlog.get_logger(__name__)

# A cluster that starts together with its workers is up within this; after it, somebody should look (seconds).
_PATIENCE: Final = 30.0
_BETWEEN_TRIES: Final = 1.0
# Kafka's own max.message.bytes, for a topic that we may not ask for it; we create ours with more.
_DEFAULT_MAX_BYTES: Final = 1_048_588


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a worker needs to know of its cluster.

    Attributes:
        partitions: of the telemetry topic, and of the changelog.
        max_bytes: ``max.message.bytes`` of each topic that the worker writes to.
    """

    partitions: int
    max_bytes: Mapping[str, int]


async def look_at_cluster(settings: Settings, patience: float = _PATIENCE) -> Cluster:
    """Wait until the cluster answers, and check that everything is there.

    Args:
        settings: where it is, and what the topics are called.
        patience: for how long to try, in seconds.

    Raises:
        RefusedError: a broker does not let us in; at once.
        ClusterError: it does not answer, a topic is missing, or partition counts differ. One line.
    """
    topics = settings.topics
    names = [topic.name for topic in wanted_topics(settings)]
    found = await find_topics(settings, names, patience)
    check_partition_counts(topics, found[topics.telemetry].partitions, found[topics.changelog].partitions)
    return Cluster(
        partitions=found[topics.telemetry].partitions,
        max_bytes={name: max_bytes(found[name]) for name in names if name != topics.telemetry},
    )


async def find_topics(settings: Settings, names: list[str], patience: float = _PATIENCE) -> dict[str, Found]:
    """Wait until the cluster answers, and look these topics up.

    Raises:
        RefusedError: a broker does not let us in; at once.
        ClusterError: it does not answer, or a topic is missing. One line.
    """
    found = await _find(settings, names, patience)
    missing = [name for name in names if name not in found]
    if missing:
        raise ClusterError(
            f"{'Topics are' if len(missing) > 1 else 'A topic is'} missing on {settings.bootstrap_servers}: "
            f"{', '.join(missing)}. `trips topics create` creates what is missing. (Topics that we may not Describe "
            "look missing, too.)"
        )
    return found


def check_partition_counts(topics: Topics, telemetry: int, changelog: int) -> None:
    """The state of a source partition is in the changelog's partition of the same number.

    Raises:
        ClusterError: the counts differ.
    """
    if telemetry != changelog:
        raise ClusterError(
            f"{topics.telemetry} has {telemetry} partitions, but the state in {topics.changelog} is of {changelog}: "
            f"vehicles would lose their state. To go on, {START_ANEW}."
        )


async def _find(settings: Settings, names: list[str], patience: float) -> dict[str, Found]:
    until, told = time.monotonic() + patience, False
    while True:
        try:
            async with connect(settings) as admin:
                return await describe(admin, names)
        except RefusedError:
            raise  # waiting does not make a wrong password right
        except ClusterError as error:
            if time.monotonic() >= until:
                raise ClusterError(f"{error} (Tried for {patience:.0f} s.)") from error
        if not told:
            _log.info("waiting for Kafka", bootstrap_servers=settings.bootstrap_servers, at_most_seconds=patience)
            told = True
        await asyncio.sleep(_BETWEEN_TRIES)


def max_bytes(topic: Found) -> int:
    """Its ``max.message.bytes``."""
    return int(topic.config.get("max.message.bytes", _DEFAULT_MAX_BYTES))
