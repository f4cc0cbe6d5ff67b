import gzip
import io
import sys

import pytest

from streams.errors import TripsError, UsageError
from streams.local.files import RECORDED_DRIVES, read_lines

LINES = [b'{"a": 1}', b"", b"x", b"last without an end"]


def test_plain_lines_without_their_ends(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"a": 1}\n\r\nx\nlast without an end')
    assert list(read_lines(str(file))) == LINES


def test_gzip_is_known_by_its_first_bytes(tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(gzip.compress(b"\n".join(LINES)))
    assert list(read_lines(str(file))) == LINES


@pytest.mark.parametrize(
    "data", [b"\n".join(LINES), gzip.compress(b"\n".join(LINES)), b""], ids=["plain", "gzip", "nothing"]
)
def test_stdin_may_be_either(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    assert list(read_lines("-")) == (LINES if data else [])


def test_a_file_that_is_not_there_is_the_callers_mistake(tmp_path):
    with pytest.raises(UsageError, match="none: No such file or directory"):
        list(read_lines(f"{tmp_path}/none"))
    with pytest.raises(UsageError, match="Is a directory"):
        list(read_lines(str(tmp_path)))


@pytest.mark.parametrize("cut", [3, -3])
def test_a_damaged_file_says_so(tmp_path, cut):
    file = tmp_path / "lines.gz"
    file.write_bytes(gzip.compress(b"\n".join(LINES))[:cut])
    with pytest.raises(TripsError, match=r"lines\.gz: the compressed data are damaged"):
        list(read_lines(str(file)))


def test_the_recorded_drives_are_there():
    assert sum(1 for _ in read_lines(str(RECORDED_DRIVES))) == 4244
