"""What can be measured of the trip status, for Prometheus."""

from __future__ import annotations

from collections import Counter as Counted
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.status.rules import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streams.status.book import Book, Event

__all__ = ["OUTCOMES", "StatusMetrics"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
OUTCOMES: Final = {
    "update": ("applied", "repeated", "unknown", "outdated", "refused", "invalid", "unanswered"),
    "plan": ("planned", "repeated", "conflict", "invalid", "unanswered"),
}
"""What can come of each kind of request."""


class StatusMetrics:
    """The metrics of an engine.

    Args:
        registry: where they are registered; None: in one of their own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = CollectorRegistry() if registry is None else registry
        self._requests = Counter(
            "trips_status_requests",
            "Requests to this process, by what came of them.",
            ["request", "outcome"],
            registry=registry,
        )
        for request, outcomes in OUTCOMES.items():
            for outcome in outcomes:
                self._requests.labels(request, outcome)
        self._latency = Histogram(
            "trips_status_decision_seconds",
            "From a request to its decision, read back from the log.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._events = Counter(
            "trips_status_events", "Events that this process has decided.", ["event"], registry=registry
        )
        self._commit = Histogram(
            "trips_status_commit_seconds", "Committing decisions.", registry=registry, buckets=_SECONDS
        )
        self._unreadable = Counter(
            "trips_status_unreadable_records",
            "Records of trip-events and of requests that are none, left out.",
            registry=registry,
        )
        self._terms = Counter("trips_status_terms", "How often this process has begun to decide.", registry=registry)

    def show(self, book: Callable[[], Book | None], waiting: Callable[[], int]) -> None:
        """Show how things are when somebody asks.

        Args:
            book: the book of the process that decides; None in all others.
            waiting: how many requests wait for their decision.
        """
        self.registry.register(_Gauges(book, waiting))

    def request(self, request: str, outcome: str) -> None:
        """A request was answered."""
        self._requests.labels(request, outcome).inc()

    def decided(self, seconds: float) -> None:
        """A request's decision came so long after it."""
        self._latency.observe(seconds)

    def committed(self, events: Iterable[Event], seconds: float) -> None:
        """Decisions were committed."""
        self._commit.observe(seconds)
        for event, count in Counted(one.kind for one in events).items():
            self._events.labels(event).inc(count)

    def unreadable(self) -> None:
        """A record was left out."""
        self._unreadable.inc()

    def term(self) -> None:
        """This process decides from now on."""
        self._terms.inc()


class _Gauges(Collector):
    """Asked for, not kept up to date."""

    def __init__(self, book: Callable[[], Book | None], waiting: Callable[[], int]) -> None:
        self._book = book
        self._waiting = waiting

    def collect(self) -> Iterator[GaugeMetricFamily]:
        book = self._book()
        yield _gauge("trips_status_deciding", "1: this process decides; of all, one does.", int(book is not None))
        yield _gauge("trips_status_waiting", "Requests that wait for their decision.", self._waiting())
        states = Counted(plan.state for plan in book.plans.values()) if book is not None else Counted()
        plans = GaugeMetricFamily(
            "trips_status_plans", "Planned trips, by state; in the process that decides.", labels=["state"]
        )
        for state in State:
            plans.add_metric([state.value], states[state])
        yield plans
        yield _gauge(
            "trips_status_links",
            "Trips linked to a planned one; in the process that decides.",
            book.link_count if book is not None else 0,
        )
        yield _gauge(
            "trips_status_trips",
            "Trips that are remembered; in the process that decides.",
            book.trip_count if book is not None else 0,
        )


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)
