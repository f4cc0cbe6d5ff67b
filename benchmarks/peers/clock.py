"""What every peer in Python has in common: where it finds its work, and the line by which it tells how long it took.

All comes from the environment: PEER_SERVERS (bootstrap servers), PEER_MESSAGES (how many to process, then end),
PEER_GROUP (consumer group), PEER_PARTITIONS, PEER_SOURCE, PEER_OUTPUT and PEER_CHANGELOG (topics, which are there),
PEER_FOLDER (for files), PEER_COMMIT_S (from one commit to the next).
"""
# ruff: noqa: INP001

from __future__ import annotations

import json
import os
import time
from typing import Final

SERVERS: Final = os.environ["PEER_SERVERS"]
MESSAGES: Final = int(os.environ["PEER_MESSAGES"])
GROUP: Final = os.environ["PEER_GROUP"]
PARTITIONS: Final = int(os.environ["PEER_PARTITIONS"])
SOURCE: Final = os.environ["PEER_SOURCE"]
OUTPUT: Final = os.environ["PEER_OUTPUT"]
CHANGELOG: Final = os.environ["PEER_CHANGELOG"]
FOLDER: Final = os.environ["PEER_FOLDER"]
COMMIT_S: Final = float(os.environ["PEER_COMMIT_S"])


class Clock:
    """From the first record delivered until the last is committed, and its outputs and state are acknowledged."""

    def __init__(self) -> None:
        self.began = 0.0
        self._cpu = 0.0

    def start(self) -> None:
        """The first record is there."""
        self.began = time.perf_counter()
        self._cpu = time.process_time()

    def done(self, **counts: int) -> None:
        """Tell it: a line of its own on stdout."""
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self._cpu
        line = f"RESULT {json.dumps({'seconds': seconds, 'cpu': cpu, **counts})}\n"
        os.write(1, line.encode())
