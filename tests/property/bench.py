"""A processor on the bench: records in, announcements out, the changelog on the side, restarted at will."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from oracle.consumer import View, check_announcement, check_one_payload, check_order, final_view, trips_topic
from oracle.derive import OracleHole, OracleTrip, derive, dig, resolve, timestamp
from oracle.timeline import Timeline
from strategies import Arrival, Message, encode

from streams.processor import Processor
from streams.telemetry.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.records import Announcement, Late
    from streams.trips.rules import Rules

__all__ = [
    "FAR",
    "KAFKA_TIME",
    "Bench",
    "Expected",
    "KafkaRecord",
    "check_announcements",
    "check_view",
    "to_batches",
    "to_records",
]

FAR = 1_000 * 24 * 3_600_000
"""Longer than any delay, timeout and gap."""

KAFKA_TIME = 1_775_000_000_000
"""Kafka's timestamp of the first record: long after its samples."""


@dataclass(slots=True)
class KafkaRecord:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def to_records(arrivals: Iterable[Arrival], *, pauses: bool = False) -> list[KafkaRecord]:
    """As Kafka delivers them: some offsets are taken by transaction markers. Its clock stands still but for pauses."""
    clock, records = KAFKA_TIME, []
    for number, arrival in enumerate(arrivals):
        clock += arrival.pause if pauses else 0
        message = arrival.message
        records.append(KafkaRecord(number + number // 5, clock, message.vehicle_id.encode(), encode(message)))
    return records


def to_batches(arrivals: Sequence[Arrival]) -> list[range]:
    """Where the batches of a stream begin and end."""
    ends = [number + 1 for number, arrival in enumerate(arrivals) if arrival.ends_batch]
    bounds = [0, *ends] if ends and ends[-1] == len(arrivals) else [0, *ends, len(arrivals)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


class Bench:
    """Runs a processor the way the runtime does: a checkpoint after every batch."""

    def __init__(self, rules: Rules, changelog: dict[bytes, bytes] | None = None) -> None:
        self.rules = rules
        self.changelog: dict[bytes, bytes] = dict(changelog or {})
        self.said: list[Announcement] = []
        self.late: list[Late] = []
        self.start()

    def start(self) -> None:
        self.processor = Processor(self.rules, Reader(max_clock_skew_ms=None))
        self.processor.restore(list(self.changelog.items()))
        self.processor.restored()

    def feed(self, records: Iterable[KafkaRecord], *, fold: bool = False) -> list[Announcement]:
        self.processor.process(records)
        if fold:
            self.fold()
        return self.checkpoint()

    def delete(self, trip_id: str, vehicle_id: str = "V1", **more: Any) -> list[Announcement]:
        """Have a trip deleted that was announced."""
        self.processor.command(command(trip_id, vehicle_id, **more))
        return self.checkpoint()

    def advance(self, clock: int) -> list[Announcement]:
        self.processor.advance(clock)
        self.processor.touch_clock()  # a clock that is not stored may go back at a restart
        return self.checkpoint()

    def close(self) -> list[Announcement]:
        return self.advance(self.processor.clock + FAR)

    def fold(self) -> None:
        """Fold what is behind the horizon now. The processor does so only when a vehicle's chunks are full."""
        for vehicle in self.processor._changed.values():
            vehicle._fold(vehicle._horizon)

    def checkpoint(self) -> list[Announcement]:
        output = self.processor.take()
        assert output.rejected == []
        self.changelog.update(output.changes)
        self.late += output.late
        self.said += output.announcements
        return output.announcements

    def view(self) -> dict[str, View]:
        return final_view(json.loads(announcement.payload) for announcement in self.said)

    def check_promises(self) -> None:
        """What holds whatever was fed."""
        for announcement in self.said:
            check_announcement(announcement)
        check_one_payload(self.said)
        check_order(self.said)
        view = self.view()
        _check_apart(view)
        _check_topic(self.said, view)


REQUESTED = "2026-04-01T00:00:00Z"


def command(trip_id: str, vehicle_id: str, *, revision: int | None = 0, end: str | None = None) -> KafkaRecord:
    """A record of the commands' topic."""
    body = {
        "type": "DeleteTrip",
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "trip_id": trip_id,
        "vehicle_id": vehicle_id,
        "requested_at": REQUESTED,
    }
    body |= {} if revision is None else {"revision": revision}
    body |= {} if end is None else {"end": end}
    return KafkaRecord(0, KAFKA_TIME, vehicle_id.encode(), json.dumps(body).encode())


class Expected:
    """What the oracle says of the messages offered so far."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.timelines: dict[str, Timeline] = {}
        self.late: list[int] = []
        self.arrived: dict[str, int] = {}
        self.applied: dict[str, int] = {}
        self.history: list[tuple[KafkaRecord, Message, int]] = []
        """The applied records, and how many samples of their vehicle there were after each."""
        self.holes: dict[str, list[OracleHole]] = {}
        self.deleted: set[str] = set()
        self.holes_before: dict[str, list[list[OracleHole]]] = {}
        """Those of each vehicle as they were before each deletion."""
        self.refused = 0

    def offer(self, message: Message, record: KafkaRecord) -> None:
        timeline = self.timelines.setdefault(message.vehicle_id, Timeline(self.rules))
        holes = self.holes.get(message.vehicle_id, [])
        horizon = timeline.horizon
        inside = {
            sample for sample in message.samples for hole in holes if hole.covers(sample[0]) and hole.end >= horizon
        }
        for number, hole in enumerate(holes):
            off = (hole.end, self.rules.trigger, 0)
            if off in inside and hole.off is False:
                self.holes_before[message.vehicle_id].append(list(holes))
                others = tuple(sample for sample in hole.samples if sample[1] != self.rules.trigger)
                holes[number] = replace(hole, off=True, samples=(*others, off))
                inside.remove(off)
        self.refused += len(inside - {sample for hole in holes for sample in hole.samples})
        applied, late = timeline.offer(sample for sample in message.samples if sample not in inside)
        if late:
            self.late.append(record.offset)
        if applied:
            self.arrived[message.vehicle_id] = record.timestamp
            self.applied[message.vehicle_id] = record.offset
            self.history.append((record, message, len(timeline.samples)))

    def delete(self, vehicle_id: str, trip: OracleTrip) -> None:
        """A trip that was told as it is now is deleted."""
        timeline, holes = self.timelines[vehicle_id], self.holes.setdefault(vehicle_id, [])
        self.holes_before.setdefault(vehicle_id, []).append(list(holes))
        outside = [sample for sample in timeline.samples if not any(hole.covers(sample[0]) for hole in holes)]
        newest = max(sample[0] for sample in timeline.samples)
        holes.append(dig(resolve(outside), trip, newest, self.rules.trigger))
        self.deleted.add(trip.id)

    def delete_what_came_back(self) -> None:
        """Trips that were deleted when they were taken back, and that there are now after all."""
        for vehicle_id, trips in self.trips().items():
            for trip in trips:
                if trip.id in self.deleted:
                    self.delete(vehicle_id, trip)

    def trips(self, quiet_ms: float = 0, clock: int | None = None) -> dict[str, list[OracleTrip]]:
        """All trips by vehicle, with this quiet, or the one that a clock means."""
        return {
            vehicle_id: derive(
                timeline.samples,
                self.rules,
                quiet_ms if clock is None else clock - self.arrived.get(vehicle_id, clock),
                vehicle_id=vehicle_id,
                holes=self.holes.get(vehicle_id, ()),
            )
            for vehicle_id, timeline in self.timelines.items()
        }


def check_view(view: dict[str, View], trips: dict[str, list[OracleTrip]]) -> None:
    """A consumer holds exactly the trips that the oracle tells."""
    expected = {trip.id: trip for of_vehicle in trips.values() for trip in of_vehicle}
    for trip_id, seen in view.items():
        if trip_id not in expected:
            assert seen.status in {"superseded", "deleted"}, f"{seen.trip} never was"
    for trip_id, trip in expected.items():
        assert trip_id in view, f"nothing was said of {trip.started}"
        seen = view[trip_id]
        assert seen.trip["start"]["timestamp"] == timestamp(trip.start)
        if trip.on:
            assert seen.status == "on", f"{seen} is on"
            continue
        assert seen.trip.get("end", {}).get("timestamp") == timestamp(trip.end), f"{seen.status}, not {trip.final}"
        if trip.passed:
            assert seen.status == ("ready" if trip.reason is None else "discarded")
            assert seen.data.get("reason") == trip.reason
            assert _exact(_content(seen.trip)) == _exact(trip.final)
        else:
            assert seen.status in {"ended", "ready", "discarded"}


def check_announcements(said: Iterable[Announcement], expected: Expected) -> None:
    """Each payload is what the oracle says of the vehicle's records up to its revision, with some quiet."""
    rules = expected.rules
    waits = {rules.merge_gap_ms, rules.ready_delay_ms, rules.silence_timeout_ms}
    quiets = [0, *sorted(wait + 1 for wait in waits), math.inf]
    by_revision = {
        (message.vehicle_id, rules.revision_base + record.offset): (record, count)
        for record, message, count in expected.history
    }
    told: dict[tuple[str, int], list[list[OracleTrip]]] = {}
    for announcement in said:
        at = (announcement.vehicle_id, announcement.revision)
        assert at in by_revision, f"no record of revision {announcement.revision} was applied"
        record, count = by_revision[at]
        assert announcement.time_ms == record.timestamp
        if at not in told:
            samples = expected.timelines[at[0]].samples[:count]
            variants = [*expected.holes_before.get(at[0], ()), expected.holes.get(at[0], [])]
            told[at] = [
                derive(samples, rules, quiet, vehicle_id=at[0], holes=holes) for holes in variants for quiet in quiets
            ]
        payload = json.loads(announcement.payload)
        if announcement.event == "TripDeleted":
            assert announcement.trip_id in expected.deleted
            assert payload["data"] == {
                "occurred_at": REQUESTED,
                "trip": {
                    "id": announcement.trip_id,
                    "key": payload["data"]["trip"]["key"],
                    "revision": announcement.revision,
                    "vehicle_id": announcement.vehicle_id,
                },
            }
            continue
        flow_ids = _flow_ids(announcement, payload, expected)
        assert not flow_ids or payload["metadata"]["flow_id"] in flow_ids
        assert payload["metadata"]["occurred_at"] == timestamp(record.timestamp)
        allowed = [_exact(data) for trips in told[at] for data in _data(announcement, trips)]
        payload["data"]["trip"] = _content(payload["data"]["trip"])
        assert _exact(payload["data"]) in allowed, f"{announcement.event} of revision {announcement.revision}"


def _flow_ids(announcement: Announcement, payload: dict[str, Any], expected: Expected) -> set[str]:
    """Those that came with the signal that started the trip; none: it has one of its own."""
    start = _ms(payload["data"]["trip"]["start"]["timestamp"])
    rules = expected.rules
    came = [
        message.flow_id
        for record, message, _ in expected.history
        if message.vehicle_id == announcement.vehicle_id
        and rules.revision_base + record.offset <= announcement.revision
        and (start, rules.trigger, 1) in message.samples
    ]
    if not came or came[0] is None or payload["data"].get("reason") == "SUPERSEDED":
        return set()
    return {flow_id for flow_id in came if flow_id is not None}


def _data(announcement: Announcement, trips: list[OracleTrip]) -> list[dict[str, Any]]:
    """The ``data`` that an announcement may hold when these are the trips."""
    trip = next((trip for trip in trips if trip.id == announcement.trip_id), None)
    if trip is None:
        said = json.loads(announcement.payload)["data"]["trip"]
        if announcement.event != "TripDiscarded":
            return []
        at = said["start"]["timestamp"]
        return [
            {
                "occurred_at": at,
                "reason": "SUPERSEDED",
                "superseded_by": [
                    other.id
                    for other in trips
                    if other.start <= _ms(at) and (other.end is None or _ms(at) <= other.end)
                ],
                "trip": {
                    "id": announcement.trip_id,
                    "key": said["key"],
                    "vehicle_id": announcement.vehicle_id,
                    "data_completion_status": "DISCARDED",
                    "start": {"timestamp": at},
                },
            }
        ]
    if announcement.event == "TripStarted":
        return [{"occurred_at": timestamp(trip.start), "trip": trip.started}]
    if trip.end is None:
        return []
    if announcement.event == "TripEnded":
        return [{"occurred_at": timestamp(trip.end), "trip": trip.ended}]
    if announcement.event == "TripDiscarded":
        return (
            []
            if trip.reason is None
            else [{"occurred_at": timestamp(trip.end), "reason": trip.reason, "trip": trip.final}]
        )
    return [] if trip.reason is not None else [{"occurred_at": timestamp(trip.end), "trip": trip.final}]


def _check_apart(view: dict[str, View]) -> None:
    """Trips never overlap and never end before they start."""
    intervals: dict[str, list[tuple[float, float]]] = {}
    for seen in view.values():
        if seen.status not in {"superseded", "deleted"}:
            end = _ms(seen.trip["end"]["timestamp"]) if "end" in seen.trip else math.inf
            intervals.setdefault(seen.trip["vehicle_id"], []).append((_ms(seen.trip["start"]["timestamp"]), end))
    for of_vehicle in intervals.values():
        of_vehicle.sort()
        assert all(start <= end for start, end in of_vehicle)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(of_vehicle))


def _check_topic(said: list[Announcement], view: dict[str, View]) -> None:
    """``trips`` holds the latest word of the trips that are ready, and nothing of those that are not."""
    topic = trips_topic(said)
    ready = {trip_id: seen.data for trip_id, seen in view.items() if seen.status == "ready"}
    again = {trip_id for trip_id, seen in view.items() if seen.status == "ended"}
    assert {trip_id: topic[trip_id]["data"] for trip_id in topic if trip_id not in again} == ready


def _content(trip: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trip.items() if name != "revision"}


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _exact(value: Any) -> str:
    """Equal only if also the kinds of numbers are."""
    return json.dumps(value, sort_keys=True)
