"""JSON lines from a file or stdin, plain or gzip."""

from __future__ import annotations

import contextlib
import gzip
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from streams.errors import TripsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

__all__ = ["RECORDED_DRIVES", "check_readable", "read_lines"]

RECORDED_DRIVES: Final = Path(__file__).with_name("data") / "drives.jsonl.gz"
"""Seven drives of three vehicles in May and June 2019, recorded once a second."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BufferedReader]:
    if name == "-":
        yield cast("BufferedReader", sys.stdin.buffer)
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None
    with file:
        yield file


def check_readable(name: str) -> None:
    """Whether a file is there and may be read, before anything else is begun.

    Raises:
        UsageError: it is not.
    """
    if name != "-":
        with _opened(name):
            pass


def read_lines(name: str) -> Iterator[bytes]:
    """The lines of a file, or of stdin (``-``), without their ends. Gzip is known by its first bytes, not by its name.

    Raises:
        UsageError: there is no such file, or it may not be read.
        TripsError: the file is damaged.
    """
    with _opened(name) as raw:
        try:
            # Seen without being taken: stdin cannot be rewound.
            is_gzip = raw.peek(2)[:2] == _GZIP_MAGIC
            with gzip.open(raw) if is_gzip else contextlib.nullcontext(raw) as lines:
                for line in lines:
                    yield line.rstrip(b"\r\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TripsError(f"{name}: the compressed data are damaged: {error}") from None
