"""What can be measured, for Prometheus. Nothing is counted per message here: the processors count, and are read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as PrometheusCounter

if TYPE_CHECKING:
    from streams.records import Output

__all__ = ["Metrics"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)


class Metrics:
    """The metrics of a worker; an observer of its partitions."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._records = PrometheusCounter("trips_records", "Telemetry records read.", registry=registry)
        self._announcements = PrometheusCounter(
            "trips_announcements", "Announcements committed, by event.", ["event"], registry=registry
        )
        self._dead_letters = PrometheusCounter(
            "trips_dead_letters",
            "Problems of dead-lettered records committed, by reason.",
            ["reason"],
            registry=registry,
        )
        self._rejected = PrometheusCounter(
            "trips_rejected_records", "Records dead-lettered: as a whole, or partial.", ["partial"], registry=registry
        )
        self._late = PrometheusCounter("trips_late_records", "Records behind the horizon.", registry=registry)
        self._batch = Histogram("trips_batch_seconds", "Time to apply a batch.", registry=registry, buckets=_SECONDS)
        self._checkpoint = Histogram(
            "trips_checkpoint_seconds", "Time to commit a checkpoint.", registry=registry, buckets=_SECONDS
        )
        self._state = PrometheusCounter("trips_state_written_bytes", "State written.", registry=registry)
        self._recovery = Gauge("trips_recovery_seconds", "Time the last recovery took.", registry=registry)
        self._recovered = Gauge("trips_recovered_records", "Changelog records it read.", registry=registry)

    def batch(self, partition: int, records: int, seconds: float) -> None:  # noqa: ARG002 - an observer is told where
        """A batch was applied."""
        self._records.inc(records)
        self._batch.observe(seconds)

    def checkpoint(self, partition: int, output: Output, state_bytes: int, seconds: float) -> None:  # noqa: ARG002
        """A checkpoint was committed."""
        self._checkpoint.observe(seconds)
        self._state.inc(state_bytes)
        for event, count in Counter(one.event for one in output.announcements).items():
            self._announcements.labels(event).inc(count)
        for rejected in output.rejected:
            self._rejected.labels("true" if rejected.partial else "false").inc()
            for problem in rejected.problems:
                self._dead_letters.labels(problem.reason.value).inc()
        self._late.inc(len(output.late))

    def recovered(self, records: int, seconds: float) -> None:
        """State was read back."""
        self._recovery.set(seconds)
        self._recovered.set(records)
