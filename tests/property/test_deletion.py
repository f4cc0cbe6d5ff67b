"""Trips that are deleted at any moment: they never come back, and nobody else notices."""

from __future__ import annotations

import math
from collections import Counter

from bench import Bench, Expected, check_announcements, check_view, command, to_batches, to_records
from hypothesis import given
from hypothesis import strategies as st
from oracle.derive import trip_id
from strategies import HOUR, Arrival, Message, anyhow, drives, rules, taken_back

from streams.trips.samples import Property


@st.composite
def streams(draw, **sizes):
    """Rules, messages, and after which batches which of the trips so far is deleted (a number)."""
    of = draw(rules())
    arrivals = draw(st.one_of(drives(of), drives(of), drives(of), anyhow(of, **sizes)))
    places = st.integers(0, max(0, len(to_batches(arrivals)) - 1))
    deletions = draw(st.dictionaries(places, st.integers(0, 5), min_size=1, max_size=5))
    if draw(st.booleans()):
        # The trigger goes off at the instant of the newest sample, but that comes after a trip that was on is deleted.
        stop = to_batches(arrivals)[draw(st.sampled_from(sorted(deletions)))].stop if arrivals else 0
        of_v1 = [arrival.message.samples for arrival in arrivals[:stop] if arrival.message.vehicle_id == "V1"]
        at = max((sample[0] for samples in of_v1 for sample in samples), default=None)
        if at is not None:
            arrivals.insert(stop, Arrival(Message(((at, of.trigger, 0),), at=at)))
    return of, arrivals, deletions


class Deleter:
    """Deletes trips on the bench and in what is expected, and sees that this says nothing of any other."""

    def __init__(self, bench: Bench, expected: Expected) -> None:
        self.bench = bench
        self.expected = expected

    def delete(self, number: int, clock: int | None = None) -> None:
        trips = [(vehicle, trip) for vehicle, told in self.expected.trips(clock=clock).items() for trip in told]
        if not trips:
            return
        vehicle, trip = trips[number % len(trips)]
        said = self.bench.delete(trip.id, vehicle)
        assert [(one.event, one.trip_id) for one in said] == [("TripDeleted", trip.id)]
        self.expected.delete(vehicle, trip)
        self.bench.processor.command(command(trip.id, vehicle))
        output = self.bench.processor.take()
        assert [problem.reason for one in output.rejected for problem in one.problems] == ["already_deleted"]
        assert output.announcements == []
        self.bench.changelog.update(output.changes)

    def check(self) -> None:
        view = self.bench.view()
        assert {trip_id for trip_id, seen in view.items() if seen.status == "deleted"} == self.expected.deleted
        deleted = Counter(one.trip_id for one in self.bench.said if one.event == "TripDeleted")
        assert all(count == 1 for count in deleted.values())
        self.bench.check_promises()


@given(streams())
def test_a_deleted_trip_never_comes_back_and_others_are_as_the_rule_says(stream):
    of, arrivals, deletions = stream
    records = to_records(arrivals)
    expected, bench = Expected(of), Bench(of)
    deleter = Deleter(bench, expected)
    for place, batch in enumerate(to_batches(arrivals)):
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(arrivals[number].message, records[number])
        check_view(bench.view(), expected.trips())
        if place in deletions:
            deleter.delete(deletions[place])
            check_view(bench.view(), expected.trips())
        if arrivals[batch.stop - 1].restart:
            bench.start()
    assert bench.late == []
    bench.close()
    deleter.check()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@given(streams())
def test_trips_are_deleted_also_when_time_has_ended_them(stream):
    of, arrivals, deletions = stream
    records = to_records(arrivals, pauses=True)
    expected, bench = Expected(of), Bench(of)
    deleter = Deleter(bench, expected)
    for place, batch in enumerate(to_batches(arrivals)):
        bench.feed(records[batch.start : batch.stop])
        for number in batch:
            expected.offer(arrivals[number].message, records[number])
        bench.advance(records[batch.stop - 1].timestamp)
        if batch.stop < len(records) and arrivals[batch.stop - 1].wait:
            bench.advance(min(records[batch.stop].timestamp, bench.processor.clock + arrivals[batch.stop - 1].wait))
        clock = bench.processor.clock
        check_view(bench.view(), expected.trips(clock=clock))
        if place in deletions:
            deleter.delete(deletions[place], clock)
            check_view(bench.view(), expected.trips(clock=clock))
        if arrivals[batch.stop - 1].restart:
            bench.start()
    bench.close()
    deleter.check()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@st.composite
def near_horizons(draw):
    """The same with a horizon that trips are behind of before they are deleted."""
    of = draw(rules(correction_horizon_ms=draw(st.sampled_from([150_000, 20 * 60_000, 2 * HOUR + 7]))))
    arrivals = draw(drives(of))
    places = st.integers(0, max(0, len(to_batches(arrivals)) - 1))
    return of, arrivals, draw(st.dictionaries(places, st.integers(0, 5), min_size=1, max_size=5))


@given(near_horizons())
def test_behind_the_horizon_too_a_restart_anywhere_changes_nothing_and_nothing_comes_back(stream):
    of, arrivals, deletions = stream
    records = to_records(arrivals, pauses=True)
    one, other = Bench(of), Bench(of)
    for place, batch in enumerate(to_batches(arrivals)):
        last = arrivals[batch.stop - 1]
        for bench in (one, other):
            bench.feed(records[batch.start : batch.stop], fold=last.fold)
            if last.wait:
                bench.advance(bench.processor.clock + last.wait)
        if place in deletions:
            view = one.view()
            there = sorted(trip_id for trip_id, seen in view.items() if seen.status not in {"superseded", "deleted"})
            if there:
                trip_id = there[deletions[place] % len(there)]
                end = view[trip_id].trip.get("end", {}).get("timestamp")
                said = one.delete(trip_id, end=end)
                assert [announcement.event for announcement in said] == ["TripDeleted"]
                assert other.delete(trip_id, end=end) == said
        other.start()
    one.close()
    other.close()
    assert other.said == one.said
    one.check_promises()
    other.check_promises()


@st.composite
def taken_back_streams(draw, **fixed):
    """Rules, messages, after which of them a trip is taken back, and the start of that one."""
    of = draw(rules(**fixed))
    return of, *draw(taken_back(of))


def delete_if_taken_back(bench, start):
    """The announcements; None: it was not taken back."""
    seen = bench.view().get(trip_id("V1", start))
    if seen is None or seen.status != "superseded":
        return None
    said = bench.delete(trip_id("V1", start))
    assert [(one.event, one.trip_id) for one in said] == [("TripDeleted", trip_id("V1", start))]
    return said


@given(taken_back_streams())
def test_trips_that_were_taken_back_are_deleted_also_when_late_samples_make_them_after_all(stream):
    of, arrivals, back, start = stream
    expected, bench = Expected(of), Bench(of)
    for place, (arrival, record) in enumerate(zip(arrivals, to_records(arrivals), strict=True)):
        bench.feed([record])
        expected.offer(arrival.message, record)
        expected.delete_what_came_back()
        check_view(bench.view(), expected.trips())
        if place == back and delete_if_taken_back(bench, start):
            expected.deleted.add(trip_id("V1", start))
        if arrival.restart:
            bench.start()
    bench.close()
    bench.check_promises()
    assert {name for name, seen in bench.view().items() if seen.status == "deleted"} == expected.deleted
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(bench.said, expected)


@st.composite
def taken_back_and_driving_on(draw):
    """The same with a near horizon, and with samples until that has passed it all."""
    horizon = draw(st.sampled_from([20 * 60_000, 2 * HOUR + 7]))
    of, arrivals, back, start = draw(taken_back_streams(correction_horizon_ms=horizon))
    if draw(st.booleans()):
        arrivals = arrivals[: back + 2]
    at = max(arrival.message.at for arrival in arrivals)
    for _ in range(draw(st.integers(3, 8))):
        at += draw(st.sampled_from([horizon // 3, horizon // 3, horizon + 1]))
        arrivals.append(Arrival(Message(((at, Property.SPEED, 299),), at=at), fold=draw(st.booleans())))
    return of, [*arrivals, Arrival(Message(((at + 60_000, of.trigger, 0),), at=at + 60_000))], back, start


@given(taken_back_and_driving_on())
def test_they_do_not_come_back_behind_the_horizon_either(stream):
    of, arrivals, back, start = stream
    records = to_records(arrivals)
    one, other = Bench(of), Bench(of)
    for batch in to_batches(arrivals):
        last = arrivals[batch.stop - 1]
        for bench in (one, other):
            bench.feed(records[batch.start : batch.stop], fold=last.fold)
        if back in batch:
            assert delete_if_taken_back(one, start) == delete_if_taken_back(other, start)
        other.start()
    one.close()
    other.close()
    assert other.said == one.said
    one.check_promises()
    other.check_promises()
