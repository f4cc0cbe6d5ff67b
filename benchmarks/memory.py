"""What vehicles and their samples take, in the memory of the process and in the changelog, beside the budgets.

    python benchmarks/memory.py [--vehicles 3000] [--json FILE]

Without Kafka: a partition's processor, in a process of its own for each kind of vehicle. Memory is what the process has
more than before; the changelog is what it would hold compacted, keys and values. Samples of a message are its
properties. What one sample takes is the difference of two fleets that differ in the length of their trips. An idle
vehicle has been parked for two days, and says so every four hours.

Changelog bytes for input bytes: each vehicle sends a message of 250 bytes every 5 s, and there is a checkpoint between
any two of them, so that each message has its vehicle's state written.
"""
# ruff: noqa: INP001

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Final

import orjson
from core import SINCE, KafkaRecord
from measuring import arguments, emit, markdown, resident_bytes

from streams.processor import Processor
from streams.settings import Settings
from streams.telemetry.reader import Reader
from streams.testing import TripsTestDriver
from streams.trips.content import iso

_EVERY_MS: Final = 5_000
_HOUR_MS: Final = 3_600_000
_CHECKPOINT: Final = 2_000
_SHORT: Final = 20
_LONG: Final = 120
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
    if kind == "idle":  # parked, with a sign of life now and then: after two days, the trip is folded
        ended = ways[-1][0]
        ways += [(ended + hours * _HOUR_MS, False, length) for hours in range(4, 53, 4)]
    offset = 0
    for at, on, step in ways:
        for first in range(0, vehicles, _CHECKPOINT):
            batch = []
            for vehicle in range(first, min(first + _CHECKPOINT, vehicles)):
                value = _message(vehicle, at, on=on, step=step)
                batch.append(KafkaRecord(0, offset, at, f"vehicle-{vehicle:06}".encode(), value))
                offset += 1
            yield batch


def take(kind: str, vehicles: int, length: int, *, keep: bool) -> Taken:
    """Process a fleet, and see what it takes in the end: the changelog if it is kept here, else the memory."""
    settings = Settings.load()
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=settings.max_clock_skew_ms))
    changelog: dict[bytes, int] = {}
    written = size = 0
    gc.collect()
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
        changes = processor.take().changes
        if keep:
            sizes = {key: len(key) + len(value or b"") for key, value in changes.items()}
            changelog |= sizes
            written += sum(sizes.values())
    gc.collect()
    memory = resident_bytes(os.getpid()) - before
    return Taken(vehicles, processor.counts.samples, memory, sum(changelog.values()), written, size)


def take_all(fleets: Sequence[tuple[str, int]], vehicles: int) -> list[Taken]:
    """Each kind and length: the changelog here, the memory in a process of its own, which remembers no changelog."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        memory = [pool.submit(take, kind, vehicles, length, keep=False) for kind, length in fleets]
        changelogs = [take(kind, vehicles, length, keep=True) for kind, length in fleets]
        return [replace(one, memory=other.result().memory) for one, other in zip(changelogs, memory, strict=True)]


def published() -> tuple[int, int]:
    """Bytes of a trip's records in trip-events and in trips: keys, values and headers."""
    driver = TripsTestDriver()
    for step in range(_LONG):
        driver.pipe(_message(0, SINCE + step * _EVERY_MS, on=step < _LONG - 1, step=step))
    events, trips = (
        [
            len(record.key or b"")
            + len(record.value or b"")
            + sum(len(key) + len(value) for key, value in record.headers)
            for record in driver.read(topic)
        ]
        for topic in (driver.settings.topics.events, driver.settings.topics.trips)
    )
    return sum(events), sum(trips)


def each(less: Taken, more: Taken) -> tuple[float, float]:
    """Bytes of one sample, in memory and in the changelog."""
    samples = more.samples - less.samples
    return (more.memory - less.memory) / samples, (more.changelog - less.changelog) / samples


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--vehicles", type=int, default=3_000)
    options = parser.parse_args()
    lengths = (("idle", _SHORT), ("on", _SHORT), ("on", _LONG), ("finished", _SHORT), ("finished", _LONG))
    idle, on_short, on_long, short, long = taken = take_all(lengths, options.vehicles)
    found = {
        "idle vehicle": (idle.memory / idle.vehicles, idle.changelog / idle.vehicles),
        "sample of a trip that is on": each(on_short, on_long),
        "sample of a finished trip": each(short, long),
    }
    written = on_long.changelog_written / on_long.input
    rows = [(name, f"{memory:,.1f}", f"{changelog:,.1f}", BUDGETS[name]) for name, (memory, changelog) in found.items()]
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
    title = f"{options.vehicles:,} vehicles of each kind, messages of {on_long.input / on_long.samples * 6:.0f} bytes"
    emit(title, markdown(("bytes", "in memory", "in the changelog", "budget"), rows), raw, options.json)


if __name__ == "__main__":
    main()
