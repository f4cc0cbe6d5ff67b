"""The judge finds nothing where nothing is wrong, and whatever is."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition
from faults.judge import Logs, Record, collect, judge
from integration.cluster import caught_up, feed, read

from streams.delivery.checkpoint import partition_for
from streams.delivery.messages import Source, announcement_messages, dead_letter, late_letter
from streams.processor import Processor
from streams.settings import Settings
from streams.telemetry.reader import Reader
from streams.topics import create_topics
from streams.trips.identity import event_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EPOCH = 1_767_225_600_000  # 2026-01-01T00:00:00Z
KAFKA_TIME = EPOCH + 30 * 86_400_000
MINUTE = 60_000
HOUR = 60 * MINUTE
PARTITIONS = 2
RULES = {"silence_timeout": 600, "correction_horizon": 7200}


# ------------------------------------------------------------------------------------------- a worker without a broker


class Cluster:
    """The topics of a worker that is restarted, and whose checkpoints are aborted, now and then."""

    def __init__(self, settings: Settings, chance: random.Random, *, deleting: float = 0) -> None:
        self.settings = settings
        self.deleting = deleting
        self.chance = chance
        self.logs = Logs(committed=dict.fromkeys(range(PARTITIONS), 0))
        self.changelogs: list[dict[bytes, bytes | None]] = [{} for _ in range(PARTITIONS)]
        self.ends: dict[tuple[str, int], int] = {}

    def append(self, topic: str, key: Any, value: Any, headers: Any = (), *, partition: int | None = None) -> Record:
        place = partition_for(key, PARTITIONS, 0) if partition is None else partition
        offset = self.ends.get((topic, place), 0)
        self.ends[topic, place] = offset + 1
        return Record(place, offset, KAFKA_TIME + offset, key, value, tuple(headers))

    def send(self, key: bytes | None, value: bytes | None, headers: Any = ()) -> None:
        self.logs.telemetry.append(self.append("telemetry", key, value, headers))

    def start(self, partition: int) -> Processor:
        processor = Processor(self.settings.rules(), Reader(max_clock_skew_ms=self.settings.max_clock_skew_ms))
        processor.restore(list(self.changelogs[partition].items()))
        processor.restored()
        return processor

    def run(self, *, quiet: bool = False) -> Logs:
        """Work through everything in batches."""
        for partition in range(PARTITIONS):
            self._run(partition)
            if quiet:
                processor = self.start(partition)
                processor.close()
                self._deliver(processor, partition, None)
        self.logs.ends = {partition: self.ends.get(("telemetry", partition), 0) for partition in range(PARTITIONS)}
        return self.logs

    def _run(self, partition: int) -> None:
        processor = self.start(partition)
        records = [record for record in self.logs.telemetry if record.partition == partition]
        at = 0
        while at < len(records):
            batch = records[at : at + self.chance.choice([1, 3, 20, 60])]
            processor.process(batch)
            aborted = self.chance.random() < 0.1
            self._deliver(processor, partition, None if aborted else batch[-1].offset + 1, aborted=aborted)
            at += 0 if aborted else len(batch)
            if aborted or self.chance.random() < 0.1:
                processor = self.start(partition)
            if self.deleting and self.chance.random() < self.deleting:
                self._delete(processor, partition)

    def _delete(self, processor: Processor, partition: int) -> None:
        """Have a trip of this partition deleted that was announced, once or twice."""
        here = ("ignition-trips.partition", b"%d" % partition)
        gone = {trip(record)["id"] for record in self.logs.events if kind(record) == "TripDeleted"}
        said = [record for record in self.logs.events if here in record.headers and trip(record)["id"] not in gone]
        for record in [self.chance.choice(said)] * self.chance.choice([1, 1, 2]) if said else []:
            about = trip(record)
            body = {
                "type": "DeleteTrip",
                "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
                "trip_id": about["id"],
                "vehicle_id": about["vehicle_id"],
                "requested_at": "2026-04-01T00:00:00Z",
                "revision": about["revision"],
            }
            body |= {"end": about["end"]["timestamp"]} if "end" in about else {}
            key = about["vehicle_id"].encode()
            command = self.append("commands", key, json.dumps(body).encode(), partition=partition)
            self.logs.commands.append(command)
            processor.command(command)
            self._deliver(processor, partition, None)

    def _deliver(self, processor: Processor, partition: int, next_offset: int | None, *, aborted: bool = False) -> None:
        output, logs = processor.take(), self.logs
        source = Source(self.settings.topics.telemetry, partition)
        for announcement in output.announcements:
            event, trip = announcement_messages(announcement, b"/ignition-trips/test", partition)
            record = self.append("events", *event)
            logs.events_uncommitted.append(record)
            if not aborted:
                logs.events.append(record)
            if trip is not None:
                record = self.append("trips", *trip)
                if not aborted:
                    logs.trips.append(record)
        if not aborted:
            for rejected in output.rejected:
                commands = Source(self.settings.topics.commands, partition)
                letter = dead_letter(rejected, commands if rejected.is_command else source, 1_200_000)
                logs.dead_letters.append(self.append("dead", *letter))
            for late in output.late:
                logs.late.append(self.append("late", *late_letter(late, source, 1_200_000)))
            self.changelogs[partition].update(output.changes)
        for name in ("events", "trips"):  # the markers of the transaction
            for place in range(PARTITIONS):
                self.ends[name, place] = self.ends.get((name, place), 0) + 1
        if next_offset is not None:
            logs.committed[partition] = next_offset


# ------------------------------------------------------------------------------------------------------------ messages


def message(vehicle: str, t: int, **said: Any) -> bytes:
    return json.dumps({"vehicle_id": vehicle, "timestamp": t, **said}).encode()


def day(vehicle: str, chance: random.Random) -> Iterator[bytes]:
    """A vehicle's messages in order: kept trips, short ones, ends that are lost, one trip that is on in the end."""
    t, mileage = EPOCH + chance.randrange(HOUR), chance.randrange(100_000)
    unit = {"id": f"unit of {vehicle}", "brand": "CLOUDBOXX"}
    yield message(vehicle, t, ignition="OFF", doors_status="OPEN", telematics_unit=unit)
    for _ in range(8):
        t += chance.randrange(MINUTE, HOUR)
        yield message(vehicle, t, ignition="ON", mileage_in_kilometers=mileage, position={"lat": 50.1, "lon": 7.3})
        for _ in range(chance.choice([1, 6, 20])):
            t += chance.randrange(2_000, 30_000)
            mileage += 0.1
            place = {"lat": 50.1 + chance.random() / 1000, "lon": 7.3}
            yield message(vehicle, t, speed_in_kmh=chance.randrange(90), position=place)
        if chance.random() < 0.9:
            t += 1_000
            yield message(vehicle, t, ignition="OFF", mileage_in_kilometers=mileage, doors_status="CLOSED")
    t += chance.randrange(MINUTE, HOUR)
    yield message(vehicle, t, ignition="ON", fuel_level_in_percent=40)
    yield message(vehicle, t + 90_000, speed_in_kmh=30)


def arrivals(vehicle: str, chance: random.Random) -> Iterator[bytes]:
    """As they come: late, shuffled, repeated, broken."""
    places: list[tuple[float, bytes]] = []
    for number, value in enumerate(day(vehicle, chance)):
        delay = chance.choice([0] * 12 + [3, 9, 80])
        places.append((number + delay if number else 0, value))
        if chance.random() < 0.1:
            places.append((number + chance.randrange(40) + 0.5, value))
        if chance.random() < 0.02:
            places.append((number + 0.3, value[: len(value) // 2]))
        if chance.random() < 0.02:
            bad = json.loads(value) | {"heading_in_degrees": 361}
            places.append((number + 0.2, json.dumps(bad).encode()))
    yield from (value for _, value in sorted(places, key=lambda each: each[0]))


def corrected(vehicle: str) -> Iterator[bytes]:
    """A trip that is ready, then too short, ready again, then split by what comes late, and one that never was."""
    t = EPOCH
    yield message(vehicle, t, ignition="OFF")
    yield message(vehicle, t + MINUTE, ignition="ON")
    yield message(vehicle, t + 11 * MINUTE, ignition="OFF")  # ready
    yield message(vehicle, t + MINUTE + 30_000, ignition="OFF")  # it was 30 s, and discarded
    yield message(vehicle, t + 20 * MINUTE, ignition="ON")
    yield message(vehicle, t + 30 * MINUTE, ignition="OFF")  # ready
    yield message(vehicle, t + 19 * MINUTE, ignition="ON")  # superseded by a longer one


def some_logs(
    seed: int, *, quiet: bool = False, vehicles: int = 6, deleting: float = 0, **rules: Any
) -> tuple[Logs, Settings]:
    chance = random.Random(seed)
    settings = Settings.load(**{**RULES, **rules})
    cluster = Cluster(settings, chance, deleting=deleting)
    sources = {f"car {number}": arrivals(f"car {number}", chance) for number in range(vehicles)}
    sources["corrected"] = corrected("corrected")
    while sources:
        vehicle = chance.choice(list(sources))
        value = next(sources[vehicle], None)
        if value is None:
            del sources[vehicle]
        else:
            cluster.send(vehicle.encode(), value, [("traceparent", b"00-%032x-%016x-01" % (1, 2))])
    cluster.send(b"car 1", None)
    return cluster.run(quiet=quiet), settings


@pytest.fixture(scope="module")
def good() -> tuple[Logs, Settings]:
    return some_logs(7)


# ------------------------------------------------------------------------------------------------ nothing is wrong


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"ready_delay": 30, "merge_gap": 120},
        {"unknown_start": "ignore", "min_distance": 200, "revision_base": 1_000_000},
        {"silence_timeout": 0, "correction_horizon": 1200, "ready_event_name": "TripMetricsReady"},
    ],
    ids=["few rules", "delay and gap", "base and distance", "near horizon"],
)
@pytest.mark.parametrize("quiet", [False, True], ids=["going on", "quiet"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_worker_makes_of_any_stream_is_clean(seed, quiet, rules):
    logs, settings = some_logs(seed, quiet=quiet, **rules)
    verdict = judge(logs, settings, quiet=quiet)
    assert verdict.clean, str(verdict)
    assert (verdict.missing, verdict.extra, verdict.different, verdict.duplicates) == (0, 0, 0, 0)
    assert verdict.messages == len(logs.telemetry) > 500
    assert verdict.trips > 30


def test_the_logs_that_are_mutated_hold_everything_that_can_go_wrong(good):
    logs, _ = good
    events = [json.loads(record.value) for record in logs.events]
    reasons = {event["data"].get("reason") for event in events}
    assert reasons == {None, "TOO_SHORT", "SUPERSEDED"}
    assert len(logs.events_uncommitted) > len(logs.events)
    assert any(record.value is None for record in logs.trips)
    assert logs.late
    assert {dict(record.headers).get("ignition-trips.partial") for record in logs.dead_letters} == {None, b"true"}


@pytest.mark.parametrize(
    "rules",
    [{}, {"ready_delay": 30, "merge_gap": 120}, {"correction_horizon": 1200}],
    ids=["few rules", "delay and gap", "near horizon"],
)
@pytest.mark.parametrize("quiet", [False, True], ids=["going on", "quiet"])
@pytest.mark.parametrize("seed", range(4))
def test_deletions_in_any_stream_are_clean(seed, quiet, rules):
    logs, settings = some_logs(seed, quiet=quiet, deleting=0.4, **rules)
    verdict = judge(logs, settings, quiet=quiet)
    assert verdict.clean, str(verdict)
    assert sum(kind(record) == "TripDeleted" for record in logs.events) > 5


def deleted(logs):
    return next(record for record in logs.events if kind(record) == "TripDeleted")


def a_trip_deleted_twice(logs):
    return with_(logs, "events", at_the_end(logs.events_uncommitted, deleted(logs)))


def a_trip_that_is_not_deleted(logs):
    return without(logs, "events", deleted(logs))


def a_trip_deleted_that_nobody_asked_for(logs):
    about = trip(deleted(logs))["id"].encode()
    return without(logs, "commands", *(one for one in logs.commands if about in one.value))


def a_deleted_trip_announced_again(logs):
    (about,) = {trip(deleted(logs))["id"]}
    start = next(one for one in logs.events if kind(one) == "TripStarted" and trip(one)["id"] == about)
    return said_again(logs, start)


def a_deleted_trip_without_a_tombstone(logs):
    about = trip(deleted(logs))["id"].encode()
    return without(logs, "trips", *(one for one in logs.trips if one.key == about and one.value is None))


def a_refused_command_without_an_answer(logs):
    refused = next(one for one in logs.dead_letters if b"DeleteTrip" in (one.value or b""))
    return without(logs, "dead_letters", refused)


@pytest.mark.parametrize(
    ("mutate", "caught_by"),
    [
        (a_trip_deleted_twice, "I4"),
        (a_trip_that_is_not_deleted, "I4"),
        (a_trip_deleted_that_nobody_asked_for, "I4"),
        (a_deleted_trip_announced_again, "I2"),
        (a_deleted_trip_without_a_tombstone, "I3"),
        (a_refused_command_without_an_answer, "I4"),
    ],
)
def test_it_catches_of_deletions(mutate, caught_by):
    logs, settings = some_logs(7, deleting=0.4)
    assert judge(logs, settings).clean
    assert caught_by in judge(mutate(logs), settings).violated


def test_no_logs_at_all_are_clean():
    assert judge(Logs(), Settings.load()).clean


# ----------------------------------------------------------------------------------------------- something is wrong


def kind(record: Record) -> str:
    return str(json.loads(record.value or b"")["metadata"]["type"])


def trip(record: Record) -> dict[str, Any]:
    return dict(json.loads(record.value or b"")["data"]["trip"])


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def last(records: list[Record], event: str) -> Record:
    """The last announcement of this kind that is the last one of its trip."""
    by_trip = {trip(record)["id"]: record for record in records}
    return [record for record in records if kind(record) == event and by_trip[trip(record)["id"]] is record][-1]


def without(logs: Logs, topic: str, *lost: Record) -> Logs:
    changes = {topic: [record for record in getattr(logs, topic) if record not in lost]}
    if topic == "events":
        changes["events_uncommitted"] = [record for record in logs.events_uncommitted if record not in lost]
    return replace(logs, **changes)


def with_(logs: Logs, topic: str, *more: Record) -> Logs:
    changes = {topic: [*getattr(logs, topic), *more]}
    if topic == "events":
        changes["events_uncommitted"] = [*logs.events_uncommitted, *more]
    return replace(logs, **changes)


def instead(logs: Logs, topic: str, old: Record, new: Record) -> Logs:
    return with_(without(logs, topic, old), topic, new)


def at_the_end(records: list[Record], record: Record) -> Record:
    return replace(record, offset=1 + max(one.offset for one in records if one.partition == record.partition))


def rewritten(record: Record, change: Callable[[dict[str, Any]], None]) -> Record:
    payload = json.loads(record.value or b"")
    change(payload)
    return replace(record, value=json.dumps(payload, separators=(",", ":")).encode())


def a_lost_start(logs):
    return without(logs, "events", next(record for record in logs.events if kind(record) == "TripStarted"))


def a_lost_end(logs):
    return without(logs, "events", next(record for record in logs.events if kind(record) == "TripEnded"))


def a_lost_last_ready(logs):
    return without(logs, "events", last(logs.events, "TripDataReady"))


def a_lost_discard(logs):
    return without(logs, "events", last(logs.events, "TripDiscarded"))


def a_trip_of_which_nothing_was_said(logs):
    lost = trip(last(logs.events, "TripDataReady"))["id"]
    return without(
        without(logs, "trips", *(record for record in logs.trips if record.key == lost.encode())),
        "events",
        *(record for record in logs.events if trip(record)["id"] == lost),
    )


def a_vehicle_of_which_nothing_was_said(logs):
    lost = [record for record in logs.events if record.key == b"car 2"]
    ids = {trip(record)["id"].encode() for record in lost}
    without_trips = without(logs, "trips", *(record for record in logs.trips if record.key in ids))
    return without(without_trips, "events", *lost)


def an_announcement_twice(logs):
    return with_(logs, "events", at_the_end(logs.events_uncommitted, logs.events[-1]))


def another_payload_under_the_same_name(logs):
    record = last(logs.events, "TripDataReady")

    def change(payload):
        payload["data"]["trip"]["metrics"]["duration_in_ms"] += 1

    return with_(logs, "events", at_the_end(logs.events_uncommitted, rewritten(record, change)))


def another_payload_in_an_aborted_transaction(logs):
    record = at_the_end(logs.events_uncommitted, rewritten(logs.events[0], lambda payload: payload.update(more=1)))
    return replace(logs, events_uncommitted=[*logs.events_uncommitted, record])


def two_announcements_of_a_trip_swapped(logs):
    at = next(number for number, record in enumerate(logs.events) if kind(record) == "TripEnded")
    one, other = logs.events[at], logs.events[at + 1]
    assert trip(one)["id"] == trip(other)["id"]
    swapped = instead(logs, "events", one, replace(one, offset=other.offset))
    return instead(swapped, "events", other, replace(other, offset=one.offset))


def the_next_trip_before_the_end_of_one(logs):
    of_vehicle = [record for record in logs.events if record.key == b"car 3"]
    for one, other, third in zip(of_vehicle, of_vehicle[1:], of_vehicle[2:], strict=False):
        if (kind(one), kind(other), kind(third)) == ("TripEnded", "TripDataReady", "TripStarted"):
            # As if the end were of the record that started the next one.
            revision = trip(third)["revision"]
            moved = [third, one, other]
            for record, offset in zip(moved, [one.offset, other.offset, third.offset], strict=True):
                new = rewritten(record, lambda payload, to=revision: payload["data"]["trip"].update(revision=to))
                logs = instead(logs, "events", record, replace(new, offset=offset))
            return logs
    raise AssertionError


def a_revision_lowered(logs):
    record = last(logs.events, "TripDataReady")
    new = rewritten(record, lambda payload: payload["data"]["trip"].update(revision=trip(record)["revision"] - 1))
    return instead(logs, "events", record, new)


def a_revision_of_a_record_that_is_not_there(logs):
    lowered = [record for record in logs.events if trip(record)["id"] == trip(last(logs.events, "TripDataReady"))["id"]]
    for record in lowered[-2:]:
        new = rewritten(record, lambda payload: payload["data"]["trip"].update(revision=1_000_000))
        logs = instead(logs, "events", record, new)
    return logs


def another_key(logs):
    record = logs.events[-1]
    return instead(logs, "events", record, replace(record, key=b"car 9"))


def another_partition(logs):
    record = next(record for record in logs.events if kind(record) == "TripDataReady")
    moved = at_the_end(logs.events_uncommitted, replace(record, partition=1 - record.partition))
    return instead(logs, "events", record, moved)


def an_early_trip(logs):
    """The announcements of a trip that is ready, and whose vehicle has driven on since."""
    ready = next(record for record in logs.events if kind(record) == "TripDataReady" and record.key == b"car 1")
    return [record for record in logs.events if trip(record)["id"] == trip(ready)["id"]]


def said_again(logs, *records):
    """As of the vehicle's newest record that was announced, in every other respect as it should be."""
    newest = [record for record in logs.events if record.key == records[0].key][-1]
    revision, at = trip(newest)["revision"], json.loads(newest.value)["metadata"]["occurred_at"]
    for record in records:
        identifier = event_id(ms(at), trip(record)["id"], kind(record), revision)

        def change(payload, identifier=identifier):
            payload["metadata"] |= {"id": identifier, "occurred_at": at}
            payload["data"]["trip"]["revision"] = revision

        new = rewritten(record, change)
        own = {"ce_id": identifier.encode(), "ce_time": at.encode()}
        headers = tuple((name, own.get(name, value)) for name, value in new.headers)
        logs = with_(logs, "events", at_the_end(logs.events_uncommitted, replace(new, headers=headers)))
    return logs


def an_end_said_again_without_a_cause(logs):
    return said_again(logs, *an_early_trip(logs)[-2:])


def a_trip_ready_again_without_a_cause(logs):
    return said_again(logs, an_early_trip(logs)[-1])


def a_trip_ended_after_it_was_superseded(logs):
    superseded = next(record for record in logs.events if b"SUPERSEDED" in record.value)
    of_trip = [record for record in logs.events if trip(record)["id"] == trip(superseded)["id"]]
    return said_again(logs, next(record for record in of_trip if kind(record) == "TripEnded"))


def a_metric_wrong_in_all_topics(logs):
    record = last(logs.events, "TripDataReady")

    def change(payload):
        payload["data"]["trip"]["metrics"]["position_count"] += 1

    new = rewritten(record, change)
    (of_trip,) = (one for one in logs.trips if one.value == record.value)
    return instead(instead(logs, "events", record, new), "trips", of_trip, replace(of_trip, value=new.value))


def a_word_in_between_that_was_wrong(logs):
    """The position at which a trip starts, said before it has ended: nothing of that is in the last word."""
    record = next(record for record in logs.events if kind(record) == "TripStarted")
    new = rewritten(record, lambda payload: payload["data"]["trip"]["start"].pop("position"))
    return instead(logs, "events", record, new)


def the_start_of_a_trip_that_is_on_wrong(logs):
    record = last(logs.events, "TripStarted")
    new = rewritten(record, lambda payload: payload["data"]["trip"].update(flags=["START_UNOBSERVED"]))
    return instead(logs, "events", record, new)


def a_record_lost_in_trips(logs):
    return without(logs, "trips", [record for record in logs.trips if record.value is not None][-1])


def a_record_of_trips_that_is_not_the_latest(logs):
    keys = [record.key for record in logs.trips if record.value is not None]
    twice = next(key for key in keys if keys.count(key) > 1)
    *_, newest = (record for record in logs.trips if record.key == twice)
    return without(logs, "trips", newest)


def a_tombstone_lost(logs):
    live = {record.key: record for record in logs.trips}
    return without(logs, "trips", next(record for record in live.values() if record.value is None))


def a_record_twice_in_trips(logs):
    return with_(logs, "trips", at_the_end(logs.trips, logs.trips[-1]))


def a_dead_letter_lost(logs):
    return without(logs, "dead_letters", logs.dead_letters[0])


def a_dead_letter_twice(logs):
    return with_(logs, "dead_letters", at_the_end(logs.dead_letters, logs.dead_letters[0]))


def a_dead_letter_with_another_value(logs):
    record = logs.dead_letters[0]
    return instead(logs, "dead_letters", record, replace(record, value=b"x"))


def cut_short(logs, kept=10, size=0):
    """A dead letter that did not fit."""
    letter = max(logs.dead_letters, key=lambda record: len(record.value or b""))
    header = ("ignition-trips.original-size", str(len(letter.value) + size).encode())
    cut = replace(letter, value=letter.value[:kept], headers=(*letter.headers, header))
    return letter, cut


def a_dead_letter_cut_short_of_another_size(logs):
    return instead(logs, "dead_letters", *cut_short(logs, size=1))


def a_dead_letter_cut_short_with_another_value(logs):
    letter, cut = cut_short(logs)
    return instead(logs, "dead_letters", letter, replace(cut, value=b"other"))


def a_dead_letter_that_is_not_partial(logs):
    record = next(record for record in logs.dead_letters if dict(record.headers).get("ignition-trips.partial"))
    headers = tuple(header for header in record.headers if header[0] != "ignition-trips.partial")
    return instead(logs, "dead_letters", record, replace(record, headers=headers))


def a_dead_letter_of_a_good_record(logs):
    rejected = [int(dict(record.headers)["__connect.errors.offset"]) for record in logs.dead_letters]
    good = next(record.offset for record in logs.telemetry if record.offset not in rejected)
    letter = logs.dead_letters[0]
    headers = tuple(
        (name, str(good).encode() if name == "__connect.errors.offset" else value) for name, value in letter.headers
    )
    return with_(logs, "dead_letters", at_the_end(logs.dead_letters, replace(letter, headers=headers)))


def a_late_record_lost(logs):
    return without(logs, "late", logs.late[-1])


def a_late_record_twice(logs):
    return with_(logs, "late", at_the_end(logs.late, logs.late[0]))


def a_late_record_without_its_headers(logs):
    record = logs.late[0]
    headers = tuple(header for header in record.headers if header[0] != "traceparent")
    return instead(logs, "late", record, replace(record, headers=headers))


def records_that_nobody_has_read(logs):
    """Of a vehicle that the worker knows nothing of."""
    offset = logs.ends[0]
    more = [
        Record(0, offset + number, KAFKA_TIME, b"new", message("new", EPOCH + number * HOUR, ignition=said))
        for number, said in enumerate(["OFF", "ON", "OFF"])
    ]
    return replace(with_(logs, "telemetry", *more), ends=logs.ends | {0: offset + 3})


def records_that_were_committed_and_not_applied(logs):
    more = records_that_nobody_has_read(logs)
    return replace(more, committed=dict(more.ends))


def a_committed_offset_that_is_behind(logs):
    return replace(logs, committed=logs.committed | {1: logs.committed[1] - 5})


def an_offset_that_is_committed_nowhere(logs):
    return replace(logs, committed={0: logs.committed[0]})


def a_committed_offset_beyond_the_end(logs):
    return replace(logs, committed=logs.committed | {0: logs.committed[0] + 1})


def a_record_applied_that_never_was(logs):
    """The edges of a trip are not in the log: what was announced of it never was."""
    started = trip(last(logs.events, "TripDataReady"))
    times = [started[side]["timestamp"] for side in ("start", "end")]
    edges = {ms(time) for time in times}
    gone = [
        record
        for record in logs.telemetry
        if record.key == started["vehicle_id"].encode()
        and record.value is not None
        and any(f'"timestamp": {edge}'.encode() in record.value for edge in edges)
    ]
    assert gone
    return without(logs, "telemetry", *gone)


def an_id_that_is_not_its_own(logs):
    record = logs.events[-1]
    return instead(logs, "events", record, rewritten(record, lambda payload: payload["metadata"].update(id="01")))


def a_header_that_tells_another_id(logs):
    record = logs.events[-1]
    headers = tuple((name, b"other" if name == "ce_id" else value) for name, value in record.headers)
    return instead(logs, "events", record, replace(record, headers=headers))


def something_else_among_the_announcements(logs):
    return with_(logs, "events", at_the_end(logs.events_uncommitted, replace(logs.events[-1], value=b"not JSON")))


def an_announcement_that_reading_uncommitted_does_not_show(logs):
    return replace(logs, events_uncommitted=logs.events_uncommitted[:-1])


def a_vehicle_in_two_partitions(logs):
    record = next(record for record in logs.telemetry if record.partition == 0)
    offset = logs.ends[1]
    moved = replace(record, partition=1, offset=offset)
    return replace(
        with_(logs, "telemetry", moved), ends=logs.ends | {1: offset + 1}, committed=logs.committed | {1: offset + 1}
    )


MUTATIONS = [
    (a_lost_start, {"I2"}, {}),
    (a_lost_end, {"I2"}, {}),
    (a_lost_last_ready, {"I0", "I3"}, {}),
    (a_lost_discard, {"I0"}, {}),
    (a_trip_of_which_nothing_was_said, {"I0"}, {"missing": 1}),
    (a_vehicle_of_which_nothing_was_said, {"I0"}, {}),
    (an_announcement_twice, {"I5"}, {"duplicates": 1}),
    (another_payload_under_the_same_name, {"I1", "I5"}, {}),
    (another_payload_in_an_aborted_transaction, {"I1", "I5"}, {}),
    (two_announcements_of_a_trip_swapped, {"I2"}, {}),
    (the_next_trip_before_the_end_of_one, {"I2"}, {}),
    (a_revision_lowered, {"I2", "I0"}, {}),
    (a_revision_of_a_record_that_is_not_there, {"I0"}, {}),
    (another_key, {"I2"}, {}),
    (another_partition, {"I2"}, {}),
    (an_end_said_again_without_a_cause, {"I2"}, {"duplicates": 0}),
    (a_trip_ready_again_without_a_cause, {"I2"}, {"duplicates": 0}),
    (a_trip_ended_after_it_was_superseded, {"I2"}, {"duplicates": 0}),
    (a_metric_wrong_in_all_topics, {"I0"}, {"different": 1}),
    (a_word_in_between_that_was_wrong, {"I0"}, {}),
    (the_start_of_a_trip_that_is_on_wrong, {"I0"}, {}),
    (a_record_lost_in_trips, {"I3"}, {}),
    (a_record_of_trips_that_is_not_the_latest, {"I3"}, {"different": 1}),
    (a_tombstone_lost, {"I3"}, {"extra": 1}),
    (a_record_twice_in_trips, {"I5"}, {"duplicates": 1}),
    (a_dead_letter_lost, {"I4"}, {"missing": 1}),
    (a_dead_letter_twice, {"I4"}, {"duplicates": 1}),
    (a_dead_letter_with_another_value, {"I4"}, {"different": 1}),
    (a_dead_letter_cut_short_of_another_size, {"I4"}, {"different": 1}),
    (a_dead_letter_cut_short_with_another_value, {"I4"}, {"different": 1}),
    (a_dead_letter_that_is_not_partial, {"I4"}, {"different": 1}),
    (a_dead_letter_of_a_good_record, {"I4"}, {"extra": 1}),
    (a_late_record_lost, {"I4"}, {"missing": 1}),
    (a_late_record_twice, {"I4"}, {"duplicates": 1}),
    (a_late_record_without_its_headers, {"I4"}, {"different": 1}),
    (records_that_nobody_has_read, {"I0", "I4"}, {"missing": 1}),
    (records_that_were_committed_and_not_applied, {"I0"}, {"missing": 1}),
    (a_committed_offset_that_is_behind, {"I4"}, {}),
    (an_offset_that_is_committed_nowhere, {"I4"}, {}),
    (a_committed_offset_beyond_the_end, {"I4"}, {}),
    (a_record_applied_that_never_was, {"I0"}, {}),
    (an_id_that_is_not_its_own, {"I5"}, {}),
    (a_header_that_tells_another_id, {"I5"}, {}),
    (something_else_among_the_announcements, {"I0"}, {"extra": 1}),
    (an_announcement_that_reading_uncommitted_does_not_show, {"I5"}, {}),
    (a_vehicle_in_two_partitions, {"I0"}, {}),
]


@pytest.mark.parametrize(("mutate", "caught_by", "counts"), MUTATIONS, ids=[one[0].__name__ for one in MUTATIONS])
def test_it_catches(good, mutate, caught_by, counts):
    logs, settings = good
    verdict = judge(mutate(logs), settings)
    assert caught_by <= verdict.violated, str(verdict)
    assert {name: getattr(verdict, name) for name in counts} == counts, str(verdict)


def an_older_record_of_trips_after_a_newer_one(logs):
    keys = [record.key for record in logs.trips if record.value is not None]
    twice = next(key for key in keys if keys.count(key) > 1)
    oldest = next(record for record in logs.trips if record.key == twice)
    return with_(logs, "trips", at_the_end(logs.trips, oldest))


@pytest.mark.parametrize("mutate", [an_announcement_twice, a_dead_letter_twice, a_late_record_twice])
def test_at_least_once_a_repetition_is_in_order_and_counted(good, mutate):
    logs, settings = good
    verdict = judge(mutate(logs), settings.model_copy(update={"processing_guarantee": "at_least_once"}))
    assert verdict.clean, str(verdict)
    assert verdict.duplicates == 1


@pytest.mark.parametrize(
    ("mutate", "caught_by"),
    [
        (another_payload_under_the_same_name, {"I1", "I5"}),
        (a_record_twice_in_trips, {"I5"}),
        (an_older_record_of_trips_after_a_newer_one, {"I3", "I5"}),
        (a_dead_letter_with_another_value, {"I4"}),
        (a_lost_last_ready, {"I0"}),
    ],
)
def test_at_least_once_nothing_else_is(good, mutate, caught_by):
    logs, settings = good
    verdict = judge(mutate(logs), settings.model_copy(update={"processing_guarantee": "at_least_once"}))
    assert caught_by <= verdict.violated, str(verdict)


def test_a_dead_letter_that_did_not_fit_is_in_order(good):
    logs, settings = good
    assert judge(instead(logs, "dead_letters", *cut_short(logs)), settings).clean


def test_letters_that_are_sent_again_headers_and_all_are_in_order():
    settings = Settings.load(**RULES)
    cluster = Cluster(settings, random.Random(1))
    cluster.send(b"car 1", message("car 1", EPOCH, ignition="OFF", speed_in_kmh=401))
    cluster.send(b"car 1", message("car 1", EPOCH + 3 * HOUR, ignition="ON"))
    cluster.send(b"car 1", message("car 1", EPOCH + MINUTE, ignition="ON"))
    cluster.run()
    for letter in (*cluster.logs.dead_letters, *cluster.logs.late):
        again = (*letter.headers, ("ignition-trips.partial", b"true"), ("ignition-trips.original-size", b"999"))
        cluster.send(letter.key, letter.value, again)
        cluster.send(letter.key, b"torn", again)
    everything, done = cluster.logs.telemetry, len(cluster.logs.telemetry) - 4
    cluster.logs.telemetry = everything[done:]
    logs = cluster.run()
    logs.telemetry = everything
    verdict = judge(logs, settings)
    assert verdict.clean, str(verdict)
    assert (len(logs.dead_letters), len(logs.late)) == (4, 2)


def test_of_many_findings_some_are_shown_and_all_are_counted(good):
    logs, settings = good
    verdict = judge(replace(logs, events=[], events_uncommitted=[], trips=[]), settings)
    assert verdict.missing == verdict.trips > 30
    assert len(verdict.findings) == 21
    assert verdict.findings[-1] == f"I0 … and {verdict.missing - 20} more"


# ------------------------------------------------------------------------------------------------------- a real Kafka


@pytest.fixture
async def a_real_run(make_settings, start_worker):
    """A worker that is killed on the way, and has done everything in the end."""
    settings = make_settings(**RULES)
    await create_topics(settings)
    logs, _ = some_logs(11, vehicles=4)
    messages = [(record.key, record.value) for record in logs.telemetry]
    worker = start_worker(settings)
    await feed(settings, messages[:200])
    await caught_up(settings, 1)
    worker.kill()
    worker = start_worker(settings)
    await feed(settings, messages[200:])
    await caught_up(settings, len(messages))
    assert worker.stop() == 0
    return settings, len(messages)


async def produce(settings: Settings, topic: str, record: Any) -> None:
    async with AIOKafkaProducer(**settings.client()) as producer:
        await producer.send_and_wait(
            topic, record.value, key=record.key, partition=record.partition, headers=list(record.headers)
        )


@pytest.mark.timeout(120)
async def test_a_real_run_is_clean_and_what_is_added_to_it_is_found(a_real_run):
    settings, count = a_real_run
    logs = await collect(settings)
    verdict = judge(logs, settings)
    assert verdict.clean, str(verdict)
    assert verdict.messages == count
    assert verdict.trips > 20
    assert min(map(len, (logs.events, logs.events_uncommitted, logs.trips, logs.dead_letters, logs.late))) > 0
    assert logs.committed == logs.ends
    assert logs.events == await read(settings, settings.topics.events)

    # Nobody has worked on this record of telemetry.
    await produce(settings, settings.topics.telemetry, logs.telemetry[-1])
    assert judge(await collect(settings), settings).violated == {"I4"}

    # A consumer of all these topics sees one more record than it should.
    await produce(settings, settings.topics.events, logs.events[-1])
    await produce(settings, settings.topics.trips, replace_value(logs.trips[-1], b"{}"))
    await produce(settings, settings.topics.dead_letters, logs.dead_letters[0])
    await produce(settings, settings.topics.late, logs.late[0])
    verdict = judge(await collect(settings), settings)
    assert {"I2", "I3", "I4", "I5"} <= verdict.violated, str(verdict)
    assert verdict.duplicates >= 3


def replace_value(record: Any, value: bytes) -> Record:
    return Record(record.partition, record.offset, record.timestamp, record.key, value, tuple(record.headers))


@pytest.mark.timeout(120)
async def test_what_is_read_ends_with_markers_begins_late_and_has_holes(settings):
    await create_topics(settings)
    topic = settings.topics.events
    producer = AIOKafkaProducer(**settings.client(), transactional_id=f"{settings.application_id}-markers")
    await producer.start()
    try:
        for number in range(4):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
            if number % 2:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
    finally:
        await producer.stop()
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=2)})
    finally:
        await admin.close()
    logs = await collect(settings)
    assert [(record.offset, record.value) for record in logs.events] == [(4, b"2")]
    assert [record.value for record in logs.events_uncommitted] == [b"1", b"2", b"3"]


@pytest.mark.timeout(120)
async def test_reading_waits_for_a_transaction_that_is_open(settings):
    await create_topics(settings)
    producer = AIOKafkaProducer(**settings.client(), transactional_id=f"{settings.application_id}-open")
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(settings.topics.events, b"open", partition=0)
        with pytest.raises(TimeoutError):
            await collect(settings, within=3)
        collecting = asyncio.create_task(collect(settings, within=30))
        await asyncio.sleep(1)
        await producer.commit_transaction()
        assert [record.value for record in (await collecting).events] == [b"open"]
    finally:
        await producer.stop()
