"""Sends messages at a pace with confluent-kafka, and tells when each of some was handed over.

    python loader.py SERVERS TOPIC RATE MARK < MESSAGES

MESSAGES: pickled (key, value) pairs, all in one list. In the end, JSON on stdout: ``seconds`` that sending took, and
``handed``, for each value that has MARK in it: which one of the list it is, and when it was handed over (monotonic
seconds, which all processes of a machine share).
"""
# ruff: noqa: INP001, S301

from __future__ import annotations

import gc
import json
import pickle
import sys
import time

import confluent_kafka as ck

TICK_S = 0.005


def main() -> None:
    """Send all, and end when all are there."""
    servers, topic, rate, mark = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4].encode()
    messages: list[tuple[bytes, bytes]] = pickle.load(sys.stdin.buffer)
    # As Kafka's own producer does: the partition of a key is the same whoever sends it.
    settings = {"bootstrap.servers": servers, "partitioner": "murmur2_random", "linger.ms": 5}
    producer = ck.Producer(settings | {"queue.buffering.max.messages": 1_000_000})
    producer.list_topics(topic)
    marked = {number for number, (_, value) in enumerate(messages) if mark in value}
    failures: list[str] = []
    handed: list[tuple[int, float]] = []

    def delivered(error: object, _: object) -> None:
        if error:
            failures.append(str(error))

    gc.collect()
    gc.freeze()
    began, done = time.monotonic(), 0
    while done < len(messages):
        time.sleep(TICK_S)
        due = min(len(messages), int((time.monotonic() - began) * rate))
        for number in range(done, due):
            key, value = messages[number]
            if number in marked:
                handed.append((number, time.monotonic()))
            producer.produce(topic, value, key, on_delivery=delivered)
        producer.poll(0)
        done = due
    took = time.monotonic() - began
    producer.flush()
    if failures:
        sys.exit(f"{len(failures)} messages were not delivered: {failures[0]}")
    print(json.dumps({"seconds": took, "handed": handed}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
