"""With ``at_least_once``: what is owed is delivered by whoever comes next, and nothing but repetitions is added."""

from __future__ import annotations

import time

import pytest
from faults.conftest import FAULTS
from faults.faulty_worker import AROUND, steps_of
from faults.test_workers import fail_at_each
from faults.test_zombies import freeze_at_steps


@pytest.fixture
def settings(make_settings):
    """As of the other fault tests."""
    return make_settings(**FAULTS | {"processing_guarantee": "at_least_once"})


@pytest.mark.all_faults
async def test_killed_at_each_step_of_a_checkpoint_at_least_once(drill, settings):
    run = await drill("at least once: kill -9 at each step of a checkpoint, and of taking over", settings)
    run.expect_exit.add(-9)
    await fail_at_each(run, "kill", [*steps_of("at_least_once"), *AROUND] * 2, workers=2)


@pytest.mark.all_faults
async def test_an_exception_at_each_step_of_a_checkpoint_at_least_once(drill, settings):
    run = await drill("at least once: an exception at each step of a checkpoint, and around it", settings)
    await fail_at_each(run, "raise", [*steps_of("at_least_once"), *AROUND], workers=1)
    reasons = [said for _, said in run.ends()]
    assert all("injected at" in said for (said,) in reasons), reasons


async def test_frozen_before_it_announces_until_another_has_gone_on(drill, settings, every_fault):
    """The zombie's announcements come late, behind newer ones; in `trips` there is nothing of it."""
    run = await drill("at least once: frozen before it announces until another worker has gone on", settings)
    steps = ["announce", "letters", "announced", "commit"] * 3 if every_fault else ["announce"]
    await freeze_at_steps(run, steps)
    await run.finish()
    assert run.row.duplicates > 0


async def test_from_one_guarantee_to_the_other_and_back_with_something_owed(drill, settings, every_fault):
    run = await drill("at least once: to exactly once and back, with announcements owed", settings)
    run.expect_exit.add(-9)
    left: list[dict[str, str]] = []
    run.plan = lambda: left.pop(0) if left else {"TRIPS_PROCESSING_GUARANTEE": "exactly_once"}
    run.load.start(rate=700)
    for number in range(1, 7 if every_fault else 3):
        left.append({"TRIPS_TEST_FAULT": "kill:announced:4" if number % 2 else "kill:announce:4"})
        if number == 1:
            run.add_worker()
        else:
            run.workers[0].terminate()
        await run.ended(number)
        run.repetitions += 1
        await run.recovered(time.monotonic())
    await run.finish()
    assert run.row.duplicates > 0
