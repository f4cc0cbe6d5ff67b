"""What is known of vehicles goes with its last reference: a worker hardly ever looks for cycles."""

from __future__ import annotations

import gc

import pytest
from drives import Drive
from test_deleted_trips import CASES


@pytest.fixture
def collected():
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def ours() -> list[str]:
        gc.collect()
        return [type(found).__name__ for found in gc.garbage if type(found).__module__.startswith("streams.")]

    yield ours
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize(("script", "rules"), CASES)
def test_nothing_is_left_for_the_collector(script, rules, collected):
    drive = Drive(rules)
    drive.run(script)
    del drive
    assert collected() == []


def test_what_is_left_would_be_seen(collected):
    drive = Drive(CASES[0].values[1])
    drive.said.append(drive)
    del drive
    assert "Processor" in collected()
