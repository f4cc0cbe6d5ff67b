"""A thread for calls that may never come back, such as of a name server or a network file system."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Aside"]

_Result = TypeVar("_Result")


class Aside:
    """Runs calls one after the other. The process ends without waiting for them: Python joins a ThreadPoolExecutor's.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """What it returns, or raises. If the caller does not wait any more, a call that has begun goes on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work_off, name=self._name, daemon=True)
            self._thread.start()
        answer: Future[_Result] = Future()
        self._waiting.put((answer, partial(work, *arguments)))
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Let the thread end after what has been asked for."""
        self._waiting.put(None)

    def _work_off(self) -> None:
        while (asked := self._waiting.get()) is not None:
            answer, work = asked
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001 - the caller's business, whatever it is
                answer.set_exception(error)
