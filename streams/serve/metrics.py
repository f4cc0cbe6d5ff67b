"""What can be measured of the read side, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.serve.projector import Projector

__all__ = ["ServeMetrics"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ServeMetrics:
    """The metrics of one ``trips serve``.

    Attributes:
        lag: records of each partition of ``trip-events`` that are not projected yet.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside each other one, of no use
        self.registry = registry = CollectorRegistry()
        self.lag: dict[tuple[str, int], int] = {}
        self._requests = Counter(
            "trips_serve_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request = Histogram(
            "trips_serve_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._refused = Counter(
            "trips_serve_refused_requests",
            "Requests refused: without a key that counts, without the scope, too many, too large.",
            ["reason"],
            registry=registry,
        )
        for reason in ("unauthorized", "forbidden", "rate_limited", "too_large"):
            self._refused.labels(reason)
        self._records = Counter("trips_projection_records", "Records projected.", registry=registry)
        self._skipped = Counter(
            "trips_projection_skipped_records", "Records passed over: no announcements.", registry=registry
        )
        self._write = Histogram(
            "trips_projection_write_seconds",
            "Writing a batch into the database.",
            registry=registry,
            buckets=_SECONDS,
        )
        ProcessCollector(registry=registry)

    def show(self, projector: Projector) -> None:
        """Show how a projector is when somebody asks."""
        self.registry.register(_Gauges(self, projector))

    def written(self, records: int, seconds: float) -> None:
        """A batch is in the database."""
        self._records.inc(records)
        self._write.observe(seconds)

    def skipped(self) -> None:
        """A record was none of ours."""
        self._skipped.inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._request.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused before it was looked at."""
        self._refused.labels(reason).inc()


class _Gauges(Collector):
    """Asked for, not kept up to date."""

    def __init__(self, metrics: ServeMetrics, projector: Projector) -> None:
        self._metrics, self._projector = metrics, projector

    def collect(self) -> Iterator[GaugeMetricFamily]:
        lag = GaugeMetricFamily(
            "trips_projection_lag_records",
            "Records of a partition that are not projected yet.",
            labels=["topic", "partition"],
        )
        for (topic, partition), records in sorted(self._metrics.lag.items()):
            lag.add_metric([topic, str(partition)], records)
        yield lag
        yield GaugeMetricFamily(
            "trips_projection_ready",
            "1: everything was projected that was there at the start, and brokers answer.",
            value=int(self._projector.ready),
        )
        yield GaugeMetricFamily(
            "trips_serve_broker_silence_seconds",
            "Since a broker was last heard of.",
            value=self._projector.silence,
        )
