"""Quix Streams: state of each key in RocksDB with a changelog topic, at least once or exactly once (PEER_GUARANTEE)."""
# ruff: noqa: INP001

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clock import COMMIT_S, FOLDER, GROUP, MESSAGES, OUTPUT, SERVERS, SOURCE, Clock
from job import MIN_DURATION_MS, State, distance_m, epoch_ms, stored, trip_id
from quixstreams import Application

clock = Clock()
NOTHING = stored(State())
counts = {"messages": 0, "outputs": 0}
told = False

application = Application(
    broker_address=SERVERS,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    state_dir=Path(FOLDER) / "quix",
    use_changelog_topics=True,
    processing_guarantee=os.environ["PEER_GUARANTEE"],
    commit_interval=COMMIT_S,
    consumer_extra_config={
        "fetch.wait.max.ms": 50,
        "fetch.queue.backoff.ms": 10,
        "queued.max.messages.kbytes": 65_536,
    },
    producer_extra_config={"linger.ms": 20, "queue.buffering.max.messages": 1_000_000},
    loglevel="WARNING",
)
source = application.topic(SOURCE, value_deserializer="json", key_deserializer="bytes")
output = application.topic(OUTPUT, value_serializer="json", key_serializer="bytes")

# The last act of its loop, once it has been stopped, is a commit: the time is taken there, before RocksDB is closed.
processing = application._processing_context  # noqa: SLF001
commit_checkpoint = processing.commit_checkpoint


def commit_and_tell(force: bool = False, revoking: bool = False) -> None:  # noqa: FBT001, FBT002
    """In place of its own."""
    global told  # noqa: PLW0603
    commit_checkpoint(force=force, revoking=revoking)
    if force and counts["messages"] >= MESSAGES and not told:
        told = True
        clock.done(outputs=counts["outputs"])


processing.commit_checkpoint = commit_and_tell


def trips(telemetry: dict[str, Any], store: Any) -> list[dict[str, Any]]:
    """The job as in job.py, on a dictionary: that is what the store gives and takes."""
    counts["messages"] += 1
    if counts["messages"] == 1:
        clock.start()
    elif counts["messages"] == MESSAGES:
        application.stop()
    state = store.get("state")
    if state is None:
        state = dict(NOTHING)
    now = epoch_ms(telemetry["timestamp"])
    if now <= state["newest"]:
        return []
    state["newest"] = now
    vehicle = telemetry["vehicle_id"]
    on = telemetry["ignition"] == "ON"
    position = telemetry["position"]
    lat, lon, speed = position["lat"], position["lon"], telemetry["speed_in_kmh"]
    out: list[dict[str, Any]] = []
    if state["on"]:
        state["distance"] += distance_m(state["lat"], state["lon"], lat, lon)
        state["lat"] = lat
        state["lon"] = lon
        state["points"] += 1
        state["speed_sum"] += speed
        if speed > state["speed_max"]:
            state["speed_max"] = speed
        if not on:
            state["on"] = False
            out = ended(vehicle, now, state, telemetry["mileage_in_kilometers"])
    elif on:
        state["on"] = True
        state["start"] = now
        state["lat"] = lat
        state["lon"] = lon
        state["distance"] = 0.0
        state["points"] = 1
        state["speed_max"] = state["speed_sum"] = speed
        state["odometer_km"] = telemetry["mileage_in_kilometers"]
        trip = {"trip_id": trip_id(vehicle, now), "vehicle_id": vehicle, "start": now}
        out.append({"type": "TripStarted", **trip, "lat": lat, "lon": lon})
    store.set("state", state)
    counts["outputs"] += len(out)
    return out


def ended(vehicle: str, now: int, state: dict[str, Any], odometer_km: float) -> list[dict[str, Any]]:
    """What is announced then."""
    start = state["start"]
    trip = {"trip_id": trip_id(vehicle, start), "vehicle_id": vehicle, "start": start, "end": now}
    if now - start < MIN_DURATION_MS:
        return [{"type": "TripDiscarded", **trip, "reason": "TOO_SHORT"}]
    metrics = {
        "distance_m": state["distance"],
        "odometer_m": round((odometer_km - state["odometer_km"]) * 1000),
        "points": state["points"],
        "max_kmh": state["speed_max"],
        "average_kmh": state["speed_sum"] / state["points"],
    }
    return [{"type": "TripEnded", **trip}, {"type": "TripDataReady", **trip, **metrics}]


frame = application.dataframe(source)
frame = frame.apply(trips, stateful=True, expand=True)
frame = frame.to_topic(output)
application.run()
