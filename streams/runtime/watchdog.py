"""Ending a process that does not end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watchdog"]


class Watchdog:
    """Does something some time after it has been let loose, unless it is called off.

    Its thread is there from the start: a process that fails because the system grants it no more memory cannot start
    one then.

    Args:
        seconds: how much time there is.
        act: what it does, in its thread.
    """

    def __init__(self, seconds: float, act: Callable[[], object]) -> None:
        self._seconds = seconds
        self._act = act
        self._loose = threading.Event()
        self._called_off = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def let_loose(self) -> None:
        """From now on the time counts; repeating it changes nothing."""
        self._loose.set()

    def call_off(self) -> None:
        """It is not needed any more."""
        self._called_off.set()
        self._loose.set()

    def _watch(self) -> None:
        self._loose.wait()
        if not self._called_off.wait(self._seconds):
            self._act()
