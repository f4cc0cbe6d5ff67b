"""Who takes part in the comparison, and how each is started."""
# ruff: noqa: INP001

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peers.environments import compiled, kafka_streams, python_with

__all__ = ["BASE", "JAVA", "RUNNERS", "Runner"]

_HERE: Final = Path(__file__).parent
BASE: Final = "confluent"
JAVA: Final = "kafka-streams"
# One version of orjson for all: that of the product's lock file.
CONFLUENT: Final = ("confluent-kafka==2.16.1", "orjson==3.13.0")
_QUIX: Final = ("quixstreams==3.28.1", "orjson==3.13.0")


@dataclass(frozen=True)
class Runner:
    """A program that does the job.

    Attributes:
        name: for the command line and the tables.
        about: what it is, and what it promises.
        command: makes its environment where there is none yet, and returns its command line; raises UnavailableError.
        extra: environment variables on top.
        ours: a worker of this project: it goes on until it is stopped, and knows more events than the peers.
        at_most: it is slow: more messages than this it is not given.
    """

    name: str
    about: str
    command: Callable[[], list[str]]
    extra: dict[str, str] = field(default_factory=dict)
    ours: bool = False
    at_most: int | None = None


def _script(name: str, environment: str = "", packages: tuple[str, ...] = ()) -> Callable[[], list[str]]:
    return lambda: [python_with(environment, packages), str(_HERE / f"{name}.py")]


def _worker() -> list[str]:
    return [sys.executable, "-m", "streams.cli", "worker"]


def _compiled() -> list[str]:
    return ["env", f"PYTHONPATH={compiled()}", *_worker()]


RUNNERS: Final = {
    runner.name: runner
    for runner in (
        Runner("trips", "`trips worker` as our image has it: the core compiled, exactly once", _compiled, ours=True),
        Runner(
            "trips-alo",
            "the same, at least once",
            _compiled,
            {"TRIPS_PROCESSING_GUARANTEE": "at_least_once"},
            ours=True,
        ),
        Runner("trips-python", "`trips worker` as installed from source: all Python, exactly once", _worker, ours=True),
        Runner(
            BASE,
            "a bare loop on confluent-kafka, orjson, at least once",
            _script("confluent_loop", "confluent", CONFLUENT),
        ),
        Runner("aiokafka", "a bare loop on aiokafka, orjson, at least once", _script("aiokafka_loop")),
        Runner(
            "quix",
            "Quix Streams 3.28.1, RocksDB, at least once",
            _script("quix_streams", "quix", _QUIX),
            {"PEER_GUARANTEE": "at-least-once"},
        ),
        Runner(
            "quix-eos",
            "Quix Streams 3.28.1, RocksDB, exactly once",
            _script("quix_streams", "quix", _QUIX),
            {"PEER_GUARANTEE": "exactly-once"},
        ),
        Runner(
            "faust-table",
            "idiomatic Faust with a Table, an event a message",
            _script("faust_table"),
            at_most=200_000,
        ),
        Runner(
            JAVA,
            "Kafka Streams in Java, RocksDB, store cache, at least once",
            kafka_streams,
            {"PEER_GUARANTEE": "at_least_once"},
        ),
        Runner(
            f"{JAVA}-eos",
            "Kafka Streams in Java, RocksDB, store cache, exactly once",
            kafka_streams,
            {"PEER_GUARANTEE": "exactly_once_v2"},
        ),
    )
}
