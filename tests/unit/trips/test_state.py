"""Stored state: it proves that it is whole, says its format, and stays within its budgets."""

import json
from zlib import crc32

import msgpack
import pytest
from unit.trips.records import record

from streams.errors import StateError
from streams.processor import Processor
from streams.records import Announcement, Standing, TripsRecord
from streams.telemetry.reader import Reader
from streams.trips.rules import Rules
from streams.trips.state import (
    FORMAT_VERSION,
    BrokenStateError,
    open_value,
    pack_outbox,
    seal_value,
    unpack_outbox,
)

T0 = 1_772_352_000_000


def processor(**rules):
    return Processor(Rules(**rules), Reader(max_clock_skew_ms=None))


def message(second, **properties):
    return json.dumps({"vehicle_id": "JQ7RP", "timestamp": T0 + second * 1000, **properties}).encode()


def typical(second, ignition="ON"):
    return message(
        second,
        ignition=ignition,
        position={"lat": 50.123 + second * 1e-5, "lon": 7.321},
        speed_in_kmh=30 + second % 20,
        heading_in_degrees=second % 360,
        mileage_in_kilometers=10_000 + second / 100,
        state_of_charge_or_fuel_level_in_percent=71.5,
    )


def test_what_is_sealed_opens():
    assert open_value(b"hV1", seal_value(b"hV1", b"content")) == b"content"


@pytest.mark.parametrize("place", range(12))
def test_any_changed_bit_is_noticed(place):
    value = bytearray(seal_value(b"hV1", b"content"))
    value[place] ^= 1
    with pytest.raises(BrokenStateError, match=r"damaged|format version"):
        open_value(b"hV1", bytes(value))


def test_a_value_under_another_key_is_noticed():
    with pytest.raises(BrokenStateError, match="b'hV2' is damaged"):
        open_value(b"hV2", seal_value(b"hV1", b"content"))


def test_a_value_cut_short_is_noticed():
    with pytest.raises(BrokenStateError, match="cut short: 3 bytes"):
        open_value(b"hV1", seal_value(b"hV1", b"content")[:3])


def test_a_newer_format_is_refused_and_says_what_to_do():
    newer = bytes([FORMAT_VERSION + 1]) + seal_value(b"hV1", b"content")[1:]
    with pytest.raises(StateError, match="start the newer version"):
        processor().restore([(b"hV1", newer)])


def test_a_vehicle_without_its_head_is_refused():
    restored = processor()
    restored.restore([(b"w\0\0V1", seal_value(b"w\0\0V1", b""))])
    with pytest.raises(StateError, match="'V1' has no head"):
        restored.restored()


def test_a_state_of_format_1_is_read():
    """Bytes as the first version wrote them: a trip that is on since 08:00:00, with a position and an odometer."""
    restored = processor()
    restored.restore([(bytes.fromhex(key), bytes.fromhex(value)) for key, value in FORMAT_1.items()])
    restored.restored()
    assert restored.vehicles == restored.open_trips == 1
    restored.process([record(3, message(600, ignition="OFF", mileage_in_kilometers=10_005), T0 + 600_000)])
    ended, ready = (json.loads(announcement.payload) for announcement in restored.take().announcements)
    assert ended["metadata"]["type"] == "TripEnded"
    assert ready["data"]["trip"]["start"] == {
        "timestamp": "2026-03-01T08:00:00Z",
        "position": {"timestamp": "2026-03-01T08:00:00Z", "value": {"lat": 50.123, "lon": 7.321}},
    }
    assert ready["data"]["trip"]["metrics"]["distance_in_km"] == 5.0


def test_a_state_of_format_2_is_read_and_goes_on_in_format_4():
    partition = processor()
    partition.standing = Standing(71, b"s" * 16, b"c" * 16)
    partition.process([record(0, message(0, ignition="ON"), T0), record(1, typical(60), T0)])
    older = {}
    for key, value in partition.take().changes.items():
        content = open_value(key, value)
        if key == b"k":
            content = msgpack.packb(msgpack.unpackb(content)[:5])
        # The checksum of format 2 was over key and content alone.
        older[key] = b"\x02" + crc32(content, crc32(key)).to_bytes(4, "little") + content
    restored = processor()
    restored.restore(older.items())
    restored.restored()
    assert restored.standing == Standing(71, b"s" * 16, b"c" * 16, None, None)
    restored.process([record(2, message(600, ignition="OFF"), T0 + 600_000)])
    output = restored.take()
    assert [one.event for one in output.announcements] == ["TripEnded", "TripDataReady"]
    assert {value[0] for value in output.changes.values() if value} == {4}


def with_outbox():
    return Processor(Rules(), Reader(max_clock_skew_ms=None), outbox=True)


def after(stored, one):
    """A processor that goes on from what is stored."""
    one.restore(stored.items())
    one.restored()
    return one


def test_what_is_owed_is_stored_and_announced_again_before_anything_new():
    first = with_outbox()
    first.process([record(0, typical(0), T0), record(1, typical(600, ignition="OFF"), T0 + 600_000)])
    output = first.take()
    assert [one.event for one in output.announcements] == ["TripStarted", "TripEnded", "TripDataReady"]
    assert first.owed == 3
    second = after(output.changes, with_outbox())
    assert (second.owed, second.announcing) == (3, True)
    second.process([record(2, typical(1200), T0 + 1_200_000)])
    again = second.take()
    assert again.announcements[:3] == output.announcements
    assert [one.event for one in again.announcements[3:]] == ["TripStarted"]
    assert second.owed == 4


def test_the_take_after_it_settles_what_is_owed():
    first = with_outbox()
    first.process([record(0, typical(0), T0)])
    stored = first.take().changes
    assert stored[b"o\x00\x00"]
    settled = first.take()
    assert settled.announcements == []
    assert settled.changes.keys() == {b"o\x00\x00", b"k"}
    assert settled.changes[b"o\x00\x00"] is None
    assert first.owed == 0
    assert first.take().changes == {}
    second = after(stored | settled.changes, with_outbox())
    assert (second.owed, second.announcing) == (0, False)


def test_exactly_once_takes_over_what_is_owed_at_least_once():
    first = with_outbox()
    first.process([record(0, typical(0), T0)])
    output = first.take()
    second = after(output.changes, processor())
    taken = second.take()
    assert taken.announcements == output.announcements
    assert taken.changes.keys() == {b"o\x00\x00", b"k"}
    assert taken.changes[b"o\x00\x00"] is None
    assert second.owed == 0


def test_exactly_once_has_no_outbox():
    one = processor()
    one.process([record(0, typical(0), T0)])
    assert not [key for key in one.take().changes if key[:1] == b"o"]
    assert one.owed == 0


def test_an_outbox_of_many_announcements_takes_several_records_that_any_topic_takes():
    said = [
        Announcement("JQ7RP", f"trip-{n}", "TripDataReady", "E", n, T0, "00-a-b-01", b"x" * 10_000, TripsRecord.PUT)
        for n in range(100)
    ]
    pages = pack_outbox(said)
    assert len(pages) == 4
    assert max(map(len, pages)) <= 256 * 1024
    assert [one for page in pages for one in unpack_outbox(page)] == said


def test_an_announcement_larger_than_a_page_is_a_page_of_its_own():
    small = Announcement("JQ7RP", "trip", "TripStarted", "E", 1, T0, None, b"x", TripsRecord.KEEP)
    large = Announcement("JQ7RP", "trip", "TripDataReady", "E", 1, T0, None, b"x" * 900_000, TripsRecord.DELETE)
    assert [unpack_outbox(page) for page in pack_outbox([small, large, small])] == [[small], [large], [small]]


@pytest.mark.parametrize("key", [b"", b"o", b"ow", b"offsets", b"kk", b"x123"])
def test_a_record_that_is_of_no_kind_we_know_is_refused(key):
    with pytest.raises(StateError, match="of no kind that this program knows"):
        with_outbox().restore([(key, seal_value(key, b"{}"))])


def test_a_program_before_the_outbox_refuses_a_state_that_owes():
    one = with_outbox()
    one.process([record(0, typical(0), T0)])
    for key, value in one.take().changes.items():
        with pytest.raises(BrokenStateError, match="has format version 4, and this program reads up to 3"):
            open_value(key, value, newest=3)


def test_where_it_stands_is_stored_with_the_clock_and_comes_back():
    partition = processor()
    partition.standing = Standing(71, b"s" * 16, b"c" * 16)
    partition.process([record(70, typical(0), T0)])
    changes = partition.take().changes
    restored = processor()
    restored.restore(changes.items())
    restored.restored()
    assert restored.standing == Standing(71, b"s" * 16, b"c" * 16)
    assert restored.clock == T0


def test_where_it_stands_can_be_stored_alone():
    partition = processor()
    assert partition.take().changes == {}
    partition.standing = Standing(71)
    partition.touch_clock()
    changes = partition.take().changes
    assert list(changes) == [b"k"]
    restored = processor()
    restored.restore(changes.items())
    restored.restored()
    assert (restored.standing, restored.vehicles) == (Standing(71), 0)


def test_the_clock_of_format_1_is_a_clock_and_nothing_else():
    restored = processor()
    content = msgpack.packb(T0)
    value = b"\x01" + crc32(content, crc32(b"k")).to_bytes(4, "little") + content
    restored.restore([(b"k", value)])
    restored.restored()
    assert (restored.clock, restored.standing) == (T0, Standing())


def of_vehicles(count):
    partition = processor()
    messages = (typical(0).replace(b"JQ7RP", b"V%03d" % n) for n in range(count))
    partition.process([record(n, message, T0) for n, message in enumerate(messages)])
    return partition.take().changes


@pytest.mark.parametrize("gone", [b"hV000", b"hV007"])
def test_a_vehicle_that_is_missing_is_noticed(gone):
    changes = {key: value for key, value in of_vehicles(8).items() if not key.endswith(gone[1:])}
    restored = processor()
    restored.restore(changes.items())
    with pytest.raises(StateError, match="state of 7 vehicles, and should hold that of 8"):
        restored.restored()


def test_a_vehicle_too_many_is_noticed():
    changes = of_vehicles(8)
    restored = processor()
    restored.restore([*changes.items(), (b"hother", seal_value(b"hother", open_value(b"hV000", changes[b"hV000"])))])
    with pytest.raises(StateError, match="state of 9 vehicles, and should hold that of 8"):
        restored.restored()


def test_vehicles_are_counted_over_checkpoints_restarts_and_rests():
    partition, changelog = processor(), {}
    for step in range(6):
        messages = (typical(step * 600).replace(b"JQ7RP", b"V%03d" % n) for n in range(step, step * 4 + 4))
        partition.process([record(step * 100 + n, one, T0 + step * 600_000) for n, one in enumerate(messages)])
        late = message(-10_000_000, ignition="ON").replace(b"JQ7RP", b"V000")
        partition.process([record(step * 100 + 99, late, T0 + step * 600_000)])  # adds nothing
        changelog |= partition.take().changes
        partition = processor()
        partition.restore(changelog.items())
        partition.restored()
        assert partition.vehicles == step * 4 + 4


def compacted(changelog, changes):
    """The changelog after compaction, tombstones gone."""
    return {key: value for key, value in (changelog | changes).items() if value is not None}


def stream(partition, count, *, every=5, checkpoint=1):
    """Feeds messages of one vehicle, and returns the bytes in, the bytes written, and the changelog as compacted."""
    read = written = 0
    changelog: dict[bytes, bytes] = {}
    heads = []
    for number in range(count):
        value = typical(number * every)
        read += len(value)
        partition.process([record(number, value, T0 + number * every * 1000)])
        if number % checkpoint == checkpoint - 1:
            changes = partition.take().changes
            written += sum(len(key) + len(value or b"") for key, value in changes.items())
            changelog = compacted(changelog, changes)
            heads.append(len(changes[b"hJQ7RP"]))
    return read, written, changelog, heads


def test_with_a_message_every_five_seconds_the_changelog_is_at_most_twice_the_input():
    read, written, _, heads = stream(processor(), 2_000)
    assert written <= 2 * read
    assert max(heads) <= 250


def test_a_sample_of_a_trip_that_is_on_takes_at_most_40_bytes():
    partition = processor()
    _, _, changelog, _ = stream(partition, 2_000)
    assert sum(len(key) + len(value or b"") for key, value in changelog.items()) - 600 <= 40 * 6 * 2_000
    assert partition.state_bytes - 600 <= 40 * 6 * 2_000


def test_a_sample_of_a_finished_trip_takes_at_most_12_bytes():
    partition = processor()
    _, _, changelog, _ = stream(partition, 2_000)
    partition.process([record(2_000, typical(10_000, "OFF"), T0 + 10_000_000)])
    changelog = compacted(changelog, partition.take().changes)
    assert sum(len(key) + len(value or b"") for key, value in changelog.items()) - 600 <= 12 * 6 * 2_001


def test_a_vehicle_with_nothing_but_its_last_values_takes_at_most_600_bytes():
    partition = processor(correction_horizon_ms=60_000)
    partition.process([record(0, typical(0, "OFF"), T0)])
    changelog = partition.take().changes
    assert sum(len(key) + len(value or b"") for key, value in changelog.items()) <= 600


def test_a_trip_that_never_ends_takes_no_more_and_no_more():
    partition = processor(correction_horizon_ms=600_000)
    sizes = []
    for number in range(3_000):
        partition.process([record(number, typical(number * 5), T0 + number * 5_000)])
        partition.take()
        sizes.append(partition.state_bytes)
    assert max(sizes[2_000:]) <= max(sizes[1_000:2_000])


def test_an_idle_vehicle_takes_at_most_600_bytes_in_memory_and_in_the_changelog_once_its_day_is_over():
    partition = processor()
    _, _, changelog, _ = stream(partition, 720)
    partition.process([record(720, typical(3_600, "OFF"), T0 + 3_600_000)])
    changelog = compacted(changelog, partition.take().changes)
    for hour in range(2, 72):
        partition.process([record(719 + hour, message(hour * 3_600, speed_in_kmh=0), T0 + hour * 3_600_000)])
        changelog = compacted(changelog, partition.take().changes)
    heartbeats = 30 * (2 + 8 + 2)  # kept for corrections, 12 bytes each at most
    assert partition.state_bytes <= 600 + heartbeats
    assert sum(len(key) + len(value or b"") for key, value in changelog.items()) <= 600 + heartbeats


def test_a_flapping_contact_writes_no_more_with_every_trip():
    partition = processor()
    written = []
    for number in range(3_000):
        ignition = "ON" if number % 2 else "OFF"
        partition.process([record(number, message(number, ignition=ignition), T0 + number * 1_000)])
        written.append(sum(len(key) + len(value or b"") for key, value in partition.take().changes.items()))
    assert sum(written[2_000:]) <= 1.1 * sum(written[1_000:2_000])


def test_vehicles_that_are_parked_are_put_to_rest():
    partition = processor()
    for number in range(100):
        body = json.dumps({"vehicle_id": f"V{number}", "timestamp": T0, "ignition": "OFF"}).encode()
        partition.process([record(number, body, T0)])
    partition.take()
    partition.process([record(100, message(600), T0 + 600_000)])
    partition.take()
    assert len(partition._awake) == 0
    assert partition.vehicles == 100


def test_a_backlog_of_days_in_one_checkpoint_is_folded_like_any_other():
    partition = processor(correction_horizon_ms=600_000)
    sizes = []
    for batch in range(20):
        partition.process(
            [record(number, typical(number * 5), T0) for number in range(batch * 2_000, batch * 2_000 + 2_000)]
        )
        partition.take()
        sizes.append(partition.state_bytes)
    assert max(sizes[10:]) <= 1.1 * max(sizes[:10])


FORMAT_1: dict[str, str] = {
    "684a51375250": (
        "01600c30c161d2a4a89c010000013d00dc001102cf0000019ca86de3e0c0000091ce0036ee80cf0000019ca86de3e0cf0000"
        "019ca869500001c2c0cf0000019ca342f400c0c000ce30161ab4c20100a06568a89c010000002920005069a89c01000001b0"
        "29e01d90185d0400e1f505000000000400324132340900434c4f5544424f58584000e0e36da89c0100008813"
    ),
    "744a51375250": (
        "01c3aab101005069a89c0100009802cf0000019ca8695000cd20299800010093ce1de029b0ce045d1890c000ce05f5e10000"
        "92a432413234a9434c4f5544424f5858c0c0dc0012cf0000019ca869500000c092a432413234a9434c4f5544424f585894cf"
        "0000019ca8695000ce1de029b0ce045d1890c0ce05f5e10093c0c0c0cf0000019ca8695000ce05f5e100c000c00001000093"
        "cf0000019ca8695000ce1de029b0ce045d189090c0"
    ),
    "7700004a51375250": "01d8e0e46195cf0000019ca869500000c0c0c400",
    "6b": "011269d06fcf0000019ca86de3e0",
}
