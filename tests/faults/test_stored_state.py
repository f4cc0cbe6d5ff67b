"""Stored state: of an older version it is read, of a newer one refused; damage is named, and never passes as state."""

import asyncio
import gzip
import json
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgpack
import pytest
from aiokafka import AIOKafkaProducer
from faults import outside
from faults.brokers import Node
from faults.drill import prepare
from faults.judge import Logs, collect, judge
from faults.test_data import fill, refused, stop, work
from faults.workers import Worker
from integration.cluster import caught_up, read

from streams.delivery.messages import announcement_messages
from streams.errors import ClusterError
from streams.processor import Processor
from streams.records import Announcement, Standing, TripsRecord
from streams.runtime import changelog
from streams.runtime.source import log_bounds
from streams.settings import Settings
from streams.telemetry.reader import Reader
from streams.trips.state import FORMAT_VERSION, seal_value

DATA = Path(__file__).parent / "data"
LATER_MS = 400 * 24 * 3_600_000


@dataclass(frozen=True)
class KafkaRecord:
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple = ()


class Snapshot:
    """What an older version wrote, and the telemetry that it had read and had not: see data/README.md."""

    def __init__(self, version):
        content = msgpack.unpackb(gzip.decompress((DATA / f"state-v{version}.msgpack.gz").read_bytes()))
        telemetry = [KafkaRecord(0, *values) for values in content["telemetry"]]
        last = telemetry[-1]
        # Long after everything else somebody is parked: by then, every quiet has run out.
        parked = json.dumps({"vehicle_id": "parked", "timestamp": last.timestamp + LATER_MS, "ignition": "OFF"})
        telemetry.append(KafkaRecord(0, last.offset + 1, last.timestamp + LATER_MS, b"parked", parked.encode()))
        self.version = version
        self.applied, self.left = telemetry[: content["applied"]], telemetry[content["applied"] :]
        self.next_offset = content["next_offset"]
        self.changelog = [(key, value) for key, value in content["changelog"]]
        self.vehicles, self.open_trips, self.clock = content["vehicles"], content["open_trips"], content["clock"]
        self.said = [
            Announcement(*said[:4], *said[4:6], None, said[6], TripsRecord(said[7]))
            for said in content["announcements"]
        ]


@pytest.fixture(params=[1, 2, 3], ids="format {}".format)
def snapshot(request):
    return Snapshot(request.param)


def logs_of(telemetry, said):
    """As they stand in Kafka: one partition of everything."""
    pairs = [announcement_messages(one, b"/test", 0) for one in said]
    events = [
        KafkaRecord(0, offset, 0, event.key, event.value, tuple(event.headers))
        for offset, (event, _) in enumerate(pairs)
    ]
    trips = [
        KafkaRecord(0, offset, 0, trip.key, trip.value, tuple(trip.headers))
        for offset, trip in enumerate(trip for _, trip in pairs if trip is not None)
    ]
    end = {0: telemetry[-1].offset + 1}
    return Logs(telemetry, events, events, trips, committed=end, ends=end)


def restored(settings, snapshot):
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=settings.max_clock_skew_ms))
    processor.restore(snapshot.changelog)
    processor.restored()
    return processor


def test_a_snapshot_holds_every_kind_of_stored_value_in_its_format(snapshot):
    assert Counter(key[:1] for key, _ in snapshot.changelog).keys() == {b"k", b"h", b"b", b"t", b"w", b"s", b"c"}
    assert {value[0] for _, value in snapshot.changelog if value} == {snapshot.version}
    assert snapshot.open_trips > 0
    assert len(snapshot.left) > 500


def test_state_of_an_older_version_is_what_that_version_had(snapshot):
    processor = restored(Settings.load(), snapshot)
    assert (processor.vehicles, processor.open_trips) == (snapshot.vehicles, snapshot.open_trips)
    assert processor.clock == snapshot.clock
    # Since format 2 the state itself says where it stands.
    assert processor.standing == Standing(None if snapshot.version == 1 else snapshot.next_offset)


@pytest.mark.parametrize("size", [1, 40, 10_000])
def test_state_of_an_older_version_goes_on_to_the_trips_that_the_telemetry_makes(snapshot, size):
    settings = Settings.load()
    processor = restored(settings, snapshot)
    said, written = [], {}
    for start in range(0, len(snapshot.left), size):
        processor.process(snapshot.left[start : start + size])
        output = processor.take()
        assert (output.rejected, output.late) == ([], [])
        said += output.announcements
        written |= output.changes
    verdict = judge(logs_of([*snapshot.applied, *snapshot.left], [*snapshot.said, *said]), settings, quiet=True)
    assert verdict.clean, str(verdict)
    assert verdict.trips > 60
    assert len(said) > 20
    assert {value[0] for value in written.values() if value} == {FORMAT_VERSION}


def test_without_its_state_the_same_telemetry_would_make_other_trips(snapshot):
    settings = Settings.load()
    processor = Processor(settings.rules(), Reader(max_clock_skew_ms=settings.max_clock_skew_ms))
    processor.process(snapshot.left)
    said = processor.take().announcements
    assert not judge(logs_of([*snapshot.applied, *snapshot.left], [*snapshot.said, *said]), settings, quiet=True).clean


async def test_a_worker_takes_over_from_an_older_version(drill, make_settings, snapshot, unique):
    settings = make_settings(partitions=1, session_timeout=2)
    run = await drill(f"state: of format {snapshot.version}, on an upgrade", settings)
    topics = settings.topics
    # Its messages are of 2019, and would be deleted at once.
    await outside.create_anew(settings, topics.telemetry, retention_ms="-1")
    await send(settings, unique, topics.telemetry, telemetry_in_transactions([*snapshot.applied, *snapshot.left]))
    pairs = [announcement_messages(one, b"/test", 0) for one in snapshot.said]
    await send(settings, unique, topics.events, [[(m.key, m.value, None, m.headers) for m, _ in pairs]])
    await send(settings, unique, topics.trips, [[(m.key, m.value, None, m.headers) for _, m in pairs if m is not None]])
    await send(settings, unique, topics.changelog, [[(key, value, None, []) for key, value in snapshot.changelog]])
    await outside.set_offsets(settings, {0: snapshot.next_offset})
    offsets = [record.offset for record in await read(settings, topics.telemetry)]
    assert offsets == [record.offset for record in [*snapshot.applied, *snapshot.left]]

    (worker,) = await run.start_workers(1)
    await caught_up(settings, offsets[-1] + 1)
    assert "warning" not in worker.output()
    await stop(run)
    run.repetitions = 1
    fill(run.row, judge(await collect(settings), settings, quiet=True))
    # And what it has written is of the new format, with the offset in it.
    (worker,) = await run.start_workers(1)
    assert "warning" not in worker.output()
    await stop(run)
    assert (await outside.committed(settings))[0].metadata == "state:2"


def telemetry_in_transactions(records):
    """So that the marker behind each takes the offset that is missing."""
    return [
        [(record.key, record.value, record.timestamp, []) for _, record in some]
        for _, some in groupby(enumerate(records), key=lambda numbered: numbered[1].offset - numbered[0])
    ]


async def send(settings, unique, topic, transactions):
    producer = AIOKafkaProducer(**settings.client(), acks="all", transactional_id=f"{unique}-{topic}")
    await producer.start()
    try:
        for records in transactions:
            async with producer.transaction():
                for key, value, timestamp, headers in records:
                    await producer.send(topic, value, key=key, partition=0, timestamp_ms=timestamp, headers=headers)
    finally:
        await producer.stop()


# -- reading it back ---------------------------------------------------------------------------------------------------


@pytest.mark.all_faults
@pytest.mark.parametrize("back_again", [True, False], ids=["and is back", "and stays away"])
async def test_a_broker_that_dies_while_state_is_read_back(back_again, unique, tmp_path, monkeypatch):
    monkeypatch.setattr(changelog, "_STALLED", 60.0 if back_again else 4.0)
    records = 40_000
    with Node(tmp_path / "node") as node:
        settings = Settings.load(bootstrap_servers=node.servers, application_id=unique, partitions=1)
        topic = settings.topics.changelog
        await prepare(settings)
        await fill_with(settings, topic, records)
        read_back, died = [], asyncio.Event()

        def take(_, some):
            read_back.extend(record.key for record in some)
            if len(read_back) > records // 4 and not died.is_set():
                node.kill()
                died.set()

        reading = asyncio.create_task(changelog.read_changelog(topic, [0], settings.client(), take))
        await died.wait()
        if back_again:
            await asyncio.sleep(1)
            await asyncio.to_thread(node.start)
            assert await reading == records
            assert read_back == [b"%d" % number for number in range(records)]
        else:
            with pytest.raises(
                ClusterError, match=rf"state back from {topic} stalls at partition 0 offset \d+: is the"
            ):
                await asyncio.wait_for(reading, 60)
            # And when it is away from the beginning.
            with pytest.raises(ClusterError, match=f"do not let us read the state back from {topic}"):
                await asyncio.wait_for(changelog.read_changelog(topic, [0], settings.client(), take), 60)
            with pytest.raises(ClusterError, match="do not tell where the partitions"):
                await asyncio.wait_for(log_bounds(topic, [0], settings.client()), 60)


async def fill_with(settings, topic, count):
    producer = AIOKafkaProducer(**settings.client(), acks="all", linger_ms=5, max_batch_size=200_000)
    await producer.start()
    try:
        for number in range(count):
            await producer.send(topic, b"x" * 300, key=b"%d" % number, partition=0)
    finally:
        await producer.stop()


# -- damage ------------------------------------------------------------------------------------------------------------


def flipped(chance, value):
    place = chance.randrange(1, len(value))  # the first byte is the version
    return value[:place] + bytes([value[place] ^ 1 << chance.randrange(8)]) + value[place + 1 :]


DAMAGE = {
    "a bit flipped": (lambda chance, key, value: (key, flipped(chance, value)), "is damaged: its checksum"),
    "cut short": (lambda chance, key, value: (key, value[: chance.randrange(6, len(value))]), "is damaged"),
    "next to nothing": (lambda _, key, value: (key, value[:3]), "is cut short: 3 bytes"),
    "another vehicle's": (lambda _, key, value: (key + b"x", value), "is damaged: its checksum"),
    "no version": (lambda _, key, value: (key, b"\0" + value[1:]), "is damaged"),
    "not ours": (
        lambda _, __, ___: (b"offsets", seal_value(b"offsets", b"{}")),
        "is of no kind that this program knows",
    ),
    "a newer version's": (
        lambda _, key, value: (key, bytes([FORMAT_VERSION + 1]) + value[1:]),
        f"has format version {FORMAT_VERSION + 1}, and this program reads up to {FORMAT_VERSION}: start the newer",
    ),
}


async def test_state_that_is_damaged_or_newer_is_named_and_refused(drill, make_settings, tmp_path, every_fault):
    settings = make_settings(partitions=2, session_timeout=2, silence_timeout=600, correction_horizon=1200)
    run = await drill("state: damaged, of a newer version, not ours; vehicles missing", settings)
    await work(run, 1.5)
    fill(run.row, judge(await collect(settings), settings))
    good = await read(settings, settings.topics.changelog)
    chance = run.chance
    kinds = [*DAMAGE.items()] if every_fault else [*DAMAGE.items()][::6]
    for number, (kind, (damage, says)) in enumerate(kinds):
        victim = chance.choice([record for record in good if len(record.value or b"") > 10 and record.partition == 1])
        key, value = damage(chance, victim.key, victim.value)
        victims = another(make_settings, settings, number)
        await prepare(victims)
        topic = victims.topics.changelog
        for partition in range(2):
            mine = [(record.key, record.value) for record in good if record.partition == partition]
            await outside.overwrite(victims, topic, partition, mine)
        (offset,) = await outside.overwrite(victims, topic, 1, [(key, value)])
        line = await refusal(victims, tmp_path, number)
        wanted = f"{topic} partition 1 offset {offset}: the record with key {key!r} {says}"
        assert line.startswith(wanted), f"{kind}: {line}"
        run.repetitions += 1

    # Whole records, but not all vehicles.
    gone = chance.choice([record.key for record in good if record.key[:1] == b"h" and record.partition == 0])[1:]
    victims = another(make_settings, settings, "gone")
    await prepare(victims)
    left = [record for record in good if not (record.key.endswith(gone) and record.key != b"k")]
    for partition in range(2):
        mine = [(record.key, record.value) for record in left if record.partition == partition]
        await outside.overwrite(victims, victims.topics.changelog, partition, mine)
    line = await refusal(victims, tmp_path, "gone")
    count = len({record.key for record in good if record.key[:1] == b"h" and record.partition == 0})
    start = f"{victims.topics.changelog} partition 0: it holds the state of {count - 1} vehicles, and should hold that"
    assert line.startswith(start)
    assert "another TRIPS_APPLICATION_ID" in line
    run.repetitions += 1
    refused(run, "refused: one line each, with topic, partition, offset and key")


def another(make_settings, settings, number):
    """Another application with the same telemetry."""
    return make_settings(
        partitions=2,
        session_timeout=2,
        silence_timeout=600,
        correction_horizon=1200,
        application_id=f"{settings.application_id}-{number}",
    )


async def refusal(settings, folder, number):
    """The one line in which a worker refuses."""
    worker = Worker(settings, folder, f"worker-{number}", {})
    try:
        assert await worker.ended() == 1
        (line,) = worker.critical()
        assert not (await outside.committed(settings))
        return line
    finally:
        if worker.alive:
            worker.kill()
