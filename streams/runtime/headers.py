r"""Header names that are not UTF-8: Kafka takes them, and aiokafka cannot read on past them.

Anybody who can write to the source could stop a partition with one such record. Here a fetch that fails for this reason
is read again from the record where it failed, with aiokafka's decoder in Python, in which the name can be read
leniently (``b"\xff"`` becomes the text ``\xff``). Fetches that do not fail are read as ever, and as fast.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_fetched", "read_any_header_name"]

_BATCH_START: Final = struct.Struct(">qi")  # base offset, length of what follows


class _Part(bytes):
    """A part of a record: a header's name is decoded, keys and values are taken as they are."""

    __slots__ = ()

    def decode(self, *_: object, **__: object) -> str:
        return str(self, "utf-8", "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        return _Part(found) if isinstance(where, slice) else found


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def __iter__(self) -> Self:
        super().__iter__()  # decompresses
        self._buffer = _Buffer(self._buffer)  # type: ignore[has-type]
        return self


class _Batches:
    """The batches of a fetch from an offset on, in the shape of aiokafka's ``MemoryRecords``."""

    def __init__(self, raw: bytes, start: int) -> None:
        self._batches = [batch for batch in _cut(raw) if batch.next_offset > start]

    def has_next(self) -> bool:
        return bool(self._batches)

    def next_batch(self) -> _Batch:
        return self._batches.pop(0)


def _cut(raw: bytes) -> Iterator[_Batch]:
    position = 0
    while position + _BATCH_START.size <= len(raw):
        _, length = _BATCH_START.unpack_from(raw, position)
        end = position + _BATCH_START.size + length
        if end > len(raw):  # a fetch may end in the middle of a batch
            return
        yield _Batch(bytearray(raw[position:end]))
        position = end


class _Fetched(MemoryRecords):  # type: ignore[misc]
    """What was fetched, with its bytes kept."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    def __init__(self, tp: Any, records: _Fetched, *rest: Any) -> None:
        super().__init__(tp, records, *rest)
        self._raw = records.raw
        if self._value_deserializer is as_fetched:
            self._consumer_record = _as_it_is

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except UnicodeDecodeError:
            self._read_again()
            return super().__next__()

    def __iter__(self) -> Iterator[Any]:
        # As above, but without a call for each record.
        while True:
            try:
                for record in self._records_iterator:  # noqa: UP028 - whoever stops in between goes on later
                    yield record
            except UnicodeDecodeError:
                self._read_again()
            else:
                return

    def _read_again(self) -> None:
        """From the failed record on: what is before its batch has been read, aborted transactions and all."""
        self._records = _Batches(self._raw, self.next_fetch_offset)
        self._records_iterator = self._unpack_records()


def as_fetched(value: bytes | None) -> bytes | None:
    """The ``value_deserializer`` of a consumer that wants records as the batch holds them.

    They have offset, timestamp, key, value and headers, and neither topic nor partition, and cost a fraction. It
    changes nothing where :func:`read_any_header_name` was not called.
    """
    return value


def _as_it_is(_: Any, record: Any) -> Any:
    return record


def read_any_header_name() -> None:
    """Have this process's consumers read on past header names that are not UTF-8."""
    fetcher.MemoryRecords = _Fetched
    fetcher.PartitionRecords = _PartitionRecords
