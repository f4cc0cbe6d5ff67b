"""Records as Kafka delivers them, for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KafkaRecord:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def record(offset, value, timestamp, key=None, headers=()):
    return KafkaRecord(offset, timestamp, key, value, headers)
