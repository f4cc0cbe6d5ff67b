"""What is asked and answered, on both databases."""

import asyncio
import csv
import io
import itertools
import json
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter
from serve_world import DAY, announcement, at, trip_id

from schemas.read_side import Problem, RouteFeature, TripDeletion, TripDetail, TripPage, VehicleState
from streams.errors import ClusterError, UnknownTripError
from streams.serve.app import openapi_document
from streams.serve.database import writing
from streams.serve.listing import CSV_COLUMNS, csv_lines
from streams.serve.projection import Position, advance, put_positions
from streams.serve.queries import _listing
from streams.status.book import read_trip

MINUTE = 60_000
FLAGS = ((), ("DATA_GAP",), ("DATA_GAP", "POSITION_JUMPS"), ("START_UNOBSERVED",))
KINDS = (
    ("TripStarted", "ONGOING", None),
    ("TripEnded", "PENDING", None),
    ("TripDataReady", "FINISHED", None),
    ("TripDiscarded", "DISCARDED", "TOO_SHORT"),
    ("TripDiscarded", "DISCARDED", "SUPERSEDED"),
)


PARAMETERS = [
    combination
    for count in range(4)
    for combination in itertools.combinations(("vehicle", "flags", "flagged", "first", "last", "after"), count)
]


def nothing(_):
    return False


def fleet():
    """Trips of all kinds: (vehicle, start, status, flags) of each, and the announcements."""
    known, said = [], []
    for number, (flags, (kind, status, reason), vehicle) in enumerate(
        itertools.product(FLAGS, KINDS, ("v1", "v2", "straße/№ 3"))
    ):
        start = DAY + number * 7 * MINUTE + number  # odd milliseconds
        flags = () if reason == "SUPERSEDED" else flags  # noqa: PLW2901
        said.append(announcement(kind, vehicle, start, number, flags=flags, reason=reason))
        known.append((vehicle, start, status, flags))
    return known, said


@pytest.fixture
def fleet_of(read_side):
    known, said = fleet()
    read_side.say(*said)
    return known, read_side.client("read", "delete")


def everything(client, path="/trips", **parameters):
    """All pages of a list."""
    items, cursor = [], None
    while True:
        answer = client.get(path, **parameters, **({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        TypeAdapter(TripPage).validate_json(answer.content)
        assert len(page["items"]) <= parameters.get("limit", 100)
        items += page["items"]
        cursor = page.get("next_cursor")
        if cursor is None:
            return items


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, lambda trip: trip.status != "DISCARDED"),
        ({"status": "DISCARDED"}, lambda trip: trip.status == "DISCARDED"),
        ({"status": ["ONGOING", "DISCARDED", "ONGOING"]}, lambda trip: trip.status in ("ONGOING", "DISCARDED")),
        ({"vehicle": "straße/№ 3"}, lambda trip: trip.vehicle == "straße/№ 3" and trip.status != "DISCARDED"),
        ({"vehicle": "v1", "status": "PENDING"}, lambda trip: (trip.vehicle, trip.status) == ("v1", "PENDING")),
        ({"vehicle": "nobody"}, nothing),
        ({"flag": "DATA_GAP"}, lambda trip: "DATA_GAP" in trip.flags and trip.status != "DISCARDED"),
        (
            {"flag": ["DATA_GAP", "POSITION_JUMPS"], "status": "FINISHED"},
            lambda trip: {"DATA_GAP", "POSITION_JUMPS"} <= {*trip.flags} and trip.status == "FINISHED",
        ),
        ({"flag": "END_INFERRED"}, nothing),
        ({"flagged": True}, lambda trip: trip.flags and trip.status != "DISCARDED"),
        ({"flagged": False}, lambda trip: not trip.flags and trip.status != "DISCARDED"),
        ({"flagged": False, "flag": "DATA_GAP"}, nothing),
        (
            {"start_from": at(DAY + 7 * MINUTE + 1), "start_before": at(DAY + 70 * MINUTE + 10)},
            lambda trip: DAY + 7 * MINUTE + 1 <= trip.start < DAY + 70 * MINUTE + 10 and trip.status != "DISCARDED",
        ),
        (
            {"start_from": "2026-03-01T02:00:00+02:00", "vehicle": "v2", "start_before": "2026-03-01T03:00:00.000001Z"},
            lambda trip: trip.vehicle == "v2" and trip.start <= DAY + 180 * MINUTE and trip.status != "DISCARDED",
        ),
        ({"start_from": "9999-12-31T23:59:59Z"}, nothing),
        ({"start_before": "1969-12-31T23:59:59Z"}, nothing),
        ({"start_from": "0001-01-01T00:00:00+23:59"}, lambda trip: trip.status != "DISCARDED"),
    ],
)
def test_a_list_is_what_its_parameters_say_in_any_pages(fleet_of, parameters, expected):
    known, client = fleet_of
    trips = [SimpleNamespace(vehicle=v, start=s, status=st, flags=f) for v, s, st, f in known]
    oldest_first = [trip_id(trip.vehicle, trip.start) for trip in trips if expected(trip)]
    for limit in (1, 7, 1000) if len(oldest_first) < 10 else (7, 1000):
        ids = [item["id"] for item in everything(client, limit=limit, order="asc", **parameters)]
        assert ids == oldest_first
        ids = [item["id"] for item in everything(client, limit=limit, **parameters)]
        assert ids == oldest_first[::-1]


def test_a_vehicles_trips_are_those_of_the_list(fleet_of):
    client = fleet_of[1]
    for path, vehicle in (("/vehicles/v1/trips", "v1"), ("/vehicles/stra%C3%9Fe%2F%E2%84%96%203/trips", "straße/№ 3")):
        assert everything(client, path, limit=3) == everything(client, vehicle=vehicle)
        assert everything(client, path)
    assert client.get("/vehicles/nobody/trips").json() == {"items": []}


def test_what_comes_or_goes_between_pages_neither_repeats_nor_hides_others(read_side):
    client = read_side.client("read")
    starts = [DAY + number * MINUTE for number in range(10)]
    read_side.say(*(announcement("TripDataReady", "v1", start) for start in starts))
    first = client.get("/trips", limit=4).json()
    assert [item["id"] for item in first["items"]] == [trip_id("v1", start) for start in starts[:5:-1]]
    read_side.say(
        announcement("TripDataReady", "v2", DAY + 99 * MINUTE),  # before the page that was seen
        announcement("TripDataReady", "v2", starts[2] + 1),  # still to come
        announcement("TripDeleted", "v1", starts[6]),  # the very one that the cursor names
        announcement("TripDiscarded", "v1", starts[4], 9, reason="TOO_SHORT"),
        announcement("TripDataReady", "v1", starts[8], 9),  # a correction of one that was seen
    )
    second = client.get("/trips", limit=100, cursor=first["next_cursor"]).json()
    expected = [("v1", starts[number]) for number in (5, 3)] + [("v2", starts[2] + 1)]
    expected += [("v1", starts[number]) for number in (2, 1, 0)]
    assert [item["id"] for item in second["items"]] == [trip_id(*one) for one in expected]


@pytest.mark.parametrize("cursor", ["", "x", "====", "é", "MWQ", "a" * 100, "MWQwMURCVjlQUjFSQ1pKWTFBOUpZODFESDNNSA0"])
def test_a_cursor_that_is_none_is_told_so(fleet_of, cursor):
    answer = fleet_of[1].get("/trips", cursor=cursor)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:ignition-trips:problem:cursor")


def test_a_cursor_of_the_other_order_is_told_so(fleet_of):
    cursor = fleet_of[1].get("/trips", limit=1).json()["next_cursor"]
    answer = fleet_of[1].get("/trips", limit=1, cursor=cursor, order="asc")
    assert answer.status_code == 400
    assert "other order" in answer.json()["detail"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "many"},
        {"status": "finished"},
        {"flag": "NEW"},
        {"order": "up"},
        {"start_from": "2026-03-01T00:00:00"},
        {"start_from": "yesterday"},
        {"vehicle": ""},
        {"vehicle": "x" * 257},
        {"cursor": "x" * 101},
        {"vehicles": "v1"},
    ],
)
def test_wrong_parameters_are_named_and_not_repeated(fleet_of, parameters):
    answer = fleet_of[1].get("/trips", **parameters)
    ((name, value),) = parameters.items()
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert f"query.{name}" in problem["errors"][0]["where"]
    assert len(str(value)) < 10 or str(value) not in answer.text
    TypeAdapter(Problem).validate_json(answer.content)


# -- one trip --------------------------------------------------------------------------------------------------------


def test_a_trip_comes_with_all_that_was_said_about_it_oldest_first(read_side):
    said = [
        announcement("TripStarted", revision=1),
        announcement("TripEnded", revision=10),
        announcement("TripDataReady", revision=10),
        announcement("TripStarted", revision=11),
        announcement("TripDiscarded", revision=110, reason="SUPERSEDED", superseded_by=[trip_id("v1", DAY - 1)]),
    ]
    read_side.say(*said)
    answer = read_side.client("read").get(f"/trips/{trip_id('v1', DAY)}")
    TypeAdapter(TripDetail).validate_json(answer.content)
    detail = answer.json()
    assert detail["history"] == [json.loads(payload) for payload in said]
    trip = json.loads(said[-1])["data"]["trip"]
    assert detail["trip"] == trip | {"discard_reason": "SUPERSEDED", "superseded_by": [trip_id("v1", DAY - 1)]}


def test_a_trip_shows_the_plan_that_it_is_linked_to(tmp_path, make_read_side):
    side = make_read_side(f"sqlite:///{tmp_path}/a.db")
    client = side.client("admin")
    window = {"windowStart": at(DAY - 3_600_000), "windowEnd": at(DAY + 3_600_000)}
    plan = client.request("POST", "/trip/plan", json={"tmsTripId": "TOUR-1", "vehicleId": "v1", **window}).json()
    side.say(announcement("TripStarted"), announcement("TripStarted", "v2"))
    loc = {"coords": {"lat": "50.1234", "lon": "7.4321"}}
    update = {"tripId": plan["tripId"], "status": 1, "timeStamp": at(DAY), "loc": loc}
    assert client.request("POST", "/trip/tripStatus", json=update).json() == {"success": True, "errorCode": 0}
    side.status.book.note(read_trip(json.loads(announcement("TripStarted")), DAY))
    for key, value in side.status.book.take().records.items():
        side.status.view.take(key, value)
    answer = client.get(f"/trips/{trip_id('v1', DAY)}")
    TypeAdapter(TripDetail).validate_json(answer.content)
    names = {"tripId": plan["tripId"], "tmsTripId": "TOUR-1", "tripStatus": "InProgress"}
    assert answer.json()["plan"] == names
    assert not {"plan", "plan_unknown"} & set(client.get(f"/trips/{trip_id('v2', DAY)}").json())
    side.status.following = False
    answer = client.get(f"/trips/{trip_id('v2', DAY)}")
    TypeAdapter(TripDetail).validate_json(answer.content)
    assert answer.json()["plan_unknown"] is True


def test_a_trip_that_was_deleted_is_gone_everywhere(read_side):
    client = read_side.client("read", "delete")
    read_side.say(announcement("TripDataReady"), announcement("TripDeleted", revision=7))
    name = trip_id("v1", DAY)
    for path in (f"/trips/{name}", f"/trips/{name}/route"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["deleted_at"]) == (410, at(DAY + 7))
    assert everything(client, status=["ONGOING", "PENDING", "FINISHED", "DISCARDED"]) == []
    assert client.get("/trips/export.csv").text.count("\n") == 1
    answer = client.delete(f"/trips/{name}")
    assert (answer.status_code, answer.json()["state"]) == (200, "DELETED")
    state = client.get("/vehicles/v1/state").json()
    assert (state["on_trip"], state["last_announcement"]["type"]) == (False, "TripDeleted")
    assert "last_end" not in state


@pytest.mark.parametrize("path", [f"/trips/{trip_id('v9', DAY)}", f"/trips/{trip_id('v9', DAY)}/route"])
def test_an_unknown_trip_is_not_found(fleet_of, path):
    assert fleet_of[1].get(path).status_code == 404


@pytest.mark.parametrize("name", ["x", "01kjkb3q007tn7ry6008vxyr51", "81KJKB3Q007TN7RY6008VXYR51", "0" * 27])
def test_what_is_no_trip_id_is_told_so(fleet_of, name):
    assert fleet_of[1].get(f"/trips/{name}").status_code == 422


def test_a_route_without_one_is_the_line_from_start_to_end(fleet_of):
    known, client = fleet_of
    for vehicle, start, status, _ in known[:15]:
        answer = client.get(f"/trips/{trip_id(vehicle, start)}/route")
        assert answer.headers["content-type"] == "application/geo+json"
        feature = answer.json()
        if status in ("PENDING", "FINISHED"):
            assert feature["geometry"] == {"type": "LineString", "coordinates": [[7.3, 50.1], [7.4, 50.1]]}
        if status == "ONGOING":
            assert feature["geometry"] is None
        assert feature["properties"]["source"] == "ENDPOINTS"


# -- deleting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status", "content"),
    [
        ("deleted", 200, {"state": "DELETED"}),
        ("already_deleted", 200, {"state": "DELETED"}),
        ("requested", 202, {"state": "REQUESTED"}),
        (UnknownTripError("no"), 404, {"type": "urn:ignition-trips:problem:trip-unknown"}),
        (ClusterError("secret place"), 503, {"detail": "Kafka does not take it. Try again in a moment."}),
    ],
)
def test_deleting_answers_what_became_of_it(database, make_read_side, outcome, status, content):
    asked = []

    async def delete(name, vehicle_id):
        asked.append((name, vehicle_id))
        if isinstance(outcome, Exception):
            raise outcome
        if outcome != "requested":
            side.say(announcement("TripDeleted", "v\x00/1"))
        return SimpleNamespace(state=outcome, requested_at=at(DAY))

    side = make_read_side(database, delete=delete)
    side.say(announcement("TripDataReady", "v\x00/1"))
    name = trip_id("v\x00/1", DAY)
    answer = side.client("delete").delete(f"/trips/{name}")
    assert asked == [(name, "v\x00/1")]
    assert answer.status_code == status, answer.text
    assert answer.json() | content == answer.json()
    if status < 300:
        TypeAdapter(TripDeletion).validate_json(answer.content)
    assert "secret place" not in answer.text


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_deleting_does_not_take_for_ever(database, make_read_side, monkeypatch):
    async def delete(*_):
        await asyncio.sleep(60)

    monkeypatch.setattr("streams.serve.routes._LONGEST_DELETION", 0.05)
    side = make_read_side(database, delete=delete)
    side.say(announcement("TripDataReady"))
    answer = side.client("delete").delete(f"/trips/{trip_id('v1', DAY)}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


def test_deleting_an_unknown_trip_asks_nobody(fleet_of):
    assert fleet_of[1].delete(f"/trips/{trip_id('v9', DAY)}").status_code == 404


# -- vehicles --------------------------------------------------------------------------------------------------------


def test_a_vehicle_on_a_trip_and_its_end(read_side):
    client = read_side.client("read")
    assert client.get("/vehicles/v1/state").status_code == 404
    first, second = DAY, DAY + 60 * MINUTE
    read_side.say(announcement("TripStarted", "v1", first, 1))
    state = client.get("/vehicles/v1/state").json()
    assert (state["on_trip"], state["current_trip"]["id"]) == (True, trip_id("v1", first))
    assert "last_end" not in state
    read_side.say(announcement("TripEnded", "v1", first, 2), announcement("TripDataReady", "v1", first, 2))
    read_side.say(announcement("TripStarted", "v1", second, 3))
    answer = client.get("/vehicles/v1/state")
    TypeAdapter(VehicleState).validate_json(answer.content)
    state = answer.json()
    assert state["on_trip"]
    assert state["last_end"]["trip_id"] == trip_id("v1", first)
    assert state["last_end"]["end"]["timestamp"] == at(first + 10 * MINUTE)
    assert state["last_announcement"] | {"type": "TripStarted", "revision": 3} == state["last_announcement"]
    read_side.say(announcement("TripEnded", "v1", second, 4, end=second + 5))
    read_side.say(announcement("TripDiscarded", "v1", second, 4, end=second + 5, reason="TOO_SHORT"))
    state = client.get("/vehicles/v1/state").json()
    assert (state["on_trip"], state["last_end"]["trip_id"]) == (False, trip_id("v1", first))
    assert "current_trip" not in state


# -- CSV -------------------------------------------------------------------------------------------------------------


def test_an_export_has_all_that_the_filter_lets_through(read_side):
    vehicles = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\uff1d1",
        '"quoted", with\nlines',
        "plain",
        "ünï",
        "'x",
    ]
    starts = [DAY + number * MINUTE for number in range(2 * len(vehicles))]
    read_side.say(
        *(
            announcement("TripDataReady", vehicle, start, flags=FLAGS[2], position=(-33.9, -18.4))
            for vehicle, start in zip(vehicles * 2, starts, strict=True)
        )
    )
    answer = read_side.client("read").get("/trips/export.csv", order="asc", start_before=at(starts[11]))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.content.count(b"\r\n") == 12
    rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert [row["vehicle_id"] for row in rows] == [
        f"'{name}" if name[0] in "=+-@\t\r\uff1d" else name for name in vehicles
    ]
    assert rows[0]["start_lat"] == "-33.9"  # a number is no formula
    assert rows[0]["flags"] == "DATA_GAP POSITION_JUMPS"
    assert rows[0]["duration_in_ms"] == "600000"
    assert rows[0]["distance_in_km"] == ""


def test_an_export_goes_on_over_many_pages(read_side, monkeypatch):
    monkeypatch.setattr("streams.serve.routes._EXPORT_PAGE", 7)
    read_side.say(*(announcement("TripDataReady", "v1", DAY + number) for number in range(50)))
    rows = read_side.client("read").get("/trips/export.csv").text.splitlines()
    assert [row.split(",")[0] for row in rows] == ["id"] + [trip_id("v1", DAY + number) for number in range(49, -1, -1)]


def test_columns_are_as_many_as_cells():
    lines = csv_lines([json.dumps(json.loads(announcement("TripDataReady"))["data"]["trip"]).encode()], head=True)
    head, row = csv.reader(io.StringIO(lines.decode(), newline=""))
    assert tuple(head) == CSV_COLUMNS
    assert len(row) == len(head)


# -- the description -------------------------------------------------------------------------------------------------


def test_examples_of_the_description_are_what_its_models_say():
    document = openapi_document()
    models = {
        "/trips": TripPage,
        "/trips/{trip_id}": TripDetail,
        "/trips/{trip_id}/route": RouteFeature,
        "/vehicles/{vehicle_id}/trips": TripPage,
        "/vehicles/{vehicle_id}/state": VehicleState,
    }
    for path, model in models.items():
        ((media_type, content),) = document["paths"][path]["get"]["responses"]["200"]["content"].items()
        TypeAdapter(model).validate_json(json.dumps(content["example"]))
        assert content["schema"], (path, media_type)


def test_every_operation_says_who_may_and_how_it_fails():
    document = openapi_document()
    assert document["security"] == [{"ApiKey": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert {"401", "403", "422", "429", "503"} <= set(responses), (path, method)
            assert "HTTPValidationError" not in json.dumps(operation)
            assert operation["summary"]


# -- how lists are looked up -----------------------------------------------------------------------------------------


def test_every_list_is_a_walk_along_an_index_and_reads_no_more_than_it_answers(tmp_path, make_read_side):
    side = make_read_side(f"sqlite:///{tmp_path}/a.db")
    side.say(*fleet()[1])
    values = {"vehicle": "v1", "flags": 4, "first": "0", "last": "8", "after": "4", "most": 5}
    ways = itertools.product(PARAMETERS, (("FINISHED",), ("FINISHED", "ONGOING", "PENDING")), (True, False))
    for parameters, statuses, newest_first in ways:
        given = frozenset(parameters) - {"flagged"}
        statement = _listing(statuses, given, "flagged" in parameters or None, newest_first)
        compiled = statement.compile(side.engine)
        arguments = tuple({**compiled.params, **values}[name] for name in compiled.positiontup)
        with side.engine.connect() as connection:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", arguments)]
        walks = [step for step in plan if "trips USING" in step or step.startswith("SCAN trips")]
        index = "with_flags" if {"flags", "flagged"} & {*parameters} else "status"
        index = "vehicle" if "vehicle" in given else index
        assert len(walks) == len(statuses)
        assert all(step.startswith("SEARCH trips USING INDEX trips_") and index in step for step in walks), plan
        if len(statuses) == 1:
            assert not any("TEMP B-TREE" in step for step in plan), plan


def test_a_route_that_the_trip_has_is_the_line(read_side):
    payload = json.loads(announcement("TripDataReady"))
    payload["data"]["trip"]["route"] = {"polyline": "_p~iF~ps|U_ulLnnqC_mqNvxq`@", "precision": 5}
    read_side.say(json.dumps(payload).encode())
    answer = read_side.client("read").get(f"/trips/{trip_id('v1', DAY)}/route")
    TypeAdapter(RouteFeature).validate_json(answer.content)
    assert answer.json()["geometry"]["coordinates"] == [[-120.2, 38.5], [-120.95, 40.7], [-126.453, 43.252]]
    assert answer.json()["properties"]["source"] == "ROUTE"


def test_while_the_projection_is_being_made_nothing_is_shown_that_may_be_deleted(database, make_read_side):
    side, start = make_read_side(database, projected=False), DAY + MINUTE
    side.say(announcement("TripDataReady", "v1", start))
    client, name = side.client("read", "delete"), trip_id("v1", start)
    paths = ["/trips", "/trips/export.csv", f"/trips/{name}", f"/trips/{name}/route"]
    paths += ["/vehicles/v1/trips", "/vehicles/v1/state"]

    def refused():
        for method, path in (*(("GET", path) for path in paths), ("DELETE", f"/trips/{trip_id('v9', start)}")):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
            assert Problem.model_validate(answer.json()).type.endswith("unfinished")

    refused()  # not begun
    with writing(side.engine) as (connection, _):
        put_positions(connection, {("trips", 0): Position("", 3, 3)})
    refused()  # between the two topics
    with writing(side.engine) as (connection, _):
        put_positions(connection, {("trip-events", 0): Position("", 2, 3)})
    refused()
    with writing(side.engine) as (connection, _):
        advance(connection, {("trip-events", 0): 3})
    assert {client.get(path).status_code for path in paths} == {200}
