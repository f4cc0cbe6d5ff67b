"""Workers that are killed, stopped, starved of memory, or fail at a step of a checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import time

from faults.faulty_worker import AROUND, steps_of
from faults.workers import memory


async def test_killed_at_random_moments(drill, settings, every_fault):
    run = await drill("worker: kill -9 at a random moment", settings)
    await run.start_workers(2)
    run.load.start(rate=700)
    for _ in range(22 if every_fault else 4):
        await run.pause(0.3, 2.5)
        worker = run.chance.choice([worker for worker in run.workers if worker.alive])
        worker.kill()
        run.repetitions += 1
        await run.recovered(time.monotonic())
    await run.finish()


async def test_killed_while_it_starts_and_while_it_stops(drill, settings, every_fault):
    run = await drill("worker: kill -9 while it starts, and while it stops", settings)
    await run.start_workers(2)
    run.load.start(rate=700)
    for number in range(10 if every_fault else 2):
        (place, _) = run.places
        if number % 2:
            worker = await place.running()
            worker.terminate()
            await run.pause(0.0, 0.6)
        else:
            place.worker.kill()
            before = place.started
            while place.started == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await run.pause(0.3, 2.5)
        place.worker.kill()
        run.repetitions += 1
        await run.recovered(time.monotonic())
    await run.finish()


async def fail_at_each(run, action, steps, *, workers):
    """Each new worker has its plan; what it leaves undone is for the next."""
    chance = random.Random(f"{run.row.seed} {action}")
    plans = [f"{action}:{step}:{1 if step in {'fence', 'restore'} else chance.randrange(2, 40)}" for step in steps]
    left = list(plans)
    run.plan = lambda: {"TRIPS_TEST_FAULT": left.pop(0)} if left else {}
    for _ in range(workers):
        run.add_worker()
    run.load.start(rate=700)
    for number in range(1, len(plans) + 1):
        await run.ended(number)
        run.repetitions += 1
        await run.recovered(time.monotonic())
    await run.finish()


async def test_killed_at_each_step_of_taking_over_and_of_a_checkpoint(drill, settings, every_fault):
    run = await drill("worker: kill -9 at each step of a checkpoint, and of taking over", settings)
    run.expect_exit.add(-9)
    every = [*steps_of(settings.processing_guarantee), *AROUND]
    steps = every * 2 if every_fault else ["send", "commit", "committed"]
    await fail_at_each(run, "kill", steps, workers=2)


async def test_an_exception_at_each_step_of_a_checkpoint(drill, settings, every_fault):
    run = await drill("worker: an exception at each step of a checkpoint, and around it", settings)
    every = [*steps_of(settings.processing_guarantee), *AROUND]
    await fail_at_each(run, "raise", every if every_fault else ["add", "deliver"], workers=1)
    reasons = [said for _, said in run.ends()]
    assert all("injected at" in said for (said,) in reasons), reasons


async def test_stopped_with_sigterm(drill, settings, every_fault):
    run = await drill("worker: SIGTERM", settings)
    await run.start_workers(2)
    run.load.start(rate=700)
    for _ in range(10 if every_fault else 2):
        await run.pause(0.2, 2.0)
        place = run.chance.choice(run.places)
        worker = await place.running()
        worker.terminate()
        since = time.monotonic()
        assert await worker.ended() == 0
        run.repetitions += 1
        await run.recovered(since)
    await run.finish()


async def test_out_of_memory(drill, settings, every_fault):
    run = await drill("worker: out of memory (the system grants no more)", settings)
    # The interpreter may find no memory even for the exception, or for a line in the log.
    run.expect_exit |= {1, -6, -9, -11}
    (worker,) = await run.start_workers(1)
    run.places[0].without_memory = True
    run.load.start(rate=700)
    ended = 0
    for _ in range(6 if every_fault else 1):
        await run.pause(0.5, 2.0)
        # What it has it keeps; every new page is refused.
        most = run.chance.randrange(memory(worker))
        resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (most, most))
        run.repetitions += 1
        with contextlib.suppress(TimeoutError):
            await worker.ended(30)
        if worker.alive:  # it may live on what it has: then it does its work
            await run.recovered(time.monotonic())
            worker.kill()
        else:
            ended += 1
        await run.recovered(time.monotonic())
        worker = await run.places[0].running()
    run.row.note = f"{ended} ended for it; the others did with what they had, until they were killed"
    assert ended > 0 or not every_fault, "there was memory enough each time"
    await run.finish()
