"""Processes that end with this one, however it ends: the starter's side of :mod:`streams.local.guard`."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Guarded"]

_GUARD: Final = Path(__file__).with_name("guard.py")
_START_TIMEOUT_S: Final = 10.0


class Guarded:
    """A process that runs from now to :meth:`stop`, or to the end of this one.

    In a session of its own: Ctrl-C at a terminal reaches the whole foreground group, and must not end a broker under
    a worker that is just closing its transactions.

    Args:
        command: what to run.
        log: where its output goes; appended to.
        remove: a folder to remove once it has ended.
        grace: for how many seconds it may end by itself after SIGTERM before it is killed; 0: killed at once.
        environment: its environment variables. None: ours.
        folder: its working directory. None: ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        remove: Path | None = None,
        grace: float = 0.0,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._log = log
        self._guard = subprocess.Popen(  # noqa: S603  (our own command line)
            [sys.executable, "-I", "-S", str(_GUARD), str(log), str(remove or "-"), str(grace), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,
            bufsize=0,  # select must see what readline has not
        )
        self.exit_code: int | None = None
        said = self._hear(_START_TIMEOUT_S)
        if not said.startswith("started"):
            self.stop()
            raise OSError(self.tail(1) or f"{command[0]} could not be started")
        self.pid = int(said.split()[1])

    def wait(self, timeout: float) -> int | None:
        """Wait for it to end; returns its exit code, or None if it still runs after so many seconds."""
        if self.exit_code is None:
            said = self._hear(timeout)
            if said.startswith("ended"):
                self.exit_code = int(said.split()[1])
        return self.exit_code

    def stop(self) -> None:
        """End it if it still runs, and remove its folder. Safe to repeat."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        if self._guard.stdout is not None and not self._guard.stdout.closed:
            for line in self._guard.stdout.read().decode().splitlines():
                if line.startswith("ended"):
                    self.exit_code = int(line.split()[1])
            self._guard.stdout.close()
        self._guard.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of what it has printed."""
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _hear(self, timeout: float) -> str:
        """What the guard says next, or nothing if it says nothing in that time."""
        if self._guard.stdout is None or not select.select([self._guard.stdout], [], [], timeout)[0]:
            return ""
        return self._guard.stdout.readline().decode()
