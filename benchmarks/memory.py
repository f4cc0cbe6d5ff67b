"""What vehicles and their samples take, in the memory of the process and in the changelog, beside the budgets.

    python benchmarks/memory.py [--vehicles 3000] [--json FILE]

Without Kafka: a partition's processor, in a process of its own for each kind of vehicle. Memory is what the process has
more than before: of vehicles that drive, after they have driven; of the others, after their state was read back. The
changelog is what it would hold compacted, keys and values. Samples of a message are its
properties. What one sample takes is the difference of two fleets that differ in the length of their trips. An idle
vehicle has been parked for two and a half days, and says so twice a day.

Changelog bytes for input bytes: each vehicle sends a message of 250 bytes every 5 s, and there is a checkpoint between
any two of them, so that each message has its vehicle's state written.
"""
# ruff: noqa: INP001

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import orjson
from core import KafkaRecord, new_processor
from fleet import SINCE
from measuring import arguments, emit, markdown, resident_bytes

from streams.testing import OutputRecord, TripsTestDriver
from streams.trips.content import iso

_EVERY_MS: Final = 5_000
_HOUR_MS: Final = 3_600_000
_CHECKPOINT: Final = 2_000
_WARM: Final = 50
# An idle vehicle takes little: of many, what else the process does is not seen.
_IDLE_TIMES: Final = 5
_SHORT: Final = 20
_LONG: Final = 120
FLEETS: Final = (("idle", _SHORT), ("on", _SHORT), ("on", _LONG), ("finished", _SHORT), ("finished", _LONG))
BUDGETS: Final = {"idle vehicle": 600, "sample of a trip that is on": 40, "sample of a finished trip": 12}
CHANGELOG_BUDGET: Final = 2.0


@dataclass(frozen=True)
class Taken:
    """What a fleet takes, in bytes."""

    vehicles: int
    samples: int
    memory: int
    changelog: int
    changelog_written: int
    input: int


def _message(vehicle: int, at: int, *, on: bool, step: int) -> bytes:
    """Of about 250 bytes; each vehicle drives along its own way."""
    return orjson.dumps(
        {
            "vehicle_id": f"vehicle-{vehicle:06}",
            "timestamp": iso(at),
            "ignition": "ON" if on else "OFF",
            "position": {"lat": 50 + vehicle % 100 / 50 + step * 0.000_437, "lon": 7.125_431 + step * 0.000_519},
            "speed_in_kmh": round(30 + (vehicle + step * 7) % 40 * 1.1, 1),
            "heading_in_degrees": round((vehicle * 13 + step * 11) % 360 / 1.3, 1),
            "mileage_in_kilometers": round(1_000 + vehicle + step * 0.07, 3),
            "state_of_charge_or_fuel_level_in_percent": round(80 - step * 0.01, 2),
        }
    )


def _telemetry(kind: str, vehicles: int, length: int) -> Iterator[list[KafkaRecord]]:
    """In checkpoints: all vehicles in turns, then what makes them the kind they are."""
    ways = [(SINCE + step * _EVERY_MS, True, step) for step in range(length)]
    if kind != "on":
        ways.append((SINCE + length * _EVERY_MS, False, length))
    if kind == "idle":  # parked, with a sign of life now and then: in the end, the trip is folded
        ended = ways[-1][0]
        ways += [(ended + hours * _HOUR_MS, False, length) for hours in (12, 24, 36, 48, 60)]
    offset = 0
    for at, on, step in ways:
        for first in range(0, vehicles, _CHECKPOINT):
            batch = []
            for vehicle in range(first, min(first + _CHECKPOINT, vehicles)):
                value = _message(vehicle, at, on=on, step=step)
                batch.append(KafkaRecord(0, offset, at, f"vehicle-{vehicle:06}".encode(), value))
                offset += 1
            yield batch


def process(kind: str, vehicles: int, length: int, changelog: dict[bytes, bytes] | None = None) -> Taken:
    """Process a fleet, and see what it takes in the end. The changelog goes into the one that is given, compacted."""
    processor = new_processor()
    written = size = 0
    before = resident_bytes(os.getpid())
    batches = _telemetry(kind, vehicles, length)
    # Those that are not on report nothing any more: what is not needed is put away.
    quiet = iter(() if kind == "on" else (180_000, 360_000))
    while True:
        batch = next(batches, None)
        if batch is None:
            milliseconds = next(quiet, None)
            if milliseconds is None:
                break
            processor.advance(processor.clock + milliseconds)
        else:
            size += sum(len(record.value) for record in batch)
            processor.process(batch)
        for key, value in processor.take().changes.items():
            written += len(key) + len(value or b"")
            if changelog is not None and value is not None:
                changelog[key] = value
            elif changelog is not None:
                changelog.pop(key, None)
    gc.collect()
    memory = resident_bytes(os.getpid()) - before
    kept = sum(len(key) + len(value) for key, value in (changelog or {}).items())
    return Taken(vehicles, processor.counts.samples, memory, kept, written, size)


def memory_of_driving(vehicles: int, length: int) -> int:
    """Of vehicles that are on, bytes."""
    process("on", _WARM, length)  # what the first vehicles take for code and caches is not theirs
    return process("on", vehicles, length).memory


def memory_of_stored(file: Path) -> int:
    """Of vehicles that are read back from a changelog, bytes: none of it was taken for something else before."""
    processor = new_processor()
    gc.collect()
    before = resident_bytes(os.getpid())
    with file.open("rb") as stored:
        for _ in range(pickle.load(stored)):  # noqa: S301  (written a moment ago)
            processor.restore([pickle.load(stored)])  # noqa: S301
    processor.restored()
    gc.collect()
    return resident_bytes(os.getpid()) - before


def take(kind: str, vehicles: int, length: int) -> Taken:
    """What such a fleet takes: the changelog is made here, the memory is looked at in a process of its own."""
    changelog: dict[bytes, bytes] = {}
    taken = process(kind, vehicles, length, changelog)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool, tempfile.NamedTemporaryFile() as file:
        if kind == "on":
            memory = pool.submit(memory_of_driving, vehicles, length)
        else:
            pickle.dump(len(changelog), file)
            for item in changelog.items():
                pickle.dump(item, file)
            file.flush()
            memory = pool.submit(memory_of_stored, Path(file.name))
        return replace(taken, memory=memory.result())


def published() -> tuple[int, int]:
    """Bytes of a trip's records in trip-events and in trips: keys, values and headers."""
    driver = TripsTestDriver()
    for step in range(_LONG):
        driver.pipe(_message(0, SINCE + step * _EVERY_MS, on=step < _LONG - 1, step=step))
    topics = driver.settings.topics
    return _size(driver.read(topics.events)), _size(driver.read(topics.trips))


def _size(records: Iterable[OutputRecord]) -> int:
    return sum(
        len(part or b"")
        for record in records
        for part in (record.key, record.value, *(text for name, value in record.headers for text in (name, value)))
    )


def each(less: Taken, more: Taken) -> tuple[float, float]:
    """Bytes of one sample, in memory and in the changelog."""
    samples = more.samples - less.samples
    return (more.memory - less.memory) / samples, (more.changelog - less.changelog) / samples


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--vehicles", type=int, default=3_000)
    options = parser.parse_args()
    taken = [take(kind, options.vehicles * (_IDLE_TIMES if kind == "idle" else 1), length) for kind, length in FLEETS]
    idle, on_short, on_long, short, long = taken
    found = {
        "idle vehicle": (idle.memory / idle.vehicles, idle.changelog / idle.vehicles),
        "sample of a trip that is on": each(on_short, on_long),
        "sample of a finished trip": each(short, long),
    }
    written = on_long.changelog_written / on_long.input
    rows: list[tuple[object, ...]] = [
        (name, f"{memory:,.1f}", f"{changelog:,.1f}", BUDGETS[name]) for name, (memory, changelog) in found.items()
    ]
    driving = (on_short.memory - found["sample of a trip that is on"][0] * on_short.samples) / on_short.vehicles
    rows.insert(1, ("vehicle that drives, samples apart", f"{driving:,.1f}", "-", "-"))
    events, trip = published()
    rows += [("announcements of a trip, with headers", "-", f"{events:,}", "-")]
    rows += [("record of a trip, with headers", "-", f"{trip:,}", "-")]
    rows.append(("changelog bytes for a byte of input", "-", f"{written:.2f}", CHANGELOG_BUDGET))
    raw = {
        "bytes": found,
        "changelog_for_input": written,
        "fleets": [asdict(one) for one in taken],
    }
    size = on_long.input / (options.vehicles * _LONG)
    title = f"{options.vehicles:,} vehicles of each kind, messages of {size:.0f} bytes"
    emit(title, markdown(("bytes", "in memory", "in the changelog", "budget"), rows), raw, options.json)


if __name__ == "__main__":
    main()
