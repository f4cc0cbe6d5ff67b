"""A bare loop on confluent-kafka with orjson, at least once: what is hardly to be beaten in Python.

Outputs go out as they arise. At each commit the state of the vehicles that changed goes to a compacted changelog, all
is flushed, then the offsets are committed. Nothing reads the changelog back.
"""
# ruff: noqa: INP001

from __future__ import annotations

import os
import time
from typing import Any

import confluent_kafka as ck
import orjson
from clock import CHANGELOG, COMMIT_S, GROUP, MESSAGES, OUTPUT, SERVERS, SOURCE, Clock
from job import State, step, stored

BATCH = 2_000


def main() -> None:
    """Process so many messages, and end."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": SERVERS,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    consumer.subscribe([SOURCE])
    producer = ck.Producer(
        {
            "bootstrap.servers": SERVERS,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "compression.type": "none",
            "enable.idempotence": True,
        }
    )
    states: dict[str, State] = {}
    changed: dict[str, int] = {}
    positions: dict[int, int] = {}
    out: list[dict[str, Any]] = []
    failures: list[Any] = []
    count = outputs = written = 0
    clock = Clock()
    loads, dumps = orjson.loads, orjson.dumps

    def delivered(error: Any, _message: Any) -> None:
        if error:
            failures.append(error)

    def commit() -> None:
        nonlocal written
        offsets = [ck.TopicPartition(SOURCE, number, offset) for number, offset in positions.items()]
        for vehicle, number in changed.items():
            producer.produce(
                CHANGELOG, key=vehicle, value=dumps(stored(states[vehicle])), partition=number, on_delivery=delivered
            )
        written += len(changed)
        changed.clear()
        if producer.flush(30) or failures:
            raise SystemExit(f"not delivered: {failures[:1]}")
        consumer.commit(offsets=offsets, asynchronous=False)

    while count < MESSAGES:
        batch = consumer.consume(min(BATCH, MESSAGES - count), 0.2)
        if not batch:
            continue
        if not count:
            clock.start()
            committed = clock.began
        for message in batch:
            if message.error():
                raise SystemExit(str(message.error()))
            telemetry = loads(message.value())
            step(states, telemetry, out)
            number = message.partition()
            positions[number] = message.offset() + 1
            changed[telemetry["vehicle_id"]] = number
            if out:
                key = message.key()
                for event in out:
                    producer.produce(OUTPUT, key=key, value=dumps(event), on_delivery=delivered)
                outputs += len(out)
                out.clear()
        count += len(batch)
        producer.poll(0)
        now = time.perf_counter()
        if now - committed >= COMMIT_S:
            commit()
            committed = now
    commit()
    clock.done(outputs=outputs, changelog=written)
    consumer.close()
    os._exit(0)


main()
