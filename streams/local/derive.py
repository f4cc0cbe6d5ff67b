"""Trips from a file, without Kafka: the processor of a worker, with a line for a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streams.processor import Processor
from streams.telemetry.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from streams.settings import Settings

__all__ = ["Line", "derive_lines"]

_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """A line as a record: its number (from 1) is its offset, and it has no Kafka timestamp."""

    offset: int
    value: bytes
    timestamp: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def derive_lines(
    lines: Iterable[bytes],
    settings: Settings,
    *,
    write: Callable[[bytes], object],
    complain: Callable[[str], object],
    close: bool = False,
) -> int:
    """Tell the trips of JSON lines of telemetry.

    A batch is 1,000 lines, blank and bad ones too, or the end of the input. The skew of clocks is not checked, and no
    time passes between the lines: only samples end trips, unless ``close`` makes everything quiet for ever at the end.

    Args:
        lines: without their ends.
        settings: those of the trips.
        write: takes announcements as they become known, each a JSON text without a line end.
        complain: takes a line of text for each line that could not be used, as a whole or in part.
        close: end what is still on when nothing else will come.

    Returns:
        How many lines were bad. Blank ones and late ones are not.
    """
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=None), offline=True)
    bad = 0

    def put_out() -> None:
        nonlocal bad
        output = processor.take()
        for rejected in output.rejected:
            bad += 1
            used = " (the rest of the line counts)" if rejected.partial else ""
            reasons = "; ".join(problem.message for problem in rejected.problems)
            complain(f"line {rejected.record.offset}: {reasons}{used}")
        for late in output.late:
            complain(f"line {late.record.offset}: late: {late.message}")
        for announcement in output.announcements:
            write(announcement.payload)

    batch: list[Line] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            batch.append(Line(number, line))
        if number % _BATCH == 0:
            processor.process(batch)
            put_out()
            batch = []
    processor.process(batch)
    if close:
        processor.close()
    put_out()
    return bad
