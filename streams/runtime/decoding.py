r"""What a fetch has brought, made into records: by the batch, and whatever the names of headers are.

**Header names that are not UTF-8.** Kafka takes them, and aiokafka cannot read on past them: anybody who can write to
the source could stop a partition with one such record. Here a fetch that fails for this reason is read again from the
record where it failed, with aiokafka's decoder in Python, in which the name can be read leniently (``b"\xff"`` becomes
the text ``\xff``). Fetches that do not fail are read as ever, and as fast.

**In portions.** aiokafka hands out record by record, each made anew as its ``ConsumerRecord``. Where a consumer asks
for it (:class:`InPortions`), it hands out one :class:`Portion` after the other instead: all records of one of Kafka's
batches, or of several, as the batch holds them. Checksums, transactions that were aborted, and positions remain
aiokafka's. Where it is compiled, :mod:`streams.record_batch` finds the records in a batch, and nothing is made of one
until somebody asks for it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

try:
    from streams.record_batch import RecordBatch
except ImportError:  # it is optional
    RecordBatch = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streams.records import Record

__all__ = ["InPortions", "Portion", "replace_decoder"]

_BATCH_START: Final = struct.Struct(">qi")  # base offset, length of what follows
_COUNT: Final = struct.Struct(">i")
_COUNT_AT: Final = 57
_RECORDS_AT: Final = 61
_DECOMPRESS: Final[dict[int, Callable[[bytes], Any]]] = {
    DefaultRecordBatch.CODEC_GZIP: codec.gzip_decode,
    DefaultRecordBatch.CODEC_SNAPPY: codec.snappy_decode,
    DefaultRecordBatch.CODEC_LZ4: codec.lz4_decode,
    DefaultRecordBatch.CODEC_ZSTD: codec.zstd_decode,
}


class Portion(NamedTuple):
    """Records of a partition, one after the other. To aiokafka it is one record: the last one.

    Attributes:
        offset: of the last one.
        records: at least one, in order.
    """

    offset: int
    records: Sequence[Record]


class InPortions:
    """The ``value_deserializer`` of a consumer that hands out each :class:`Portion` as if it were a record.

    It changes nothing where :func:`replace_decoder` was not called.

    Args:
        records: Kafka's batches are put together as long as there are fewer of them in a portion.
    """

    def __init__(self, records: int = 1) -> None:
        self.records = records

    def __call__(self, value: bytes | None) -> bytes | None:
        """What aiokafka would do to a value."""
        return value


def _together(portions: Sequence[Portion]) -> Portion:
    if len(portions) == 1:
        return portions[0]
    records: Sequence[Record] | None = None
    if RecordBatch is not None:
        found = [one.records for one in portions if isinstance(one.records, RecordBatch)]
        records = RecordBatch.joined(found) if len(found) == len(portions) else None
    if records is None:
        records = [record for one in portions for record in one.records]
    return Portion(portions[-1].offset, records)


def replace_decoder() -> None:
    """Have this process's consumers read on past header names that are not UTF-8, and some in portions."""
    fetcher.MemoryRecords = _Fetched
    fetcher.PartitionRecords = _partition_records


class _Part(bytes):
    """A part of a record: a header's name is decoded, keys and values are taken as they are."""

    __slots__ = ()

    def decode(self, *_: object, **__: object) -> str:
        return str(self, "utf-8", "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        return _Part(found) if isinstance(where, slice) else found


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def __iter__(self) -> Self:
        super().__iter__()  # decompresses
        self._buffer = _Buffer(self._buffer)  # type: ignore[has-type]
        return self


class _LenientBatches:
    """The batches of a fetch from an offset on, in the shape of aiokafka's ``MemoryRecords``."""

    def __init__(self, raw: bytes, start: int) -> None:
        self._batches = [batch for batch in _cut(raw) if batch.next_offset > start]

    def has_next(self) -> bool:
        return bool(self._batches)

    def next_batch(self) -> _LenientBatch:
        return self._batches.pop(0)


def _cut(raw: bytes) -> Iterator[_LenientBatch]:
    position = 0
    while position + _BATCH_START.size <= len(raw):
        end = _end_of_batch(raw, position)
        if end > len(raw):  # a fetch may end in the middle of a batch
            return
        yield _LenientBatch(bytearray(raw[position:end]))
        position = end


def _end_of_batch(raw: bytes, position: int) -> int:
    _, length = _BATCH_START.unpack_from(raw, position)
    return position + _BATCH_START.size + int(length)


class _Fetched(MemoryRecords):  # type: ignore[misc]
    """What was fetched, with its bytes kept."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


class _InBatches:
    """What was fetched, in the shape of aiokafka's ``MemoryRecords``, with each batch as one record."""

    def __init__(self, fetched: Any) -> None:
        self._fetched = fetched
        self._end = 0  # of the last batch, in its bytes
        self.has_next = fetched.has_next

    def next_batch(self) -> Any:
        batch, begin = self._fetched.next_batch(), self._end
        self._end = _end_of_batch(self._fetched.raw, begin)
        return batch if batch.is_control_batch else _Batch(batch, self._fetched.raw, begin, self._end)


class _Batch:
    """A batch of records that hands them out all at once."""

    def __init__(self, batch: Any, raw: bytes, begin: int, end: int) -> None:
        self._batch = batch
        self._raw = raw
        self._begin = begin
        self._end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Portion]:
        records = None if RecordBatch is None else self._found()
        if records is None:
            records = list(self._batch)
        if records:  # compaction may have left none
            yield Portion(records[-1].offset, records)

    def _found(self) -> Any:
        """Where its records are; None: it is to be decoded by aiokafka, which will tell what is wrong with it."""
        batch, begin, end = self._batch, self._begin, self._end
        if type(batch) is not DefaultRecordBatch or end - begin < _RECORDS_AT:  # a format from before Kafka 0.11
            return None
        (count,) = _COUNT.unpack_from(self._raw, begin + _COUNT_AT)
        raw, begin = self._raw, begin + _RECORDS_AT
        if batch.compression_type:
            try:
                raw, begin = bytes(_DECOMPRESS[batch.compression_type](raw[begin:end])), 0
            except Exception:  # noqa: BLE001 - whatever it is
                return None
            end = len(raw)
        append_time = batch.max_timestamp if batch.timestamp_type else None
        return RecordBatch.find(raw, begin, end, count, batch.base_offset, batch.first_timestamp, append_time)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Of one partition, record by record."""

    def __init__(self, tp: Any, records: _Fetched, *rest: Any) -> None:
        super().__init__(tp, records, *rest)
        self._raw = records.raw
        self._records: Any

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except UnicodeDecodeError:
            self._read_again()
            return super().__next__()

    def __iter__(self) -> Iterator[Any]:
        # As __next__, but without a call for each record.
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
        self._records = _LenientBatches(self._raw, self.next_fetch_offset)
        self._records_iterator = self._unpack_records()


class _PartitionPortions(_PartitionRecords):
    """Of one partition, in portions."""

    def __init__(self, tp: Any, records: _Fetched, *rest: Any) -> None:
        super().__init__(tp, records, *rest)
        self._records = _InBatches(records)

    def __iter__(self) -> Iterator[Portion]:
        """Batches put together. The position is behind what was handed out whenever one is."""
        size = self._value_deserializer.records
        waiting: list[Portion] = []
        count = 0
        for batch in super().__iter__():
            waiting.append(batch)
            count += len(batch.records)
            if count >= size:
                yield _together(waiting)
                waiting, count = [], 0
        if waiting:
            yield _together(waiting)

    def _consumer_record(self, _: Any, record: Any) -> Portion:
        """A batch without what is before the position, if it begins there."""
        if not isinstance(record, Portion):  # a single record, read again
            return Portion(record.offset, [record])
        position = self.next_fetch_offset
        if record.records[0].offset >= position:
            return record
        return Portion(record.offset, [one for one in record.records if one.offset >= position])


def _partition_records(tp: Any, records: _Fetched, *rest: Any) -> _PartitionRecords:
    """In place of aiokafka's class, with its arguments."""
    _, _, _, value_deserializer, *_ = rest
    kind = _PartitionPortions if isinstance(value_deserializer, InPortions) else _PartitionRecords
    return kind(tp, records, *rest)
