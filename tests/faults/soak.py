"""A worker that runs for as long as all the other tests do, on a broker of its own, and is looked at all the while."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults.drill import Drill, Row, prepare
from faults.load import EPOCH, Load, fleet

from streams.local.broker import LocalKafka
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.load import Message
    from faults.workers import Worker

__all__ = ["Sampled", "Slope", "Soak", "slope"]

RATE = 80
WARM_UP = 480.0
"""Seconds after which the horizon has long been left behind, and every code path and buffer has been in use."""
_EVERY = 2.0


@dataclass(frozen=True)
class Sampled:
    """What was measured at one moment: seconds since the start, bytes, and numbers."""

    at: float
    memory: float
    descriptors: float
    tasks: float
    lag: float
    vehicles: float


@dataclass(frozen=True)
class Slope:
    """By how much something grows in an hour, and the standard error of that."""

    per_hour: float
    error: float
    mean: float

    def text(self, unit: float, name: str) -> str:
        return f"{self.per_hour / unit:+.2f} ± {2 * self.error / unit:.2f} {name}/h (mean {self.mean / unit:.1f})"


def slope(points: list[tuple[float, float]], blocks: int = 20) -> Slope:
    """A straight line through the means of blocks: two values that are seconds apart are not two pieces of evidence."""
    size = max(1, len(points) // blocks)
    means = [
        (statistics.fmean(t for t, _ in some), statistics.fmean(value for _, value in some))
        for some in (points[place : place + size] for place in range(0, len(points) - size + 1, size))
    ]
    times, values = zip(*means, strict=True)
    line = statistics.linear_regression(times, values)
    rest = [value - line.intercept - line.slope * t for t, value in means]
    spread = sum((t - statistics.fmean(times)) ** 2 for t in times)
    error = (sum(one**2 for one in rest) / (len(means) - 2) / spread) ** 0.5
    return Slope(line.slope * 3600, error * 3600, statistics.fmean(values))


def endless(seed: int) -> Iterator[Message]:
    """The fleet, among it a vehicle whose trip never ends, and many that come once and never again."""
    began = time.monotonic()
    said = 0
    for message in fleet(seed, 120, newcomers=0.02):
        if time.monotonic() - began > said:
            said += 1
            value = {"vehicle_id": "endless", "timestamp": EPOCH + said * 20_000, "speed_in_kmh": said % 130}
            yield b"endless", json.dumps(value | ({"ignition": "ON"} if said == 1 else {})).encode()
        yield message


@dataclass
class Soak:
    """Starts in a thread of its own; :meth:`end` says how it was."""

    seed: int
    samples: list[Sampled] = field(default_factory=list)
    row: Row = field(init=False)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.row = Row("soak: one worker, a trip that never ends, vehicles that come once", self.seed)
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="soak")

    def start(self) -> None:
        self._thread.start()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def end(self) -> None:
        """Stop the load, judge, and raise what went wrong."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="ignition-trips-soak-") as folder, LocalKafka() as kafka:
                asyncio.run(self._soak(kafka, Path(folder)))
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            self.error = error

    async def _soak(self, kafka: LocalKafka, folder: Path) -> None:
        settings = Settings.load(
            bootstrap_servers=kafka.bootstrap_servers,
            application_id=f"soak-{random.SystemRandom().randrange(10**9)}",
            partitions=4,
            silence_timeout=600,
            correction_horizon=1200,
        )
        await prepare(settings)
        load = Load(settings, self.seed, messages=endless(self.seed))
        drill = Drill(self.row, settings, settings, folder, load)
        try:
            (worker,) = await drill.start_workers(1)
            load.start(rate=RATE)
            drill.repetitions = 1
            for number in itertools.count(1):
                if self._stop.is_set():
                    break
                self.samples.append(await look_at(worker, self.seconds))
                await asyncio.sleep(max(0.0, self._began + number * _EVERY - time.monotonic()))
            await drill.finish()
            assert not list(drill.ends()), "the worker has ended"
        finally:
            await drill.destroy()


async def look_at(worker: Worker, at: float) -> Sampled:
    async with asyncio.timeout(30):
        # A worker that is busy answers later, and tells of the lag once it has read something.
        while "\ntrips_lag_records{" not in (metrics := (await worker.probe("/metrics"))[1]):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    process = Path(f"/proc/{worker.process.pid}")
    return Sampled(
        at,
        int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        len(list((process / "fd").iterdir())),
        total(metrics, "trips_tasks"),
        total(metrics, "trips_lag_records"),
        total(metrics, "trips_vehicles"),
    )


def total(metrics: str, name: str) -> float:
    """The sum of a metric over its labels."""
    found: list[Any] = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    assert found, f"no {name} among the metrics"
    return sum(map(float, found))
