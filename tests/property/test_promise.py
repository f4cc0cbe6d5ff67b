"""The promise: the trips are a pure function of the set of signals, whatever order, repetition, cut or crash."""

from __future__ import annotations

import math

import pytest
from bench import Bench, Expected, check_announcements, check_view, to_records
from hypothesis import given
from hypothesis import strategies as st
from oracle.consumer import check_one_payload
from strategies import (
    HOUR,
    batches,
    everything_known,
    in_order,
    message_lists,
    orders,
    rules,
    streams,
)


@st.composite
def arrivals(draw, *, max_size=14):
    """Rules, messages in any order with repetitions, and a cut into batches."""
    of = draw(rules())
    messages = draw(message_lists(of, max_size=max_size))
    sent = [messages[number] for number in draw(orders(len(messages)))]
    return of, sent, draw(batches(len(sent)))


def by_vehicle(said):
    """In the order of each vehicle: there is none between vehicles."""
    return sorted(said, key=lambda announcement: announcement.vehicle_id)


@given(arrivals())
def test_any_order_repetition_and_cut_end_in_the_same_trips(arrival):
    of, sent, cut = arrival
    records = to_records(sent)
    expected = Expected(of)
    bench = Bench(of)
    for message, record in zip(sent, records, strict=True):
        expected.offer(message, record)
    for batch in cut:
        bench.feed(records[batch.start : batch.stop])
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    assert bench.late == []


@given(arrivals())
def test_after_every_batch_consumers_hold_what_derive_says_so_far(arrival):
    of, sent, cut = arrival
    records = to_records(sent)
    expected = Expected(of)
    bench = Bench(of)
    for batch in cut:
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(sent[number], records[number])
        check_view(bench.view(), expected.trips())
    bench.close()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(arrivals(), st.data())
def test_consumers_hold_what_derive_says_of_the_quiet_so_far(arrival, data):
    of, sent, cut = arrival
    waits = sorted({of.merge_gap_ms, of.ready_delay_ms, of.silence_timeout_ms})
    pause = st.sampled_from([0, 1, 1_000, *waits, *(wait + 1 for wait in waits)])
    records = to_records(sent, pauses=[data.draw(pause) for _ in sent])
    expected = Expected(of)
    bench = Bench(of)
    for batch in cut:
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(sent[number], records[number])
        bench.advance(records[batch.stop - 1].timestamp)
        check_view(bench.view(), expected.trips(clock=bench.processor.clock))
        if batch.stop < len(records):  # the end of the partition: the clock goes on until the next record
            bench.advance(
                data.draw(st.sampled_from([records[batch.stop - 1].timestamp, records[batch.stop].timestamp]))
            )
            check_view(bench.view(), expected.trips(clock=bench.processor.clock))
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(arrivals(), st.data())
def test_a_wake_up_is_asked_for_whenever_time_alone_changes_something(arrival, data):
    of, sent, cut = arrival
    records = to_records(sent)
    bench = Bench(of)
    for batch in cut:
        bench.feed(records[batch.start : batch.stop])
    for _ in range(100):
        wake = bench.processor.wake_at()
        if wake is None:
            break
        assert wake > bench.processor.clock
        assert bench.advance(wake - 1) == []
        bench.advance(wake)
    else:
        pytest.fail("asks to be woken without end")
    assert bench.close() == []


@given(arrivals())
def test_a_restart_anywhere_changes_no_announcement(arrival):
    of, sent, cut = arrival
    records = to_records(sent)
    one, other = Bench(of), Bench(of)
    for batch in cut:
        one.feed(records[batch.start : batch.stop])
        other.feed(records[batch.start : batch.stop])
        other.start()
    one.close()
    other.close()
    assert by_vehicle(other.said) == by_vehicle(one.said)


@given(arrivals(), st.data())
def test_what_is_replayed_after_any_checkpoint_says_nothing_else(arrival, data):
    of, sent, cut = arrival
    waits = [0, of.merge_gap_ms, of.ready_delay_ms, of.silence_timeout_ms]
    pauses = [data.draw(st.sampled_from([0, 0, 1, *waits])) for _ in sent]
    records = to_records(sent, pauses=pauses)
    expected = Expected(of)
    for message, record in zip(sent, records, strict=True):
        expected.offer(message, record)

    first = Bench(of)
    checkpoints = [(0, {}, 0)]
    for batch in cut:
        first.feed(records[batch.start : batch.stop])
        if data.draw(st.booleans()):
            first.advance(first.processor.clock + data.draw(st.sampled_from(waits)) + 1)
        checkpoints.append((batch.stop, dict(first.changelog), len(first.said)))

    done, changelog, said = data.draw(st.sampled_from(checkpoints))
    again = data.draw(st.integers(0, done))  # at least once: the offset may lie behind the state
    second = Bench(of, changelog)
    rest = records[again:]
    for batch in data.draw(batches(len(rest))) if rest else []:
        second.feed(rest[batch.start : batch.stop])
        if data.draw(st.booleans()):
            second.advance(second.processor.clock + data.draw(st.sampled_from(waits)) + 1)
    second.close()
    check_one_payload([*first.said, *second.said])

    second.said = first.said[:said] + second.said
    second.check_promises()
    check_view(second.view(), expected.trips(math.inf))
    check_announcements(second.said, expected)


@given(st.data())
def test_what_comes_in_order_is_announced_the_same_however_it_is_cut(data):
    of = data.draw(rules())
    sent = in_order(data.draw(message_lists(of, max_vehicles=1)))
    records = to_records(sent)
    one, other = Bench(of), Bench(of)
    for record in records:
        one.feed([record])
    for batch in data.draw(batches(len(records))):
        other.feed(records[batch.start : batch.stop])
    assert other.said == one.said


@given(st.data())
def test_what_lies_behind_the_horizon_is_told_as_if_all_had_been_kept(data):
    of = data.draw(rules(correction_horizon_ms=data.draw(st.sampled_from([2 * HOUR + 7, 5 * 60_000 + 7]))))
    sent = data.draw(streams(of))
    again = data.draw(st.lists(st.integers(0, len(sent) - 1), max_size=4))
    for number in again:
        place = data.draw(st.integers(number, len(sent)))
        sent.insert(place, sent[number])
    records = to_records(sent)
    expected = Expected(of)
    bench = Bench(of)
    for batch in data.draw(batches(len(records))):
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(sent[number], records[number])
        if data.draw(st.booleans()):
            bench.start()
        check_view(bench.view(), expected.trips())
    assert [late.record.offset for late in bench.late] == expected.late
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(st.data())
def test_a_long_stream_in_order_is_told_as_if_all_had_been_kept(data):
    of = data.draw(rules(correction_horizon_ms=data.draw(st.sampled_from([2 * HOUR, 150_000]))))
    sent = [everything_known(of), *data.draw(streams(of, jitter=False, max_size=40))[1:]]
    sent = in_order(sent)
    records = to_records(sent)
    expected = Expected(of)
    bench = Bench(of)
    for message, record in zip(sent, records, strict=True):
        bench.feed([record])
        expected.offer(message, record)
    assert bench.late == []
    check_view(bench.view(), expected.trips())
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(st.data())
def test_signals_behind_the_horizon_break_no_promise(data):
    """Any order with a horizon so short that much of it is late, and first words that are old."""
    of = data.draw(rules(correction_horizon_ms=data.draw(st.sampled_from([5 * 60_000, HOUR + 1]))))
    messages = data.draw(message_lists(of))
    sent = [messages[number] for number in data.draw(orders(len(messages)))]
    records = to_records(sent)
    first, checkpoints = Bench(of), [(0, {}, 0)]
    for batch in data.draw(batches(len(records))):
        first.feed(records[batch.start : batch.stop])
        checkpoints.append((batch.stop, dict(first.changelog), len(first.said)))
    first.close()
    first.check_promises()

    done, changelog, said = data.draw(st.sampled_from(checkpoints))
    second = Bench(of, changelog)
    for record in records[done:]:
        second.feed([record])
    second.close()
    check_one_payload([*first.said, *second.said])
    assert {late.record.offset for late in second.late} == {
        late.record.offset
        for late in first.late
        if late.record.offset >= (records[done].offset if done < len(records) else math.inf)
    }
    first_view = told(first.view())
    second.said = first.said[:said] + second.said
    second.check_promises()
    assert told(second.view()) == first_view


def told(view):
    """The trips that a consumer ends with: not at which revisions, nor which were taken back on the way."""
    return {trip_id: {**seen.trip, "revision": None} for trip_id, seen in view.items() if seen.status != "superseded"}
