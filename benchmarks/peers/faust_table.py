"""Faust as its documentation shows it: an agent, a Table, an event for each message. Killed, it loses some."""
# ruff: noqa: INP001

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import faust
import orjson
from clock import COMMIT_S, FOLDER, GROUP, MESSAGES, OUTPUT, PARTITIONS, SERVERS, SOURCE, Clock
from job import FIELDS, State, step

clock = Clock()
counts = {"messages": 0, "outputs": 0}
ending: list[asyncio.Future[None]] = []

app = faust.App(
    GROUP,
    broker=f"kafka://{SERVERS}",
    store="memory://",
    datadir=Path(FOLDER) / "faust",
    web_enabled=False,
    topic_allow_declare=False,
    topic_disable_leader=True,
    topic_partitions=PARTITIONS,
    consumer_auto_offset_reset="earliest",
    consumer_max_fetch_size=2**20,
    broker_commit_interval=COMMIT_S,
    broker_max_poll_records=4_000,
    stream_buffer_maxsize=4_096,
    stream_recovery_delay=0.0,
    stream_wait_empty=False,
    producer_linger=0.02,
    producer_max_batch_size=2**17,
    producer_acks=-1,
)
source = app.topic(
    SOURCE, key_serializer="raw", key_type=bytes, value_serializer="json", value_type=None, partitions=PARTITIONS
)
output = app.topic(OUTPUT, key_type=bytes, value_serializer="raw", value_type=bytes, partitions=PARTITIONS)
table = app.Table("states", partitions=PARTITIONS, key_type=str, value_type=None)


@app.task
async def quiet() -> None:
    """``-l error`` leaves these at DEBUG."""
    for name in ("faust", "aiokafka", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def finish() -> None:
    """Have Faust commit (it flushes its producer first) until the last message is; then tell."""
    committed = 0
    while committed < MESSAGES:
        await asyncio.sleep(0.005)
        await app.consumer.commit()
        offsets = app.consumer._committed_offset  # noqa: SLF001
        committed = sum(offset or 0 for place, offset in offsets.items() if place.topic == SOURCE)
    clock.done(outputs=counts["outputs"], changelog=counts["messages"])
    os._exit(0)


@app.agent(source)
async def trips(stream: Any) -> None:
    """The job, with the vehicle's state taken from the table and put back."""
    out: list[dict[str, Any]] = []
    async for telemetry in stream:
        if not counts["messages"]:
            clock.start()
        counts["messages"] += 1
        if counts["messages"] == MESSAGES:
            ending.append(asyncio.ensure_future(finish()))
        vehicle = telemetry["vehicle_id"]
        state = State()
        for name, value in zip(FIELDS, table.get(vehicle) or (), strict=False):
            setattr(state, name, value)
        step({vehicle: state}, telemetry, out)
        table[vehicle] = [getattr(state, name) for name in FIELDS]
        for event in out:
            await output.send(key=vehicle.encode(), value=orjson.dumps(event))
        counts["outputs"] += len(out)
        out.clear()


sys.argv = ["faust", "worker", "-l", "error", "--without-web"]
app.main()
