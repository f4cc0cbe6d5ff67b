"""A process that keeps the local Kafka from outliving whoever started it.

It is the broker's parent and holds the read end of a pipe whose write end only the starter has. The pipe ends when
the starter closes it, exits, crashes or is killed with -9: then the broker is ended and its folder removed. Should
this process itself be killed, Linux ends the broker with it.

Run as a script by :mod:`streams.local.broker`, on the standard library alone, so that it starts in milliseconds::

    python -I -S guard.py FOLDER keep|remove COMMAND...

On stdout: ``started PID``; then ``ended CODE`` if the broker ends by itself.
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
_GRACE_S = 20.0


def _end_with_parent() -> None:
    """Runs in the child, before the broker does."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  (10 ms that no other system needs)

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def main(folder: Path, *, keep: bool, command: list[str]) -> None:
    """Start the broker, wait for the pipe to end, end the broker, and remove the folder unless it is kept."""
    # Ctrl-C at a terminal is for the starter, which ends us in its own good time.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with (folder / "broker.log").open("ab") as log:
        broker = subprocess.Popen(  # noqa: S603  (our own command line)
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  (safe: this process has one thread)
            restore_signals=True,
        )
    _say(f"started {broker.pid}")
    told = False
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.1)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
        if not told and broker.poll() is not None:
            _say(f"ended {broker.returncode}")
            told = True
    if keep and broker.poll() is None:
        broker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            broker.wait(_GRACE_S)
    broker.kill()
    broker.wait()
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), keep=sys.argv[2] == "keep", command=sys.argv[3:])
