"""Short notation for drives and what is announced about them, so that a boundary case fits in a few lines.

A line is a record, and a batch of its own unless it begins with ``+`` (then it belongs to the batch of the line
before). Records have the offsets 1, 2, 3 …::

    08:00:00 ON km=12345.6 at=50.01,7 doors@07:59:00=OPEN

The first word is the message's time, on 1 March 2026 (``2T08:00:00``: on the 2nd). ``ON``, ``OFF`` and ``ACC`` are
the ignition; a property with ``@time`` has a time of its own. ``clock +60:00.001`` moves the clock, ``restart`` starts
a new processor from the changelog, ``delete 08:00:00`` deletes the trip that starts then (as one that was announced,
with ``end=08:20:00`` or not; ``unannounced``: nothing was found of it).

Below a batch stands what is announced at its end, nothing else: the event, start and end of its trip, and any of
``name=value``, a metric (``-name``: it is absent) or one of those in :func:`_told`. Flags have to be named, all of
them; the revision is the offset of the batch's last record unless ``rev=`` says otherwise (``rev=any``: the
contract leaves it open). ``>>`` goes on with the line before::

    > TripDataReady 08:00:00 08:01:00 flags=DATA_GAP duration_in_ms=60000
    >> distance_in_km=4.5
    > late

Announcements of one trip are compared in order; those of different trips in any order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from streams.processor import Processor
from streams.records import Announcement
from streams.telemetry.reader import Reader
from streams.trips.identity import identify
from streams.trips.rules import Rules

KAFKA_TIME = 1_772_668_800_000
"""Kafka's timestamp of every record until the clock is moved: 2026-03-05T00:00:00Z."""

ENERGY = "state_of_charge_or_fuel_level_at_trip_{}_in_percent"


@dataclass
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Step:
    """A batch, or ``clock`` or ``restart``, and what is expected of it."""

    records: list[str] = field(default_factory=list)
    command: str = ""
    expected: list[str] = field(default_factory=list)


def steps(script: str) -> Iterator[Step]:
    step: Step | None = None
    for line in (line.strip() for line in script.strip().splitlines()):
        if line.startswith("> "):
            assert step is not None
            step.expected.append(line[2:])
        elif line.startswith(">>"):
            assert step is not None
            step.expected[-1] += line[2:]
        elif line.startswith("+"):
            assert step is not None
            step.records.append(line[1:].strip())
        elif line:
            if step is not None:
                yield step
            command = line.split()[0] in {"clock", "restart", "delete"}
            step = Step(command=line) if command else Step(records=[line])
    if step is not None:
        yield step


def moment(text: str) -> datetime:
    day, _, time = text.rpartition("T")
    date = datetime(2026, 3, int(day or 1), tzinfo=UTC)
    hours, minutes, seconds = time.split(":")
    return date + timedelta(hours=int(hours), minutes=int(minutes), milliseconds=round(float(seconds) * 1000))


def written(text: str) -> str:
    """A time of this notation as it is announced."""
    return moment(text).isoformat(timespec="auto").replace("000+00:00", "Z").replace("+00:00", "Z")


def duration_ms(text: str) -> int:
    minutes, _, seconds = text.rpartition(":")
    return int(minutes or 0) * 60_000 + round(float(seconds) * 1000)


def message(line: str) -> dict[str, Any]:
    at, *words = line.split()
    body: dict[str, Any] = {"vehicle_id": "V1", "timestamp": written(at)}
    flow_id = None
    for word in words:
        said, _, text = word.partition("=")
        name, _, own = said.partition("@")
        if name == "vehicle":
            body["vehicle_id"] = text
        elif name == "flow":
            flow_id = text
        else:
            prop, value = PROPERTIES[name](text)
            body[prop] = {"timestamp": written(own), "value": value} if own else value
    return body if flow_id is None else {"metadata": {"flow_id": flow_id}, "data": body}


def _position(text: str) -> dict[str, float]:
    return dict(zip(("lat", "lon", "altitude"), map(float, text.split(",")), strict=False))


PROPERTIES: dict[str, Callable[[str], tuple[str, Any]]] = {
    "ON": lambda _: ("ignition", "ON"),
    "OFF": lambda _: ("ignition", "OFF"),
    "ACC": lambda _: ("ignition", "ACCESSORY"),
    "immobilizer": lambda text: ("immobilizer", text),
    "driving": lambda text: ("driving_enabled", text == "true"),
    "at": lambda text: ("position", _position(text)),
    "km": lambda text: ("mileage_in_kilometers", float(text)),
    "speed": lambda text: ("speed_in_kmh", float(text)),
    "heading": lambda text: ("heading_in_degrees", float(text)),
    "energy": lambda text: ("state_of_charge_or_fuel_level_in_percent", float(text)),
    "charge": lambda text: ("state_of_charge_in_percent", float(text)),
    "fuel": lambda text: ("fuel_level_in_percent", float(text)),
    "doors": lambda text: ("doors_status", text),
    "windows": lambda text: ("windows_status", text),
    "unit": lambda text: ("telematics_unit", dict(zip(("id", "brand"), text.split("/"), strict=True))),
}


class Drive:
    """Runs a script against a processor."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.changelog: dict[bytes, bytes] = {}
        self.said: list[Announcement] = []
        self.offset = 0
        self.start()

    def start(self) -> None:
        self.processor = Processor(self.rules, Reader(max_clock_skew_ms=None))
        self.processor.restore(list(self.changelog.items()))
        self.processor.restored()

    def run(self, script: str) -> None:
        for step in steps(script):
            self.do(step)

    def do(self, step: Step) -> None:
        if step.command == "restart":
            self.start()
            return
        if step.command.startswith("delete"):
            self.processor.command(_delete(step.command))
        elif step.command:
            self.processor.advance(self.processor.clock + duration_ms(step.command.partition("+")[2]))
        records = []
        for line in step.records:
            self.offset += 1
            records.append(Record(self.offset, max(KAFKA_TIME, self.processor.clock), None, _encode(line)))
        if records:
            self.processor.process(records)
        output = self.processor.take()
        refusals = [problem.reason.value for one in output.rejected for problem in one.problems]
        assert refusals == [line.split()[1] for line in step.expected if line.startswith("refused")]
        self.changelog.update(output.changes)
        self.said += output.announcements
        wanted = [line for line in step.expected if line.split()[0] not in {"late", "refused"}]
        told = [_told(announcement) for announcement in output.announcements]
        where = step.command or " / ".join(step.records)
        heard = "\n".join(f"  {told['event']} {told['start']} {told.get('end', '')} {told}" for told in told)
        assert len(told) == len(wanted), f"after {where}: expected {wanted}, heard\n{heard}"
        assert len(output.late) == step.expected.count("late"), f"after {where}: {output.late}"
        told.sort(key=lambda each: each["start"])
        for line, found in zip(sorted(wanted, key=lambda line: moment(line.split()[1])), told, strict=True):
            self.compare(line, found, where)

    def compare(self, line: str, found: dict[str, Any], where: str) -> None:
        event, *words = line.split()
        times = [written(word) for word in words if ":" in word and "=" not in word]
        names_only = "SUPERSEDED" in line or event == "TripDeleted"
        expected: dict[str, Any] = {"event": event, "start": times[0], "rev": self.offset, "end": None, "trips": "keep"}
        if not names_only:
            expected["flags"] = ""
        if len(times) > 1:
            expected["end"] = times[1]
        if event in {"TripDataReady", "TripMetricsReady"}:
            expected["trips"] = "put"
        for word in words:
            name, equals, text = word.partition("=")
            if word.startswith("-"):
                expected[word[1:]] = None
            elif equals and name in {"start.at", "end.at", "superseded_by"}:
                expected[name] = written(text) if text else ""
            elif equals:
                expected[name] = text
        if expected["rev"] == "any":
            del expected["rev"]
        for name, value in expected.items():
            assert str(found.get(name)) == str(value), f"after {where}: {line}: {name} is {found.get(name)} in {found}"


REQUESTED = "2026-03-06T00:00:00Z"


def _delete(line: str) -> Record:
    start, *words = line.split()[1:]
    start_ms = round(moment(start).timestamp() * 1000)
    body: dict[str, Any] = {
        "type": "DeleteTrip",
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "trip_id": identify("V1", start_ms).id,
        "vehicle_id": "V1",
        "requested_at": REQUESTED,
    }
    if "unannounced" not in words:
        body["revision"] = 1
    for word in words:
        if word.startswith("end="):
            body["end"] = written(word[4:])
    return Record(0, KAFKA_TIME, b"V1", json.dumps(body).encode())


def _encode(line: str) -> bytes:
    return json.dumps(message(line)).encode()


def _told(announcement: Announcement) -> dict[str, Any]:
    """What an announcement tells, flat, in the words of this notation."""
    data = json.loads(announcement.payload)["data"]
    trip = data["trip"]
    told: dict[str, Any] = {
        "event": announcement.event,
        "vehicle": announcement.vehicle_id,
        "rev": announcement.revision,
        "trips": announcement.trips_record.value,
        "start": trip["start"]["timestamp"] if "start" in trip else _start_of(trip["id"]),
        "status": trip.get("data_completion_status"),
        "occurred_at": data["occurred_at"],
        **trip.get("metrics", {}),
    }
    if "flags" in trip:
        told["flags"] = ",".join(trip["flags"])
        assert trip["is_flagged"] is bool(trip["flags"])
    if "reason" in data:
        told["reason"] = data["reason"]
    if "superseded_by" in data:
        assert isinstance(data["superseded_by"], list)
        told["superseded_by"] = ",".join(_start_of(trip_id) for trip_id in data["superseded_by"])
    if "end" in trip:
        told["end"] = trip["end"]["timestamp"]
    if "telematics_unit" in trip:
        told["unit"] = "{id}/{brand}".format(**trip["telematics_unit"])
    for side in ("start", "end"):
        position = trip.get(side, {}).get("position")
        if position is not None:
            told[f"{side}.position"] = ",".join(str(value) for value in position["value"].values())
            told[f"{side}.at"] = position["timestamp"]
        percent = trip.get("metrics", {}).get(ENERGY.format(side))
        if percent is not None:
            told[f"energy_{side}"] = percent
    return told


def _start_of(trip_id: str) -> str:
    """The start is in the id: a ULID's first ten characters are milliseconds."""
    ms = 0
    for character in trip_id[:10]:
        ms = ms * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")
