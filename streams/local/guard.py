"""A process that keeps another one from outliving whoever started it.

It is the parent of that other process (the local broker, the demo's worker) and holds the read end of a pipe whose
write end only the starter has. The pipe ends when the starter closes it, exits, crashes or is killed with -9: then the
process is ended and its folder removed. Should the guard itself be killed, Linux ends the process with it.

Run as a script by :mod:`streams.local.guarded`, on the standard library alone, so that it starts in milliseconds::

    python -I -S guard.py LOG FOLDER|- GRACE COMMAND...

LOG takes what the process prints, FOLDER is removed at the end, GRACE is for how many seconds it may end by itself
(SIGTERM) before it is killed. On stdout: ``started PID``; then ``ended CODE`` if it ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_BETWEEN_LOOKS_S = 0.1


def _end_with_parent() -> None:
    """Runs in the child, before the process does."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  (10 ms that no other system needs)

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def main(log: Path, folder: Path | None, grace: float, command: list[str]) -> None:
    """Start the process, wait for the pipe to end, end the process, and remove the folder."""
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(  # noqa: S603  (the starter's command line)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (safe: this process has one thread)
            )
        except OSError as error:
            output.write(f"{command[0]} could not be started: {error.strerror or error}\n".encode())
            return
    # Only the pipe ends us: Ctrl-C at a terminal and a shell that hangs up are for the starter.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _say(f"started {process.pid}")
    told = False
    while not select.select([sys.stdin], [], [], _BETWEEN_LOOKS_S)[0] or os.read(sys.stdin.fileno(), 1):
        if not told and process.poll() is not None:
            _say(f"ended {process.returncode}")
            told = True
    if grace and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    process.kill()
    code = process.wait()
    if not told:
        _say(f"ended {code}")
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), None if sys.argv[2] == "-" else Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
