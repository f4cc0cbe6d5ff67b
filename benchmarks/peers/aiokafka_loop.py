"""The same loop on aiokafka's getmany, at least once: the client that Faust builds on, without Faust."""
# ruff: noqa: INP001

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from clock import CHANGELOG, COMMIT_S, GROUP, MESSAGES, OUTPUT, SERVERS, SOURCE, Clock
from job import State, step, stored


async def main() -> None:
    """Process so many messages, and end."""
    consumer = AIOKafkaConsumer(
        SOURCE,
        bootstrap_servers=SERVERS,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=SERVERS, linger_ms=20, max_batch_size=2**17, acks="all", enable_idempotence=True
    )
    await producer.start()
    await consumer.start()
    states: dict[str, State] = {}
    changed: dict[str, int] = {}
    out: list[dict[str, Any]] = []
    sent: list[asyncio.Future[Any]] = []
    count = outputs = written = 0
    clock = Clock()
    loads, dumps = orjson.loads, orjson.dumps

    async def commit() -> None:
        nonlocal written
        for vehicle, number in changed.items():
            value = dumps(stored(states[vehicle]))
            sent.append(await producer.send(CHANGELOG, value, key=vehicle.encode(), partition=number))
        written += len(changed)
        changed.clear()
        await producer.flush()
        await asyncio.gather(*sent)
        sent.clear()
        await consumer.commit()

    while count < MESSAGES:
        batches = await consumer.getmany(timeout_ms=200, max_records=2_000)
        if not batches:
            continue
        if not count:
            clock.start()
            committed = clock.began
        for place, batch in batches.items():
            count += len(batch)
            for message in batch:
                telemetry = loads(message.value)
                step(states, telemetry, out)
                changed[telemetry["vehicle_id"]] = place.partition
                if out:
                    for event in out:
                        sent.append(await producer.send(OUTPUT, dumps(event), key=message.key))  # noqa: PERF401
                    outputs += len(out)
                    out.clear()
        if time.perf_counter() - committed >= COMMIT_S:
            await commit()
            committed = time.perf_counter()
    await commit()
    clock.done(outputs=outputs, changelog=written)
    await consumer.stop()
    os._exit(0)


asyncio.run(main())
