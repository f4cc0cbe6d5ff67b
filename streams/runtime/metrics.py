"""What can be measured, for Prometheus. Nothing is counted per message here: the processors count, and are read."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client import Counter as Total
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.telemetry.problems import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.records import Output
    from streams.runtime.partition import PartitionProcessor
    from streams.runtime.worker import Worker

__all__ = ["Metrics"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
_EVENTS: Final = ("TripStarted", "TripEnded", "TripDataReady", "TripDiscarded", "TripDeleted")
# Fields of a processor's running totals that are numbers, and what they are called outside.
_TOTALS: Final = {
    "messages": ("trips_messages", "Telemetry records read."),
    "samples": ("trips_samples", "Samples in them."),
    "applied": ("trips_applied_records", "Records that added a sample."),
    "repeated": ("trips_repeated_records", "Records that added none: all of it was known."),
    "refused": ("trips_refused_samples", "Samples of deleted trips, which are refused."),
    "commands": ("trips_commands", "Commands carried out, or refused."),
    "late": ("trips_late_records", "Records with samples behind the correction horizon."),
}


class Metrics:
    """The metrics of a worker; the observer of its partitions.

    What is counted is counted when it is committed: what a worker that dies has not committed is read, and counted, by
    its successor.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside each other one, of no use
        self.registry = registry = CollectorRegistry()
        self._totals = {field: Total(name, about, registry=registry) for field, (name, about) in _TOTALS.items()}
        self._announcements = Total("trips_announcements", "Announcements.", ["event"], registry=registry)
        self._rejected = Total(
            "trips_dead_letters", "Records in the dead letters: whole, or partial.", ["kind"], registry=registry
        )
        self._problems = Total(
            "trips_problems", "What was wrong with them (one record may have several).", ["reason"], registry=registry
        )
        self._batch = Histogram("trips_batch_seconds", "Applying a batch.", registry=registry, buckets=_SECONDS)
        self._records = Histogram(
            "trips_batch_records", "Records in a batch.", registry=registry, buckets=(1, 10, 100, 1000, 4000)
        )
        self._checkpoint = Histogram(
            "trips_checkpoint_seconds", "Committing a checkpoint.", registry=registry, buckets=_SECONDS
        )
        self._written = Total("trips_state_written_bytes", "State written to the changelog.", registry=registry)
        self._recovery = Gauge("trips_recovery_seconds", "The last taking over of partitions.", registry=registry)
        self._recovered = Gauge("trips_recovery_records", "Changelog records that it read.", registry=registry)
        self._rebalances = Total(
            "trips_rebalances", "Assignments of partitions, the first included.", registry=registry
        )
        self._lost = Total(
            "trips_lost_records",
            "Telemetry records deleted before they were read, that somebody has let us go on without.",
            registry=registry,
        )
        for event in _EVENTS:
            self._announcements.labels(event)
        for kind in ("whole", "partial"):
            self._rejected.labels(kind)
        for reason in Reason:
            self._problems.labels(reason.value)
        ProcessCollector(registry=registry)  # memory, open files and CPU time of the process, under their usual names

    def show(self, worker: Worker) -> None:
        """Show how a worker is when somebody asks."""
        self.registry.register(_Gauges(worker))

    def batch(self, records: int, seconds: float) -> None:
        """A batch was applied."""
        self._records.observe(records)
        self._batch.observe(seconds)

    def checkpoint(self, processor: PartitionProcessor, output: Output, state_bytes: int, seconds: float) -> None:
        """A checkpoint was committed."""
        self._checkpoint.observe(seconds)
        self._written.inc(state_bytes)
        counts = processor.counts
        for field, total in self._totals.items():
            now = getattr(counts, field)
            total.inc(now - counts.reported[field])
            counts.reported[field] = now
        for event, count in Counter(one.event for one in output.announcements).items():
            self._announcements.labels(event).inc(count)
        for rejected in output.rejected:
            self._rejected.labels("partial" if rejected.partial else "whole").inc()
            for problem in rejected.problems:
                self._problems.labels(problem.reason.value).inc()

    def rebalanced(self) -> None:
        """Partitions (perhaps none) were assigned."""
        self._rebalances.inc()

    def lost(self, records: int) -> None:
        """Records of the source are gone, and will not be missed."""
        self._lost.inc(records)

    def recovered(self, records: int, seconds: float) -> None:
        """Partitions were taken over."""
        self._recovery.set(seconds)
        self._recovered.set(records)


class _Gauges(Collector):
    """Asked for, not kept up to date."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        partitions = self._worker.partitions.values()
        yield _gauge("trips_ready", "1: partitions are assigned and recovered.", int(self._worker.ready))
        yield _gauge("trips_tasks", "Tasks of the event loop.", _tasks())
        yield _gauge("trips_partitions", "Partitions that this worker has.", len(partitions))
        lag = GaugeMetricFamily("trips_lag_records", "Records of a partition not committed yet.", labels=["partition"])
        for partition in partitions:
            if partition.lag is not None:
                lag.add_metric([str(partition.number)], partition.lag)
        yield lag
        now = time.monotonic()
        waiting = (partition.waiting_since() for partition in partitions)
        yield _gauge(
            "trips_waiting_seconds",
            "Age of the oldest record that is applied and not committed; 0: none.",
            max((now - since for since in waiting if since is not None), default=0),
        )
        yield _gauge(
            "trips_broker_silence_seconds",
            "Since a broker was last heard of: by a fetch, or without partitions by a heartbeat.",
            now - self._worker.answered,
        )
        processors: list[Any] = [partition.processor for partition in partitions]
        yield _gauge("trips_vehicles", "Vehicles with state.", sum(one.vehicles for one in processors))
        yield _gauge(
            "trips_owed_announcements",
            "With at_least_once: announcements of the last checkpoints, until the state says that they are delivered.",
            sum(one.owed for one in processors),
        )
        yield _gauge("trips_open_trips", "Trips that are on.", sum(one.open_trips for one in processors))
        yield _gauge("trips_state_bytes", "State of all vehicles.", sum(one.state_bytes for one in processors))


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked from outside of the event loop
        return 0


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)
