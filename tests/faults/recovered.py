"""The state in the changelog, read back by one who did not write it: it goes on exactly where the log ends."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from faults.judge import judge

from streams.delivery.checkpoint import partition_for
from streams.delivery.messages import announcement_messages
from streams.processor import Processor
from streams.runtime.changelog import read_changelog
from streams.telemetry.reader import Reader

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from faults.judge import Logs

__all__ = ["judge_recovered_state"]


@dataclass(frozen=True)
class _Record:
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


async def judge_recovered_state(settings: Any, logs: Logs, chance: random.Random, *, quiet: bool) -> list[str]:
    """Ask each vehicle's recovered state two questions whose answers need all of it, and judge the answers.

    A message of before comes again with another speed, which changes a trip that is not settled, wherever it is; and
    the vehicle sets off (again). What is said then must be what follows from the whole log.
    """
    rules, skew = settings.rules(), settings.max_clock_skew_ms
    processors = {number: Processor(rules, Reader(max_clock_skew_ms=skew)) for number in logs.ends}

    def restore(partition: int, records: Any) -> None:
        processors[partition].restore((record.key, record.value) for record in records)

    await read_changelog(settings.topics.changelog, sorted(processors), settings.client(), restore)
    probes = list(_probes(logs, chance))
    said: list[Any] = []
    owed = 0
    for number, processor in processors.items():
        processor.restored()
        owed += processor.owed
        processor.process([probe for probe in probes if probe.partition == number])
        if quiet:
            processor.close()
        for one in processor.take().announcements:
            event, _ = announcement_messages(one, "probe", number)
            place = partition_for(event.key, settings.partitions, number)
            said.append(_Record(place, 10**12 + len(said), 0, event.key, event.value, tuple(event.headers)))
    # The topics of trips and of letters have no answers to the questions: they were asked beside Kafka.
    verdict = judge(
        replace(
            logs,
            telemetry=[*logs.telemetry, *probes],
            events=[*logs.events, *said],
            events_uncommitted=[*logs.events_uncommitted, *said],
        ),
        settings,
        quiet=quiet,
    )
    found = [finding for finding in verdict.findings if finding.startswith(("I0", "I1", "I2", "I5"))]
    if owed:
        found.append(f"{owed} announcements are still owed, after an orderly stop")
    return [f"recovered state: {finding}" for finding in found]


def _probes(logs: Logs, chance: random.Random) -> Iterator[_Record]:
    messages: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    now = dict.fromkeys(logs.ends, 0)
    for record in logs.telemetry:
        now[record.partition] = max(now[record.partition], record.timestamp)
        try:
            body = json.loads(record.value or b"")
        except (ValueError, RecursionError):
            continue
        if isinstance(body, dict) and {"vehicle_id", "timestamp"} <= body.keys():
            messages[record.partition, body["vehicle_id"]].append(body)
    offsets = dict(logs.ends)
    for (partition, vehicle), said in sorted(messages.items()):
        again = dict(chance.choice(said[-60:]), speed_in_kmh=chance.randrange(400))
        sets_off = {
            "vehicle_id": vehicle,
            "timestamp": max(body["timestamp"] for body in said) + chance.randrange(1, 120_000),
            "ignition": "ON",
        }
        for body in (again, sets_off):
            key, value = vehicle.encode(), json.dumps(body).encode()
            yield _Record(partition, offsets[partition], now[partition], key, value)
            offsets[partition] += 1
