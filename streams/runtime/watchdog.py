"""Ending a process that does not end."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watchdog"]


class Watchdog:
    """Does something some time after it has been let loose, unless it is called off.

    A process that fails because the system grants it no more memory cannot start a thread then, and not notify one: its
    thread is there from the start, and waits for locks to be released, which takes no memory.

    Args:
        seconds: how much time there is.
        act: what it does, in its thread.
    """

    def __init__(self, seconds: float, act: Callable[[], object]) -> None:
        self._seconds = seconds
        self._act = act
        self._held = _held()
        self._called_on = _held()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def let_loose(self) -> None:
        """From now on the time counts; repeating it changes nothing."""
        _release(self._held)

    def call_off(self) -> None:
        """It is not needed any more."""
        _release(self._called_on)
        _release(self._held)

    def _watch(self) -> None:
        self._held.acquire()
        if not self._called_on.acquire(timeout=self._seconds):
            self._act()


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _release(lock: threading.Lock) -> None:
    if lock.locked():
        with contextlib.suppress(RuntimeError):  # somebody else has, in between
            lock.release()
