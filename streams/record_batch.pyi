from collections.abc import Iterable, Sequence

from streams.records import FetchedRecord

class RecordBatch(Sequence[FetchedRecord]):
    @staticmethod
    def find(
        raw: bytes, begin: int, end: int, count: int, base_offset: int, first_timestamp: int, append_time: int | None
    ) -> RecordBatch | None: ...
    @staticmethod
    def joined(batches: Iterable[RecordBatch]) -> RecordBatch: ...
    def __len__(self) -> int: ...
    def __getitem__(self, place: int) -> FetchedRecord: ...  # type: ignore[override]
