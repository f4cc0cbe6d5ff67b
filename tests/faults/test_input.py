"""Whatever is put into the source, a worker goes on: each record is applied, dead-lettered or late.

Through a real broker and a real worker, and judged like every other fault: the corpus of odd records, with good drives
between them that they must not spoil, in batches of every codec; and streams that Hypothesis has made.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from faults.corpus import KINDS, LIMITS, ODD_TIMES, Item, corpus
from faults.judge import Logs, collect, judge
from faults.load import fleet
from hypothesis import HealthCheck, Phase
from oracle.consumer import final_view
from property import strategies

from streams.local.files import RECORDED_DRIVES, read_lines
from streams.processor import Processor
from streams.telemetry.explain import explain
from streams.telemetry.reader import Reader
from streams.telemetry.timestamps import Instants

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
DRIVES = "drives"
LARGE = 200_000
"""Bytes of a record that is sent in a batch of its own, for the broker may refuse it."""
# -------------------------------------------------------------------------------------------------------------- sending


@dataclass
class Sent:
    """What the broker has taken, by partition and offset, and what it has refused."""

    taken: dict[tuple[int, int], Item]
    refused: list[tuple[Item, str]]
    codecs: Counter[str]

    def by_kind(self) -> Counter[str]:
        return Counter(item.kind for item in self.taken.values())


class Sender:
    """Sends items in batches of random size and codec.

    aiokafka's own producer would refuse some of them; so batches are made by its encoder in Python, record by record.
    """

    def __init__(self, settings: Any, chance: random.Random, codecs: Sequence[str] = tuple(CODECS)) -> None:
        self.sent = Sent({}, [], Counter())
        self._settings = settings
        self._chance = chance
        self._codecs = codecs

    async def send(self, partitions: dict[int, list[Item]]) -> None:
        """Send the items of each partition in order; partitions side by side."""
        producer = AIOKafkaProducer(
            **self._settings.client(), acks="all", max_batch_size=32 * 2**20, max_request_size=32 * 2**20
        )
        await producer.start()
        try:
            await asyncio.gather(*(self._send_all(producer, number, items) for number, items in partitions.items()))
        finally:
            await producer.stop()

    async def _send_all(self, producer: AIOKafkaProducer, partition: int, items: list[Item]) -> None:
        for batch in self._batches(items):
            codec = self._chance.choice(self._codecs)
            builder = producer.create_batch()
            builder._builder = _DefaultRecordBatchBuilderPy(2, CODECS[codec], 0, -1, -1, 0, 2**30)
            for item in batch:
                builder.append(timestamp=item.timestamp, key=item.key, value=item.value, headers=list(item.headers))
            attributes = builder._build()[22]
            try:
                at = await (await producer.send_batch(builder, self._settings.topics.telemetry, partition=partition))
            except KafkaError as error:
                self.sent.refused += [(item, type(error).__name__) for item in batch]
                continue
            # What does not get smaller is not compressed.
            self.sent.codecs[next(name for name, number in CODECS.items() if number == attributes & 7)] += 1
            self.sent.taken |= {(partition, at.offset + number): item for number, item in enumerate(batch)}

    def _batches(self, items: list[Item]) -> Iterator[list[Item]]:
        batch: list[Item] = []
        room = self._chance.randrange(1, 60)
        for item in items:
            alone = item.size > LARGE or item.kind == ODD_TIMES
            if batch and (alone or len(batch) >= room or sum(one.size for one in batch) > LARGE):
                yield batch
                batch, room = [], self._chance.randrange(1, 60)
            if alone:
                yield [item]
            else:
                batch.append(item)
        if batch:
            yield batch


def mixed(lists: Sequence[list[Item]], chance: random.Random) -> list[Item]:
    """All items, at random places; those of one list stay in order."""
    turns = [number for number, items in enumerate(lists) for _ in items]
    chance.shuffle(turns)
    left = [iter(items) for items in lists]
    return [next(left[number]) for number in turns]


def place(name: str, partitions: int) -> int:
    return zlib.crc32(name.encode()) % partitions


async def create_telemetry(settings: Any, **config: str) -> None:
    """The source with other limits than a broker's usual ones."""
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        configs = {name.replace("_", "."): value for name, value in config.items()}
        topic = NewTopic(settings.topics.telemetry, settings.partitions, 1, topic_configs=configs)
        answer = await admin.create_topics([topic])
        assert not any(code for _, code, *_ in answer.topic_errors), answer
    finally:
        await admin.close()


async def judged(run: Any, settings: Any, *, quiet: bool = False) -> Logs:
    """Wait until all is committed, stop the workers, and judge; the logs."""
    await run.recovered(time.monotonic())
    await asyncio.gather(*(place.stop() for place in run.places))
    logs = await collect(settings)
    verdict, row = judge(logs, settings, quiet=quiet), run.row
    row.messages, row.trips, row.recovery = verdict.messages, verdict.trips, []
    row.missing, row.extra, row.different = verdict.missing, verdict.extra, verdict.different
    row.duplicates, row.clean = verdict.duplicates, verdict.clean
    assert verdict.clean, f"{row.fault} (seed {row.seed}):\n{verdict}"
    assert not [failure for each in run.places for failure in each.failures]
    assert not list(run.ends()), "a worker has ended by itself"
    return logs


# ----------------------------------------------------------------------------------------------------------- the drives


def recording() -> list[Item]:
    """The recorded drives."""
    return [Item(DRIVES, line, json.loads(line)["vehicle_id"].encode()) for line in read_lines(str(RECORDED_DRIVES))]


@dataclass(frozen=True)
class Line:
    offset: int
    value: bytes | None
    timestamp: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes]] = ()


def told_offline(settings: Any, items: list[Item]) -> dict[str, Any]:
    """The trips of these messages and of nothing else, without Kafka."""
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=None), offline=True)
    processor.process([Line(offset, item.value) for offset, item in enumerate(items)])
    return trips(json.loads(one.payload) for one in processor.take().announcements)


def trips(events: Any) -> dict[str, Any]:
    """By trip id its state and content but for the revision, as a consumer has them in the end."""
    return {
        trip_id: (view.status, {name: value for name, value in view.trip.items() if name != "revision"})
        for trip_id, view in final_view(events).items()
        if view.status != "superseded"
    }


# ----------------------------------------------------------------------------------------------------------- the corpus


def test_both_ways_of_reading_say_the_same_of_the_corpus_and_never_raise(seed, every_fault):
    now = int(time.time() * 1000)
    # One reader for all: what it remembers of one message must not change how it reads the next.
    reader, outcomes = Reader(max_clock_skew_ms=3_600_000), Counter[str]()
    for number in range(20 if every_fault else 2):
        for name, items in corpus(seed + number, now).items():
            for item in items:
                at = now if item.timestamp is None or item.timestamp < 0 else item.timestamp
                quick = reader.read(item.value, item.key, at)
                slow = explain(item.value, item.key, at + 3_600_000, Instants())
                assert (quick.vehicle_id, list(quick.rows), quick.flow_id, list(quick.problems)) == (
                    slow.vehicle_id,
                    slow.rows,
                    slow.flow_id,
                    slow.problems,
                ), f"{name}: {item.value!r:.300}"
                assert all(problem.message.isprintable() and len(problem.message) < 1_000 for problem in slow.problems)
                outcomes["whole" if slow.vehicle_id is None else "partial" if slow.problems else "good"] += 1
    assert min(outcomes.values()) > 200, outcomes


def test_a_number_counts_if_it_is_one_and_within_its_limits(seed):
    """Read again with Python's own parser, as decimal numbers of any length."""
    reader, counted, rejected = Reader(max_clock_skew_ms=None), 0, 0
    for item in corpus(seed, 0)["numbers"]:
        reading = reader.read(item.value, item.key, 0)
        try:
            body = json.loads(item.value or b"", parse_float=Decimal, parse_int=Decimal, parse_constant=lambda _: None)
        except ValueError:
            assert [problem.reason for problem in reading.problems] == ["not_json"], item.value
            continue
        bad = {name for name in body.keys() & {*LIMITS, "position"} if not counts(name, body[name])}
        assert {problem.property for problem in reading.problems} == bad, item.value
        assert len(reading.rows) == 1  # the ignition beside it counts
        counted, rejected = counted + (not bad), rejected + bool(bad)
    assert min(counted, rejected) > 90


def counts(name: str, value: Any) -> bool:
    if name != "position":
        return is_within(value, 0, LIMITS[name])
    limits = {"lat": (-90, 90), "lon": (-180, 180), "altitude": (-100_000, 100_000)}
    within = all(is_within(value[field], *limits[field]) for field in value)
    return within and any(float(value[field]) for field in ("lat", "lon"))


def is_within(number: Decimal | None, lowest: int, highest: int) -> bool:
    """Numbers are doubles: one that is nearer to a limit than those can tell is the limit."""
    return number is not None and lowest <= float(number) <= highest


# Nothing of the corpus is refused: for its size, of up to 8 MiB, or because it is an hour ahead of the broker.
TAKES_ALL = {"max_message_bytes": str(9 * 2**20), "message_timestamp_after_max_ms": str(2**63 - 1)}
WAYS = {
    "batches of all codecs": ({}, CODECS),
    "a source that takes what is large or years ahead": (TAKES_ALL, CODECS),
    "times given by the broker": ({"message_timestamp_type": "LogAppendTime"}, CODECS),
    **{f"batches of {codec}": ({}, (codec,)) for codec in CODECS},
}
FEW = 2


@pytest.mark.parametrize(
    "way",
    [
        *itertools.islice(WAYS, FEW),
        *(pytest.param(way, marks=pytest.mark.all_faults) for way in itertools.islice(WAYS, FEW, None)),
    ],
)
async def test_odd_records_stop_nothing_and_spoil_no_drive(way, drill, settings, seed, every_fault):
    config, codecs = WAYS[way]
    chance = random.Random(f"{seed} {way}")
    await create_telemetry(settings, **config)
    run = await drill(f"input: {way}", settings)
    await run.start_workers(1)

    # The last partition is for records that move its clock, the others for everything else.
    *usual, odd = range(settings.partitions)
    drives = recording()
    good = [
        Item("fleet", value, key) for key, value in itertools.islice(fleet(seed, 40), 4_000 if every_fault else 1_500)
    ]
    kinds = corpus(seed, int(time.time() * 1000) - 1_000, times=5 if every_fault else 1)
    streams: dict[int, list[list[Item]]] = {number: [] for number in usual}
    for name, items in kinds.items():
        if name != ODD_TIMES:
            streams[place(name, len(usual))].append(items)
    for number in usual:
        for items in (drives, good):
            streams[number].append([item for item in items if place((item.key or b"").decode(), len(usual)) == number])
    sender = Sender(settings, chance, tuple(codecs))
    await sender.send({odd: kinds[ODD_TIMES], **{number: mixed(lists, chance) for number, lists in streams.items()}})
    logs = await judged(run, settings)

    # What the broker has taken is in the log as it was sent: of each kind, but for what is too large for this topic.
    sent = sender.sent
    there = {(record.partition, record.offset): record for record in logs.telemetry}
    assert set(there) == set(sent.taken)
    assert all((there[at].key, there[at].value) == (item.key, item.value) for at, item in sent.taken.items())
    assert [list(there[at].headers) for at in sent.taken] == [list(item.headers) for item in sent.taken.values()]
    refused = Counter((item.kind, error) for item, error in sent.refused)
    run.row.note = ", ".join(f"{count} {kind} refused: {error}" for (kind, error), count in sorted(refused.items()))
    assert all(item.size > 2**20 - 5_000 or item.kind == ODD_TIMES for item, _ in sent.refused), refused
    arrived = sent.by_kind()
    assert set(arrived) == {*KINDS, DRIVES, "fleet"}
    for name, items in kinds.items():
        assert arrived[name] >= len(items) / 4, f"{arrived[name]} of {len(items)} of {name}"
    if config is TAKES_ALL:
        assert {kind for kind, _ in refused} <= {ODD_TIMES}
    for codec in codecs:
        assert sent.codecs[codec] > 10, sent.codecs

    # The recorded drives come to what they come to alone.
    alone = told_offline(settings, drives)
    among = trips(json.loads(record.value) for record in logs.events)
    assert len(alone) > 5
    assert {trip_id: among.get(trip_id) for trip_id in alone} == alone


# -------------------------------------------------------------------------------------------------- generated streams


def generated(seed: int, count: int, rules: Any) -> list[list[strategies.Arrival]]:
    """So many examples of what may come in, the same for the same seed."""
    examples: list[list[strategies.Arrival]] = []
    # Where something is late, all is known before: how the first sample of a property counts that comes too late is
    # left open by the contract as soon as there are several.
    near = rules.correction_horizon_ms < strategies.HOUR
    some = strategies.over_time(rules) if near else strategies.anyhow(rules) | strategies.over_time(rules)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(some)
    def take(arrivals: list[strategies.Arrival]) -> None:
        examples.append(arrivals)

    take()
    return examples


RULES = {
    "usual rules": {},
    "all rules": {
        "merge_gap": 30,
        "ready_delay": 300,
        "min_distance": 112,
        "silence_timeout": 600,
        "unknown_start": "ignore",
        "revision_base": 1_000_000,
    },
    "another trigger": {"trigger": "driving_enabled", "merge_gap": 120, "silence_timeout": 0, "min_duration": 0},
    "a near horizon": {"correction_horizon": 600, "silence_timeout": 1_200, "ready_delay": 30},
}


@pytest.mark.parametrize(
    "variant",
    [*itertools.islice(RULES, FEW), *(pytest.param(rule, marks=pytest.mark.all_faults) for rule in [*RULES][FEW:])],
)
async def test_generated_streams_come_to_what_they_say(variant, drill, make_settings, seed, every_fault):
    settings = make_settings(**{"partitions": 4, "session_timeout": 2, "correction_horizon": 86_400, **RULES[variant]})
    chance = random.Random(f"{seed} {variant}")
    examples = generated(seed, 800 if every_fault else 250, settings.rules())
    # Kafka's times are of some days ago, a message a second; at the end one of now: then all quiet has run out.
    past = int(time.time() * 1000) - 5 * 86_400_000
    lists: list[list[Item]] = []
    for number, arrivals in enumerate(examples):
        messages = [replace(one.message, vehicle_id=f"{one.message.vehicle_id} of {number}") for one in arrivals]
        lists.append([Item(f"{number}", strategies.encode(one), f"{number}".encode()) for one in messages])
    partitions: dict[int, list[Item]] = {}
    for partition in range(settings.partitions):
        own = mixed(
            [items for items in lists if items and place(items[0].kind, settings.partitions) == partition], chance
        )
        items = [replace(item, timestamp=past + at * 1_000) for at, item in enumerate(own)]
        end = Item("end", b"{}", f"end of {partition}".encode(), timestamp=int(time.time() * 1000))
        partitions[partition] = [*items, end]

    run = await drill(f"input: generated streams, {variant}", settings)
    await run.start_workers(1)
    half = {partition: items[: len(items) // 2] for partition, items in partitions.items()}
    rest = {partition: items[len(items) // 2 :] for partition, items in partitions.items()}
    sender = Sender(settings, chance)
    await sender.send(half)
    run.workers[0].kill()
    run.repetitions += 1
    await sender.send(rest)
    await judged(run, settings, quiet=True)
    assert not sender.sent.refused
    assert run.row.messages == sum(map(len, partitions.values()))
    assert sum(map(len, lists)) > len(examples)
