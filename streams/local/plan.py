"""How large a deployment has to be: from a fleet, and from what one message, vehicle and trip were measured to cost.

Pure arithmetic. The formulas are explained in docs/performance.md, "Sizing", whose examples are printed by this module;
the unit costs stand in :data:`UNITS`, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from streams.errors import UsageError

__all__ = ["UNITS", "Fleet", "Plan", "Unit", "as_json", "in_words", "make_plan", "unit_costs"]

_DAY_S: Final = 86_400
_MIB: Final = 2**20
# Two, so that one may fail or be replaced.
_FEWEST_PROCESSES: Final = 2
_FEWEST_PARTITIONS: Final = 8
# What TRIPS_PARTITIONS takes.
_MOST_PARTITIONS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit cost.

    Attributes:
        name: for the command line.
        about: what it is, with its unit.
        source: the program of benchmarks/ that printed it, and the day.
    """

    name: str
    value: float
    about: str
    source: str


UNITS: Final = (
    Unit("worker_us", 28.3, "CPU of a worker for a message, µs", "scaling.py live, 2026-11-22"),
    Unit("checkpoint_ms", 1.9, "CPU of a worker for a checkpoint, ms", "scaling.py commits, 2026-11-22"),
    Unit("broker_us", 4.3, "CPU of the brokers for a message, one replica, µs", "compare.py, 2026-11-22"),
    Unit("process_mib", 77.0, "memory of a worker without vehicles, MiB", "startup.py, 2026-11-22"),
    Unit("idle_bytes", 442.0, "memory of an idle vehicle, bytes", "memory.py, 2026-11-22"),
    Unit("driving_bytes", 8_240.0, "memory of a vehicle that drives, samples apart, bytes", "memory.py, 2026-11-22"),
    Unit("driving_sample_bytes", 12.8, "memory of a sample of a trip that is on, bytes", "memory.py, 2026-11-22"),
    Unit("sample_bytes", 3.7, "memory of a sample of a finished trip, bytes", "memory.py, 2026-11-22"),
    Unit("stored_idle_bytes", 364.0, "changelog of an idle vehicle, bytes", "memory.py, 2026-11-22"),
    Unit(
        "stored_driving_sample_bytes", 8.5, "changelog of a sample of a trip that is on, bytes", "memory.py, 2026-11-22"
    ),
    Unit("stored_sample_bytes", 3.4, "changelog of a sample of a finished trip, bytes", "memory.py, 2026-11-22"),
    Unit("changelog_ratio", 0.91, "changelog bytes written for a byte of telemetry", "memory.py, 2026-11-22"),
    Unit("events_bytes", 2_938.0, "announcements of a trip, bytes", "memory.py, 2026-11-22"),
    Unit("trip_bytes", 1_276.0, "record of a trip in the topic trips, bytes", "memory.py, 2026-11-22"),
    Unit(
        "recovery_vehicles",
        118_344.0,
        "vehicles of which a worker reads the state back in a second",
        "recovery.py, 2026-11-22",
    ),
    Unit("recovery_mb", 67.0, "MB of samples that it reads back in a second", "recovery.py --each 100, 2026-11-22"),
)
"""The newest measured ones. A core is one of the machine that is named in docs/performance.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is to be handled, and how much room there is to be.

    Attributes:
        vehicles: that exist.
        interval_s: from one message of a driving vehicle to its next.
        trip_minutes: length of a trip.
        trips_per_day: of each vehicle.
        peak: how many times the mean load the busiest hour has.
        message_bytes: of telemetry, key included.
        samples: properties in a message.
        horizon_h: TRIPS_CORRECTION_HORIZON.
        commit_interval_s: TRIPS_COMMIT_INTERVAL.
        retention_days: of telemetry and announcements.
        replicas: of each topic.
        headroom: the share of a worker's core that is left free at peak, for catching up and for growth.
        worker_memory_gb: what a worker may take.
        recovery_within_s: a worker is to have its state back by then.
    """

    vehicles: int
    interval_s: float
    trip_minutes: float = 20.0
    trips_per_day: float = 3.0
    peak: float = 3.0
    message_bytes: int = 270
    samples: int = 6
    horizon_h: float = 24.0
    commit_interval_s: float = 0.1
    retention_days: float = 7.0
    replicas: int = 3
    headroom: float = 0.5
    worker_memory_gb: float = 4.0
    recovery_within_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes. Rates by second; ``peak`` is the busiest hour; bytes are of all replicas where it says stored."""

    driving: float
    driving_peak: float
    messages_mean: float
    messages_peak: float
    trips_per_day: float
    partitions: int
    processes: int
    processes_because_of: str
    worker_cores_mean: float
    worker_cores_peak: float
    broker_cores_peak: float
    memory_total: float
    memory_process: float
    changelog_written_peak: float
    changelog_stored: float
    brokers_in_peak: float
    brokers_out_peak: float
    telemetry_stored: float
    events_stored: float
    trips_stored_year: float
    recovery_s: float


def unit_costs(changes: Mapping[str, float] | None = None) -> dict[str, float]:
    """The unit costs by name, with some replaced.

    Raises:
        UsageError: there is no such unit cost, or it is negative.
    """
    costs = {unit.name: unit.value for unit in UNITS}
    for name, value in (changes or {}).items():
        if name not in costs:
            raise UsageError(f"there is no unit cost {name!r}; there are: {', '.join(costs)}")
        if not 0 < value < math.inf:
            raise UsageError(f"the unit cost {name} has to be more than 0")
        costs[name] = value
    return costs


def make_plan(fleet: Fleet, costs: Mapping[str, float]) -> Plan:
    """The arithmetic.

    Raises:
        UsageError: vehicles would be driving for more than the whole day.
    """
    share = fleet.trips_per_day * fleet.trip_minutes / 1440
    if share > 1:
        raise UsageError(
            f"{fleet.trips_per_day:g} trips of {fleet.trip_minutes:g} minutes are more than a day: plan less"
        )
    driving = fleet.vehicles * share
    driving_peak = min(driving * fleet.peak, fleet.vehicles)
    mean, peak = driving / fleet.interval_s, driving_peak / fleet.interval_s
    trips_a_day = fleet.vehicles * fleet.trips_per_day

    # Samples of finished trips are kept until the horizon has passed them; of a trip that is on, half on average.
    kept = mean * fleet.horizon_h * 3600 * fleet.samples
    under_way = driving_peak * fleet.trip_minutes * 60 / fleet.interval_s / 2 * fleet.samples
    memory = (
        fleet.vehicles * costs["idle_bytes"]
        + driving_peak * costs["driving_bytes"]
        + under_way * costs["driving_sample_bytes"]
        + kept * costs["sample_bytes"]
    )
    samples = under_way * costs["stored_driving_sample_bytes"] + kept * costs["stored_sample_bytes"]
    changelog = fleet.vehicles * costs["stored_idle_bytes"] + samples
    recovery = fleet.vehicles / costs["recovery_vehicles"] + samples / costs["recovery_mb"] / 1e6

    room = fleet.worker_memory_gb * 1e9 - costs["process_mib"] * _MIB
    if room <= 0:
        raise UsageError(f"a worker without vehicles takes {costs['process_mib']:g} MiB: it has to get more than that")
    processes, partitions, why = _workers(
        fleet, costs, peak, {"memory": memory / room, "recovery": recovery / fleet.recovery_within_s}
    )
    telemetry = peak * fleet.message_bytes
    written = telemetry * costs["changelog_ratio"]
    trips_peak = trips_a_day / _DAY_S * driving_peak / driving
    announced = trips_peak * (costs["events_bytes"] + costs["trip_bytes"])
    arriving = telemetry + written + announced
    copies = (fleet.replicas - 1) * arriving
    return Plan(
        driving=driving,
        driving_peak=driving_peak,
        messages_mean=mean,
        messages_peak=peak,
        trips_per_day=trips_a_day,
        partitions=partitions,
        processes=processes,
        processes_because_of=why,
        worker_cores_mean=_cores(fleet, costs, mean, partitions),
        worker_cores_peak=_cores(fleet, costs, peak, partitions),
        broker_cores_peak=peak * costs["broker_us"] / 1e6 * fleet.replicas,
        memory_total=memory + processes * costs["process_mib"] * _MIB,
        memory_process=memory / processes + costs["process_mib"] * _MIB,
        changelog_written_peak=written,
        changelog_stored=changelog * fleet.replicas,
        brokers_in_peak=arriving + copies,
        brokers_out_peak=telemetry + copies,
        telemetry_stored=mean * _DAY_S * fleet.message_bytes * fleet.retention_days * fleet.replicas,
        events_stored=trips_a_day * costs["events_bytes"] * fleet.retention_days * fleet.replicas,
        trips_stored_year=trips_a_day * 365 * costs["trip_bytes"] * fleet.replicas,
        recovery_s=recovery / processes,
    )


def _workers(
    fleet: Fleet, costs: Mapping[str, float], peak: float, floors: Mapping[str, float]
) -> tuple[int, int, str]:
    """Processes, partitions, and what asks for so many processes; floors: what else does than processor time."""
    why, processes = max(
        [("failures", float(_FEWEST_PROCESSES)), *((name, math.ceil(floor)) for name, floor in floors.items())],
        key=lambda found: found[1],
    )
    while True:
        # Twice as many, for growth: partitions cannot be added later. A power of two can be shared out evenly.
        partitions = max(_FEWEST_PARTITIONS, 2 ** math.ceil(math.log2(2 * processes)))
        if partitions > _MOST_PARTITIONS:
            raise UsageError(
                f"this takes {partitions:,} partitions, and at most {_MOST_PARTITIONS:,} can be: use several clusters"
            )
        # More processes have more partitions, and those more checkpoints: so until it fits.
        needed = math.ceil(_cores(fleet, costs, peak, partitions) / (1 - fleet.headroom))
        if needed <= processes:
            return int(processes), partitions, why
        why, processes = "processor time", needed


def _cores(fleet: Fleet, costs: Mapping[str, float], rate: float, partitions: int) -> float:
    """Of all workers together: messages, and checkpoints, of which there is at most one for each message."""
    checkpoints = min(partitions / fleet.commit_interval_s, rate)
    return rate * costs["worker_us"] / 1e6 + checkpoints * costs["checkpoint_ms"] / 1e3


def in_words(fleet: Fleet, plan: Plan) -> list[str]:
    """The plan as lines of text."""
    rows = (
        ("driving at a time", f"{plan.driving:,.0f} on average, {plan.driving_peak:,.0f} at peak"),
        ("messages a second", f"{plan.messages_mean:,.0f} on average, {plan.messages_peak:,.0f} at peak"),
        ("trips a day", f"{plan.trips_per_day:,.0f}"),
        None,
        ("partitions", f"{plan.partitions:,}"),
        ("worker processes", f"{plan.processes:,}, one core each; as many because of {plan.processes_because_of}"),
        ("cores that workers use", f"{plan.worker_cores_mean:,.2f} on average, {plan.worker_cores_peak:,.2f} at peak"),
        ("cores that brokers use", f"{plan.broker_cores_peak:,.2f} at peak, all together"),
        ("memory of a worker", f"{_bytes(plan.memory_process)} ({_bytes(plan.memory_total)} all together)"),
        (
            "recovery of a worker",
            f"{plan.recovery_s:,.1f} s for its state, after TRIPS_SESSION_TIMEOUT if it was killed",
        ),
        None,
        ("changelog, written", f"{_bytes(plan.changelog_written_peak)}/s at peak"),
        ("network into brokers", f"{_bytes(plan.brokers_in_peak)}/s at peak, replication included"),
        ("network out of brokers", f"{_bytes(plan.brokers_out_peak)}/s at peak, replication included, one application"),
        None,
        ("disk: telemetry", f"{_bytes(plan.telemetry_stored)} for {fleet.retention_days:g} days"),
        ("disk: trip-events", f"{_bytes(plan.events_stored)} for {fleet.retention_days:g} days"),
        ("disk: trips", f"{_bytes(plan.trips_stored_year)} more every year"),
        ("disk: changelog", f"{_bytes(plan.changelog_stored)} when compacted"),
    )
    head = (
        f"{fleet.vehicles:,} vehicles: {fleet.trips_per_day:g} trips a day of {fleet.trip_minutes:g} minutes, "
        f"a message of {fleet.message_bytes} bytes every {fleet.interval_s:g} s; {fleet.replicas} replicas"
    )
    return [head, "", *("" if row is None else f"{row[0]:24}{row[1]}" for row in rows)]


def as_json(fleet: Fleet, plan: Plan, costs: Mapping[str, float]) -> dict[str, Any]:
    """All of it as numbers: bytes, seconds, cores."""
    return {"fleet": asdict(fleet), "plan": asdict(plan), "unit_costs": dict(costs)}


def _bytes(count: float) -> str:
    """To three digits, in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"
