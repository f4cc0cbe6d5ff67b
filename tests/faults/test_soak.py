"""Memory, file descriptors, tasks and lag of a worker that runs on and on."""

from __future__ import annotations

import os
import random
import time

import pytest
from faults.soak import WARM_UP, Soak, slope

MINUTES = float(os.environ.get("TRIPS_TEST_SOAK_MINUTES", "20"))
"""All other tests can be run beside it."""
VEHICLE_BYTES = 1400
"""What one that came once may take of a worker's memory, stored values and Python's objects around them."""


def test_a_slope_comes_with_how_sure_it_is():
    chance = random.Random(7)
    flat = slope([(t, 100 + chance.gauss(0, 3)) for t in range(600)])
    assert abs(flat.per_hour) < 3 * flat.error
    grows = slope([(t, 100 + t / 36 + chance.gauss(0, 3)) for t in range(600)])
    assert abs(grows.per_hour - 100) < 3 * grows.error
    assert grows.per_hour > 10 * grows.error


@pytest.mark.all_faults
@pytest.mark.timeout(7200)
def test_soak(seed, add_row):
    soak = Soak(seed)
    add_row(soak.row)
    soak.start()
    while soak.seconds < MINUTES * 60 and soak.error is None:
        time.sleep(0.5)
    soak.end()
    if soak.error is not None:
        raise soak.error
    settled = [one for one in soak.samples if one.at > WARM_UP]
    assert len(settled) > 60
    memory = slope([(one.at, one.memory) for one in settled])
    descriptors = slope([(one.at, one.descriptors) for one in settled])
    tasks = slope([(one.at, one.tasks) for one in settled])
    lag = slope([(one.at, one.lag) for one in settled])
    vehicles = slope([(one.at, one.vehicles) for one in settled])
    soak.row.note = (
        f"{soak.seconds / 60:.0f} min; memory {memory.text(2**20, 'MiB')}, vehicles {vehicles.text(1, '')}, "
        f"descriptors {descriptors.text(1, '')}, tasks {tasks.text(1, '')}, lag {lag.text(1, 'records')}"
    )
    # Whoever came once stays: that is what may grow. Beyond it, the C library's free lists take an hour to settle: what
    # is in use stays the same, and less and less comes to lie between it.
    by_minute = [round(one.memory / 2**20, 1) for one in soak.samples[::30]]
    left = memory.per_hour - 3 * memory.error - vehicles.per_hour * VEHICLE_BYTES
    assert left < 24 * 2**20, (soak.row.note, by_minute)
    for what in (descriptors, tasks):
        assert what.per_hour - 3 * what.error < 1, soak.row.note
        assert 5 < what.mean < 200
    assert lag.per_hour - 3 * lag.error < 200, soak.row.note
    assert lag.mean < 1000, soak.row.note
    assert vehicles.mean > 120, soak.row.note
