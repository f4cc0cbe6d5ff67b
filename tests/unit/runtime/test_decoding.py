import gc
import weakref
from itertools import islice

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record._crc32c import crc
from aiokafka.record.control_record import ABORT_MARKER
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.runtime.decoding import InPortions, Portion, replace_decoder

PLACE = TopicPartition("telemetry", 0)


@pytest.fixture(autouse=True)
def patched():
    before = fetcher.MemoryRecords, fetcher.PartitionRecords
    replace_decoder()
    yield
    fetcher.MemoryRecords, fetcher.PartitionRecords = before


class NotUtf8(str):
    __slots__ = ()

    def encode(self, *_):
        return b"caf\xe9"


BAD = [(NotUtf8("cafe"), b"1")]


def batch(base_offset, *records, producer=-1, codec=0, control=False):
    """Records are (value, headers)."""
    transactional = int(producer != -1)
    builder = _DefaultRecordBatchBuilderPy(2, codec, transactional, producer, 0, 0, 1_000_000)
    for number, (value, headers) in enumerate(records):
        key = ABORT_MARKER_KEY if control else b"key"
        assert builder.append(number, 1000, key, value, headers)
    data = bytearray(builder.build())
    data[0:8] = base_offset.to_bytes(8, "big")
    if control:
        data[22] |= 0x20  # attributes: a control batch; CRC is not checked here
    return bytes(data)


def with_checksum(raw):
    """What was changed in a batch, with a checksum that fits."""
    raw[17:21] = crc(bytes(raw[21:])).to_bytes(4, "big")
    return bytes(raw)


ABORT_MARKER_KEY = ABORT_MARKER.version.to_bytes(2, "big") + ABORT_MARKER.type_.to_bytes(2, "big")


def read(raw, start=0, aborted=()):
    records = fetcher.PartitionRecords(
        PLACE, fetcher.MemoryRecords(raw), list(aborted), start, None, None, False, fetcher.READ_COMMITTED
    )
    read = [(record.offset, record.value, record.headers) for record in records]
    return read, records.next_fetch_offset


@pytest.mark.parametrize("codec", [0, 1], ids=["plain", "gzip"])
def test_a_name_that_is_not_utf_8_is_read_leniently_and_so_is_the_rest(codec):
    raw = batch(5, (b"a", []), (b"b", BAD), (b"c", [("é", None)]), codec=codec)
    assert read(raw) == (
        [(5, b"a", ()), (6, b"b", (("caf\\xe9", b"1"),)), (7, b"c", (("é", None),))],
        8,
    )


def test_batches_before_and_after_are_read_once():
    raw = batch(0, (b"a", [])) + batch(1, (b"b", BAD), (b"c", BAD)) + batch(3, (b"d", BAD)) + batch(4, (b"e", []))
    read_records, position = read(raw)
    assert [(offset, value) for offset, value, _ in read_records] == [
        (0, b"a"),
        (1, b"b"),
        (2, b"c"),
        (3, b"d"),
        (4, b"e"),
    ]
    assert position == 5


def test_keys_and_values_are_plain_bytes():
    records = fetcher.PartitionRecords(
        PLACE, fetcher.MemoryRecords(batch(0, (b"a", BAD))), [], 0, None, None, False, fetcher.READ_COMMITTED
    )
    (record,) = records
    assert [type(record.key), type(record.value), type(record.headers[0][1])] == [bytes, bytes, bytes]


def test_reading_starts_where_it_was_asked_to():
    assert read(batch(0, (b"a", BAD), (b"b", BAD)), start=1)[0] == [(1, b"b", (("caf\\xe9", b"1"),))]


def test_aborted_transactions_stay_aborted():
    raw = (
        batch(0, (b"aborted", []), producer=7)
        + batch(1, (b"", []), producer=7, control=True)
        + batch(2, (b"aborted again", []), producer=7)
        + batch(3, (b"of another", BAD), producer=8)
        + batch(4, (b"still aborted", BAD), producer=7)
        + batch(5, (b"", []), producer=7, control=True)
        + batch(6, (b"committed", BAD), producer=7)
    )
    read_records, position = read(raw, aborted=[(7, 0), (7, 2)])
    assert [(offset, value) for offset, value, _ in read_records] == [(3, b"of another"), (6, b"committed")]
    assert position == 7


def test_a_fetch_that_ends_in_the_middle_of_a_batch_is_read_up_to_there():
    whole = batch(0, (b"a", BAD))
    read_records, position = read(whole + batch(1, (b"b", []))[:-3])
    assert [value for _, value, _ in read_records] == [b"a"]
    assert position == 1


def test_without_such_names_nothing_is_different():
    assert read(batch(0, (b"a", [("h", b"1")]))) == ([(0, b"a", (("h", b"1"),))], 1)


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_records_are_handed_over_in_portions_and_each_once(at_once):
    records = fetcher.PartitionRecords(
        PLACE, fetcher.MemoryRecords(TWO), [], 6, None, None, True, fetcher.READ_COMMITTED
    )
    found = []
    while portion := list(islice(records, at_once)):
        found += portion
        assert records.next_fetch_offset == found[-1].offset + 1
    assert [all_of(record) for record in found] == FROM_6


TWO = batch(5, (b"a", []), (b"b", []), (b"c", [])) + batch(8, (b"d", []), (None, BAD), (b"f", []), (b"g", []))
FROM_6 = [
    (6, b"key", b"b", [], 1000),
    (7, b"key", b"c", [], 1000),
    (8, b"key", b"d", [], 1000),
    (9, b"key", None, [("caf\\xe9", b"1")], 1000),
    (10, b"key", b"f", [], 1000),
    (11, b"key", b"g", [], 1000),
]


def all_of(record):
    return record.offset, record.key, record.value, list(record.headers), record.timestamp


def portions(raw, start=0, aborted=(), records=1):
    return fetcher.PartitionRecords(
        PLACE, fetcher.MemoryRecords(raw), list(aborted), start, None, InPortions(records), True, fetcher.READ_COMMITTED
    )


def test_a_portion_begins_at_the_position():
    found = portions(TWO, start=6)
    first = next(found)
    assert (type(first), first.offset, found.next_fetch_offset) == (Portion, 7, 8)
    rest = list(found)
    assert found.next_fetch_offset == 12
    assert [all_of(record) for portion in (first, *rest) for record in portion.records] == FROM_6


BATCHES = b"".join(
    batch(offset, *[(b"%d" % number, []) for number in range(offset, offset + 3)]) for offset in range(0, 21, 3)
)


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [3] * 7), (3, [3] * 7), (4, [6, 6, 6, 3]), (6, [6, 6, 6, 3]), (21, [21]), (100, [21])]
)
def test_batches_are_put_together_up_to_a_size_and_positions_are_behind_them(size, sizes, at_once):
    found, offset, left = portions(BATCHES, records=size), 0, list(sizes)
    while handed := list(islice(found, at_once)):
        for portion in handed:
            assert [record.offset for record in portion.records] == list(range(offset, offset + left[0]))
            offset += left.pop(0)
            assert (portion.offset, portion.records[-1].offset) == (offset - 1, offset - 1)
        assert found.next_fetch_offset == offset
    assert left == []


def test_batches_that_are_put_together_keep_all_they_have():
    raw = batch(5, (b"a", []), (b"b", [])) + batch(8, (b"c", [("h", None)]))
    (both,) = portions(raw, records=100)
    assert [all_of(record) for record in both.records] == [
        (5, b"key", b"a", [], 1000),
        (6, b"key", b"b", [], 1000),
        (8, b"key", b"c", [("h", None)], 1000),
    ]


def test_one_that_is_read_again_is_in_a_portion_like_others():
    (all_there,) = portions(TWO, start=6, records=100)
    assert [all_of(record) for record in all_there.records] == FROM_6


def test_a_damaged_batch_ends_it_where_it_is():
    damaged = bytearray(BATCHES)
    damaged[-1] ^= 1
    found = portions(bytes(damaged), records=4)
    assert [portion.offset for portion in islice(found, 3)] == [5, 11, 17]
    with pytest.raises(CorruptRecordException):
        list(found)
    assert found.next_fetch_offset == 18


def test_a_portion_has_its_records_as_the_batch_has_them():
    (portion,) = portions(batch(5, (b"a", [])))
    assert not isinstance(portion.records[0], ConsumerRecord)


@pytest.mark.parametrize("deserializer", [None, InPortions(100)], ids=["records", "portions"])
@pytest.mark.parametrize("raw", [TWO, BATCHES], ids=["read again", "as it is"])
def test_what_was_fetched_goes_with_its_last_reference(raw, deserializer):
    """It is megabytes, and must not wait for the collector of cyclic garbage."""
    fetched = fetcher.MemoryRecords(raw)
    found = fetcher.PartitionRecords(PLACE, fetched, [], 0, None, deserializer, True, fetcher.READ_COMMITTED)
    gone = weakref.ref(found)
    gc.disable()
    try:
        assert list(found)
        del found, fetched
        assert gone() is None
    finally:
        gc.enable()
