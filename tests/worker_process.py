"""`trips worker` in processes of their own, as a supervisor would run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

__all__ = ["WorkerProcess", "environment_of"]


class WorkerProcess:
    """`trips worker` in a process of its own; or another program that takes the same settings."""

    def __init__(self, settings, folder, name, http_port, *, extra, command=("-m", "streams.cli", "worker")):
        self.log = folder / f"{name}.log"
        self.http_port = http_port
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TRIPS_")}
        environment |= environment_of(settings) | {"TRIPS_HTTP_PORT": str(http_port)} | extra
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def get(self, path):
        """Status and body; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_until_ready(self, timeout=60.0):
        deadline = time.monotonic() + timeout
        while self.get("/health/ready")[0] != 200:
            assert self.process.poll() is None, f"worker ended with {self.process.returncode}\n{self.output()}"
            assert time.monotonic() < deadline, f"worker not ready within {timeout} s\n{self.output()}"
            time.sleep(0.1)

    def output(self):
        return self.log.read_text(errors="replace")

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout=30.0):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def environment_of(settings):
    """The environment variables that make these settings."""
    environment = {}
    for name, value in settings:
        if value is not None and value != type(settings).model_fields[name].default:
            if hasattr(value, "get_secret_value"):
                value = value.get_secret_value()  # noqa: PLW2901
            text = value.total_seconds() if hasattr(value, "total_seconds") else value
            environment[f"TRIPS_{name.upper()}"] = str(text)
    return environment
