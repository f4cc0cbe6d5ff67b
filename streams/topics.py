"""The topics: what each must be like, creating those that are missing, and naming what differs in those that are there.

===============  =======================  ==============================================================
topic            cleanup                  otherwise
===============  =======================  ==============================================================
telemetry        delete                   the source; its partitions are the unit of work and of state
commands         delete                   kept for ever; as many partitions as telemetry has, at least
dead letters     delete                   room for the source's largest record and our headers
late             delete                   the same
events           delete                   every announcement
trips            compact                  the latest state of each trip
changelog        compact                  as many partitions as telemetry has: state of one belongs to one
status events    delete                   every change of planned trips
status requests  delete                   internal: one partition, so that one process decides in one order
status changes   compact                  internal, the changelog of planned trips: one partition
push letters     delete                   pushes that were given up
push requests    delete                   internal: what is to be pushed again; one partition
subscriptions    compact                  internal: one partition, so that they are changed in one order
push changelog   compact                  internal, the deliveries: the partitions of the events
===============  =======================  ==============================================================
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from streams.errors import ClusterError, RefusedError
from streams.refusals import find_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from streams.settings import Settings

__all__ = [
    "Found",
    "TopicReport",
    "Wanted",
    "all_topics",
    "check_topics",
    "compare",
    "connect",
    "create_topics",
    "describe",
    "push_topics",
    "status_topics",
    "wait_for_cluster",
    "wanted_topics",
]

_REQUEST_TIMEOUT_MS: Final = 10_000
_VISIBLE_WITHIN_S: Final = 15.0
_BETWEEN_TRIES_S: Final = 0.5
# Kafka's own, for a topic that does not say otherwise and that we may not ask.
_DEFAULT_MAX_MESSAGE_BYTES: Final = 1_048_588
_FOR_EVER: Final = -1
# A dead letter is the record as it was and our headers: what was wrong with each property can be long.
_HEADROOM_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a topic must be like.

    Attributes:
        max_message_bytes: at least; None: whatever it is.
        retention_ms: just this; None: whatever it is.
        fixed: no setting changes its number of partitions.
    """

    name: str
    partitions: int
    replication_factor: int
    cleanup: str
    max_message_bytes: int | None = None
    fixed: bool = False
    retention_ms: int | None = None

    def config(self) -> dict[str, str]:
        """Its settings, as a broker takes them."""
        config = {"cleanup.policy": self.cleanup}
        if self.max_message_bytes is not None:
            config["max.message.bytes"] = str(self.max_message_bytes)
        if self.retention_ms is not None:
            config["retention.ms"] = str(self.retention_ms)
        return config


@dataclass(frozen=True, slots=True)
class Found:
    """What a topic is like. ``config`` is empty where we may not see it."""

    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What became of one topic.

    Attributes:
        state: ``ok``, ``created``, ``missing`` or ``differs``.
        details: what differs and what to do, a sentence each; else what it is like.
    """

    name: str
    state: str
    details: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether a worker can do with it as it is."""
        return self.state in {"ok", "created"}


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client of the configured cluster.

    Raises:
        RefusedError: a broker does not let us in.
        ClusterError: nobody answers, or refuses; also what the cluster refuses inside the ``with``.
    """
    admin = AIOKafkaAdminClient(**settings.client(), request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        try:
            await admin.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await _raise_refusal(settings, error)
            raise ClusterError(
                f"No Kafka broker answers at {settings.bootstrap_servers}. Check TRIPS_BOOTSTRAP_SERVERS and the "
                "security settings, or start a local one with `trips broker`."
            ) from error
        try:
            yield admin
        except (KafkaError, OSError, TimeoutError) as error:
            await _raise_refusal(settings, error)
            raise ClusterError(f"The Kafka cluster at {settings.bootstrap_servers} refuses: {error}") from error
    finally:
        await admin.close()


async def _raise_refusal(settings: Settings, error: Exception) -> None:
    refusal = await find_refusal(settings)
    if refusal is not None:
        raise refusal from error


def wanted_topics(settings: Settings, telemetry: Found | None = None) -> list[Wanted]:
    """What a worker's topics must be like, given what the source is like (None: it will be created)."""
    topics, replicas = settings.topics, settings.replication_factor
    source_bytes = _DEFAULT_MAX_MESSAGE_BYTES
    source_partitions = settings.partitions
    if telemetry is not None:
        source_bytes = int(telemetry.config.get("max.message.bytes", source_bytes))
        source_partitions = telemetry.partitions
    letters = source_bytes + _HEADROOM_BYTES
    return [
        Wanted(topics.telemetry, settings.partitions, replicas, "delete"),
        # A worker that starts anew reads what is to stay deleted from it: however old, a command is still good.
        Wanted(topics.commands, source_partitions, replicas, "delete", retention_ms=_FOR_EVER),
        Wanted(topics.dead_letters, settings.partitions, replicas, "delete", letters),
        Wanted(topics.late, settings.partitions, replicas, "delete", letters),
        Wanted(topics.events, settings.partitions, replicas, "delete"),
        Wanted(topics.trips, settings.partitions, replicas, "compact"),
        Wanted(topics.changelog, source_partitions, replicas, "compact"),
    ]


def status_topics(settings: Settings) -> list[Wanted]:
    """What the topics of the trip status must be like; a worker needs none of them."""
    topics, replicas = settings.topics, settings.replication_factor
    return [
        Wanted(topics.status_events, settings.partitions, replicas, "delete"),
        Wanted(topics.status_requests, 1, replicas, "delete", fixed=True),
        Wanted(topics.status_changelog, 1, replicas, "compact", fixed=True),
    ]


def push_topics(settings: Settings, events: Found | None = None) -> list[Wanted]:
    """What the topics of pushes must be like, given what the events are like (None: they will be created)."""
    topics, replicas = settings.topics, settings.replication_factor
    largest = _DEFAULT_MAX_MESSAGE_BYTES
    partitions = settings.partitions
    if events is not None:
        largest = int(events.config.get("max.message.bytes", largest))
        partitions = events.partitions
    largest += _HEADROOM_BYTES
    return [
        Wanted(topics.push_dead_letters, settings.partitions, replicas, "delete", largest),
        Wanted(topics.push_requests, 1, replicas, "delete", largest, fixed=True),
        Wanted(topics.push_subscriptions, 1, replicas, "compact", fixed=True),
        Wanted(topics.push_changelog, partitions, replicas, "compact", largest, fixed=True),
    ]


def all_topics(settings: Settings, telemetry: Found | None = None, events: Found | None = None) -> list[Wanted]:
    """The topics of all parts, given what the source and the events are like (None: they will be created)."""
    return [*wanted_topics(settings, telemetry), *status_topics(settings), *push_topics(settings, events)]


def compare(
    wanted: Wanted,
    found: Found,
    *,
    is_changelog: bool = False,
    is_commands: bool = False,
) -> list[str]:
    """What differs and what to do about it, a sentence each."""
    differs = []
    if is_commands:
        if found.partitions < wanted.partitions:
            differs.append(
                f"it has {found.partitions} partitions, but telemetry has {wanted.partitions}, and a command is read "
                "with the partition of its vehicle: add partitions to it"
            )
    elif found.partitions != wanted.partitions:
        if is_changelog:
            what = (
                f"it has {found.partitions} partitions, but telemetry has {wanted.partitions}, and the state of one "
                "belongs to one: give telemetry its old number again, or start anew with another TRIPS_APPLICATION_ID "
                "and a TRIPS_REVISION_BASE above every published revision (`trips check` names it)"
            )
        elif wanted.fixed:
            what = (
                f"it has {found.partitions} partitions, and must have {wanted.partitions}: delete it, and create it "
                "with `trips topics create`"
            )
        else:
            what = f"it has {found.partitions} partitions, not {wanted.partitions}: set TRIPS_PARTITIONS to its number"
        differs.append(what)
    if found.replication_factor < wanted.replication_factor:
        differs.append(
            f"it has {found.replication_factor} replicas, not {wanted.replication_factor}: reassign its partitions, "
            "or lower TRIPS_REPLICATION_FACTOR"
        )
    cleanup = found.config.get("cleanup.policy", wanted.cleanup)
    if cleanup != wanted.cleanup:
        differs.append(_alter(wanted.name, "cleanup.policy", cleanup, wanted.cleanup))
    largest = int(found.config.get("max.message.bytes", wanted.max_message_bytes or 0))
    if wanted.max_message_bytes is not None and largest < wanted.max_message_bytes:
        differs.append(_alter(wanted.name, "max.message.bytes", str(largest), str(wanted.max_message_bytes)))
    kept = int(found.config.get("retention.ms", wanted.retention_ms or 0))
    if wanted.retention_ms is not None and kept != wanted.retention_ms:
        differs.append(_alter(wanted.name, "retention.ms", str(kept), str(wanted.retention_ms)))
    return differs


def _alter(topic: str, setting: str, found: str, wanted: str) -> str:
    return (
        f"{setting} is {found}, not {wanted}: kafka-configs.sh --alter --entity-type topics --entity-name {topic} "
        f"--add-config {setting}={wanted}"
    )


async def check_topics(settings: Settings) -> list[TopicReport]:
    """Look at every topic, and change nothing.

    Raises:
        ClusterError: the cluster does not answer, or refuses.
    """
    async with connect(settings) as admin:
        return await _report(admin, settings, created=())


async def wait_for_cluster(settings: Settings, patience: float, waiting: Callable[[], object]) -> None:
    """Wait until the cluster answers.

    Args:
        settings: where it is.
        patience: for how long to try, in seconds.
        waiting: called once, if it does not answer at first.

    Raises:
        RefusedError: a broker does not let us in; at once.
        ClusterError: it does not answer.
    """
    until, told = time.monotonic() + patience, False
    while True:
        try:
            async with connect(settings):
                return
        except RefusedError:
            raise  # waiting does not make a wrong password right
        except ClusterError:
            if time.monotonic() >= until:
                raise
        if not told:
            waiting()
            told = True
        await asyncio.sleep(_BETWEEN_TRIES_S)


async def create_topics(settings: Settings) -> list[TopicReport]:
    """Create the topics that are missing, and leave the others alone. Safe to repeat, and to run side by side.

    Raises:
        ClusterError: the cluster does not answer, or refuses.
    """
    names = [topic.name for topic in all_topics(settings)]
    created: set[str] = set()
    async with connect(settings) as admin:
        # The source first, the deliveries' changelog last: what they must be like depends on what others are like, also
        # if those are created elsewhere at this very moment.
        last = settings.topics.push_changelog
        for step in (names[:1], [name for name in names[1:] if name != last], [last]):
            found = await describe(admin, names)
            wanted = all_topics(settings, found.get(settings.topics.telemetry), found.get(settings.topics.events))
            created |= await _create(admin, [one for one in wanted if one.name in step and one.name not in found])
            await _until_visible(admin, step)
        reports = await _report(admin, settings, created)
        # Another broker may answer this time, and not have heard of a new topic yet.
        deadline = asyncio.get_running_loop().time() + _VISIBLE_WITHIN_S
        while any(report.state == "missing" for report in reports) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            reports = await _report(admin, settings, created)
        return reports


async def describe(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Found]:
    """Those of the topics that are there."""
    wanted = set(names)
    # All topics, because asking for one by its name makes a broker create it where that is allowed.
    there = {
        topic["topic"]: topic["partitions"]
        for topic in await admin.describe_topics()
        if topic["topic"] in wanted and not topic["error_code"] and topic["partitions"]
    }
    configs = await _configs(admin, there) if there else {}
    return {
        name: Found(len(partitions), min(len(part["replicas"]) for part in partitions), configs.get(name, {}))
        for name, partitions in there.items()
    }


async def _configs(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, _message, _type, name, entries in answer.resources:
            if not code:  # else not for our eyes: what cannot be seen does not differ
                configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _create(admin: AIOKafkaAdminClient, topics: Sequence[Wanted]) -> set[str]:
    """Create topics; returns the names of those that were not there."""
    if not topics:
        return set()
    answer = await admin.create_topics(
        [
            NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=topic.config())
            for topic in topics
        ]
    )
    codes = {name: code for name, code, _message in answer.topic_errors}
    refused = [
        f"{name}: {message or for_code(code).__name__}"
        for name, code, message in answer.topic_errors
        if code not in (0, TopicAlreadyExistsError.errno)
    ]
    if refused:
        raise ClusterError(f"Topics could not be created: {'; '.join(refused)}")
    return {name for name, code in codes.items() if code == 0}


async def _until_visible(admin: AIOKafkaAdminClient, names: Iterable[str]) -> None:
    """Wait until the brokers that we ask know of them, so that whatever runs next finds them."""
    deadline = asyncio.get_running_loop().time() + _VISIBLE_WITHIN_S
    while set(names) - set(await describe(admin, names)):
        if asyncio.get_running_loop().time() > deadline:
            raise ClusterError(f"Topics were created, but are not there after {_VISIBLE_WITHIN_S:.0f} s")
        await asyncio.sleep(0.05)


async def _report(admin: AIOKafkaAdminClient, settings: Settings, created: Iterable[str]) -> list[TopicReport]:
    found = await describe(admin, [topic.name for topic in all_topics(settings)])
    reports = []
    telemetry, events = found.get(settings.topics.telemetry), found.get(settings.topics.events)
    for wanted in all_topics(settings, telemetry, events):
        there = found.get(wanted.name)
        if there is None:
            reports.append(TopicReport(wanted.name, "missing", ("create it with `trips topics create`",)))
            continue
        differs = compare(
            wanted,
            there,
            is_changelog=wanted.name == settings.topics.changelog,
            is_commands=wanted.name == settings.topics.commands,
        )
        if differs:
            reports.append(TopicReport(wanted.name, "differs", tuple(differs)))
        else:
            state = "created" if wanted.name in created else "ok"
            reports.append(TopicReport(wanted.name, state, (_describe(there, wanted),)))
    return reports


def _describe(found: Found, wanted: Wanted) -> str:
    partitions = "1 partition" if found.partitions == 1 else f"{found.partitions} partitions"
    replicas = "1 replica" if found.replication_factor == 1 else f"{found.replication_factor} replicas"
    seen: Any = found.config.get("cleanup.policy", f"{wanted.cleanup}, or so we hope: no right to see it")
    return f"{partitions}, {replicas}, cleanup {seen}"
