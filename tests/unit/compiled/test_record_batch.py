"""Records that machine code finds in a batch are those that aiokafka finds there."""

import random
from contextlib import suppress

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchBuilderPy
from unit.runtime.test_decoding import BAD, batch, portions, with_checksum

from streams.records import FetchedRecord
from streams.runtime import decoding

RecordBatch = pytest.importorskip("streams.record_batch", reason="the core is not compiled").RecordBatch

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@pytest.fixture(autouse=True)
def patched():
    before = fetcher.MemoryRecords, fetcher.PartitionRecords
    decoding.replace_decoder()
    yield
    fetcher.MemoryRecords, fetcher.PartitionRecords = before


def some_batch(chance, base_offset, codec=0):
    """Of any keys, values, headers and times."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, 0, 0, 10_000_000)
    offset = 0
    for _ in range(chance.choice([1, 2, 30])):
        headers = [
            (chance.choice(["", "traceparent", "é" * 80]), some_bytes(chance))
            for _ in range(chance.choice([0, 0, 0, 3]))
        ]
        time = chance.choice([0, 1_790_000_000_000, -5, 2**53]) + chance.randrange(10**6)
        assert builder.append(offset, time, some_bytes(chance), some_bytes(chance), headers)
        offset += chance.choice([1, 1, 1, 70])
    raw = bytearray(builder.build())
    raw[0:8] = base_offset.to_bytes(8, "big")
    return with_checksum(raw), base_offset + offset


def some_bytes(chance):
    return chance.choice([None, b"", b"vehicle", chance.randbytes(chance.choice([63, 64, 65, 8191, 8192]))])


def as_tuples(records):
    return [
        (record.offset, record.timestamp, record.key, record.value, [tuple(header) for header in record.headers])
        for record in records
    ]


@pytest.mark.parametrize("codec", range(5), ids=CODECS)
@pytest.mark.parametrize("append_time", [False, True], ids=["their times", "the broker's"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_what_aiokafka_finds(codec, append_time, seed):
    chance = random.Random(seed)
    raws, offset = [], 2**40
    for _ in range(5):
        raw, offset = some_batch(chance, offset, codec)
        if append_time:
            changed = bytearray(raw)
            changed[22] |= 8
            raw = with_checksum(changed)
        raws.append(raw)
    expected = [record for raw in raws for record in as_tuples(DefaultRecordBatch(raw))]
    ((_, found),) = portions(b"".join(raws), records=10**6)
    assert type(found) is RecordBatch
    assert as_tuples(found) == expected
    assert (len(found), found[-1].offset) == (len(expected), expected[-1][0])
    assert [type(one) for one in found] == [FetchedRecord] * len(expected)


def test_what_was_found_stays_when_all_else_is_gone():
    raw, end = some_batch(random.Random(1), 0)
    after, _ = some_batch(random.Random(1), end)
    ((_, found),) = portions(raw + after, records=10**6)
    expected = as_tuples(DefaultRecordBatch(raw)) + as_tuples(DefaultRecordBatch(after))
    del raw, after
    assert as_tuples(found) == expected


def test_there_is_nothing_beyond_its_ends():
    raw, _ = some_batch(random.Random(2), 0)
    ((_, records),) = portions(raw)
    size = len(records)
    for place in (size, -size - 1):
        with pytest.raises(IndexError):
            records[place]


@pytest.mark.parametrize("seed", range(6))
def test_of_damaged_records_nothing_is_found_that_aiokafka_does_not_find(seed):
    chance = random.Random(seed)
    raw, _ = some_batch(chance, 7)
    for _ in range(100):
        damaged = bytearray(raw)
        for _ in range(chance.choice([1, 1, 2])):
            damaged[chance.randrange(57, min(len(raw), 57 + 300))] = chance.randrange(256)
        if chance.random() < 0.2:
            del damaged[chance.randrange(61, len(damaged)) :]
            damaged[8:12] = (len(damaged) - 12).to_bytes(4, "big")
        damaged = with_checksum(damaged)
        count = int.from_bytes(damaged[57:61], "big", signed=True)
        first = int.from_bytes(damaged[27:35], "big", signed=True)
        found = RecordBatch.find(damaged, 61, len(damaged), count, 7, first, None)
        if found is not None:
            with suppress(UnicodeDecodeError):  # names of headers, which are taken here as they are
                assert as_tuples(found) == as_tuples(DefaultRecordBatch(damaged))


def test_a_name_of_a_header_that_is_not_utf_8_is_read_leniently():
    ((_, records),) = portions(batch(5, (b"a", BAD)))
    assert type(records) is RecordBatch
    assert records[0].headers == (("caf\\xe9", b"1"),)
