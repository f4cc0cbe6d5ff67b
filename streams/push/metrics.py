"""What can be measured of a push worker. What is counted is counted when it is committed, attempts when they end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client import Counter as Total
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.push.processor import Outcome
    from streams.push.worker import PushWorker

__all__ = ["PushMetrics"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)


class PushMetrics:
    """The metrics of a push worker; the observer of its partitions."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._events = Total("trips_push_events", "Announcements read.", registry=registry)
        self._unreadable = Total(
            "trips_push_unreadable_events", "Records of trip-events that are no announcements.", registry=registry
        )
        self._due = Total("trips_push_due", "Deliveries that came to be due.", registry=registry)
        self._ended = Total(
            "trips_push_outcomes",
            "What became of deliveries: delivered, failed (an attempt), discarded, dropped or erased.",
            ["subscription", "outcome"],
            registry=registry,
        )
        self._attempts = Total(
            "trips_push_attempts",
            "Attempts by the class of the answer: 2xx to 5xx, none (no answer) or unsent.",
            ["subscription", "answer"],
            registry=registry,
        )
        self._seconds = Histogram(
            "trips_push_attempt_seconds", "One attempt.", ["subscription"], registry=registry, buckets=_SECONDS
        )
        self._checkpoint = Histogram(
            "trips_push_checkpoint_seconds", "Committing a checkpoint.", registry=registry, buckets=_SECONDS
        )
        self._written = Total("trips_push_state_written_bytes", "State written to the changelog.", registry=registry)
        self._recovery = Gauge("trips_push_recovery_seconds", "The last taking over of partitions.", registry=registry)
        self._rebalances = Total(
            "trips_push_rebalances", "Assignments of partitions, the first included.", registry=registry
        )
        self._lost = Total(
            "trips_push_lost_events",
            "Announcements deleted before they were read, that somebody has let us go on without.",
            registry=registry,
        )
        self._refused = Total(
            "trips_push_refused_requests", "Requests to deliver again that were not followed.", registry=registry
        )
        ProcessCollector(registry=registry)

    def show(self, worker: PushWorker) -> None:
        """Show how a worker is when somebody asks."""
        self.registry.register(_Gauges(worker))

    def batch(self, records: int, seconds: float) -> None:
        """A batch was applied; its events are counted with the checkpoint."""

    def checkpoint(self, processor: Any, output: Any, state_bytes: int, seconds: float) -> None:
        """A checkpoint was committed."""
        self._checkpoint.observe(seconds)
        self._written.inc(state_bytes)
        counts = processor.counts
        now = (counts.messages, counts.unreadable, counts.due)
        before, processor.counted = processor.counted, now
        for total, new, old in zip((self._events, self._unreadable, self._due), now, before, strict=True):
            total.inc(new - old)
        for subscription, outcome in output.outcomes:
            self._ended.labels(subscription, outcome).inc()

    def attempt(self, subscription: str, outcome: Outcome) -> None:
        """An attempt has ended."""
        answer = "none" if outcome.status is None else f"{outcome.status // 100}xx"
        self._attempts.labels(subscription, answer if outcome.made else "unsent").inc()
        self._seconds.labels(subscription).observe(outcome.seconds)

    def refused(self) -> None:
        """A request to deliver something again is not followed."""
        self._refused.inc()

    def rebalanced(self) -> None:
        """Partitions (perhaps none) were assigned."""
        self._rebalances.inc()

    def lost(self, records: int) -> None:
        """Announcements are gone, and will not be missed."""
        self._lost.inc(records)

    def recovered(self, records: int, seconds: float) -> None:  # noqa: ARG002 - the runtime's
        """Partitions were taken over."""
        self._recovery.set(seconds)


class _Gauges(Collector):
    """Asked for, not kept up to date."""

    def __init__(self, worker: PushWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        worker = self._worker
        partitions = list(worker.partitions.values())
        yield _gauge("trips_push_ready", "1: partitions are assigned and recovered.", int(worker.ready))
        yield _gauge("trips_push_partitions", "Partitions of trip-events that this worker has.", len(partitions))
        lag = GaugeMetricFamily("trips_push_lag_records", "Announcements not committed yet.", labels=["partition"])
        for partition in partitions:
            if partition.lag is not None:
                lag.add_metric([str(partition.number)], partition.lag)
        yield lag
        yield _gauge("trips_push_attempts_under_way", "Requests that wait for their answer.", worker.under_way)
        yield _gauge("trips_push_subscriptions", "Subscriptions, those that rest included.", worker.subscriptions)
        processors: list[Any] = [partition.processor for partition in partitions]
        yield _gauge(
            "trips_push_state_bytes", "Announcements that are kept.", sum(one.state_bytes for one in processors)
        )
        count: dict[str, int] = {}
        oldest: dict[str, int] = {}
        for processor in processors:
            for name, waiting, since_ms in processor.waiting_by_subscription():
                count[name] = count.get(name, 0) + waiting
                oldest[name] = min(oldest.get(name, since_ms), since_ms)
        waits = GaugeMetricFamily("trips_push_waiting", "Deliveries that wait.", labels=["subscription"])
        ages = GaugeMetricFamily(
            "trips_push_oldest_seconds", "Age of the oldest delivery that waits.", labels=["subscription"]
        )
        now = time.time()
        for name, waiting in sorted(count.items()):
            waits.add_metric([name], waiting)
            ages.add_metric([name], max(0.0, now - oldest[name] / 1000))
        yield waits
        yield ages


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)
