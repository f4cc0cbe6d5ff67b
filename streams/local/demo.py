"""``trips demo``: the main job from end to end, on a Kafka of its own or one that is there.

1. A Kafka: :func:`streams.local.broker.find_kafka`. On a cluster that is not ours, with topics and a group of this run
   alone, which are deleted again.
2. The topics, as ``trips topics create`` makes them.
3. A worker: ``trips worker`` in a process of its own, that ends with us.
4. The recorded drives, replayed in a few seconds, while the announcements are read as any consumer would read them.
5. The end is known from Kafka alone: the worker has committed everything that was sent, and everything that it has
   announced until then was read.

With ``--full``, two more processes, and what can be done with trips: :mod:`streams.local.tour`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import orjson

from streams.errors import TripsError
from streams.local.broker import find_kafka, free_ports
from streams.local.files import RECORDED_DRIVES, read_lines
from streams.local.processes import LOOK_EVERY_S, Process, running
from streams.local.replay import Paced, pace, replay
from streams.local.show import Story, View, choose_view
from streams.local.tail import open_topic, read_to_end
from streams.topics import all_topics, connect, create_topics

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from aiokafka import AIOKafkaConsumer, TopicPartition

    from streams.local.tour import Tour
    from streams.settings import Settings

__all__ = ["run_demo"]

# The recording is played in about so long, unless a speed is given (seconds).
_REPLAY_S: Final = 15.0
# Between two drives a vehicle stands for hours or weeks; nobody wants to watch that (seconds of the recording).
_MAX_GAP_S: Final = 10.0
# So that there are routes to look up.
_ROUTE_TOLERANCE_M: Final = 100
_CAUGHT_UP_WITHIN_S: Final = 60.0
# Kafka Connect's name for what is wrong with a dead letter.
_MESSAGE_HEADER: Final = "__connect.errors.exception.message"


def run_demo(
    settings: Settings,
    *,
    bootstrap_servers: str | None,
    full: bool,
    keep_running: bool,
    speed: float | None,
    as_json: bool,
) -> None:
    """Run the demo.

    Args:
        settings: as configured; those of the trips hold here too.
        bootstrap_servers: a cluster to use. None: the configured one if there is one, else ours.
        full: show planned trips, looking up, deleting and pushes as well.
        keep_running: stay up after the last trip, until interrupted.
        speed: times real time; 0: as fast as it goes; None: done in a quarter of a minute.
        as_json: announcements on stdout, one JSON a line, and nothing else there.

    Raises:
        TripsError: some part of it could not start, or ended.
    """
    # Before anything slow starts: the recording may be missing, the settings are checked.
    messages = list(pace(read_lines(str(RECORDED_DRIVES)), _MAX_GAP_S))
    configured = bootstrap_servers
    if configured is None and "bootstrap_servers" in settings.model_fields_set:
        configured = settings.bootstrap_servers
    story = Story()
    with choose_view(story, as_json=as_json) as view, find_kafka(configured, progress=view.step) as kafka:
        ours = _settings_for(settings, kafka.bootstrap_servers, is_shared=not kafka.is_ours, full=full)
        try:
            demo = _Demo(ours, messages, story, view, speed=speed, keep_running=keep_running)
            asyncio.run(demo.run_full() if full else demo.run())
        except KeyboardInterrupt:
            # The end that somebody who wanted to look around has chosen; before the summary it is an interruption.
            if not (keep_running and story.is_told):
                raise
        finally:
            if not kafka.is_ours:
                view.step("Deleting the topics of this run")
                asyncio.run(_delete_topics(ours))


def _settings_for(settings: Settings, bootstrap_servers: str, *, is_shared: bool, full: bool) -> Settings:
    """Settings for our processes and for us. On a shared cluster nothing of ours meets anything that is there."""
    names: dict[str, Any] = {}
    if is_shared:
        run = f"demo-{uuid.uuid4().hex[:8]}"
        names = {
            "topic_prefix": f"{settings.topic_prefix}{run}.",
            "application_id": f"{settings.application_id}-{run}",
        }
    if full and "route_tolerance" not in settings.model_fields_set:
        names["route_tolerance"] = _ROUTE_TOLERANCE_M
    names_of_ports = ("http_port", "push_http_port", "serve_port", "serve_http_port")
    ports = dict(zip(names_of_ports, free_ports(len(names_of_ports)), strict=True))
    return type(settings).load(
        bootstrap_servers=bootstrap_servers, http_host="127.0.0.1", serve_host="127.0.0.1", **ports, **names
    )


class _Demo:
    """One run, on a Kafka that is there."""

    def __init__(
        self,
        settings: Settings,
        messages: list[Paced],
        story: Story,
        view: View,
        *,
        speed: float | None,
        keep_running: bool,
    ) -> None:
        self._settings = settings
        self._messages = messages
        self._story = story
        self._view = view
        self._speed = messages[-1].at_s / _REPLAY_S if speed is None else speed
        self._keep_running = keep_running

    async def run(self, tour: Tour | None = None) -> None:
        view, settings, story = self._view, self._settings, self._story
        view.step("Creating the topics")
        await create_topics(settings)
        view.step("Starting a worker" if tour is None else "Starting a worker, a push worker and a server")
        processes = [self._start_worker()]
        async with (
            running(processes),
            open_topic(settings, settings.topics.events, from_beginning=True) as announcements,
        ):
            if tour is not None:
                tour.start(processes)
            for process in processes:
                await process.until_ready()
            watcher = asyncio.create_task(_watch(processes))
            try:
                if tour is not None:
                    await _first_failure(tour.plan_a_trip(), watcher)
                took = await self._show_drives(announcements, watcher)
                if tour is not None:
                    await _first_failure(tour.look_around(lambda: self._read_to_end(announcements)), watcher)
                await self._count_dead_letters()
                view.finished([*self._summary(took), *(tour.summary if tour else ()), *self._closing(tour)])
                story.is_told = True
                if self._keep_running:
                    await _first_failure(self._read(announcements), watcher)
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)

    async def run_full(self) -> None:
        from streams.local.tour import guided  # noqa: PLC0415  (a second that the other demo does not need)

        async with guided(self._settings, self._story, self._view) as tour:
            await self.run(tour)

    def _start_worker(self) -> Process:
        settings = self._settings
        environment = {
            "TRIPS_HTTP_PORT": str(settings.http_port),
            "TRIPS_ROUTE_TOLERANCE": str(settings.route_tolerance),
        }
        return Process("the worker", ["worker"], settings, port=settings.http_port, environment=environment)

    async def _show_drives(self, announcements: AIOKafkaConsumer, watcher: asyncio.Task[None]) -> float:
        """Replay the drives, until all that is announced about them was read; returns how long the replay took."""
        count, vehicles = len(self._messages), len({one.key for one in self._messages})
        pace = f", {self._speed:.0f} times as fast as they were driven" if self._speed else ""
        self._view.step(f"Replaying {count} messages of {vehicles} vehicles{pace}")
        self._story.total = count
        begun = time.monotonic()
        reader = asyncio.create_task(self._read(announcements))
        try:
            await _first_failure(self._replay(), watcher, reader)
            took = time.monotonic() - begun
            await _first_failure(self._until_caught_up(), watcher, reader)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        await self._read_to_end(announcements)
        return took

    async def _replay(self) -> None:
        def sent(message: Paced) -> None:
            self._story.sent_one(message)
            self._view.sent()

        await replay(self._messages, self._settings, speed=self._speed, sent=sent)

    async def _read(self, announcements: AIOKafkaConsumer) -> None:
        async for record in announcements:
            self._announced(record.value)

    async def _read_to_end(self, announcements: AIOKafkaConsumer) -> None:
        async for record in read_to_end(announcements):
            self._announced(record.value)

    def _announced(self, payload: bytes) -> None:
        announcement = orjson.loads(payload)
        self._story.announced(announcement)
        self._view.announced(payload, announcement)

    async def _until_caught_up(self) -> None:
        """Wait until the worker has committed all that was sent: its announcements went with the same transactions."""
        settings = self._settings
        topic = settings.topics.telemetry
        deadline = time.monotonic() + _CAUGHT_UP_WITHIN_S
        async with open_topic(settings, topic, from_beginning=False) as telemetry, connect(settings) as admin:
            ends = await telemetry.end_offsets(sorted(telemetry.assignment()))
            while True:
                committed = await admin.list_consumer_group_offsets(settings.application_id)
                if all(end == 0 or _offset(committed, partition) >= end for partition, end in ends.items()):
                    return
                if time.monotonic() > deadline:
                    raise TripsError(f"the worker has not caught up within {_CAUGHT_UP_WITHIN_S:.0f} s")
                await asyncio.sleep(LOOK_EVERY_S)

    async def _count_dead_letters(self) -> None:
        async with open_topic(self._settings, self._settings.topics.dead_letters, from_beginning=True) as letters:
            async for letter in read_to_end(letters):
                self._story.dead_letters += 1
                if not self._story.complaint:
                    self._story.complaint = dict(letter.headers)[_MESSAGE_HEADER].decode().partition(";")[0]

    def _summary(self, took: float) -> list[str]:
        story, settings = self._story, self._settings
        counts = ", ".join(f"{count} {event}" for event, count in story.counts.items())
        lines = [f"{story.sent} messages in {took:.1f} s: {counts}."]
        if story.dead_letters:
            lines.append(
                f"{story.dead_letters} messages held a value that cannot be used, such as: {story.complaint}. "
                f"What else is in them counts, and they are in {settings.topics.dead_letters} with the reason."
            )
        return lines

    def _closing(self, tour: Tour | None) -> list[str]:
        settings = self._settings
        if not self._keep_running:
            full = " --full" if tour else ""
            return [f"`trips demo{full} --keep-running` stays up for a look around."]
        here = f"TRIPS_BOOTSTRAP_SERVERS={settings.bootstrap_servers}"
        if settings.topic_prefix:
            here += f" TRIPS_TOPIC_PREFIX={settings.topic_prefix}"
        if settings.application_id != "ignition-trips":
            here += f" TRIPS_APPLICATION_ID={settings.application_id}"
        lines = [
            "",
            "Everything stays up until Ctrl-C. In another terminal:",
            f"  {here} trips tail --from-beginning",
            f"  {here} trips check",
        ]
        ports = {"worker": settings.http_port}
        if tour is not None:
            lines += [f"  {here} trips push report", f"  curl http://127.0.0.1:{settings.serve_port}/trips"]
            ports |= {"push worker": settings.push_http_port, "server": settings.serve_http_port}
        return lines + [f"  curl http://127.0.0.1:{port}/metrics   # of the {whose}" for whose, port in ports.items()]


def _offset(committed: dict[TopicPartition, Any], partition: TopicPartition) -> int:
    return int(committed[partition].offset) if partition in committed else -1


async def _watch(processes: Sequence[Process]) -> None:
    while True:
        for process in processes:
            process.see_that_it_runs()
        await asyncio.sleep(LOOK_EVERY_S)


async def _first_failure(work: Coroutine[Any, Any, None], *watchers: asyncio.Task[None]) -> None:
    """Do the work, unless one of the watchers fails before it is done."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, *watchers}, return_when=asyncio.FIRST_COMPLETED)
        for watcher in watchers:
            if watcher.done():
                watcher.result()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _delete_topics(settings: Settings) -> None:
    async with connect(settings) as admin:
        await admin.delete_topics([topic.name for topic in all_topics(settings)])
