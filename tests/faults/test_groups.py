"""Workers that come and go: rebalance storms, scaling, rolling restarts."""

from __future__ import annotations

import asyncio
import time

import pytest


async def test_rebalance_storm(drill, settings, every_fault):
    run = await drill("group: three workers join, leave and are killed at random", settings)
    await run.start_workers(3)
    run.load.start(rate=600)
    until = time.monotonic() + (75 if every_fault else 10)
    while time.monotonic() < until:
        place = run.chance.choice(run.places)
        match run.chance.choice(["kill", "leave", "join"]):
            case "kill":
                place.worker.kill()
            case "leave" if len(run.places) > 1:
                await run.remove_worker(place)
            case _ if len(run.places) < 4:
                run.add_worker()
            case _:
                continue
        run.repetitions += 1
        await run.pause(0.0, 2.0)
        if run.chance.random() < 0.15:
            await run.recovered(time.monotonic())
    await run.recovered(time.monotonic())
    await run.finish()


@pytest.mark.all_faults
async def test_slow_checkpoints_while_the_group_changes(drill, settings):
    # A drain takes seconds, and other members have gone on meanwhile: cancelled, too late, or of another generation.
    run = await drill("group: rebalances while each commit takes 1.5 s", settings)
    run.plan = lambda: {"TRIPS_TEST_FAULT": "delay:commit:1"}
    await run.start_workers(2)
    run.load.start(rate=400)
    for _ in range(6):
        place = run.add_worker()
        run.repetitions += 1
        await run.pause(1.0, 6.0)
        if run.chance.random() < 0.5:
            place.worker.kill()
        await run.remove_worker(place)
        await run.recovered(time.monotonic())
    await run.finish()


@pytest.mark.all_faults
async def test_scaled_from_one_to_eight_and_back(drill, make_settings, settings):
    settings = settings.model_copy(update={"partitions": 8})
    run = await drill("group: from 1 worker to 8 and back to 1", settings)
    await run.start_workers(1)
    run.load.start(rate=500)
    while len(run.places) < 8:
        await run.start_workers(1)
        run.repetitions += 1
        await run.recovered(time.monotonic())
    while len(run.places) > 1:
        since = time.monotonic()
        await run.remove_worker(run.chance.choice(run.places))
        run.repetitions += 1
        await run.recovered(since)
    await run.finish()


async def test_rolling_restart(drill, settings, every_fault):
    run = await drill("group: rolling restart of three workers", settings)
    await run.start_workers(3)
    run.load.start(rate=600)
    await run.pause(0.5, 1.5)
    pauses = asyncio.create_task(run.longest_pause())
    for _ in range(3 if every_fault else 1):
        for place in run.places:
            worker = place.worker
            worker.terminate()
            since = time.monotonic()
            assert await worker.ended() == 0
            await place.running()
            run.repetitions += 1
            await run.recovered(since)
    pauses.cancel()
    run.row.note = f"longest time in which a partition committed nothing: {await pauses:.1f} s"
    await run.finish()
