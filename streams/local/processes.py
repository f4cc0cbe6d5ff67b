"""Processes of ours that run for as long as a demo: started, waited for, watched, and ended with it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import urllib.request
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streams.errors import TripsError
from streams.local.guarded import Guarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from streams.settings import Settings

__all__ = ["LOOK_EVERY_S", "Process", "new_folder", "running"]

LOOK_EVERY_S: Final = 0.1
_READY_WITHIN_S: Final = 60.0
_GRACE_S: Final = 10.0


def new_folder() -> Path:
    """A temporary folder; whoever makes it gives it to a process, which it goes with."""
    return Path(tempfile.mkdtemp(prefix="ignition-trips-demo-"))


class Process:
    """A process of ours, from now until :meth:`stop`.

    It reads the same environment and files as we do; only what is given here is the demo's.

    Args:
        name: what it is, for people: ``the worker``.
        command: of ``trips``.
        settings: of the cluster.
        port: where it tells how it is.
        folder: for its log and what else it needs; removed at its end. None: one of its own.
        environment: more variables.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        settings: Settings,
        *,
        port: int,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._port = port
        folder = folder or new_folder()
        self._guarded = Guarded(
            [sys.executable, "-m", "streams.cli", *command],
            log=folder / "log",
            remove=folder,
            grace=_GRACE_S,
            environment={
                **os.environ,
                "TRIPS_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
                "TRIPS_APPLICATION_ID": settings.application_id,
                "TRIPS_TOPIC_PREFIX": settings.topic_prefix,
                "TRIPS_HTTP_HOST": settings.http_host,
                **(environment or {}),
            },
        )

    def see_that_it_runs(self) -> None:
        """Does nothing.

        Raises:
            TripsError: it has ended; with what it said last.
        """
        code = self._guarded.wait(0)
        if code is not None:
            raise TripsError(f"{self.name} ended (exit code {code}); its log:\n{self.log()}")

    async def until_ready(self) -> None:
        """Wait until it says that it is.

        Raises:
            TripsError: it has ended, or does not become ready.
        """
        url = f"http://127.0.0.1:{self._port}/health/ready"
        deadline = time.monotonic() + _READY_WITHIN_S
        while not await asyncio.to_thread(_answers, url):
            self.see_that_it_runs()
            if time.monotonic() > deadline:
                raise TripsError(f"{self.name} was not ready within {_READY_WITHIN_S:.0f} s; its log:\n{self.log()}")
            await asyncio.sleep(LOOK_EVERY_S)

    def log(self) -> str:
        """The end of what it has printed."""
        return self._guarded.tail()

    def stop(self) -> None:
        """End it, and remove its folder."""
        self._guarded.stop()


@asynccontextmanager
async def running(processes: Sequence[Process]) -> AsyncIterator[None]:
    """Ends the processes, all at once, when the block does."""
    try:
        yield
    finally:
        await asyncio.gather(*(asyncio.to_thread(process.stop) for process in processes))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (http, on the loopback interface)
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False
