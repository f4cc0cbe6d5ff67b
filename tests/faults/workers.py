"""Workers as real processes, kept alive by a supervisor as a real one would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker_process import WorkerProcess

from streams.local.broker import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Supervised", "Worker", "memory", "tail"]

_RESTART_AFTER = 0.7
_FAULTY = str(Path(__file__).with_name("faulty_worker.py"))


class Worker(WorkerProcess):
    """One process.

    Attributes:
        expected_end: somebody ended it on purpose.
    """

    def __init__(self, settings: Any, folder: Path, name: str, environment: dict[str, str]) -> None:
        (port,) = free_ports(1)
        command = (_FAULTY,) if "TRIPS_TEST_FAULT" in environment else ("-m", "streams.cli", "worker")
        super().__init__(settings, folder, name, port, extra=environment, command=command)
        self.name = name
        self.expected_end = False

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by a signal."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def kill(self) -> None:
        self.expected_end = True
        super().kill()

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.expected_end = True
        self.send(signal.SIGTERM)

    async def ended(self, within: float = 40.0) -> int:
        """The exit code."""
        async with asyncio.timeout(within):
            while self.process.poll() is None:  # noqa: ASYNC110 - nobody tells when a process ends
                await asyncio.sleep(0.05)
        return self.process.returncode

    async def ready(self, within: float = 60.0) -> None:
        """Wait until its readiness probe says so."""
        async with asyncio.timeout(within):
            while (await self.probe("/health/ready"))[0] != 200:
                assert self.alive, f"{self.name} ended with {self.process.returncode}\n{self.output()}"
                await asyncio.sleep(0.1)

    async def probe(self, path: str) -> tuple[int, str]:
        """What its HTTP server answers; (0, "") when it does not."""
        return await asyncio.to_thread(self.get, path)

    async def says(self, text: str, within: float = 60.0) -> None:
        """Wait until its log has this."""
        async with asyncio.timeout(within):
            while text not in self.output():  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.02)

    def log_text(self) -> str:
        return self.output()

    def critical(self) -> list[str]:
        """The events of its log lines of level critical."""
        lines = (line for line in self.output().splitlines() if '"critical"' in line)
        return [json.loads(line)["event"] for line in lines] + re.findall(r"^trips: .*", self.output(), re.MULTILINE)


class Supervised:
    """A place where a worker is kept running: one that ends is started again a moment later.

    Args:
        settings: the worker's.
        folder: where logs go.
        number: of this place.
        plan: the environment of each new process, on top of the settings.
        expect_exit: exit codes that are all right for one that ends by itself.
    """

    def __init__(
        self,
        settings: Any,
        folder: Path,
        number: int,
        *,
        plan: Callable[[], dict[str, str]],
        expect_exit: set[int],
    ) -> None:
        self.worker: Worker | None = None
        self.started = 0
        self.failures: list[str] = []
        """Ends that were not all right."""
        self.ends: list[tuple[int, list[str]]] = []
        """Those by themselves: exit code, and what it said of it."""
        self._settings = settings
        self._folder = folder
        self._number = number
        self._plan = plan
        self._expect_exit = expect_exit
        self.expect_stop = {0}
        """Exit codes that are all right after SIGTERM."""
        self.without_memory = False
        """It may end without a reason in its log, or with another one on its way out: there is no memory."""
        self._keep = True
        self._task = asyncio.create_task(self._supervise(), name=f"supervisor {number}")

    async def running(self, within: float = 60.0) -> Worker:
        """Its worker, alive and ready; a later one if this one ends before that."""
        async with asyncio.timeout(within):
            while True:
                worker = self.worker
                if worker is not None and worker.alive and (await worker.probe("/health/ready"))[0] == 200:
                    return worker
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Stop it for good (SIGTERM)."""
        self._keep = False
        worker = self.worker
        if worker is not None and worker.alive:
            worker.thaw()
            worker.terminate()
            code = await worker.ended()
            # In its first second it is a Python that imports: the signal's own way to end it is all right. And the
            # signal can come while it ends by itself, because another worker has taken over what was its own.
            fenced = code == 1 and [text.partition(":")[0] for text in worker.critical()] == ["Fenced"]
            importing = code == -signal.SIGTERM and "starting" not in worker.output()
            if code not in self.expect_stop and not fenced and not importing:
                self.failures.append(f"{worker.name} ended with {code} after SIGTERM:\n{tail(worker)}")
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    def destroy(self) -> None:
        """Whatever is left of it ends now."""
        self._keep = False
        self._task.cancel()
        if self.worker is not None and self.worker.alive:
            self.worker.kill()

    async def _supervise(self) -> None:
        while self._keep:
            self.started += 1
            name = f"worker-{self._number}.{self.started}"
            worker = self.worker = Worker(self._settings, self._folder, name, self._plan())
            while worker.alive:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            code = worker.process.returncode
            if not worker.expected_end:
                said = worker.critical()
                self.ends.append((code, said))
                if code not in self._expect_exit:
                    self.failures.append(f"{name} ended with {code}:\n{tail(worker)}")
                elif code == 1 and len(said) not in (range(3) if self.without_memory else (1,)):
                    self.failures.append(f"{name} ended with 1 and {len(said)} reasons:\n{tail(worker)}")
            if self._keep:
                await asyncio.sleep(_RESTART_AFTER)


def memory(worker: Worker) -> int:
    """Bytes of its address space."""
    return int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def tail(worker: Worker) -> str:
    return "\n".join(worker.output().splitlines()[-12:])
