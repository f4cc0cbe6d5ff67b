"""``trips demo``: the main job from end to end, on a Kafka of its own or one that is there.

1. A Kafka: :func:`streams.local.broker.find_kafka`. On a cluster that is not ours, with topics and a group of this run
   alone, which are deleted again.
2. The topics, as ``trips topics create`` makes them.
3. A worker: ``trips worker`` in a process of its own, that ends with us.
4. The recorded drives, replayed in a few seconds, while the announcements are read as any consumer would read them.
5. The end is known from Kafka alone: the worker has committed everything that was sent, and everything that it has
   announced until then was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import urllib.request
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from streams.errors import TripsError
from streams.local.broker import find_kafka, free_ports
from streams.local.files import RECORDED_DRIVES, read_lines
from streams.local.guarded import Guarded
from streams.local.replay import Paced, pace, replay
from streams.local.show import Story, View, choose_view
from streams.local.tail import open_topic, read_to_end
from streams.topics import all_topics, connect, create_topics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from aiokafka import AIOKafkaConsumer, TopicPartition

    from streams.settings import Settings

__all__ = ["run_demo"]

# The recording is played in about so long, unless a speed is given (seconds).
_REPLAY_S: Final = 15.0
# Between two drives a vehicle stands for hours or weeks; nobody wants to watch that (seconds of the recording).
_MAX_GAP_S: Final = 10.0
_READY_WITHIN_S: Final = 60.0
_CAUGHT_UP_WITHIN_S: Final = 60.0
_WORKER_GRACE_S: Final = 10.0
# Kafka Connect's name for what is wrong with a dead letter.
_MESSAGE_HEADER: Final = "__connect.errors.exception.message"
_LOOK_EVERY_S: Final = 0.1


def run_demo(
    settings: Settings, *, bootstrap_servers: str | None, keep_running: bool, speed: float | None, as_json: bool
) -> None:
    """Run the demo.

    Args:
        settings: as configured; those of the trips hold here too.
        bootstrap_servers: a cluster to use. None: the configured one if there is one, else ours.
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
        ours = _settings_for(settings, kafka.bootstrap_servers, is_shared=not kafka.is_ours)
        try:
            asyncio.run(_Demo(ours, messages, story, view, speed=speed, keep_running=keep_running).run())
        except KeyboardInterrupt:
            # The end that somebody who wanted to look around has chosen; before the summary it is an interruption.
            if not (keep_running and story.is_told):
                raise
        finally:
            if not kafka.is_ours:
                view.step("Deleting the topics of this run")
                asyncio.run(_delete_topics(ours))


def _settings_for(settings: Settings, bootstrap_servers: str, *, is_shared: bool) -> Settings:
    """Settings for the worker and for us. On a shared cluster nothing of ours meets anything that is there."""
    names: dict[str, str] = {}
    if is_shared:
        run = f"demo-{uuid.uuid4().hex[:8]}"
        names = {
            "topic_prefix": f"{settings.topic_prefix}{run}.",
            "application_id": f"{settings.application_id}-{run}",
        }
    (port,) = free_ports(1)
    return type(settings).load(bootstrap_servers=bootstrap_servers, http_host="127.0.0.1", http_port=port, **names)


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

    async def run(self) -> None:
        view, settings, story = self._view, self._settings, self._story
        view.step("Creating the topics")
        await create_topics(settings)
        view.step("Starting a worker")
        async with (
            self._worker() as worker,
            open_topic(settings, settings.topics.events, from_beginning=True) as announcements,
        ):
            await self._until_ready(worker)
            drives = f"Replaying {len(self._messages)} messages of {len({one.key for one in self._messages})} vehicles"
            view.step(drives + (f", {self._speed:.0f} times as fast as they were driven" if self._speed else ""))
            story.total = len(self._messages)
            begun = time.monotonic()
            watcher = asyncio.create_task(self._watch(worker))
            reader = asyncio.create_task(self._read(announcements))
            try:
                await _first_failure(self._replay(), watcher, reader)
                took = time.monotonic() - begun
                await _first_failure(self._until_caught_up(), watcher, reader)
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reader
                async for record in read_to_end(announcements):
                    self._announced(record.value)
                await self._count_dead_letters()
                view.finished(self._closing(took))
                story.is_told = True
                if self._keep_running:
                    await _first_failure(self._read(announcements), watcher)
            finally:
                watcher.cancel()
                reader.cancel()
                await asyncio.gather(watcher, reader, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[Guarded]:
        folder = Path(tempfile.mkdtemp(prefix="ignition-trips-demo-"))
        worker = Guarded(
            [sys.executable, "-m", "streams.cli", "worker"],
            log=folder / "worker.log",
            remove=folder,
            grace=_WORKER_GRACE_S,
            # The worker reads the same environment and files; only these are the demo's.
            environment={
                **os.environ,
                "TRIPS_BOOTSTRAP_SERVERS": self._settings.bootstrap_servers,
                "TRIPS_APPLICATION_ID": self._settings.application_id,
                "TRIPS_TOPIC_PREFIX": self._settings.topic_prefix,
                "TRIPS_HTTP_HOST": self._settings.http_host,
                "TRIPS_HTTP_PORT": str(self._settings.http_port),
            },
        )
        try:
            yield worker
        finally:
            await asyncio.to_thread(worker.stop)

    async def _until_ready(self, worker: Guarded) -> None:
        url = f"http://127.0.0.1:{self._settings.http_port}/health/ready"
        deadline = time.monotonic() + _READY_WITHIN_S
        while not await asyncio.to_thread(_answers, url):
            _see_that_it_runs(worker)
            if time.monotonic() > deadline:
                raise TripsError(f"the worker was not ready within {_READY_WITHIN_S:.0f} s; its log:\n{worker.tail()}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _watch(self, worker: Guarded) -> None:
        while True:
            _see_that_it_runs(worker)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _replay(self) -> None:
        def sent(message: Paced) -> None:
            self._story.sent_one(message)
            self._view.sent()

        await replay(self._messages, self._settings, speed=self._speed, sent=sent)

    async def _read(self, announcements: AIOKafkaConsumer) -> None:
        async for record in announcements:
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
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _count_dead_letters(self) -> None:
        async with open_topic(self._settings, self._settings.topics.dead_letters, from_beginning=True) as letters:
            async for letter in read_to_end(letters):
                self._story.dead_letters += 1
                if not self._story.complaint:
                    self._story.complaint = dict(letter.headers)[_MESSAGE_HEADER].decode().partition(";")[0]

    def _closing(self, took: float) -> list[str]:
        story, settings = self._story, self._settings
        counts = ", ".join(f"{count} {event}" for event, count in story.counts.items())
        lines = [f"{story.sent} messages in {took:.1f} s: {counts}."]
        if story.dead_letters:
            lines.append(
                f"{story.dead_letters} messages held a value that cannot be used, such as: {story.complaint}. "
                f"What else is in them counts, and they are in {settings.topics.dead_letters} with the reason."
            )
        if self._keep_running:
            here = f"TRIPS_BOOTSTRAP_SERVERS={settings.bootstrap_servers}"
            if settings.topic_prefix:
                here += f" TRIPS_TOPIC_PREFIX={settings.topic_prefix}"
            if settings.application_id != "ignition-trips":
                here += f" TRIPS_APPLICATION_ID={settings.application_id}"
            lines += [
                "",
                "Everything stays up until Ctrl-C. In another terminal:",
                f"  {here} trips tail --from-beginning",
                f"  {here} trips check",
                f"  curl http://127.0.0.1:{settings.http_port}/metrics",
            ]
        else:
            lines.append("`trips demo --keep-running` stays up for a look around.")
        return lines


def _offset(committed: dict[TopicPartition, Any], partition: TopicPartition) -> int:
    return int(committed[partition].offset) if partition in committed else -1


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (http, on the loopback interface)
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def _see_that_it_runs(worker: Guarded) -> None:
    code = worker.wait(0)
    if code is not None:
        raise TripsError(f"the worker ended (exit code {code}); its log:\n{worker.tail()}")


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
