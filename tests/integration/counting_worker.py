"""A worker whose job cannot hide anything: it counts the records of each key, and announces each count.

A record that is lost, applied twice, or applied to older state shows as a count that is missing, repeated or wrong;
telling trips forgives much of that, because its state is a set. Run as a script, it is ``trips worker`` with this job.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from streams.app import run_worker
from streams.errors import TripsError
from streams.processor import Counts
from streams.records import Announcement, Output, Standing, TripsRecord
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.records import Record

QUIET_MS = 1500


class CountingProcessor:
    """Counts by key. A key ``quiet-…`` is announced once more when the clock has passed its last record by a while."""

    def __init__(self) -> None:
        self.clock = self.owed = 0
        self.announcing = False
        self.standing = Standing()
        self.counts = Counts()
        self.open_trips = 0
        self._counts: dict[str, int] = {}
        self._quiet_from: dict[str, int] = {}
        self._output = Output()
        self._touched = False

    @property
    def vehicles(self) -> int:
        return len(self._counts)

    @property
    def state_bytes(self) -> int:
        return 0

    def process(self, records: Iterable[Record]) -> None:
        for record in records:
            self.clock = max(self.clock, record.timestamp)
            self.counts.messages += 1
            key = (record.key or b"").decode()
            if record.value == b"poison":
                raise ValueError("a bug of the job")
            self._counts[key] = self._counts.get(key, 0) + 1
            self._say(key, "Counted", record.offset)
            if key.startswith("quiet-"):
                self._quiet_from[key] = self.clock

    def advance(self, clock_ms: int) -> None:
        self.clock = max(self.clock, clock_ms)
        for key, since in list(self._quiet_from.items()):
            if self.clock >= since + QUIET_MS:
                del self._quiet_from[key]
                self._say(key, "Quiet", 0)

    def wake_at(self) -> int | None:
        return min(self._quiet_from.values()) + QUIET_MS if self._quiet_from else None

    def touch_clock(self) -> None:
        self._touched = True

    def take(self) -> Output:
        output, self._output = self._output, Output()
        if output.changes or self._touched:
            output.changes[b"clock"] = json.dumps([self.clock, *map(shown, self.standing)]).encode()
            self._touched = False
        return output

    def restore(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, value in items:
            text = (value or b"").decode()
            if key == b"clock":
                self.clock, next_offset, *ids = json.loads(text)
                self.standing = Standing(next_offset, *(id_ and bytes.fromhex(id_) for id_ in ids))
                continue
            count, quiet_from = text.split()
            self._counts[key.decode()] = int(count)
            self._quiet_from.pop(key.decode(), None)
            if quiet_from != "-":
                self._quiet_from[key.decode()] = int(quiet_from)

    def restored(self) -> None:
        pass

    def _say(self, key: str, event: str, offset: int) -> None:
        count = self._counts[key]
        payload = f"{count} {offset} {os.getpid()}".encode()
        put = TripsRecord.PUT if count % 2 else TripsRecord.KEEP
        self._output.announcements.append(
            Announcement(key, f"{key}/{count}", event, "0" * 26, offset, self.clock, None, payload, put)
        )
        self._output.changes[key.encode()] = f"{count} -".encode()
        if event == "Counted" and key.startswith("quiet-"):
            self._output.changes[key.encode()] = f"{count} {self.clock}".encode()


def shown(value: int | bytes | None) -> int | str | None:
    return value.hex() if isinstance(value, bytes) else value


if __name__ == "__main__":
    try:
        sys.exit(run_worker(Settings.load(), debug="--debug" in sys.argv, new_processor=lambda _: CountingProcessor()))
    except TripsError as error:
        sys.stderr.write(f"trips: {error}\n")
        sys.exit(error.exit_code)
