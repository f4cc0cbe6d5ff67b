"""The book of planned trips: updates by their timestamps, links by what is known, whatever the order."""

import itertools
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.status.direct import HOUR, new_book

import schemas
from streams.errors import StateError
from streams.status.bodies import PlanBody, UpdateBody
from streams.status.book import META_KEY, read_trip
from streams.status.rules import Status
from streams.trips.identity import identify

T0 = 1_772_323_200_000  # 2026-03-01T00:00:00Z
PLACE = {"lat": 42.364551, "lon": -71.180604}


def at(hour):
    return T0 + round(hour * HOUR)


def plan(tms="A", vehicle="V", start=6, end=18):
    return PlanBody(tms_trip_id=tms, vehicle_id=vehicle, start_ms=at(start), end_ms=at(end))


def update(status, hour, tms="A", trip_id=None, place=PLACE):
    return UpdateBody(
        trip_id=trip_id, tms_trip_id=tms, status=Status[status.upper()], time_ms=at(hour), location=dict(place)
    )


def text(hour):
    return datetime.fromtimestamp(at(hour) / 1000, UTC).isoformat().replace("+00:00", "Z")


def trip(kind, start, *, end=None, revision=1, vehicle="V", reason=None, heard=None):
    """An announcement of the trip that begins then."""
    told = {"id": identify(vehicle, at(start)).id, "revision": revision, "vehicle_id": vehicle}
    if kind != "TripDeleted":
        told["start"] = {"timestamp": text(start)}
    if end is not None:
        told["end"] = {"timestamp": text(end)}
    data = {"trip": told} | ({} if reason is None else {"reason": reason})
    return read_trip({"metadata": {"type": kind}, "data": data}, at(start if heard is None else heard))


def trip_id(start, vehicle="V"):
    return identify(vehicle, at(start)).id


class Told:
    """A book, and everything that it has put out."""

    def __init__(self, book=None):
        self.book = book or new_book()
        self.records = {}
        self.events = []

    def __call__(self, what, now=None):
        """Whatever it is."""
        answer = None
        if isinstance(what, PlanBody):
            answer = self.book.plan(what, now or at(5))
        elif isinstance(what, UpdateBody):
            answer = self.book.update(what, now or what.time_ms)
        else:
            self.book.note(what)
        return self._taken(answer)

    def expire(self, hour):
        return self._taken(self.book.expire(at(hour)))

    def _taken(self, answer):
        changes = self.book.take()
        for event in changes.events:
            schemas.read_status_event(event.payload)
            self.events.append(json.loads(event.payload))
        for key, value in changes.records.items():
            self.records.pop(key, None)
            if value is not None:
                self.records[key] = value
        self.records[META_KEY] = self.book.meta()
        return answer

    def all(self, *these):
        for one in these:
            self(one)
        return self

    def links(self):
        """Trip to plan and times."""
        return {
            one.id: (one.plan, one.start, one.end)
            for vehicle in self.book._vehicles.values()
            for one in vehicle.trips.values()
            if one.plan is not None
        }

    def kinds(self):
        return [event["metadata"]["type"] for event in self.events]

    def reread(self):
        book = new_book()
        book.restore(self.records.items())
        assert book.restored()
        return book


def applied_links(events):
    """What a consumer of the events knows: per trip the plan that it is linked to, and its times."""
    links = {}
    for event in events:
        data = event["data"]
        if event["metadata"]["type"] in {"TripLinked", "TripLinkCorrected"}:
            name, times = data["trip"]["id"], [data["trip"].get(edge, {}).get("timestamp") for edge in ("start", "end")]
            links[name] = (data["plan"]["id"], *times)
        elif event["metadata"]["type"] == "TripUnlinked":
            assert links.pop(data["trip"]["id"])[0] == data["plan"]["id"]
    return links


# -- updates -----------------------------------------------------------------------------------------------------------


def test_trip_ids_count_and_the_same_plan_is_not_planned_twice():
    told = Told()
    assert told(plan("A")) == {"outcome": "planned", "plan": 1}
    assert told(plan("B")) == {"outcome": "planned", "plan": 2}
    assert told(plan("A")) == {"outcome": "repeated", "plan": 1}
    assert told(plan("A", vehicle="W", end=19)) == {
        "outcome": "conflict",
        "plan": 1,
        "differs": ["vehicleId", "windowEnd"],
    }
    assert told.kinds() == ["TripPlanned", "TripPlanned"]


def test_an_update_finds_its_plan_by_either_id():
    told = Told().all(plan("A"), plan("B"))
    assert told(update("received", 7, tms=None, trip_id=2)) == {"outcome": "applied"}
    assert told(update("received", 7, tms="A", trip_id=2)) == {"outcome": "applied"}
    assert [one["data"]["plan"]["id"] for one in told.events[2:]] == [2, 1]
    assert told(update("received", 7, tms=None, trip_id=3)) == {"outcome": "unknown"}
    assert told(update("received", 7, tms="C", trip_id=1)) == {"outcome": "unknown"}


def test_the_timestamp_decides_not_the_order():
    told = Told().all(plan())
    assert told(update("canceled", 8)) == {"outcome": "applied"}
    assert told(update("accepted", 7.999)) == {"outcome": "outdated"}
    # The same instant is not older: then the transition decides.
    assert told(update("accepted", 8)) == {
        "outcome": "refused",
        "text": "Can't perform modification action 'Accepted' if a trip has been 'Canceled'.",
    }


def test_planning_is_no_modification_that_an_update_could_be_older_than():
    told = Told()
    told(plan(), now=at(100))
    assert told(update("accepted", 7)) == {"outcome": "applied"}


def test_an_update_that_was_applied_is_answered_so_again_whatever_came_after_it():
    told = Told().all(plan(), update("accepted", 7), update("completed", 9))
    before = len(told.events)
    assert told(update("accepted", 7)) == {"outcome": "repeated"}
    assert told(update("completed", 9)) == {"outcome": "repeated"}
    assert told(update("accepted", 7, place={"lat": 1.0, "lon": 2.0})) == {"outcome": "outdated"}
    assert len(told.events) == before


def test_a_refused_update_changes_nothing():
    told = Told().all(plan(), update("completed", 9))
    before = told.book.meta(), dict(told.records), len(told.events)
    assert told(update("accepted", 12))["outcome"] == "refused"
    assert (told.book.meta(), dict(told.records), len(told.events)) == before
    assert told(update("completed", 10)) == {"outcome": "applied"}


def test_revisions_of_a_plan_count_its_events():
    told = Told().all(plan(), update("received", 7), update("accepted", 8), trip("TripStarted", 9))
    assert [one["data"]["plan"]["revision"] for one in told.events] == [1, 2, 3, 4]
    assert len({one["metadata"]["id"] for one in told.events}) == 4


# -- links -------------------------------------------------------------------------------------------------------------


def test_a_trip_in_the_window_of_an_accepted_plan_is_linked_and_its_end_recorded():
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 8))
    assert told.links() == {trip_id(8): (1, at(8), None)}
    told(trip("TripEnded", 8, end=9, revision=2))
    told(trip("TripDataReady", 8, end=9, revision=2))
    told(trip("TripDataReady", 8, end=9, revision=5))
    assert told.kinds()[2:] == ["TripLinked", "TripLinkCorrected"]
    assert told.links() == {trip_id(8): (1, at(8), at(9))}
    assert told.book.plans[1].state.value == "InProgress"  # Completed is the driver's word


@pytest.mark.parametrize(("start", "linked"), [(5.999, False), (6, True), (18, True), (18.001, False)])
def test_both_ends_of_the_window_are_in_it(start, linked):
    told = Told().all(plan(), update("accepted", 5), trip("TripStarted", start))
    assert bool(told.links()) is linked


@pytest.mark.parametrize("status", ["received", "rejected", "canceled"])
def test_a_plan_that_is_not_accepted_gets_no_trip(status):
    assert Told().all(plan(), update(status, 7), trip("TripStarted", 8)).links() == {}


def test_a_trip_that_began_before_the_acceptance_or_the_plan_is_linked_then():
    told = Told().all(trip("TripStarted", 8), trip("TripEnded", 8, end=9), plan())
    assert told.links() == {}
    told(update("accepted", 10))
    assert told.links() == {trip_id(8): (1, at(8), at(9))}
    assert told.kinds()[-2:] == ["TripStatusUpdated", "TripLinked"]


def test_all_trips_in_the_window_are_linked():
    told = Told().all(plan(), update("accepted", 7), *(trip("TripStarted", hour) for hour in (8, 10, 12)))
    assert set(told.links()) == {trip_id(8), trip_id(10), trip_id(12)}


@pytest.mark.parametrize("status", ["completed", "canceled", "rejected"])
def test_a_trip_after_the_plan_was_closed_is_not_its_own(status):
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 8), trip("TripStarted", 12))
    told(update(status, 11))
    assert set(told.links()) == {trip_id(8)}
    assert told.events[-1]["data"]["reason"] == "PLAN_CLOSED"
    told(trip("TripEnded", 8, end=9, revision=3))  # a correction is still followed
    assert told.links() == {trip_id(8): (1, at(8), at(9))}


def test_a_plan_that_was_completed_without_having_been_accepted_was_taken_on():
    told = Told().all(plan(), trip("TripStarted", 8), update("completed", 11))
    assert set(told.links()) == {trip_id(8)}


@pytest.mark.parametrize("status", ["received", "accepted", "completed", "canceled"])
def test_a_plan_that_was_rejected_stays_so_and_gets_no_trip_that_began_later(status):
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 7.5), update("rejected", 8))
    told(trip("TripStarted", 9))
    assert told(update(status, 10)) == {
        "outcome": "refused",
        "text": f"Can't perform modification action '{status.capitalize()}' if a trip has been 'Rejected'.",
    }
    assert set(told.links()) == {trip_id(7.5)}
    assert told(update("rejected", 10)) == {"outcome": "applied"}
    assert set(told.links()) == {trip_id(7.5)}


def test_of_two_plans_the_one_accepted_last_before_the_trip_has_it():
    told = Told().all(plan("A"), plan("B"), update("accepted", 7), update("accepted", 9, tms="B"))
    told.all(trip("TripStarted", 8), trip("TripStarted", 10))
    assert {name: link[0] for name, link in told.links().items()} == {trip_id(8): 1, trip_id(10): 2}


def test_of_two_plans_accepted_after_the_trip_the_first_accepted_has_it():
    told = Told().all(plan("A"), plan("B"), trip("TripStarted", 7))
    told.all(update("accepted", 9), update("accepted", 8, tms="B"))
    assert told.links()[trip_id(7)][0] == 2
    assert told.kinds()[-3:] == ["TripStatusUpdated", "TripUnlinked", "TripLinked"]


def test_of_two_plans_accepted_at_once_the_first_planned_has_it():
    told = Told().all(plan("A"), plan("B"), update("accepted", 7, tms="B"), update("accepted", 7))
    assert told(trip("TripStarted", 8)) is None
    assert told.links()[trip_id(8)][0] == 1


def test_another_vehicles_trip_is_not_linked():
    assert Told().all(plan(), update("accepted", 7), trip("TripStarted", 8, vehicle="W")).links() == {}


@pytest.mark.parametrize(
    ("announcement", "reason"),
    [
        (trip("TripDiscarded", 8, end=8.001, revision=2, reason="TOO_SHORT"), "TOO_SHORT"),
        (trip("TripDiscarded", 8, end=8.1, revision=2, reason="TOO_SHORT_DISTANCE"), "TOO_SHORT_DISTANCE"),
        (trip("TripDiscarded", 8, revision=2, reason="SUPERSEDED"), "SUPERSEDED"),
        (trip("TripDeleted", 8, revision=1), "DELETED"),
    ],
)
def test_a_trip_that_does_not_count_any_more_is_unlinked(announcement, reason):
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 8), announcement)
    assert told.links() == {}
    assert told.events[-1]["data"] | {"plan": 0} == {
        "occurred_at": told.events[-1]["data"]["occurred_at"],
        "plan": 0,
        "reason": reason,
        "trip": {"id": trip_id(8), "revision": announcement.revision},
    }


def test_a_correction_moves_the_link():
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 8), trip("TripEnded", 8, end=9, revision=2))
    told(trip("TripStarted", 8, revision=3))  # its end is revoked
    assert told.links() == {trip_id(8): (1, at(8), None)}
    told(trip("TripEnded", 8, end=9.5, revision=3))
    told.all(trip("TripStarted", 7.5, revision=4), trip("TripDiscarded", 8, revision=4, reason="SUPERSEDED"))
    assert told.links() == {trip_id(7.5): (1, at(7.5), None)}
    told(trip("TripStarted", 8, revision=5))  # and it was there after all
    assert set(told.links()) == {trip_id(7.5), trip_id(8)}


def test_an_older_word_about_a_trip_changes_nothing():
    told = Told().all(plan(), update("accepted", 7), trip("TripEnded", 8, end=9, revision=5))
    events = len(told.events)
    told.all(trip("TripStarted", 8, revision=5), trip("TripEnded", 8, end=10, revision=4))
    assert len(told.events) == events


def test_a_deleted_trip_stays_deleted_and_nothing_but_its_id_is_kept():
    told = Told().all(plan(), update("accepted", 7), trip("TripEnded", 8, end=9, revision=5))
    told(trip("TripDeleted", 8, revision=5, heard=10))
    assert told(trip("TripStarted", 8, revision=9)) is None
    assert told.links() == {}
    (record,) = [json.loads(value) for key, value in told.records.items() if key.startswith(b"t")]
    assert record == ["V", 0, None, 5, 3, "DELETED", at(10), None]


# -- keeping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["rejected", "completed", "canceled"])
def test_a_closed_plan_expires_after_its_last_change_an_open_one_after_its_window(closing):
    told = Told().all(plan("A"), plan("B", end=60), update(closing, 10), trip("TripStarted", 8))
    assert told.expire(10 + 30 * 24 - 0.001) == 0
    assert told.expire(10 + 30 * 24) == 1
    assert told.expire(60 + 30 * 24 - 0.001) == 0
    assert told.expire(60 + 30 * 24) == 1
    assert told.kinds()[-2:] == ["TripPlanExpired", "TripPlanExpired"]
    assert list(told.records) == [META_KEY]
    assert (told.book._vehicles, told.book._heard, told.book._quiet, told.book._due) == ({}, {}, [], [])
    assert told(update("accepted", 999)) == {"outcome": "unknown"}
    assert told(plan("A")) == {"outcome": "planned", "plan": 3}  # ids are not used again


def test_a_change_puts_the_end_of_a_plan_off():
    told = Told().all(plan(end=7), update("accepted", 6.5))
    told(update("received", 100), now=at(100))
    assert told.expire(7 + 30 * 24 + 1) == 0
    assert told.expire(100 + 30 * 24) == 1


def test_trips_that_are_not_linked_are_forgotten_a_day_after_their_last_word():
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 8), trip("TripStarted", 20))
    told(trip("TripEnded", 20, end=21, revision=2, heard=21))
    told(trip("TripStarted", 8, vehicle="W"))
    assert told.book.trip_count == 3
    told.expire(8 + 24 + 0.001)
    assert told.book.trip_count == 2
    told.expire(21 + 24 + 0.001)
    assert told.book.trip_count == 1  # the linked one
    assert told.links()


def test_a_plan_takes_its_trips_along_when_it_expires_so_that_no_other_plan_gets_them():
    told = Told().all(plan("A"), plan("B"), update("accepted", 7), update("accepted", 9, tms="B"))
    told.all(trip("TripStarted", 8), update("completed", 10))
    told(update("received", 500, tms="B"))
    assert told.expire(10 + 30 * 24) == 1
    assert told.links() == {}
    assert "TripLinked" not in told.kinds()[-1:]


def test_a_newer_format_and_damage_are_refused():
    for key, value, said in (
        (
            META_KEY,
            b'{"format":2,"next_id":1,"positions":{}}',
            "it has format version 2, and this program reads up to 1",
        ),
        (META_KEY, b"{}", "the record with key b'meta' is damaged"),
        (b"p1", b"x", "the record with key b'p1' is damaged"),
        (b"p1", b'{"state":"Lost"}', "the record with key b'p1' is damaged"),
        (b"t1", b"[1]", "the record with key b't1' is damaged"),
    ):
        with pytest.raises(StateError, match=said):
            new_book().restore([(key, value)])


def test_records_that_are_missing_are_missed():
    told = Told().all(plan(), update("accepted", 7), trip("TripStarted", 8))
    assert told.reread().plans == told.book.plans
    for key in [key for key in told.records if key != META_KEY]:
        book = new_book()
        book.restore((name, value) for name, value in told.records.items() if name != key)
        with pytest.raises(StateError, match="records are missing"):
            book.restored()


def same(book, other):
    assert book.meta() == other.meta()
    assert book.plans == other.plans
    assert {name: one.trips for name, one in book._vehicles.items() if one.trips} == {
        name: one.trips for name, one in other._vehicles.items() if one.trips
    }
    assert (book._by_tms, book.link_count) == (other._by_tms, other.link_count)


# -- any order ---------------------------------------------------------------------------------------------------------

UPDATES = {
    "A": [update("accepted", 7), update("completed", 11)],
    "B": [update("received", 8, tms="B"), update("accepted", 9, tms="B"), update("rejected", 12, tms="B")],
}
TRIPS = [
    trip("TripStarted", 8),
    trip("TripEnded", 8, end=9, revision=2),
    trip("TripDataReady", 8, end=8.5, revision=6),
    trip("TripStarted", 9.5, revision=3),
    trip("TripDiscarded", 9.5, revision=7, reason="SUPERSEDED"),
    trip("TripStarted", 11.5, revision=4),
    trip("TripEnded", 11.5, end=13, revision=5),
    trip("TripStarted", 12.5, revision=8),
    trip("TripDeleted", 12.5, revision=8),
]
LINKS = {trip_id(8): (1, at(8), at(8.5)), trip_id(11.5): (2, at(11.5), at(13))}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_links_are_the_same_in_whatever_order_plans_updates_and_trips_come(data):
    """Updates of one plan keep their order, as their timestamps say; all else comes as it likes, and again."""
    told = Told().all(plan("A"), plan("B"))
    left = [list(UPDATES["A"]), list(UPDATES["B"]), *([one] for one in data.draw(st.permutations(TRIPS)))]
    done = []
    while left:
        one = data.draw(st.sampled_from(left))
        done.append(one.pop(0))
        told(done[-1])
        left = [some for some in left if some]
        if data.draw(st.booleans()):
            told(data.draw(st.sampled_from(done)))
        if data.draw(st.booleans()):
            same(told.book, told.reread())
            told.book = told.reread()  # as after a crash: the records are all that there is
    assert told.links() == LINKS
    times = {name: (number, start, end) for name, (number, start, end) in applied_links(told.events).items()}
    assert times == {
        trip_id(8): (1, "2026-03-01T08:00:00Z", "2026-03-01T08:30:00Z"),
        trip_id(11.5): (2, "2026-03-01T11:30:00Z", "2026-03-01T13:00:00Z"),
    }
    for number in (1, 2):
        revisions = [one["data"]["plan"]["revision"] for one in told.events if one["data"]["plan"]["id"] == number]
        assert revisions == list(range(1, len(revisions) + 1))


def test_two_updates_at_once_are_decided_by_timestamp_in_either_order():
    ends = []
    for order in itertools.permutations([update("accepted", 8), update("canceled", 9)]):
        told = Told().all(plan(), *order)
        ends.append(told.book.plans[1].state.value)
    assert ends == ["Canceled", "Canceled"]
