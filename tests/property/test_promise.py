"""The promise: the trips are a pure function of the set of signals, whatever order, repetition, cut or crash."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from bench import Bench, Expected, check_announcements, check_view, to_batches, to_records
from hypothesis import given
from hypothesis import strategies as st
from oracle.consumer import check_one_payload
from strategies import EPOCH, HOUR, Arrival, Message, anyhow, everything_known, in_order, over_time, rules

from streams.trips.rules import Rules
from streams.trips.samples import Property


@st.composite
def anything(draw, **sizes):
    """Rules, and messages of any kind in any order, repeated and cut into batches."""
    of = draw(rules())
    return of, draw(anyhow(of, **sizes))


def by_vehicle(said):
    """In the order of each vehicle: there is none between vehicles."""
    return sorted(said, key=lambda announcement: announcement.vehicle_id)


@given(anything())
def test_any_order_repetition_and_cut_end_in_the_same_trips(stream):
    of, arrivals = stream
    records = to_records(arrivals)
    expected = Expected(of)
    bench = Bench(of)
    for arrival, record in zip(arrivals, records, strict=True):
        expected.offer(arrival.message, record)
    for batch in to_batches(arrivals):
        bench.feed(records[batch.start : batch.stop])
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    assert bench.late == []


@given(anything(max_size=8), st.data())
def test_two_orders_of_the_same_messages_end_in_the_same_trips(stream, data):
    of, arrivals = stream
    views = []
    for order in (arrivals, data.draw(st.permutations(arrivals))):
        records = to_records(order)
        bench = Bench(of)
        for batch in to_batches(order):
            bench.feed(records[batch.start : batch.stop])
        bench.close()
        views.append(told(bench.view()))
    assert views[0] == views[1]


@given(anything())
def test_after_every_batch_consumers_hold_what_derive_says_so_far(stream):
    of, arrivals = stream
    records = to_records(arrivals)
    expected = Expected(of)
    bench = Bench(of)
    for batch in to_batches(arrivals):
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(arrivals[number].message, records[number])
        check_view(bench.view(), expected.trips())
    bench.close()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(anything())
def test_consumers_hold_what_derive_says_of_the_quiet_so_far(stream):
    of, arrivals = stream
    records = to_records(arrivals, pauses=True)
    expected = Expected(of)
    bench = Bench(of)
    for batch in to_batches(arrivals):
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(arrivals[number].message, records[number])
        bench.advance(records[batch.stop - 1].timestamp)
        check_view(bench.view(), expected.trips(clock=bench.processor.clock))
        if batch.stop < len(records) and arrivals[batch.stop - 1].wait:
            # The end of the partition: the clock goes on, but not beyond the next record's timestamp
            bench.advance(min(records[batch.stop].timestamp, bench.processor.clock + arrivals[batch.stop - 1].wait))
            check_view(bench.view(), expected.trips(clock=bench.processor.clock))
        if arrivals[batch.stop - 1].restart:
            bench.start()
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(anything())
def test_a_wake_up_is_asked_for_whenever_time_alone_changes_something(stream):
    of, arrivals = stream
    records = to_records(arrivals)
    bench = Bench(of)
    for batch in to_batches(arrivals):
        bench.feed(records[batch.start : batch.stop])
        if arrivals[batch.stop - 1].wait:
            bench.advance(bench.processor.clock + arrivals[batch.stop - 1].wait)
        if arrivals[batch.stop - 1].restart:
            bench.start()
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


@given(anything())
def test_a_restart_anywhere_changes_no_announcement(stream):
    of, arrivals = stream
    records = to_records(arrivals, pauses=True)
    one, other = Bench(of), Bench(of)
    for batch in to_batches(arrivals):
        wait = arrivals[batch.stop - 1].wait
        for bench in (one, other):
            bench.feed(records[batch.start : batch.stop])
            if wait:
                bench.advance(bench.processor.clock + wait)
        other.start()
    one.close()
    other.close()
    assert by_vehicle(other.said) == by_vehicle(one.said)


@given(anything(), st.data())
def test_what_is_replayed_after_any_checkpoint_says_nothing_else(stream, data):
    of, arrivals = stream
    records = to_records(arrivals, pauses=True)
    expected = Expected(of)
    for arrival, record in zip(arrivals, records, strict=True):
        expected.offer(arrival.message, record)

    first = Bench(of)
    checkpoints = [(0, {}, 0)]
    for batch in to_batches(arrivals):
        first.feed(records[batch.start : batch.stop])
        checkpoints.append((batch.stop, dict(first.changelog), len(first.said)))
        if arrivals[batch.stop - 1].wait:
            first.advance(first.processor.clock + arrivals[batch.stop - 1].wait)
            checkpoints.append((batch.stop, dict(first.changelog), len(first.said)))

    done, changelog, said = data.draw(st.sampled_from(checkpoints))
    again = data.draw(st.integers(0, done))  # at least once: the offset may lie behind the state
    cut = data.draw(st.sets(st.integers(again, len(arrivals))))
    second = Bench(of, changelog)
    batch = []
    for number in range(again, len(arrivals)):
        batch.append(records[number])
        if number in cut or number == len(arrivals) - 1:
            second.feed(batch)
            batch = []
            if arrivals[number].restart:
                second.advance(second.processor.clock + arrivals[number].wait)
    second.close()
    check_one_payload([*first.said, *second.said])

    second.said = first.said[:said] + second.said
    second.check_promises()
    check_view(second.view(), expected.trips(math.inf))
    check_announcements(second.said, expected)


@given(anything(vehicles=1))
def test_what_comes_in_order_is_announced_the_same_however_it_is_cut(stream):
    of, arrivals = stream
    records = to_records([Arrival(message) for message in in_order(arrivals)])
    one, other = Bench(of), Bench(of)
    for record in records:
        one.feed([record])
    for batch in to_batches(arrivals):
        other.feed(records[batch.start : batch.stop])
    assert other.said == one.said


@st.composite
def long_streams(draw, **kind):
    of = draw(rules(correction_horizon_ms=draw(st.sampled_from([2 * HOUR + 7, 150_000, 240_000, 121_000]))))
    return of, draw(over_time(of, **kind))


@given(long_streams())
def test_what_lies_behind_the_horizon_is_told_as_if_all_had_been_kept(stream):
    of, arrivals = stream
    records = to_records(arrivals)
    expected = Expected(of)
    bench = Bench(of)
    for batch in to_batches(arrivals):
        bench.feed(records[batch.start : batch.stop], fold=arrivals[batch.stop - 1].fold)
        for number in batch:
            expected.offer(arrivals[number].message, records[number])
        if arrivals[batch.stop - 1].restart:
            bench.start()
        check_view(bench.view(), expected.trips())
    assert [late.record.offset for late in bench.late] == expected.late
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


def test_a_sample_exactly_on_the_horizon_counts_although_what_lies_behind_it_is_folded():
    of = Rules(correction_horizon_ms=120_000)
    said = [
        (0, Property.IGNITION, 0),
        (60_000, Property.IGNITION, 1),
        (180_000, Property.SPEED, 5_000),
        (180_000, Property.HEADING, 900),
        (60_000, Property.POSITION, (501_230_000, 73_210_000, None)),
        (300_000, Property.IGNITION, 0),
    ]
    messages = [Message(((EPOCH + t, prop, value),), at=EPOCH + t) for t, prop, value in said]
    bench = Bench(of)
    for record in to_records(Arrival(message) for message in messages):
        bench.feed([record], fold=True)
    assert bench.late == []
    [trip] = bench.view().values()
    assert trip.status == "ready"
    assert trip.trip["metrics"]["position_count"] == 1
    assert trip.trip["start"]["position"]["timestamp"] == "2026-03-01T08:01:00Z"


@given(long_streams())
def test_quiet_and_horizon_together_keep_the_promise(stream):
    of, arrivals = stream
    records = to_records(arrivals, pauses=True)
    expected = Expected(of)
    bench = Bench(of)
    for batch in to_batches(arrivals):
        bench.feed(records[batch.start : batch.stop], fold=arrivals[batch.stop - 1].fold)
        for number in batch:
            expected.offer(arrivals[number].message, records[number])
        bench.advance(bench.processor.clock)
        check_view(bench.view(), expected.trips(clock=bench.processor.clock))
        if arrivals[batch.stop - 1].restart:
            bench.start()
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(long_streams(max_size=40, jitter=False))
def test_a_long_stream_in_order_is_told_as_if_all_had_been_kept(stream):
    of, arrivals = stream
    sent = [everything_known(of), *in_order(arrivals[1:])]
    records = to_records([Arrival(message) for message in sent])
    expected = Expected(of)
    bench = Bench(of)
    for number, (message, record) in enumerate(zip(sent, records, strict=True)):
        bench.feed([record], fold=arrivals[number].fold)
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
    arrivals = data.draw(anyhow(of))
    records = to_records(arrivals)
    first, checkpoints = Bench(of), [(0, {}, 0, 0)]
    for batch in to_batches(arrivals):
        first.feed(records[batch.start : batch.stop], fold=arrivals[batch.stop - 1].fold)
        checkpoints.append((batch.stop, dict(first.changelog), len(first.said), len(first.late)))
    first.close()
    first.check_promises()

    done, changelog, said, late = data.draw(st.sampled_from(checkpoints))
    second = Bench(of, changelog)
    for record in records[done:]:
        second.feed([record])
    second.close()
    check_one_payload([*first.said, *second.said])
    assert [each.record.offset for each in second.late] == [each.record.offset for each in first.late[late:]]
    first_view = told(first.view())
    second.said = first.said[:said] + second.said
    second.check_promises()
    assert told(second.view()) == first_view


@given(anything(), rules(), st.integers(0, 14))
def test_new_rules_hold_from_the_next_applied_record_of_a_vehicle_on(stream, later, switch):
    of, arrivals = stream
    later = replace(later, revision_base=of.revision_base, ready_event_name=of.ready_event_name)
    records = to_records(arrivals)
    bench = Bench(of)
    expected = Expected(later)
    for number, arrival in enumerate(arrivals):
        if number == switch:
            bench.rules = later
            bench.start()
        bench.feed([records[number]])
        if arrival.restart:
            bench.start()
        expected.offer(arrival.message, records[number])
    bench.close()
    bench.check_promises()
    if switch < len(arrivals):
        again = {vehicle for vehicle in expected.applied if expected.applied[vehicle] >= records[switch].offset}
        view = {trip_id: seen for trip_id, seen in bench.view().items() if seen.trip["vehicle_id"] in again}
        trips = {vehicle: told for vehicle, told in expected.trips(math.inf).items() if vehicle in again}
        check_view(view, trips)


def told(view):
    """The trips that a consumer ends with: not at which revisions, nor which were taken back on the way.

    Of a trip that is on only that it is: what is learnt of its start later is not announced before its end.
    """
    return {
        trip_id: seen.status if seen.status == "on" else {**seen.trip, "revision": None}
        for trip_id, seen in view.items()
        if seen.status != "superseded"
    }
