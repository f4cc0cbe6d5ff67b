"""What a fetch of a changelog brings, and what becomes of one that brings nothing."""

from types import SimpleNamespace

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition
from unit.runtime.test_decoding import BAD, batch, with_checksum

from streams.errors import StateError
from streams.runtime import changelog
from streams.runtime.decoding import replace_decoder

PLACE = TopicPartition("changelog", 3)


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    before = fetcher.MemoryRecords, fetcher.PartitionRecords
    replace_decoder()
    monkeypatch.setattr(changelog, "_RETRY", 0)
    yield
    fetcher.MemoryRecords, fetcher.PartitionRecords = before


def read(raw, position=0, aborted=()):
    found = [record for records in changelog._read(PLACE, position, raw, list(aborted)) for record in records]
    return [(record.offset, record.key, record.value) for record in found], changelog._end(raw, position)


def test_records_of_all_batches_come_in_order_and_the_position_is_behind_them():
    raw = batch(5, (b"a", []), (None, [])) + batch(9, (b"c", []))
    assert read(raw, 5) == ([(5, b"key", b"a"), (6, b"key", None), (9, b"key", b"c")], 10)


def test_a_batch_that_begins_before_the_position_is_read_from_there():
    assert read(batch(5, (b"a", []), (b"b", [])) + batch(7, (b"c", [])), 6) == (
        [(6, b"key", b"b"), (7, b"key", b"c")],
        8,
    )


def test_a_batch_of_which_compaction_has_left_nothing_is_passed():
    nothing = bytearray(batch(5, (b"a", []), (b"b", [])))[:61]
    nothing[8:12] = (61 - 12).to_bytes(4, "big")
    nothing[57:61] = bytes(4)  # no records; the last offset stays
    assert read(with_checksum(nothing) + batch(7, (b"c", [])), 5) == ([(7, b"key", b"c")], 8)
    assert read(with_checksum(nothing), 5) == ([], 7)


def test_aborted_transactions_and_markers_are_passed():
    raw = batch(0, (b"aborted", []), producer=7) + with_checksum(
        bytearray(batch(1, (None, []), producer=7, control=True))
    )
    raw += batch(2, (b"committed", []), producer=7)
    assert read(raw, aborted=[(7, 0)]) == ([(2, b"key", b"committed")], 3)
    assert read(raw[: -len(batch(2, (b"committed", []), producer=7))], aborted=[(7, 0)]) == ([], 2)


def test_a_header_name_that_is_not_utf_8_holds_nobody_up():
    raw = batch(0, (b"a", [])) + batch(1, (b"b", []), (b"c", BAD)) + batch(3, (b"d", []))
    assert [value for _, _, value in read(raw)[0]] == [b"a", b"b", b"c", b"d"]
    assert read(raw)[1] == 4


def test_a_damaged_batch_is_noticed():
    raw = bytearray(batch(0, (b"a", [])))
    raw[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(raw))


def test_a_fetch_that_ends_within_a_batch_is_read_up_to_there():
    assert read(batch(0, (b"a", [])) + batch(1, (b"b", []))[:-3]) == ([(0, b"key", b"a")], 1)


class Client:
    """Of a cluster whose broker gives one answer."""

    def __init__(self, answer=None, leader=0):
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: leader)
        self.answer = answer
        self.asked_who_leads = 0

    async def send(self, node, request):
        assert (node, request.topics[0][1][0][:2]) == (0, (3, 5))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def force_metadata_update(self):
        self.asked_who_leads += 1


def answer(code, version, *rest):
    return SimpleNamespace(API_VERSION=version, topics=[("changelog", [(3, code, 100, *rest)])])


@pytest.mark.parametrize(
    ("version", "rest"),
    [(4, (9, [(7, 0)])), (10, (9, 0, [(7, 0)])), (11, (9, 0, [(7, 0)], -1))],
    ids=lambda value: f"version {value}" if isinstance(value, int) else "",
)
async def test_an_answer_of_any_version_is_read_with_what_was_aborted(version, rest):
    raw = batch(5, (b"aborted", []), producer=7) + batch(6, (b"kept", []), producer=8)
    fetched = await changelog._fetch(Client(answer(0, version, *rest, raw)), PLACE, 5)
    assert [record.value for records in fetched.batches for record in records] == [b"kept"]
    assert fetched.position == 7


@pytest.mark.parametrize(
    "client",
    [
        Client(answer(6, 11, -1, -1, None, -1, b"")),  # not the leader
        Client(answer(-1, 11, -1, -1, None, -1, b"")),
        Client(SimpleNamespace(API_VERSION=11, topics=[])),
        Client(KafkaConnectionError("gone")),
        Client(ConnectionResetError()),
        Client(leader=None),
        Client(leader=-1),
    ],
    ids=["not the leader", "an error", "no topic", "no connection", "broken", "nobody known", "no leader"],
)
async def test_who_gets_nothing_asks_who_leads_and_tries_again(client):
    assert await changelog._fetch(client, PLACE, 5) is None
    assert client.asked_who_leads == 1


async def test_a_position_that_is_gone_ends_it():
    with pytest.raises(StateError, match=r"changelog was cut off or created anew .*: partition 3 has no offset 5"):
        await changelog._fetch(Client(answer(1, 11, -1, -1, None, -1, b"")), PLACE, 5)


async def test_a_right_that_is_missing_ends_it():
    with pytest.raises(TopicAuthorizationFailedError):
        await changelog._fetch(Client(answer(29, 11, -1, -1, None, -1, b"")), PLACE, 5)
