"""What a record costs without Kafka: reader, vehicle, announcements and stored state, beside plain parsing.

    python benchmarks/core.py [--messages 200000] [--vehicles 625] [--rounds 5]

The ratio to ``orjson.loads`` of the same messages in the same process is what to compare: between machines, and between
two versions of this code. A *checkpoint* is one taking of the changed state. The vehicles are by default those of one
partition of eight of a fleet of 5,000.
"""
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import statistics
import time
from typing import NamedTuple

import orjson
from fleet import SINCE, messages, span_ms

from streams.processor import Processor
from streams.runtime.garbage import spare_the_state
from streams.settings import Settings
from streams.telemetry.reader import Reader


class KafkaRecord(NamedTuple):
    """As aiokafka hands them over, as far as it matters."""

    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[()] = ()


def new_processor() -> Processor:
    """As a partition begins, with Python's garbage collector as a worker has it."""
    spare_the_state()
    settings = Settings.load()
    return Processor(settings.rules(), Reader(max_clock_skew_ms=settings.max_clock_skew_ms))


def cost(records: list[KafkaRecord], a_checkpoint: int) -> float:
    """Microseconds of processor time for each record."""
    processor = new_processor()
    began = time.process_time()
    for start in range(0, len(records), min(a_checkpoint, 4_000)):
        processor.process(records[start : start + min(a_checkpoint, 4_000)])
        if (start + 4_000) % a_checkpoint < 4_000 or a_checkpoint < 4_000:
            processor.take()
    return (time.process_time() - began) / len(records) * 1e6


def parsing(records: list[KafkaRecord]) -> float:
    """The same of parsing alone."""
    began = time.process_time()
    for record in records:
        orjson.loads(record.value)
    return (time.process_time() - began) / len(records) * 1e6


def reading(records: list[KafkaRecord]) -> float:
    """The same of reading: parsed, checked, and made a row."""
    reader = Reader(max_clock_skew_ms=Settings.load().max_clock_skew_ms)
    began = time.process_time()
    for record in records:
        reader.read(record.value, record.key, record.timestamp)
    return (time.process_time() - began) / len(records) * 1e6


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--vehicles", type=int, default=625)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arrival = SINCE + span_ms(arguments.messages, arguments.vehicles)
    records = [
        KafkaRecord(0, offset, arrival, key, value)
        for offset, (key, value) in enumerate(messages(arguments.messages, arguments.vehicles, SINCE))
    ]
    ways = {
        "orjson.loads": lambda: parsing(records),
        "read": lambda: reading(records),
        "all, a checkpoint for 20,000 records": lambda: cost(records, 20_000),
        "all, a checkpoint for 4,000": lambda: cost(records, 4_000),
        "all, a checkpoint for 500": lambda: cost(records, 500),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            took[name].append(way())
    plain = statistics.median(took["orjson.loads"])
    print(f"{arguments.messages:,} messages of {arguments.vehicles:,} vehicles, {arguments.rounds} rounds, medians")
    for name, values in took.items():
        middle = statistics.median(values)
        print(f"{name:40} {middle:7.2f} us a record   {middle / plain:6.1f} x orjson.loads")


if __name__ == "__main__":
    main()
