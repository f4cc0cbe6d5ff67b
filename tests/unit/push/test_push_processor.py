import itertools
import json
from collections import OrderedDict

import msgpack
import pytest
from endpoint import announcement
from hypothesis import given, settings
from hypothesis import strategies as st
from pushing import DAY, START, Record, book_of, entry, subscription

from schemas import PushDeadLetter
from streams.errors import StateError
from streams.push.checkpoint import dead_letter
from streams.push.deliveries import Attempt, Delivery
from streams.push.processor import Event, Letter, Outcome, PushProcessor, Retry, read_event
from streams.push.report import can_be_retried
from streams.records import Standing
from streams.trips.state import seal_value


class Time:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


def processor(book, time=None, *, max_waiting=1000):
    return PushProcessor(0, book, now=time or Time(), chance=lambda: 0.5, scale=1.0, max_waiting=max_waiting)


STANDARD = entry(subscription(profile="standard", name="std"), uid="a" * 16)
DELETIONS = entry(subscription(name="dq"), uid="b" * 16)


def record(offset, **more):
    return Record(offset, *announcement(offset, **more))


def due(output):
    return [(delivery.subscription, delivery.offset) for delivery in output.scheduled]


def test_an_event_is_due_to_each_that_asked_for_it():
    one = processor(book_of(STANDARD, DELETIONS))
    one.process([record(0), record(1, event="TripDeleted", trip="01T")])
    output = one.take()
    assert due(output) == [("std", 0), ("std", 1), ("dq", 1)]
    assert [key[:1] for key in output.changes] == [b"p", b"d", b"x", b"p", b"d", b"d", b"k"]


def test_what_was_announced_before_a_subscription_is_not_its_business():
    late = entry(subscription(profile="standard", name="late"), begins={0: 5, 1: 0})
    one = processor(book_of(late))
    one.process([record(4), record(5)])
    assert due(one.take()) == [("late", 5)]


def test_vehicles_and_tenants():
    buses = entry(subscription(profile="standard", name="buses", vehicles=("BUS-*", "X?")))
    acme = entry(subscription(profile="standard", name="acme", tenant="acme"))
    unknown = entry(subscription(profile="standard", name="none", tenant="gone"))
    both = entry(subscription(profile="standard", name="both", tenant="acme", vehicles=("BUS-*",)))
    one = processor(book_of(buses, acme, unknown, both, tenants={"acme": ("BUS-1", "CAR-*")}))
    names = ["BUS-1", "BUS-2", "CAR-1", "bus-1", "X1"]
    one.process([record(offset, vehicle=name) for offset, name in enumerate(names)])
    assert sorted(due(one.take())) == [
        ("acme", 0),
        ("acme", 2),
        ("both", 0),
        ("buses", 0),
        ("buses", 1),
        ("buses", 4),
    ]


def test_a_deletion_drops_what_else_was_to_be_told_of_the_trip():
    one = processor(book_of(STANDARD))
    one.process([record(0, trip="01T"), record(1, trip="OTHER"), record(2, event="TripEnded", trip="01T")])
    first = one.take().scheduled
    one.process([record(3, event="TripDeleted", trip="01T")])
    output = one.take()
    assert due(output) == [("std", 3)]
    assert [delivery.gone for delivery in first] == [True, False, True]
    removed = {key[:1] + key[8:9] for key, value in output.changes.items() if value is None}
    assert removed == {b"d\x00", b"d\x02", b"p\x00", b"p\x02"}
    assert one.totals["a" * 16].erased == 2
    # An attempt that was under way ends, and changes nothing.
    one.settle(first[0], "standard", Outcome(START, 0.1, 500, "HTTP 500"))
    assert one.take().scheduled == []
    # Nor does what comes after it: it is deleted for good.
    one.process([record(4, trip="01T")])
    assert one.take().scheduled == []


def test_that_a_trip_was_deleted_is_forgotten_after_ninety_days():
    time = Time()
    one = processor(book_of(STANDARD), time)
    one.process([record(0, event="TripDeleted", trip="01T")])
    one.take()
    time.now += 90 * DAY
    one.process([record(1, event="TripDeleted", trip="OTHER")])
    assert one.take().changes[b"x01T"] is None


def test_a_deletion_looks_at_the_oldest_ones_only_however_many_there_were():
    class Watched(OrderedDict):
        looked_at = 0

        def __iter__(self):
            for trip_id in super().__iter__():
                self.looked_at += 1
                yield trip_id

        def items(self):
            return [(trip_id, self[trip_id]) for trip_id in self]

    one = processor(book_of(STANDARD))
    one._deleted = Watched((f"T{number}", START) for number in range(1000))
    one.process([record(0, event="TripDeleted", trip="01T")])
    assert one._deleted.looked_at == 1


def test_what_a_deletion_erases_is_not_kept_in_a_queue():
    one = processor(book_of(STANDARD))
    one.process([record(0, trip="01T")])
    (queued,) = one.take().scheduled
    one.process([record(1, event="TripDeleted", trip="01T")])
    assert (queued.gone, queued.payload) == (True, b"")


def test_a_removed_subscription_is_dropped_and_counted():
    book = book_of(STANDARD, DELETIONS)
    one = processor(book)
    one.process([record(0), record(1, event="TripDeleted")])
    one.take()
    book.take(b"subscription/std", None)
    assert one.drop_strangers() == 2
    assert one.drop_strangers() == 0
    output = one.take()
    assert output.outcomes == [("std", "dropped")] * 2
    assert one.totals["a" * 16].dropped == 2
    # The other subscription still needs one of the announcements.
    assert {key for key, value in output.changes.items() if value is None and key[:1] == b"p"} == {b"p" + bytes(8)}
    # One of the same name that is added later is another one.
    book.take(b"subscription/std", entry(STANDARD.definition, uid="c" * 16).record())
    assert one.drop_strangers() == 0


def test_a_credential_that_is_missing_is_written_down_once_and_not_every_minute():
    one = processor(book_of(STANDARD))
    one.process([record(0), record(1)])
    some = one.take().scheduled
    for minute in range(3):
        at = START + minute * 60_000
        unmade = Outcome(at, 0.1, None, "file:key cannot be read", made=False)
        assert [one.settle(delivery, "standard", unmade) for delivery in some] == [True, True]  # due without a commit
        assert {key[:1] for key in one.take().changes} == ({b"s", b"k"} if minute == 0 else set())
        assert [delivery.due_ms for delivery in some] == [at + 60_000] * 2
    assert one.totals["a" * 16].errors == [(START, "file:key cannot be read", some[0].id)]


def test_of_removed_subscriptions_the_last_hundred_are_remembered():
    book = book_of()
    one = processor(book)
    changelog = {}
    for number in range(102):
        book.take(b"subscription/std", entry(STANDARD.definition, uid=f"{number:016x}").record())
        one.process([record(number)])
        one.drop_strangers()
        changelog |= one.take().changes
    assert list(one.totals) == [f"{number:016x}" for number in range(1, 101)]
    again = processor(book)
    again.restore(changelog.items())
    assert sorted(again.totals) == sorted(one.totals)


def test_too_many_waiting_go_to_the_dead_letters():
    one = processor(book_of(STANDARD), max_waiting=2)
    one.process([record(offset) for offset in range(3)])
    output = one.take()
    assert due(output) == [("std", 0), ("std", 1)]
    (letter,) = output.letters
    assert (letter.delivery.offset, letter.reason) == (2, "2 deliveries wait already")
    assert one.totals["a" * 16].discarded == 1


def test_a_request_is_applied_once_and_by_the_partition_that_it_is_for():
    book = book_of(STANDARD)
    one = processor(book)
    retry = Retry(0, 7, "a" * 16, "std", Event("01E", "TripDataReady", "01T", "V"), '{"x": 1}', "then")
    assert Retry.read(retry.record()) == retry
    one.request(3, retry)
    output = one.take()
    assert [(delivery.id, delivery.payload) for delivery in output.scheduled] == [("01E-std", b'{"x": 1}')]
    one.request(3, retry)  # read again after a restart
    one.request(4, retry)  # it waits already
    assert one.take().scheduled == []
    again = restored(output.changes, book)
    assert again.requests == 4
    again.settle(next(again.waiting()), "standard", Outcome(START, 0.1, 200))
    again.request(3, retry)
    assert again.take().scheduled == []


def test_a_request_about_a_deleted_trip_or_a_gone_subscription_is_not_followed():
    one = processor(book_of(STANDARD))
    one.process([record(0, event="TripDeleted", trip="01T")])
    one.take()
    deleted = Retry(0, 7, "a" * 16, "std", Event("01E", "TripDataReady", "01T", "V"), "{}", "then")
    gone = Retry(0, 7, "f" * 16, "std", Event("01E", "TripDataReady", "02T", "V"), "{}", "then")
    assert one.request(0, deleted) == "the trip was deleted"
    assert one.request(1, gone) == "the subscription is gone"
    output = one.take()
    assert output.scheduled == []
    assert one.totals["a" * 16].erased == 1


@pytest.mark.parametrize(
    ("event", "vehicle", "followed"),
    [("TripDeleted", "ACME-1", True), ("TripDataReady", "ACME-1", False), ("TripDeleted", "BUS-1", False)],
)
def test_a_subscription_is_told_again_what_it_asks_for_and_nothing_else(event, vehicle, followed):
    deletions = entry(subscription(name="dq", tenant="acme"), uid="b" * 16)
    one = processor(book_of(deletions, tenants={"acme": ("ACME-*",)}))
    refused = one.request(0, Retry(0, 7, "b" * 16, "dq", Event("01E", event, "01T", vehicle), "{}", "then"))
    assert (refused is None) == followed
    assert len(one.take().scheduled) == followed


def test_what_was_given_up_is_for_the_subscription_that_it_was_due_to():
    delivery = Delivery(1, "a" * 16, "std", "01E", "TripDataReady", "01T", "V", START, START, [], b"{}")
    letter = json.loads(dead_letter(Letter(delivery, "why", START), 0, 10_000).value)
    assert can_be_retried(book_of(STANDARD), letter)
    assert not can_be_retried(book_of(entry(STANDARD.definition, uid="c" * 16)), letter)  # added anew
    assert not can_be_retried(book_of(entry(subscription(name="std"), uid="a" * 16)), letter)  # of deletions only
    assert not can_be_retried(book_of(STANDARD), {**letter, "payload": None})


def test_what_was_asked_for_is_not_asked_for_again_unless_it_was_given_up_once_more():
    delivery = Delivery(1, "a" * 16, "std", "01E", "TripDataReady", "01T", "V", START, START, [], b"{}")
    first, second = (json.loads(dead_letter(Letter(delivery, "why", at), 0, 10_000).value) for at in (START, START + 1))
    retry = Retry(0, 1, "a" * 16, "std", Event("01E", "TripDataReady", "01T", "V"), "{}", first["discarded_at"])
    asked = {(retry.delivery_id, retry.discarded_at)}
    assert not can_be_retried(book_of(STANDARD), first, asked)
    assert can_be_retried(book_of(STANDARD), second, asked)


@pytest.mark.parametrize("value", [b"", b"[]", b"null", b'{"partition": 0}', b"\xff", b'{"event": 3}'])
def test_a_request_that_is_none_is_named_as_such(value):
    with pytest.raises(ValueError, match=r"."):
        Retry.read(value)


def test_events_are_read_from_headers_or_else_from_the_json():
    key, value, headers = announcement(1, vehicle="V", trip="01T")
    event = Event("01EVENT0000000000000000001", "TripDataReady", "01T", "V")
    assert read_event(Record(0, key, value, headers)) == event
    assert read_event(Record(0, None, value, [])) == event
    assert read_event(Record(0, key, value, [("ce_id", None)])) == event


@pytest.mark.parametrize(
    "value", [None, b"", b"not JSON", b"[]", b'{"metadata": 1}', b'{"metadata": {"id": 1}, "data": {"trip": {}}}']
)
def test_what_is_no_announcement_is_counted_and_left_out(value):
    one = processor(book_of(STANDARD))
    one.process([Record(0, b"V", value, [])])
    assert one.counts.unreadable == 1
    assert one.take().changes == {}


def restored(changes, book):
    one = processor(book)
    one.restore(changes.items())
    one.restored()
    return one


def test_state_that_is_not_whole_is_refused():
    one = processor(book_of(STANDARD))
    one.process([record(0), record(1)])
    changes = one.take().changes
    for missing, message in ((b"d", "should hold 2"), (b"p", "announcement of delivery .* is missing")):
        left = dict(changes)
        del left[next(key for key in changes if key[:1] == missing)]
        with pytest.raises(StateError, match=message):
            restored(left, one._book)
    key = next(iter(changes))
    with pytest.raises(StateError, match="damaged"):
        processor(one._book).restore([(key, changes[key][:-1] + b"\x00")])
    with pytest.raises(StateError, match="format version 2"):
        processor(one._book).restore([(key, b"\x02" + changes[key][1:])])
    with pytest.raises(StateError, match="no kind"):
        processor(one._book).restore([(b"?", seal_value(b"?", b"", 1))])


def test_a_dead_letter_is_what_the_contract_says():
    attempts = [Attempt(START, 503, "HTTP 503"), Attempt(START + 1, None, "no answer within 20 s")]
    delivery = Delivery(1, "a" * 16, "std", "01E", "TripDataReady", "01T", "V", START, START, attempts, b"{}")
    letter = PushDeadLetter.model_validate_json(dead_letter(Letter(delivery, "why", START), 3, 10_000).value)
    assert (letter.id, letter.event.partition, letter.event.offset, letter.payload) == ("01E-std", 3, 1, "{}")
    assert [(one.status, one.error) for one in letter.attempts] == [(503, "HTTP 503"), (None, "no answer within 20 s")]


def test_a_dead_letter_that_does_not_fit_goes_without_the_announcement():
    delivery = Delivery(1, "a" * 16, "std", "01E", "TripDataReady", "01T", "V", START, START, [], b"x" * 5000)
    whole, cut = (dead_letter(Letter(delivery, "why", START), 0, size) for size in (10_000, 2000))
    assert json.loads(whole.value)["payload"] == "x" * 5000
    assert "payload" not in json.loads(cut.value)


# -- whatever happens, the changelog says the same as memory ---------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("event"), st.sampled_from(["TripStarted", "TripDataReady", "TripDeleted"]), st.integers(0, 3)
        ),
        st.tuples(st.just("settle"), st.sampled_from([200, 500, None]), st.integers(0, 20)),
        st.tuples(st.just("take"), st.none(), st.none()),
        st.tuples(st.just("drop"), st.none(), st.none()),
        st.tuples(st.just("retry"), st.none(), st.integers(0, 3)),
    ),
    max_size=40,
)


def picture(one):
    """Everything that counts, as plain values."""
    deliveries = sorted(
        (delivery.offset, delivery.uid, delivery.due_ms, tuple(delivery.attempts), delivery.payload, delivery.id)
        for delivery in one.waiting()
    )
    totals = {uid: msgpack.unpackb(total.pack()) for uid, total in one.totals.items()}
    waiting = sorted(one.waiting_by_subscription())
    return deliveries, totals, one.requests, sorted(one._deleted), one.standing, one.state_bytes, waiting


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(0, 40))
def test_what_is_restored_is_what_was(steps, cut):
    book = book_of(STANDARD, DELETIONS)
    time, offsets, requests = Time(), itertools.count(), itertools.count()
    one = processor(book, time, max_waiting=5)
    changelog = {}

    def take():
        one.standing = Standing(next(offsets), None, None)
        one.touch_clock()
        for key, value in one.take().changes.items():
            if value is None:
                changelog.pop(key, None)
            else:
                changelog[key] = value

    for number, (what, how, which) in enumerate(steps):
        time.now += 1000
        match what:
            case "event":
                one.process([record(next(offsets), event=how, trip=f"T{which}")])
            case "settle":
                waiting = sorted(one.waiting(), key=lambda delivery: delivery.key)
                if waiting:
                    error = None if how == 200 else "failed"
                    delivery = waiting[which % len(waiting)]
                    profile = "standard" if delivery.subscription == "std" else "drivequant"
                    one.settle(delivery, profile, Outcome(time.now, 0.1, how, error))
            case "take":
                take()
            case "drop" if "std" in book.entries and number % 3 == 0:
                book.take(b"subscription/std", None)
                one.drop_strangers()
            case "retry":
                event = Event(f"01R{which}", "TripEnded", f"T{which}", "V")
                one.request(next(requests), Retry(0, 10_000 + which, "a" * 16, "std", event, "{}", "then"))
        if number == cut:
            take()
            before = picture(one)
            one = processor(book, time, max_waiting=5)
            one.restore(changelog.items())
            one.restored()
            assert picture(one) == before
    take()
    again = restored(changelog, book)
    assert picture(again) == picture(one)
    # Nothing is kept that nobody needs.
    needed = {delivery.offset for delivery in again.waiting()}
    assert {int.from_bytes(key[1:], "big") for key in changelog if key[:1] == b"p"} == needed
