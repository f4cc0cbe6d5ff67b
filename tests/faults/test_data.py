"""Topics, offsets and retention: right results, or a refusal in one line and the way on that it names; nothing between.

What is refused stays refused at the next start. The way on is the one of docs/operating.md.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import pytest
from faults import outside
from faults.drill import prepare
from faults.judge import collect, judge
from integration.cluster import feed, read

from streams.local.broker import LocalKafka, free_ports
from streams.local.check import check
from streams.records import Standing
from streams.runtime.changelog import read_changelog
from streams.settings import Settings
from streams.topics import create_topics
from streams.trips.state import CLOCK_KEY, pack_clock, seal_value

PARTITIONS = 2
RATE = 500


@pytest.fixture
def settings(make_settings):
    return make_settings(partitions=PARTITIONS, session_timeout=2, silence_timeout=600, correction_horizon=1200)


async def work(run, seconds=2.5):
    """A worker and a load for a while, all of it committed; then nobody."""
    await run.start_workers(1)
    run.load.start(rate=RATE)
    await asyncio.sleep(seconds)
    await run.load.stop()
    await run.recovered(time.monotonic())
    run.row.recovery.clear()
    await stop(run)


async def stop(run):
    for place in list(run.places):
        await run.remove_worker(place)


async def more_telemetry(run, seconds=1.0):
    """While no worker reads."""
    run.load.start(rate=RATE)
    await asyncio.sleep(seconds)
    await run.load.stop()


async def said_so_far(settings):
    """How much has been announced (offsets would count the marker of a transaction that is aborted later, too)."""
    return len(await read(settings, settings.topics.events)), len(await read(settings, settings.topics.trips))


async def refusals(run, *, times=2, within=60.0):
    """Workers end, with the same line each time, and nothing is announced. Returns the line."""
    before = await said_so_far(run.settings)
    ends = list(run.ends())
    if not run.places:
        run.add_worker()
    await run.ended(len(ends) + times, within)
    await stop(run)
    new = list(run.ends())[len(ends) :]
    assert {code for code, _ in new} == {1}
    lines = {line for _, said in new for line in said}
    assert [len(said) for _, said in new] == [1] * len(new), new
    assert len(lines) == 1, lines
    assert await said_so_far(run.settings) == before
    run.repetitions += 1
    return lines.pop()


def names(line, *words):
    """A line says what it is about."""
    missing = [word for word in words if word not in line]
    assert not missing, f"{missing} not in: {line}"


def refused(run, note):
    """A row for what ends in a refusal, and has nothing to judge."""
    row = run.row
    row.messages, row.note, row.clean, row.judged = run.load.sent, note, True, False


class AnotherLife:
    """Starting anew as the documentation says: another application id, and a revision base above all that is published.

    This life is judged by itself. And what the life before announced stays: a consumer of both holds the right trips.
    """

    def __init__(self, run, make_settings, **changes):
        self.run = run
        self.settings = make_settings(
            **{
                "partitions": PARTITIONS,
                "session_timeout": 2,
                "silence_timeout": 600,
                "correction_horizon": 1200,
                "application_id": f"{run.settings.application_id}-2",
                **changes,
            }
        )
        self.began = {}

    async def begin(self):
        """Topics and settings, as `trips check` says."""
        await create_topics(self.settings)
        findings = [finding.text async for finding in check(self.settings) if finding.state == "wrong"]
        (base,) = {int(base) for text in findings for base in re.findall(r"TRIPS_REVISION_BASE=(\d+)", text)}
        self.settings = self.settings.model_copy(update={"revision_base": base})
        (revisions,) = [finding async for finding in check(self.settings) if finding.subject == "revisions"]
        assert revisions.state == "ok", revisions
        names = self.settings.topics
        for topic in (names.events, names.dead_letters, names.late):
            self.began[topic] = await outside.bounds(self.settings, topic)

    async def live(self):
        """Catch up, and judge."""
        run = self.run
        run.settings = run.feed = self.settings
        await run.start_workers(1)
        await run.recovered(time.monotonic())
        await stop(run)
        logs = await collect(self.settings)
        logs = replace(logs, dead_letters=self._new(logs.dead_letters), late=self._new(logs.late))
        new, uncommitted = self._new(logs.events), self._new(logs.events_uncommitted)
        assert 0 < len(new) < len(logs.events)
        fill(run.row, judge(replace(logs, events=new, events_uncommitted=uncommitted), self.settings))
        # What was said in the life before is said again, under higher revisions.
        both = judge(logs, self.settings)
        assert both.violated <= {"I2"}, str(both)

    def _new(self, records):
        """Those of this life."""
        return [record for record in records if record.offset >= self.began[record.topic][record.partition].end]


async def start_anew(run, make_settings):
    """After a refusal, with the same source, while telemetry goes on."""
    another = AnotherLife(run, make_settings)
    await another.begin()
    await more_telemetry(run)
    await another.live()
    run.row.note = "refused: one line; then judged"


def fill(row, verdict):
    row.messages, row.trips = verdict.messages, verdict.trips
    row.missing, row.extra, row.different = verdict.missing, verdict.extra, verdict.different
    row.duplicates, row.clean, row.judged = verdict.duplicates, verdict.clean, True
    assert verdict.clean, str(verdict)
    assert verdict.trips > 0


# -- offsets of the group ----------------------------------------------------------------------------------------------


async def test_offsets_that_are_reset_or_have_expired_change_nothing(drill, settings, every_fault):
    run = await drill("offsets: reset to earliest, to latest, anywhere; expired", settings)
    await run.start_workers(1)
    run.load.start(rate=RATE)
    ways = ["earliest", "latest", "anywhere", "expired"]
    for way in ways if every_fault else ["latest", "expired"]:
        await run.pause(0.5, 1.5)
        await stop(run)
        log = await outside.bounds(settings, settings.topics.telemetry)
        if way == "expired":
            await outside.forget_group(settings)
        else:
            to = {"earliest": lambda at: at.begin, "latest": lambda at: at.end}
            choose = to.get(way, lambda at: run.chance.randrange(at.begin, at.end))
            await outside.set_offsets(settings, {number: choose(at) for number, at in log.items()})
        run.repetitions += 1
        since = time.monotonic()
        (worker,) = await run.start_workers(1)
        await outside.until_ours(settings)
        assert worker.output().count("that is what counts") == PARTITIONS
        await run.recovered(since)
    await run.finish()


# -- the source --------------------------------------------------------------------------------------------------------


async def test_records_deleted_before_they_were_read_are_refused_and_can_be_gone_on_without(drill, settings):
    run = await drill("source: unread records deleted by retention, and going on without them", settings)
    telemetry = settings.topics.telemetry
    await work(run)
    old = await collect(settings)
    await more_telemetry(run)
    unread = (await outside.bounds(settings, telemetry))[1].end
    begin = (old.ends[1] + unread) // 2
    await outside.delete_records(settings, telemetry, {1: begin})
    line = await refusals(run)
    names(
        line,
        f"{telemetry} partition 1 begins at offset {begin}: records {old.ends[1]} to {begin - 1} were deleted",
        f"kafka-consumer-groups.sh --group {settings.application_id} --topic {telemetry}:1 --reset-offsets",
    )
    await outside.set_offsets(settings, {1: begin})
    since = time.monotonic()
    (worker,) = await run.start_workers(1)
    await outside.until_ours(settings)
    lost = begin - old.ends[1]
    assert f"records {old.ends[1]} to {begin - 1} are lost" in worker.output()
    assert f"trips_lost_records_total {float(lost)}" in (await worker.probe("/metrics"))[1]
    await more_telemetry(run)
    await run.recovered(since)
    await stop(run)
    # Once is enough: the next worker finds state and offset at one again.
    (worker,) = await run.start_workers(1)
    assert "are lost" not in worker.output()
    await stop(run)
    # Judged by all that was read: of partition 1 what was there before, and what is there now.
    logs = await collect(settings)
    before = [record for record in old.telemetry if record.partition == 1]
    telemetry = [*before, *(record for record in logs.telemetry if record.partition != 1 or record.offset >= begin)]
    fill(run.row, judge(replace(logs, telemetry=telemetry), settings))
    run.row.note = f"{lost} records are gone: told, counted"


@pytest.mark.all_faults
async def test_records_deleted_under_a_worker_that_is_behind_end_it(drill, make_settings):
    settings = make_settings(partitions=1, session_timeout=20, silence_timeout=600, correction_horizon=1200)
    run = await drill("source: unread records deleted under a worker that is paused", settings)
    telemetry = settings.topics.telemetry
    (worker,) = await run.start_workers(1)
    run.load.start(rate=RATE)
    await asyncio.sleep(1.5)
    worker.freeze()
    await asyncio.sleep(1.5)
    await run.load.stop()
    end = (await outside.bounds(settings, telemetry))[0].end
    await outside.delete_records(settings, telemetry, {0: end})
    worker.thaw()
    await run.ended(1)
    ((code, said),) = list(run.ends())
    assert code == 1
    names(said[0], telemetry, "partition 0 offset", "there is no such position any more")
    line = await refusals(run, times=1)
    names(line, f"{telemetry} partition 0 begins at offset {end}", "were deleted before they were read")
    refused(run, "ends, and refuses: one line each")


async def test_a_source_that_is_created_anew_longer_than_it_was_is_refused_and_started_anew_with(
    drill, settings, make_settings
):
    """Any position of before is there: only the topic's id tells."""
    run = await drill("source: created anew, longer than it was, and starting anew", settings)
    telemetry = settings.topics.telemetry
    await work(run)
    old = (await collect(settings)).telemetry
    await outside.create_anew(settings, telemetry)
    # As the documentation says, the telemetry of before comes first: here all of it, and some of it twice.
    for number in range(PARTITIONS):
        mine = [(record.key, record.value) for record in old if record.partition == number]
        await outside.overwrite(settings, telemetry, number, [*mine, *mine[:50]])
    is_another_topic(await refusals(run), settings)
    await start_anew(run, make_settings)


@pytest.mark.all_faults
async def test_a_source_that_is_created_anew_and_empty_is_refused(drill, settings):
    run = await drill("source: created anew, and empty", settings)
    await work(run, 1.5)
    await outside.create_anew(settings, settings.topics.telemetry)
    is_another_topic(await refusals(run), settings)
    refused(run, "refused: one line")


def is_another_topic(line, settings):
    names(
        line,
        f"{settings.topics.telemetry} partition 0 is not the topic that the state in {settings.topics.changelog} was",
        "another TRIPS_APPLICATION_ID and a TRIPS_REVISION_BASE",
        "(Partition 0 is not the only one: 1 too.)",
    )


@pytest.mark.all_faults
async def test_a_source_that_is_created_anew_under_a_worker_ends_it(drill, settings):
    run = await drill("source: created anew under a worker", settings)
    telemetry = settings.topics.telemetry
    await run.start_workers(1)
    run.load.start(rate=RATE)
    await asyncio.sleep(2)
    await run.load.stop()
    await run.recovered(time.monotonic())
    run.row.recovery.clear()
    before = await said_so_far(settings)
    since = time.monotonic()
    await outside.create_anew(settings, telemetry)
    await run.ended(1)
    run.row.recovery.append(round(time.monotonic() - since, 1))
    ((code, said),) = list(run.ends())[:1]
    assert code == 1
    names(said[0], telemetry)
    line = await refusals(run)
    names(line, f"{telemetry} partition 0 is not the topic that the state in", "created anew")
    assert await said_so_far(settings) == before
    refused(run, "ends within the seconds shown, then refuses")


@pytest.mark.all_faults
async def test_a_source_that_is_created_anew_where_a_worker_can_read_on_ends_it(drill, make_settings):
    """No position is gone: only the topic's id tells."""
    settings = make_settings(partitions=1, session_timeout=20, silence_timeout=600, correction_horizon=1200)
    run = await drill("source: created anew under a paused worker, longer than it was", settings)
    telemetry = settings.topics.telemetry
    (worker,) = await run.start_workers(1)
    run.load.start(rate=RATE)
    await asyncio.sleep(1.5)
    await run.load.stop()
    await run.recovered(time.monotonic())
    run.row.recovery.clear()
    worker.freeze()
    end = (await outside.bounds(settings, telemetry))[0].end
    await outside.create_anew(settings, telemetry)
    await outside.overwrite(settings, telemetry, 0, [(b"other", b"{}")] * (end + 50))
    since = time.monotonic()
    worker.thaw()
    await run.ended(1)
    run.row.recovery.append(round(time.monotonic() - since, 1))
    ((_, said),) = list(run.ends())[:1]
    names(said[0], f"{telemetry} partition 0 is not the topic that the state in", "created anew")
    line = await refusals(run)
    names(line, f"{telemetry} partition 0 is not the topic that the state in", "created anew")
    refused(run, "ends within the seconds shown, then refuses")


@pytest.mark.all_faults
async def test_a_source_whose_end_the_brokers_have_lost_is_refused(drill, settings):
    run = await drill("source: its last records lost by the brokers", settings)
    telemetry = settings.topics.telemetry
    await work(run, 1.5)
    end = (await outside.bounds(settings, telemetry))[1].end
    # Seen from the state: it has read on from where the log now ends.
    ahead = seal_value(CLOCK_KEY, pack_clock(1, await vehicles(settings, 1), Standing(end + 7)))
    await outside.overwrite(settings, settings.topics.changelog, 1, [(CLOCK_KEY, ahead)])
    line = await refusals(run)
    names(line, f"{telemetry} partition 1 ends at offset {end}, but the state goes on from {end + 7}")
    names(line, "another TRIPS_APPLICATION_ID")
    refused(run, "refused: one line")


async def vehicles(settings, partition):
    telemetry = (await collect(settings)).telemetry
    return len({record.key for record in telemetry if record.partition == partition})


@pytest.mark.all_faults
async def test_partitions_added_to_the_source_end_a_worker_and_can_be_started_anew_with(drill, settings, make_settings):
    run = await drill("source: partitions added under a worker, and starting anew with them", settings)
    telemetry, more = settings.topics.telemetry, PARTITIONS + 1
    await run.start_workers(1)
    run.load.start(rate=RATE)
    await asyncio.sleep(2)
    await outside.add_partitions(settings, telemetry, more)
    since = time.monotonic()
    await run.ended(1)
    run.row.recovery.append(round(time.monotonic() - since, 1))
    await run.load.stop()
    line = await refusals(run)
    names(line, f"{telemetry} has {more} partitions", f"{settings.topics.changelog} is of {PARTITIONS}")
    old = sorted((await collect(settings)).telemetry, key=lambda record: (record.timestamp, record.offset))
    # A topic of its own with the new number, and into it, by their keys, the records of before.
    another = AnotherLife(run, make_settings, partitions=more, telemetry_topic="telemetry-of-three")
    await another.begin()
    await outside.add_partitions(settings, settings.topics.commands, more)
    await feed(another.settings, [(record.key, record.value) for record in old])
    await another.live()
    run.row.note = "ends, then refuses: one line; then judged"


# -- the changelog -----------------------------------------------------------------------------------------------------


async def test_a_changelog_that_is_deleted_is_refused_and_started_anew_without(drill, settings, make_settings):
    run = await drill("changelog: deleted and created anew, and starting anew", settings)
    await work(run)
    await outside.create_anew(settings, settings.topics.changelog, cleanup_policy="compact")
    at = (await outside.committed(settings))[0].offset
    line = await refusals(run)
    names(
        line,
        f"{settings.topics.changelog} partition 0 holds no state, but the group {settings.application_id} has",
        f"committed offset {at} of {settings.topics.telemetry}",
        "another TRIPS_APPLICATION_ID and a TRIPS_REVISION_BASE",
    )
    await start_anew(run, make_settings)


@pytest.mark.all_faults
async def test_a_changelog_that_is_created_anew_under_a_worker_ends_it(drill, settings):
    run = await drill("changelog: deleted and created anew under a worker", settings)
    changelog = settings.topics.changelog
    await run.start_workers(1)
    run.load.start(rate=RATE)
    await asyncio.sleep(2)
    await outside.create_anew(settings, changelog, cleanup_policy="compact")
    since = time.monotonic()
    await run.ended(1)
    run.row.recovery.append(round(time.monotonic() - since, 1))
    line = await refusals(run)
    await run.load.stop()
    assert changelog in line
    assert "TRIPS_APPLICATION_ID" in line
    # Whatever it has announced until it noticed is right all the same: what was in memory was whole.
    logs = await collect(settings)
    applied = [record for record in logs.telemetry if record.offset < logs.committed.get(record.partition, 0)]
    ends = {number: min(end, logs.committed.get(number, 0)) for number, end in logs.ends.items()}
    fill(run.row, judge(replace(logs, telemetry=applied, ends=ends), settings))
    run.row.note = "ends within the seconds shown, then refuses"


@pytest.mark.all_faults
async def test_a_changelog_that_is_cut_off_is_refused(drill, settings):
    run = await drill("changelog: records deleted from it", settings)
    changelog = settings.topics.changelog
    await work(run, 1.5)
    # Brokers delete no records of a topic that is only compacted; somebody has to change that first.
    await outside.configure(settings, changelog, cleanup_policy="compact,delete")
    begin = (await outside.bounds(settings, changelog))[1].end // 2
    await outside.delete_records(settings, changelog, {1: begin})
    line = await refusals(run)
    names(
        line,
        f"{changelog} partition 1 begins at offset {begin}: records have been deleted from it",
        "cleanup.policy",
        "another TRIPS_APPLICATION_ID",
    )
    await outside.configure(settings, changelog, cleanup_policy="compact")
    assert await refusals(run, times=1) == line
    refused(run, "refused: one line")


async def test_a_changelog_whose_end_the_brokers_have_lost_is_refused(drill, settings):
    run = await drill("changelog: its last records lost by the brokers", settings)
    changelog = settings.topics.changelog
    await work(run, 1.5)
    # As it was some checkpoints ago: every value whole, and the group's offset ahead of it.
    before = seal_value(CLOCK_KEY, pack_clock(1, await vehicles(settings, 1), Standing(3)))
    await outside.overwrite(settings, changelog, 1, [(CLOCK_KEY, before)])
    line = await refusals(run)
    names(line, f"{changelog} partition 1 holds state up to offset 3 of {settings.topics.telemetry}, but the group")
    names(line, "together with newer state", "another TRIPS_APPLICATION_ID")
    refused(run, "refused: one line")


@pytest.mark.all_faults
async def test_compaction_alone_never_moves_the_beginning_of_a_changelog(unique, tmp_path):
    """Also where nothing of the first segments is left, and after the broker was started again."""
    (port,) = free_ports(1)
    settings = Settings.load(
        bootstrap_servers=f"127.0.0.1:{port}", application_id=unique, topic_prefix=f"{unique}.", partitions=1
    )
    quick = {"log.cleaner.backoff.ms": "200", "log.initial.task.delay.ms": "100"}
    changelog = settings.topics.changelog
    for number in range(2):
        kafka = LocalKafka(port=port, data=tmp_path / "data", properties=quick)
        await asyncio.to_thread(kafka.start)
        try:
            if number == 0:
                await prepare(settings)
                await outside.configure(
                    settings,
                    changelog,
                    cleanup_policy="compact",
                    segment_ms="200",
                    min_cleanable_dirty_ratio="0.0",
                    delete_retention_ms="0",
                    max_compaction_lag_ms="300",
                )
            for value in (*(b"%d" % n for n in range(8)), None, None):  # in the end, all keys are deleted
                await outside.overwrite(settings, changelog, 0, [(b"k%d" % key, value) for key in range(20)])
                await asyncio.sleep(0.3)
            async with asyncio.timeout(30):
                while len(await keys_of(settings)) > 20:
                    await outside.overwrite(settings, changelog, 0, [(b"last", b"1")])
                    await asyncio.sleep(0.5)
            found = (await outside.bounds(settings, changelog))[0]
            assert found.begin == 0
            assert found.end > 200
        finally:
            await asyncio.to_thread(kafka.stop)


async def keys_of(settings):
    keys = []
    await read_changelog(
        settings.topics.changelog, [0], settings.client(), lambda _, records: keys.extend(one.key for one in records)
    )
    return keys
