"""``trips check``: whether a worker could start here and now, and what to do if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from streams.errors import ClusterError
from streams.local.tail import read_to_end
from streams.settings import misspelt
from streams.topics import check_topics, connect, describe, push_topics, wanted_topics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiokafka.admin import AIOKafkaAdminClient

    from streams.settings import Settings

__all__ = ["Finding", "check"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``state``: ``ok``, ``note`` (worth knowing, nothing wrong) or ``wrong``."""

    state: str
    subject: str
    text: str


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """Look at everything that a worker needs, one thing after the other, and change nothing."""
    changed = settings.changed()
    shown = ", ".join(f"{name}={value}" for name, value in changed.items())
    yield Finding("ok", "settings", shown or "all at their defaults")
    for line in misspelt():
        yield Finding("note", "settings", line)
    try:
        async with connect(settings) as admin:
            cluster = await admin.describe_cluster()
            brokers = cluster["brokers"]
            count = "1 broker" if len(brokers) == 1 else f"{len(brokers)} brokers"
            yield Finding("ok", "broker", f"{settings.bootstrap_servers} answers: {count}")
            shortest = await _shortest_session_ms(admin, str(brokers[0]["node_id"]))
            needed = [topic.name for topic in wanted_topics(settings)]
            found = await describe(admin, needed)
    except ClusterError as error:
        yield Finding("wrong", "broker", str(error))
        return
    if shortest is not None and settings.session_timeout_s * 1000 < shortest:
        yield Finding(
            "wrong",
            "broker",
            f"it refuses session timeouts below {shortest / 1000:g} s (its group.min.session.timeout.ms): "
            f"set TRIPS_SESSION_TIMEOUT to that or more, it is {settings.session_timeout_s:g} s",
        )
    reports = await check_topics(settings)
    pushes = [topic.name for topic in push_topics(settings)]
    for report in reports:
        state = "ok" if report.is_right else "wrong" if report.name in needed else "note"
        needs = "pushes need" if report.name in pushes else "the trip status needs"
        whose = f" ({needs} it, `trips worker` does not)" if state == "note" else ""
        if report.state == "missing":
            yield Finding(state, "topic", f"{report.name} is missing: {report.details[0]}{whose}")
        else:
            for detail in report.details:
                yield Finding(state, "topic", f"{report.name}: {detail}{whose}")
    partitions = {
        name: [TopicPartition(name, number) for number in range(topic.partitions)] for name, topic in found.items()
    }
    # A changelog of another number of partitions than its source is of no use: then, too, a worker starts anew.
    if any(report.name == settings.topics.changelog and not report.is_right for report in reports):
        partitions.pop(settings.topics.changelog, None)
    yield await _revisions(settings, partitions)


async def _shortest_session_ms(admin: AIOKafkaAdminClient, broker: str) -> int | None:
    """What the broker says, or None if it does not let us see it."""
    try:
        answers = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.BROKER, broker, {"group.min.session.timeout.ms": None})]
        )
    except KafkaError:
        return None
    for answer in answers:
        for code, _message, _type, _name, entries in answer.resources:
            for entry in entries if not code else ():
                if entry[0] == "group.min.session.timeout.ms":
                    return int(entry[1])
    return None


async def _revisions(settings: Settings, partitions: Mapping[str, list[TopicPartition]]) -> Finding:
    """Whether the revisions of a worker that starts now rise above those that are published."""
    topics = settings.topics
    nothing = Finding("ok", "revisions", "nothing is published yet: they start from TRIPS_REVISION_BASE")
    if not partitions:
        return nothing
    consumer = AIOKafkaConsumer(
        **settings.client(), isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        if await _has_records(consumer, partitions.get(topics.changelog, [])):
            return Finding("ok", "revisions", "the state is there: they go on from it")
        highest = -1
        for topic in (topics.events, topics.trips):
            highest = max(highest, await _highest_revision(consumer, partitions.get(topic, [])))
    except (ClusterError, KafkaError, OSError) as error:
        return Finding("wrong", "revisions", f"the cluster does not let us read {topics.events}: {error!r}")
    finally:
        await consumer.stop()
    if highest < 0:
        return nothing
    if settings.revision_base > highest:
        return Finding(
            "ok",
            "revisions",
            f"there is no state, and TRIPS_REVISION_BASE={settings.revision_base} is above all that is published "
            f"(up to {highest})",
        )
    return Finding(
        "wrong",
        "revisions",
        f"announcements up to revision {highest} are published, but there is no state that they could go on from: "
        f"set TRIPS_REVISION_BASE={highest + 1} or more, or consumers will take new announcements for old ones",
    )


async def _has_records(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> bool:
    begin, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    return any(end[partition] > begin[partition] for partition in partitions)


async def _highest_revision(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> int:
    """Of all announcements that are there; -1: none. Reads them all: only asked where there is no state."""
    if not partitions:
        return -1
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    highest = -1
    async for record in read_to_end(consumer):
        if record.value is not None:
            highest = max(highest, int(orjson.loads(record.value)["data"]["trip"]["revision"]))
    return highest
