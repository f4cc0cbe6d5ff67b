"""The judge of every fault: what stands in Kafka afterwards, against what the contract says of the telemetry there.

It works on records alone, and knows nothing of how a worker comes to its results: which samples count is decided record
by record with everything kept (``oracle.timeline``), the trips are derived from scratch (``oracle.derive``), and what
was announced is read as a consumer would (``oracle.consumer``). Of the product it uses the reader of messages, which
has tests of its own, so that both start from the same samples.

====  ================================================================================================================
I0    By the consumer's rule the trips are those that the telemetry makes, whole content; every announcement is of a
      revision that there is. What the last word says of a trip that is on or has ended, and all other announcements
      as far as time allows, is what the vehicle's records up to the announcement's revision say.
I1    Under one (trip id, type, revision) there is one payload, also among announcements that were taken back (but for
      vehicles with deleted trips: after a crash a command may come before telemetry that it came after).
I2    The order of a vehicle's announcements: in one partition, revisions never fall, each trip started before ended
      before ready or discarded, a trip's end before the next one's start, nothing without a cause.
I3    ``trips``, tombstones applied, holds of each trip what was announced as ready last, byte for byte, and nothing of
      others.
I4    Every record of telemetry is accounted for: dead-lettered if and only if something in it cannot be read, late if
      and only if something in it is, each once and as it came; and committed.
I4    A command is carried out once, or refused into the dead letters: of several about one trip the first counts.
I5    No announcement twice; under one id never two different ones, also among those that were taken back; headers and
      payload tell the same.

With ``at_least_once`` a repetition of an announcement, a dead letter or a late record is no finding if nothing in it is
different, and of what is repeated the first one counts: I0 to I5 are judged as if the others were not there. Nothing
else is allowed: ``trips`` holds no record twice.
====  ================================================================================================================

A trip that was deleted is a hole from the revision of its TripDeleted on: nothing is said of it any more, and nothing
that comes of it counts.

Where the contract leaves room:

- A sample of a property of which nothing is known yet counts although it is behind the horizon, but changes no settled
  trip: each trip of such a vehicle may be told with it or without it.
- ``quiet=False`` is for runs that end before anything has been silent for as long as ``silence_timeout``, ``merge_gap``
  or ``ready_delay`` by Kafka's clock, ``quiet=True`` for those that end after everything has been for longer. A trip
  whose ``ready_delay`` has not passed may be ready all the same: after a quiet that has ended since.
- ``flow_id`` is no part of the promise: it counts in I1 and I5 only.
- Revisions below the ``revision_base`` of the settings are of a life before: no record is looked for that they are of.
- A vehicle in two source partitions is against the contract: that is a finding, as nothing can be said of its trips.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition
from oracle.consumer import DELETED, RANK, READY, View, final_view
from oracle.derive import OracleHole, OracleTrip, derive, dig, timestamp, ulid
from oracle.timeline import Timeline

from streams.runtime.decoding import replace_decoder
from streams.telemetry.reader import Reader
from streams.trips.samples import FLOW_ID_BIT, Property, row_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from streams.settings import Settings
    from streams.trips.rules import Rules

__all__ = ["Logs", "Record", "Verdict", "collect", "judge"]

END_OF_TIME: Final = 253_402_300_799_999  # the last millisecond of the year 9999
SHOWN: Final = 20
"""Findings of one invariant that are shown; all are counted."""
BUDGET_MS: Final = 8_000
"""About how long announcements that are not the last word of a trip are looked at: all of some 30,000 messages."""
SAMPLE_MS: Final = 0.004
"""About how long it takes to derive trips, per sample of the vehicle."""

Headers = tuple[tuple[str, bytes | None], ...]
Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a topic. aiokafka's ``ConsumerRecord`` will do as well."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass
class Logs:
    """What stands in Kafka: each topic's records, by partition and offset.

    ``events_uncommitted`` are those of ``events`` and of transactions that were aborted. ``committed`` and ``ends`` are
    of the telemetry: the group's offsets, and where the log ends.
    """

    telemetry: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    events_uncommitted: list[Any] = field(default_factory=list)
    trips: list[Any] = field(default_factory=list)
    commands: list[Any] = field(default_factory=list)
    dead_letters: list[Any] = field(default_factory=list)
    late: list[Any] = field(default_factory=list)
    committed: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)


@dataclass
class Verdict:
    """What the judge has found. ``missing`` and so on count trips and records, of all topics together."""

    messages: int = 0
    trips: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    duplicates: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.findings

    @property
    def violated(self) -> set[str]:
        """The invariants that do not hold."""
        return {finding.split()[0] for finding in self.findings}

    def __str__(self) -> str:
        counts = (
            f"{self.messages} messages, {self.trips} trips: {self.missing} missing, {self.extra} extra, "
            f"{self.different} different, {self.duplicates} duplicates"
        )
        return "\n".join([counts, *self.findings])


# ------------------------------------------------------------------------------------------------------ reading Kafka


async def collect(settings: Settings, *, within: float = 120.0) -> Logs:
    """Read all topics from their starts to their ends.

    Waits for transactions that are still open in what the application writes: a reader that reads committed would not
    see what comes after their begin. Fails after ``within`` seconds.
    """
    replace_decoder()
    names = settings.topics
    async with asyncio.timeout(within):
        outputs = (names.events, names.trips, names.dead_letters, names.late)
        await asyncio.gather(*(_no_open_transaction(settings, topic) for topic in outputs))
        telemetry, events, uncommitted, trips, commands, dead_letters, late = await asyncio.gather(
            _read(settings, names.telemetry),
            _read(settings, names.events),
            _read(settings, names.events, isolation="read_uncommitted"),
            _read(settings, names.trips),
            _read(settings, names.commands),
            _read(settings, names.dead_letters),
            _read(settings, names.late),
        )
        ends = await _ends(settings, names.telemetry, "read_uncommitted")
        admin = AIOKafkaAdminClient(**settings.client())
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(settings.application_id)
        finally:
            await admin.close()
    committed = {
        place.partition: found.offset
        for place, found in offsets.items()
        if place.topic == names.telemetry and found.offset >= 0
    }
    return Logs(telemetry, events, uncommitted, trips, commands, dead_letters, late, committed, ends)


class _Places:
    """A consumer of all partitions of a topic."""

    def __init__(self, settings: Settings, topic: str, isolation: str) -> None:
        self.topic = topic
        self.consumer = AIOKafkaConsumer(
            **settings.client(),
            isolation_level=isolation,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )

    async def __aenter__(self) -> tuple[AIOKafkaConsumer, list[TopicPartition]]:
        await self.consumer.start()
        numbers = await self.consumer._client._wait_on_metadata(self.topic)
        return self.consumer, [TopicPartition(self.topic, number) for number in sorted(numbers)]

    async def __aexit__(self, *_: object) -> None:
        await self.consumer.stop()


async def _read(settings: Settings, topic: str, *, isolation: str = "read_committed") -> list[Any]:
    async with _Places(settings, topic, isolation) as (consumer, places):
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        records: list[Any] = []
        # Positions, and not records, tell when the end is reached: the last offsets may be markers of transactions,
        # and compaction leaves holes.
        while any([await consumer.position(place) < ends[place] for place in places]):
            for some in (await consumer.getmany(timeout_ms=200)).values():
                records += some
    return sorted(
        (record for record in records if record.offset < ends[TopicPartition(topic, record.partition)]), key=_place
    )


async def _ends(settings: Settings, topic: str, isolation: str) -> dict[int, int]:
    """Where reading ends; reading committed: at the first transaction that is open."""
    async with _Places(settings, topic, isolation) as (consumer, places):
        return {place.partition: end for place, end in (await consumer.end_offsets(places)).items()}


async def _no_open_transaction(settings: Settings, topic: str) -> None:
    while await _ends(settings, topic, "read_committed") != await _ends(settings, topic, "read_uncommitted"):  # noqa: ASYNC110 - it happens in Kafka
        await asyncio.sleep(0.5)


# ---------------------------------------------------------------------------------------------------------- the truth


@dataclass(frozen=True)
class _Deletion:
    """A trip that was deleted, as it was announced until then; ``offset``: of its vehicle's newest record."""

    trip_id: str
    start: int
    end: int | None
    reason: str | None
    superseded: bool
    offset: int


class _Vehicle:
    """What the telemetry says of a vehicle, everything kept."""

    def __init__(self, vehicle_id: str, partition: int, rules: Rules) -> None:
        self.id = vehicle_id
        self.partition = partition
        self.rules = rules
        self.timeline = Timeline(rules)
        self.applied: dict[int, tuple[int, int]] = {}
        """Of each applied record, by offset: its timestamp, and how many samples there were after it."""
        self.belated: list[int] = []
        """Which samples were behind the horizon when they came, and count as the first of their property."""
        self._newest: int | None = None
        self.deletions: list[_Deletion] = []
        """In the order of their revisions."""
        self.holes: list[tuple[int, OracleHole]] = []
        """Those that were dug, each with the offset of the newest record before it."""

    def dig(self, before: float) -> None:
        """Dig the holes of trips that were deleted before this offset."""
        while self.deletions and self.deletions[0].offset < before:
            deletion = self.deletions.pop(0)
            dug = any(hole.start == deletion.start for _, hole in self.holes)
            if dug or deletion.superseded or deletion.offset not in self.applied:
                continue
            samples = self._outside(self.timeline.samples[: self.applied[deletion.offset][1]])
            newest = max(sample[0] for sample in self.timeline.samples)
            told = OracleTrip(deletion.trip_id, deletion.start, deletion.end, False, deletion.reason, {}, None, None)
            self.holes.append((deletion.offset, dig(samples, told, newest, self.rules.trigger)))

    def _outside(self, samples: Iterable[Any]) -> list[Any]:
        return [sample for sample in samples if not any(hole.covers(sample[0]) for _, hole in self.holes)]

    def offer(self, record: Any, samples: Sequence[tuple[int, Property, Any]]) -> bool | None:
        """Take in a record; returns whether something in it is late; None: it depends.

        It does where the sample is inside a deleted trip that the horizon is passing: refused if it came after the
        deletion, late if it came before, and a record of which nothing counts does not tell.
        """
        self.dig(record.offset)
        horizon = self.timeline.horizon
        holes = [hole for _, hole in self.holes if hole.end >= horizon]
        inside = [sample for sample in samples if any(hole.covers(sample[0]) for hole in holes)]
        samples = [sample for sample in samples if sample not in inside]
        before, newest = len(self.timeline.samples), self._newest
        applied, late = self.timeline.offer(samples)
        if applied:
            added = self.timeline.samples[before:]
            self.applied[record.offset] = (record.timestamp, before + len(added))
            for number, (instant, _, _) in enumerate(added, before):
                if newest is not None and instant < newest - self.rules.correction_horizon_ms:
                    self.belated.append(number)
                if self._newest is None or instant > self._newest:
                    self._newest = instant
        return True if late else None if any(sample[0] < horizon for sample in inside) else False

    def tellings(self, quiet: float, offset: int | None = None) -> list[list[OracleTrip]]:
        """The trips after a record: with all belated samples, and for each of those without it and later ones.

        What a deleted trip leaves to its neighbours may be gone already: so often each.
        """
        samples = self.timeline.samples[: None if offset is None else self.applied[offset][1]]
        holes = [hole for dug, hole in self.holes if offset is None or dug < offset]
        belated = [number for number in self.belated if number < len(samples)]
        told = []
        for these in [holes, [replace(hole, gone=True) for hole in holes]] if holes else [holes]:
            told.append(derive(samples, self.rules, quiet, vehicle_id=self.id, holes=these))
            for first in range(len(belated)):
                left_out = set(belated[first:])
                rest = [sample for number, sample in enumerate(samples) if number not in left_out]
                told.append(derive(rest, self.rules, quiet, vehicle_id=self.id, holes=these))
        return told


@dataclass
class _Truth:
    """What should have become of the telemetry."""

    vehicles: dict[str, _Vehicle] = field(default_factory=dict)
    rejected: dict[Place, tuple[Any, bool]] = field(default_factory=dict)
    """Records with something that cannot be read, and whether the rest of it counts."""
    late: dict[Place, tuple[Any, None]] = field(default_factory=dict)
    perhaps_late: dict[Place, tuple[Any, None]] = field(default_factory=dict)
    elsewhere: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Vehicles with samples in more than one partition, and which those are."""


def _truth_of(telemetry: Iterable[Any], settings: Settings, deletions: Mapping[str, list[_Deletion]]) -> _Truth:
    truth, rules = _Truth(), settings.rules()
    reader = Reader(max_clock_skew_ms=settings.max_clock_skew_ms)
    for record in sorted(telemetry, key=_place):
        if not 0 <= record.timestamp <= END_OF_TIME:
            truth.rejected[_place(record)] = (record, False)
            continue
        reading = reader.read(record.value, record.key, record.timestamp)
        if reading.problems:
            truth.rejected[_place(record)] = (record, bool(reading.rows))
        if reading.vehicle_id is None or not reading.rows:
            continue
        vehicle = truth.vehicles.get(reading.vehicle_id)
        if vehicle is None:
            vehicle = truth.vehicles[reading.vehicle_id] = _Vehicle(reading.vehicle_id, record.partition, rules)
            vehicle.deletions = sorted(deletions.get(vehicle.id, []), key=lambda one: one.offset)
        if vehicle.partition != record.partition:
            truth.elsewhere[vehicle.id] |= {vehicle.partition, record.partition}
            continue
        samples = [
            (row[0], Property(bit), value)
            for row in reading.rows
            for bit, value in row_items(row).items()
            if bit != FLOW_ID_BIT
        ]
        late = vehicle.offer(record, samples)
        if late:
            truth.late[_place(record)] = (record, None)
        elif late is None:
            truth.perhaps_late[_place(record)] = (record, None)
    for vehicle in truth.vehicles.values():
        vehicle.dig(math.inf)
    return truth


# ------------------------------------------------------------------------------------------------- what was announced


@dataclass(slots=True)
class _Said:
    """An announcement."""

    record: Any
    payload: dict[str, Any]
    event: str
    event_id: str
    vehicle_id: str
    trip_id: str
    revision: int

    @property
    def trip(self) -> dict[str, Any]:
        return self.payload["data"]["trip"]

    @property
    def superseded(self) -> bool:
        return self.payload["data"].get("reason") == "SUPERSEDED"

    @property
    def name(self) -> str:
        return f"{self.event} of {self.trip_id} ({self.vehicle_id}) at revision {self.revision}"

    @classmethod
    def read(cls, record: Any) -> _Said:
        """Raises ValueError, LookupError or TypeError if it is no announcement."""
        payload = json.loads(record.value)
        metadata, trip = payload["metadata"], payload["data"]["trip"]
        said = cls(
            record, payload, metadata["type"], metadata["id"], trip["vehicle_id"], trip["id"], int(trip["revision"])
        )
        if said.event not in RANK and said.event != DELETED:
            raise ValueError(f"there is no event {said.event}")
        if said.event == "TripDiscarded" and "reason" not in payload["data"]:
            raise LookupError("reason")
        if said.event != DELETED:
            _ms(trip["start"]["timestamp"])
        if said.event in {"TripEnded", *READY}:
            _ms(trip["end"]["timestamp"])
        return said


class _Judgement:
    """One verdict in the making."""

    def __init__(self, logs: Logs, settings: Settings, *, quiet: bool) -> None:
        self.verdict = Verdict(messages=len(logs.telemetry))
        if settings.processing_guarantee == "at_least_once":
            logs = replace(
                logs,
                events=self._without_repetitions(logs.events),
                dead_letters=self._without_repetitions(logs.dead_letters),
                late=self._without_repetitions(logs.late),
            )
        self.logs = logs
        self.settings = settings
        self.rules = settings.rules()
        self.quiet = math.inf if quiet else 0.0
        self.found: dict[str, list[str]] = defaultdict(list)
        self.events = list(self._read_events(sorted(logs.events, key=_place)))
        self.by_vehicle: dict[str, list[_Said]] = defaultdict(list)
        for said in self.events:
            self.by_vehicle[said.vehicle_id].append(said)
        self.deleted = {said.trip_id for said in self.events if said.event == DELETED}
        deletions = {vehicle: list(self._deletions(said)) for vehicle, said in self.by_vehicle.items()}
        self.truth = _truth_of(logs.telemetry, settings, deletions)

    def say(self, invariant: str, text: str) -> None:
        self.found[invariant].append(text)

    def run(self) -> Verdict:
        self.trips_are_right()
        self.one_payload()
        for vehicle_id, said in self.by_vehicle.items():
            self.order(vehicle_id, said)
        self.trips_topic()
        commands = [one for one in self.logs.dead_letters if self._is_of(one, self.settings.topics.commands)]
        letters = [one for one in self.logs.dead_letters if one not in commands]
        self.letters("dead letter", letters, self.truth.rejected)
        self.commands(commands)
        came = {self._origin(letter) for letter in self.logs.late}
        perhaps = {place: one for place, one in self.truth.perhaps_late.items() if place in came}
        self.letters("late record", self.logs.late, self.truth.late | perhaps)
        self.everything_committed()
        self.nothing_twice()
        for invariant, texts in sorted(self.found.items()):
            self.verdict.findings += [f"{invariant} {text}" for text in texts[:SHOWN]]
            if len(texts) > SHOWN:
                self.verdict.findings.append(f"{invariant} … and {len(texts) - SHOWN} more")
        return self.verdict

    def _without_repetitions(self, records: Iterable[Any]) -> list[Any]:
        """Each record the first time that it comes in its partition."""
        first: dict[Any, Any] = {}
        for record in sorted(records, key=_place):
            whole = (record.partition, record.key, record.value, tuple(_headers(record)))
            self.verdict.duplicates += first.setdefault(whole, record) is not record
        return list(first.values())

    def _deletions(self, announcements: Iterable[_Said]) -> Iterator[_Deletion]:
        latest: dict[str, _Said] = {}
        for said in announcements:
            if said.event == DELETED:
                last = latest.get(said.trip_id)
                known = last is not None and "end" in last.trip
                yield _Deletion(
                    said.trip_id,
                    _start_of(said.trip_id),
                    _ms(last.trip["end"]["timestamp"]) if known else None,
                    last.payload["data"].get("reason") if known else None,
                    last is None or last.superseded,
                    said.revision - self.rules.revision_base,
                )
            latest[said.trip_id] = said

    def _read_events(self, records: Iterable[Any]) -> Iterator[_Said]:
        for record in records:
            try:
                yield _Said.read(record)
            except (ValueError, LookupError, TypeError) as error:
                self.verdict.extra += 1
                self.say("I0", f"extra: trip-events {_at(record)} is no announcement: {error!r}")

    # -- I0 ----------------------------------------------------------------------------------------------------------

    def trips_are_right(self) -> None:
        for vehicle_id, partitions in self.truth.elsewhere.items():
            self.say("I0", f"vehicle {vehicle_id} is in the source partitions {sorted(partitions)}: not to be judged")
        for vehicle_id in sorted({*self.truth.vehicles, *self.by_vehicle}):
            if vehicle_id not in self.truth.elsewhere:
                view = final_view(said.payload for said in self.by_vehicle[vehicle_id])
                self._view_is_right(vehicle_id, view)
        self._announcements_are_right()

    def _view_is_right(self, vehicle_id: str, view: dict[str, View]) -> None:
        vehicle = self.truth.vehicles.get(vehicle_id)
        tellings = vehicle.tellings(self.quiet) if vehicle is not None else [[]]
        self.verdict.trips += len(tellings[0])
        allowed: dict[str, list[OracleTrip]] = defaultdict(list)
        for trip in itertools.chain.from_iterable(tellings):
            allowed[trip.id].append(trip)
        for trip_id in self.deleted & (view.keys() | allowed.keys()):
            allowed.pop(trip_id, None)
            if view.pop(trip_id).status != "deleted":
                self.say("I0", f"extra: {trip_id} of {vehicle_id} is deleted, and announced all the same")
        for trip_id, trips in allowed.items():
            if len(trips) == len(tellings) and (trip_id not in view or view[trip_id].status == "superseded"):
                self.verdict.missing += 1
                told = "superseded" if trip_id in view else "never announced"
                self.say("I0", f"missing: {_trip_text(vehicle_id, trips[0])} is {told}")
        for trip_id, seen in view.items():
            if trip_id not in allowed:
                if seen.status != "superseded":
                    self.verdict.extra += 1
                    start = seen.trip["start"]["timestamp"]
                    self.say("I0", f"extra: {trip_id} of {vehicle_id} from {start} is {seen.status}, and never was")
            elif seen.status != "superseded":
                assert vehicle is not None
                wrong = [_difference(seen, trip, belated=bool(vehicle.belated)) for trip in allowed[trip_id]]
                if all(wrong):
                    self.verdict.different += 1
                    self.say("I0", f"different: {_trip_text(vehicle_id, allowed[trip_id][0])}: {wrong[0]}")

    def _announcements_are_right(self) -> None:
        """Each is of a record that was applied, and says what the vehicle's records up to that one say."""
        last_words: list[_Said] = []
        others: list[_Said] = []
        for vehicle_id, announcements in self.by_vehicle.items():
            vehicle = self.truth.vehicles.get(vehicle_id)
            if vehicle is None or vehicle_id in self.truth.elsewhere:
                continue
            latest: dict[str, _Said] = {}
            checked = []
            for said in announcements:
                offset = said.revision - self.rules.revision_base
                if offset < 0:
                    continue
                if offset not in vehicle.applied:
                    self.say("I0", f"revision: {said.name}: no record {vehicle.partition}@{offset} of it was applied")
                elif said.payload["metadata"]["occurred_at"] != timestamp(vehicle.applied[offset][0]):
                    self.say("I0", f"revision: {said.name}: that record is of another time")
                elif said.event != DELETED:
                    checked.append(said)
                    latest[said.trip_id] = said
            open_words = {id(said) for said in latest.values() if said.event in {"TripStarted", "TripEnded"}}
            for said in checked:
                (last_words if id(said) in open_words else others).append(said)
        random.Random(len(others)).shuffle(others)
        self._say_what_was_known(last_words, math.inf)
        self._say_what_was_known(others, BUDGET_MS)

    def _say_what_was_known(self, announcements: list[_Said], budget_ms: float) -> None:
        rules = self.rules
        waits = {rules.merge_gap_ms, rules.ready_delay_ms, rules.silence_timeout_ms} - {0}
        quiets = [0.0, *sorted(wait + 1.0 for wait in waits), math.inf]
        for vehicle_id, revision, group in _grouped(announcements):
            vehicle = self.truth.vehicles[vehicle_id]
            offset = revision - rules.revision_base
            count = vehicle.applied[offset][1]
            left = group
            for quiet in quiets:
                budget_ms -= SAMPLE_MS * count * (1 + len(vehicle.belated))
                if budget_ms < 0:
                    return
                tellings = vehicle.tellings(quiet, offset)
                left = [said for said in left if not any(_may_say(said, trips, vehicle) for trips in tellings)]
                if not left:
                    break
            for said in left:
                self.say("I0", f"at its revision: {said.name} is not what the records up to that one say")

    # -- I1 ----------------------------------------------------------------------------------------------------------

    def one_payload(self) -> None:
        payloads: dict[tuple[str, str, int], bytes] = {}
        committed = len(self.logs.events)
        for number, record in enumerate([*self.logs.events, *self.logs.events_uncommitted]):
            try:
                said = _Said.read(record)
            except (ValueError, LookupError, TypeError):
                continue
            if number >= committed and self._has_deleted(said.vehicle_id):
                continue
            name = (said.trip_id, said.event, said.revision)
            if payloads.setdefault(name, record.value) != record.value:
                self.say("I1", f"{said.name} has another payload at {_at(record)} than before")

    def _has_deleted(self, vehicle_id: str | None) -> bool:
        return any(said.event == DELETED for said in self.by_vehicle.get(vehicle_id or "", ()))

    # -- I2 ----------------------------------------------------------------------------------------------------------

    def order(self, vehicle_id: str, announcements: list[_Said]) -> None:
        partitions = {said.record.partition for said in announcements}
        if len(partitions) > 1:
            self.say("I2", f"vehicle {vehicle_id} is announced in the partitions {sorted(partitions)}")
        if vehicle_id in self.truth.elsewhere:
            return
        before: dict[str, _Said] = {}
        on: dict[str, int] = {}
        revision = -1
        for said in announcements:
            if said.record.key != vehicle_id.encode():
                self.say("I2", f"{said.name} has the key {said.record.key!r}")
            if said.revision < revision:
                self.say("I2", f"{said.name} comes after revision {revision} of its vehicle")
            revision = max(revision, said.revision)
            last = before.get(said.trip_id)
            wrong = self._follows(said, last)
            if wrong:
                self.say("I2", f"{said.name} at {_at(said.record)}: {wrong}")
            before[said.trip_id] = said
            if said.event == "TripStarted":
                start = _ms(said.trip["start"]["timestamp"])
                for other, its_start in on.items():
                    if its_start < start:
                        self.say("I2", f"{said.name}: {other}, which started before it, has not ended")
                on[said.trip_id] = start
            else:
                on.pop(said.trip_id, None)

    def _follows(self, said: _Said, last: _Said | None) -> str:
        """What is wrong with this announcement after the last one of the same trip."""
        if said.event == DELETED:
            return ""
        if last is None:
            return "" if said.event == "TripStarted" else "it is the first of its trip"
        if last.event == DELETED:
            return "its trip is deleted"
        if said.revision < last.revision:
            return f"after revision {last.revision} of the trip"
        if said.revision == last.revision and RANK[said.event] <= RANK[last.event]:
            return f"after {last.event} of the same revision"
        if last.superseded:
            return "" if said.event == "TripStarted" else "after its trip was superseded"
        if said.superseded:
            return ""
        if last.event == "TripStarted" and said.event != "TripEnded":
            return "after TripStarted"
        if last.event == "TripEnded" and self.rules.ready_delay_ms == 0:
            complete = said.event not in {"TripStarted", "TripEnded"} and said.revision == last.revision
            if not complete:
                return f"after TripEnded of revision {last.revision}, of which neither ready nor discarded was said"
        if said.event == "TripEnded" and "end" in last.trip and _end(said.trip) == _end(last.trip):
            return "the same end was announced before"
        if said.event == last.event and _exact(_content(said.trip)) == _exact(_content(last.trip)):
            return f"revision {last.revision} has said the same"
        return ""

    # -- I3 ----------------------------------------------------------------------------------------------------------

    def trips_topic(self) -> None:
        expected: dict[bytes, bytes] = {}
        for said in self.events:
            if said.event in READY:
                expected[said.trip_id.encode()] = said.record.value
            elif said.event != "TripEnded":
                expected.pop(said.trip_id.encode(), None)
        topic: dict[bytes | None, bytes] = {}
        seen: dict[tuple[str, bool], Any] = {}
        for record in sorted(self.logs.trips, key=_place):
            if record.value is None:
                topic.pop(record.key, None)
            else:
                topic[record.key] = record.value
            event_id = _header(record, "ce_id")
            if event_id is None:
                self.say("I3", f"trips {_at(record)} has no ce_id: no announcement has made it")
            elif seen.setdefault((event_id, record.value is None), record) is not record:
                self.verdict.duplicates += 1
                self.say("I5", f"trips holds {event_id} twice: at {_at(record)} again")
        for key, value in expected.items():
            if key not in topic:
                self.verdict.missing += 1
                self.say("I3", f"missing: trips holds nothing of {key.decode()}, which is ready")
            elif topic[key] != value:
                self.verdict.different += 1
                self.say("I3", f"different: trips holds of {key.decode()} not what was announced last")
        for key in topic.keys() - expected.keys():
            self.verdict.extra += 1
            self.say("I3", f"extra: trips holds {key!r}, which is not ready")

        gone = {_header(record, "ce_subject") for record in self.logs.trips if _header(record, "ce_type") == DELETED}
        for trip_id in sorted(self.deleted - gone):
            self.verdict.missing += 1
            self.say("I3", f"missing: trips holds no tombstone of {trip_id}, which is deleted")

    # -- I4 ----------------------------------------------------------------------------------------------------------

    def commands(self, refused: Iterable[Any]) -> None:
        """Of several commands about a trip the first is carried out; all others are refused, each once."""
        asked: dict[str, list[Place]] = defaultdict(list)
        for record in sorted(self.logs.commands, key=_place):
            asked[json.loads(record.value)["trip_id"]].append(_place(record))
        said = Counter(one.trip_id for one in self.events if one.event == DELETED)
        for trip_id in sorted(said.keys() - asked.keys()):
            self.verdict.extra += 1
            self.say("I4", f"extra: {trip_id} is deleted, and nobody asked for that")
        letters: dict[str, list[Place]] = defaultdict(list)
        for letter in refused:
            place = (
                int(_header(letter, "__connect.errors.partition") or ""),
                int(_header(letter, "__connect.errors.offset") or ""),
            )
            letters[json.loads(letter.value)["trip_id"]].append(place)
        for trip_id, places in asked.items():
            if said[trip_id] != 1:
                self.verdict.missing += not said[trip_id]
                self.verdict.duplicates += max(0, said[trip_id] - 1)
                self.say("I4", f"{trip_id} is to be deleted, and TripDeleted was said {said[trip_id]} times")
            if sorted(letters[trip_id]) != sorted(places[1:]):
                self.say("I4", f"commands {places} about {trip_id}: refused were {sorted(letters[trip_id])}")

    def _is_of(self, letter: Any, topic: str) -> bool:
        return _header(letter, "__connect.errors.topic") == topic

    def letters(self, what: str, letters: Iterable[Any], expected: Mapping[Place, tuple[Any, bool | None]]) -> None:
        """Dead letters or late records: exactly those expected, each once, each as it came."""
        arrived: Counter[Place] = Counter()
        for letter in sorted(letters, key=_place):
            origin = self._origin(letter)
            if origin not in expected:
                self.verdict.extra += 1
                self.say("I4", f"extra: {what} {_at(letter)} of {origin or 'nowhere'}: nothing was wrong with that")
                continue
            arrived[origin] += 1
            if arrived[origin] > 1:
                self.verdict.duplicates += 1
                self.say("I4", f"duplicate: {what} {_at(letter)} of {origin[0]}@{origin[1]} again")
                continue
            wrong = _letter_difference(letter, *expected[origin])
            if wrong:
                self.verdict.different += 1
                self.say("I4", f"different: {what} {_at(letter)} of {origin[0]}@{origin[1]}: {wrong}")
        for partition, offset in sorted(expected.keys() - arrived.keys()):
            self.verdict.missing += 1
            record = expected[partition, offset][0]
            self.say("I4", f"missing: there is no {what} of {partition}@{offset}{self._circumstances(record)}")

    def _circumstances(self, record: Any) -> str:
        """What the record says, and which trips of its vehicle are deleted."""
        vehicle_id = (
            Reader(max_clock_skew_ms=self.settings.max_clock_skew_ms)
            .read(record.value, record.key, record.timestamp)
            .vehicle_id
        )
        deletions = list(self._deletions(self.by_vehicle[vehicle_id])) if vehicle_id in self.by_vehicle else []
        return f", {record.value!r}; deleted: {deletions}" if deletions else f", {record.value!r}"

    def _origin(self, letter: Any) -> Place | None:
        if _header(letter, "__connect.errors.topic") != self.settings.topics.telemetry:
            return None
        try:
            return (
                int(_header(letter, "__connect.errors.partition") or ""),
                int(_header(letter, "__connect.errors.offset") or ""),
            )
        except ValueError:
            return None

    def everything_committed(self) -> None:
        committed = self.logs.committed
        rest = Counter(
            record.partition for record in self.logs.telemetry if record.offset >= committed.get(record.partition, 0)
        )
        for partition, count in sorted(rest.items()):
            at = committed.get(partition, "nothing")
            self.say("I4", f"not done: partition {partition} is committed up to {at}, with {count} records to come")
        for partition, offset in sorted(committed.items()):
            end = self.logs.ends.get(partition, 0)
            if offset > end:
                self.say("I4", f"partition {partition} is committed up to {offset}, and ends at {end}")

    # -- I5 ----------------------------------------------------------------------------------------------------------

    def nothing_twice(self) -> None:
        first: dict[str, Any] = {}
        for said in self.events:
            for event_id in dict.fromkeys((said.event_id, _header(said.record, "ce_id") or "")):
                if first.setdefault(event_id, said.record) is not said.record:
                    self.verdict.duplicates += 1
                    self.say("I5", f"{said.name} is at {_at(first[event_id])} and at {_at(said.record)}")
                    break
            wrong = _header_difference(said)
            if wrong:
                self.say("I5", f"{said.name} at {_at(said.record)}: {wrong}")

        of_id: dict[str, bytes | None] = {}
        uncommitted: dict[Place, bytes | None] = {}
        for record in sorted(self.logs.events_uncommitted, key=_place):
            uncommitted[_place(record)] = record.value
            event_id = _header(record, "ce_id")
            if event_id is None:
                self.say("I5", f"trip-events {_at(record)} has no ce_id")
            elif self._has_deleted((record.key or b"").decode()):
                continue
            elif of_id.setdefault(event_id, record.value) != record.value:
                self.say("I5", f"read uncommitted, {event_id} is not the same at {_at(record)} as before")
        lost = [record for record in self.logs.events if uncommitted.get(_place(record)) != record.value]
        if lost:
            self.say("I5", f"{len(lost)} announcements are not there reading uncommitted, as {_at(lost[0])}")


def judge(logs: Logs, settings: Settings, *, quiet: bool = False) -> Verdict:
    """Hold what stands in Kafka against the contract.

    Args:
        logs: what :func:`collect` has read, or the like.
        settings: those of the workers.
        quiet: every quiet has run out since the last record; else none has.
    """
    return _Judgement(logs, settings, quiet=quiet).run()


# ------------------------------------------------------------------------------------------------------- comparing


def _difference(seen: View, trip: OracleTrip, *, belated: bool) -> str:
    """What a consumer holds of a trip against what there is; empty: the same."""
    if trip.on:
        return "" if seen.status == "on" else f"it is on, and announced as {seen.status}"
    assert trip.end is not None
    end = timestamp(trip.end)
    if seen.trip.get("end", {}).get("timestamp") != end:
        return f"it ended at {end}, and is announced as {seen.status} ({seen.trip.get('end')})"
    if not trip.passed:
        return "" if seen.status in {"ended", "ready", "discarded"} else f"it has ended, and is {seen.status}"
    status = "ready" if trip.reason is None else "discarded"
    if (seen.status, seen.data.get("reason")) != (status, trip.reason):
        return f"it is {status} ({trip.reason}), and announced as {seen.status} ({seen.data.get('reason')})"
    assert trip.final is not None
    return _content_difference(_content(seen.trip), trip.final, belated=belated)


def _content_difference(said: dict[str, Any], true: dict[str, Any], *, belated: bool) -> str:
    if belated:
        # A belated sample is added to a trip that goes on, but its gaps stay as they were told.
        said, true = _without_longest_gap(said), _without_longest_gap(true)
    if _exact(said) == _exact(true):
        return ""
    flat, flat_true = dict(_flat(said)), dict(_flat(true))
    names = [name for name in sorted(flat.keys() | flat_true.keys()) if flat.get(name) != flat_true.get(name)]
    return ", ".join(f"{name} is {flat_true.get(name)}, announced {flat.get(name)}" for name in names[:3])


def _without_longest_gap(trip: dict[str, Any]) -> dict[str, Any]:
    if "metrics" not in trip:
        return trip
    metrics = {name: value for name, value in trip["metrics"].items() if name != "longest_gap_in_ms"}
    return trip | {"metrics": metrics}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)


def _may_say(said: _Said, trips: list[OracleTrip], vehicle: _Vehicle) -> bool:
    """Whether an announcement says what is to be said when these are the trips."""
    data = said.payload["data"]
    trip = next((trip for trip in trips if trip.id == said.trip_id), None)
    content = _content(said.trip)
    if trip is None:
        start = said.trip["start"]["timestamp"]
        at = _ms(start)
        heirs = [one.id for one in trips if one.start <= at and (one.end is None or at <= one.end)]
        names = {"id": said.trip_id, "key": said.trip["key"], "vehicle_id": said.vehicle_id}
        return said.superseded and data == {
            "occurred_at": start,
            "reason": "SUPERSEDED",
            "superseded_by": heirs,
            "trip": names
            | {"revision": said.revision, "data_completion_status": "DISCARDED", "start": {"timestamp": start}},
        }
    if said.superseded:
        return False
    if said.event == "TripStarted":
        true, at, reason = trip.started, trip.start, None
    elif trip.end is None:
        return False
    elif said.event == "TripEnded":
        true, at, reason = trip.ended, trip.end, None
    elif (said.event == "TripDiscarded") == (trip.reason is not None):
        true, at, reason = trip.final, trip.end, trip.reason
    else:
        return False
    assert true is not None
    return (
        data["occurred_at"] == timestamp(at)
        and data.get("reason") == reason
        and not _content_difference(content, true, belated=bool(vehicle.belated))
    )


def _letter_difference(letter: Any, record: Any, partial: bool | None) -> str:  # noqa: FBT001
    """A dead letter or late record against the record that it is of. Of a late one, partial says nothing."""
    if partial is not None and (_header(letter, "ignition-trips.partial") == "true") != partial:
        return "it should be partial" if partial else "it should not be partial"
    size = _header(letter, "ignition-trips.original-size")
    headers, own = _headers(record), _headers(letter)
    if size is None:
        if letter.key != record.key or letter.value != record.value:
            return "its key or value is not as it came"
        return "" if own[: len(headers)] == headers else "its headers are not as they came"
    if size != str(len(record.value or b"")):
        return f"it is cut short, and the size that it had is not {size}"
    if not (record.value or b"").startswith(letter.value or b"") or letter.key not in {record.key, None}:
        return "what is left of it is not as it came"
    return ""


def _header_difference(said: _Said) -> str:
    metadata = said.payload["metadata"]
    digest = hashlib.blake2b(f"{said.trip_id}|{said.event}|{said.revision}".encode(), digest_size=10).digest()
    if said.event_id != ulid(_ms(metadata["occurred_at"]), digest):
        return "its id is not that of its trip, type, revision and time"
    expected = {
        "ce_id": said.event_id,
        "ce_type": said.event,
        "ce_subject": said.trip_id,
        "ce_time": metadata["occurred_at"],
    }
    wrong = [name for name, value in expected.items() if _header(said.record, name) != value]
    return f"{', '.join(wrong)} and the payload tell different things" if wrong else ""


def _grouped(announcements: list[_Said]) -> Iterator[tuple[str, int, list[_Said]]]:
    """By vehicle and revision, in the order of their first."""
    groups: dict[tuple[str, int], list[_Said]] = defaultdict(list)
    for said in announcements:
        groups[said.vehicle_id, said.revision].append(said)
    for (vehicle_id, revision), group in groups.items():
        yield vehicle_id, revision, group


def _trip_text(vehicle_id: str, trip: OracleTrip) -> str:
    return f"{trip.id} of {vehicle_id} from {timestamp(trip.start)}"


def _content(trip: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trip.items() if name != "revision"}


def _end(trip: dict[str, Any]) -> Any:
    return trip["end"]["timestamp"]


def _exact(value: Any) -> str:
    """Equal only if also the kinds of numbers are."""
    return json.dumps(value, sort_keys=True)


def _start_of(trip_id: str) -> int:
    """The first 48 bits of a ULID."""
    start = 0
    for character in trip_id[:10]:
        start = start * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    return start


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _place(record: Any) -> Place:
    return record.partition, record.offset


def _at(record: Any) -> str:
    return f"{record.partition}@{record.offset}"


def _headers(record: Any) -> list[tuple[str, bytes | None]]:
    return [(name, value) for name, value in record.headers]


def _header(record: Any, name: str) -> str | None:
    """The last header of this name: those of the application come after those that a record came with."""
    return next(
        (
            value.decode(errors="replace")
            for one, value in reversed(record.headers)
            if one == name and value is not None
        ),
        None,
    )
