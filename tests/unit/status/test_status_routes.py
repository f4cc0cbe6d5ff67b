"""The routes, as clients know them: the seed's request and answers word for word."""

import json
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.status.direct import DirectEngine, client_of
from unit.status.test_status_bodies import anything, near_misses

# seeds/004_66b18354c030506b.txt, "Sample Request"
SAMPLE_REQUEST = b"""{
  "tripId": 12345,
  "status": 2,
  "timeStamp": "2018-03-20T15:00:42.624Z",
  "loc": {
    "Coords": {
      "Lat": "42.364551",
      "Lon": "-71.180604"
    }
  }
}"""
# The same, "Sample Response"
SAMPLE_RESPONSE = """{
  "success": true,
  "errorCode": 0
}"""
# The same, "ArgumentException Examples"
OUTDATED = """{
  "ErrorType": "ArgumentException",
  "Description": "Can't update trip status with timestamp older than trip last modified time",
  "ErrorCode": null
}"""
ACCEPTED_AFTER_CANCELED = """{
  "ErrorType": "ArgumentException",
  "Description": "Can't perform modification action 'Accepted' if a trip has been 'Canceled'.",
  "ErrorCode": null
}"""
CANCELED_AFTER_COMPLETED = """{
  "ErrorType": "ArgumentException",
  "Description": "Can't perform modification action 'Canceled' if a trip has been 'Completed'.",
  "ErrorCode": null
}"""
NOT_FOUND = {"success": False, "errorCode": -1}
LATER = {"success": False, "errorCode": -3}

PLAN = {
    "tmsTripId": "T-1",
    "vehicleId": "JQ7RP",
    "windowStart": "2018-03-20T06:00:00Z",
    "windowEnd": "2018-03-20T18:00:00Z",
}


def planned(**settings):
    """The seed's trip 12345, planned."""
    engine = DirectEngine(**settings)
    engine.book.next_id = 12345
    ask = client_of(engine)
    assert ask("POST", "/trip/plan", json=PLAN).json()["tripId"] == 12345
    return engine, ask


def changed(**fields):
    return {**json.loads(SAMPLE_REQUEST), **fields}


def post(ask, **fields):
    answer = ask("POST", "/trip/tripStatus", json=changed(**fields))
    return answer.status_code, answer.json()


def test_the_seeds_request_gets_the_seeds_response():
    _, ask = planned()
    answer = ask("POST", "/trip/tripStatus", content=SAMPLE_REQUEST)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == json.loads(SAMPLE_RESPONSE)
    assert list(answer.json()) == list(json.loads(SAMPLE_RESPONSE))
    assert ask("GET", "/trip/plan/12345").json()["tripStatus"] == "Completed"


def test_a_trip_that_cannot_be_found():
    _, ask = planned()
    assert post(ask, tripId=12346) == (200, NOT_FOUND)
    assert post(ask, tmsTripId="other") == (200, NOT_FOUND)  # and tripId is ignored
    assert post(ask, tripId=0) == (200, NOT_FOUND)
    assert post(ask, tripId=-(2**63)) == (200, NOT_FOUND)


def test_an_update_from_before_the_last_modification():
    _, ask = planned()
    assert post(ask, status=1)[1]["success"]
    assert post(ask, status=4, timeStamp="2018-03-20T15:00:42.623Z") == (200, LATER)


def test_the_same_as_an_argument_exception_where_it_is_set_so():
    _, ask = planned(status_outdated="argument_exception")
    assert post(ask, status=1)[1]["success"]
    assert post(ask, status=4, timeStamp="2018-03-20T15:00:42.623Z") == (400, json.loads(OUTDATED))


def test_inappropriate_actions_in_the_words_of_the_seed():
    _, ask = planned()
    assert post(ask, status=3)[0] == 200
    assert post(ask, status=1, timeStamp="2018-03-20T16:00:00Z") == (400, json.loads(ACCEPTED_AFTER_CANCELED))
    _, ask = planned()
    assert post(ask, status=2)[0] == 200
    assert post(ask, status=3, timeStamp="2018-03-20T16:00:00Z") == (400, json.loads(CANCELED_AFTER_COMPLETED))


def test_a_missing_field_is_an_argument_exception():
    _, ask = planned()
    fields = changed()
    del fields["timeStamp"]
    answer = ask("POST", "/trip/tripStatus", json=fields)
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "ErrorType": "ArgumentException",
            "Description": "A required field was not supplied: 'timeStamp'. Correct the error and try again.",
            "ErrorCode": None,
        },
    )


def test_a_timestamp_may_be_ahead_by_the_clock_skew():
    _, ask = planned()
    assert post(ask, status=4, timeStamp="2026-03-01T09:00:00Z")[0] == 200
    assert post(ask, status=4, timeStamp="2026-03-01T09:00:00.001Z")[0] == 400


@pytest.mark.parametrize("path", ["/trip/tripStatus", "/trip/plan"])
def test_a_body_has_a_largest_size(path):
    _, ask = planned()
    fits = json.dumps({"x": "y" * (16 * 1024 - 9)}).encode()
    assert len(fits) == 16 * 1024
    assert ask("POST", path, content=fits).status_code in {400, 422}
    answer = ask("POST", path, content=fits + b" ")
    assert answer.status_code == 413
    assert "larger than 16384 bytes" in answer.text


def test_no_decision_in_time():
    engine, ask = planned()
    engine.undecided = True
    answer = ask("POST", "/trip/tripStatus", content=SAMPLE_REQUEST)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["ErrorType"] == "UnavailableException"
    assert "may yet be applied" in answer.json()["Description"]
    answer = ask("POST", "/trip/plan", json=PLAN)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "may yet be applied" in answer.json()["detail"]
    engine.undecided = False
    assert "will not be applied" in ask("POST", "/trip/tripStatus", content=SAMPLE_REQUEST).json()["Description"]


def test_plans_and_their_errors():
    _, ask = planned()
    first = ask("POST", "/trip/plan", json=PLAN)
    assert first.status_code == 200
    assert first.json()["tripStatus"] == "Planned"
    answer = ask("POST", "/trip/plan", json=PLAN | {"windowEnd": "2018-03-20T19:00:00Z"})
    assert (answer.status_code, answer.json()) == (
        409,
        {
            "type": "about:blank",
            "title": "Conflict",
            "status": 409,
            "detail": "tmsTripId 'T-1' is planned already, as tripId 12345, with another windowEnd. Send the same "
            "content, or choose another tmsTripId.",
        },
    )
    answer = ask("POST", "/trip/plan", json=PLAN | {"windowEnd": "later"})
    assert (answer.status_code, answer.json()["title"]) == (422, HTTPStatus(422).phrase)


def test_plans_are_looked_up_by_either_id():
    _, ask = planned()
    assert ask("GET", "/trip/plan/12345").json() == ask("GET", "/trip/plan", params={"tmsTripId": "T-1"}).json()
    assert ask("GET", "/trip/plan/1").status_code == 404
    assert ask("GET", "/trip/plan", params={"tmsTripId": "T-2"}).status_code == 404
    assert ask("GET", "/trip/plan/0").status_code == 422
    assert ask("GET", "/trip/plan").status_code == 422


def test_until_the_plans_have_been_read_nobody_is_told_that_there_is_none():
    engine, ask = planned()
    engine.following = False
    for path in ("/trip/plan/12345", "/trip/plan?tmsTripId=T-1"):
        answer = ask("GET", path)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["status"]) == (503, "1", 503)


def test_requests_are_counted_by_what_came_of_them():
    engine, ask = planned()
    post(ask, status=1)
    post(ask, status=1)
    post(ask, status=7)
    value = engine.metrics.registry.get_sample_value
    counted = {
        outcome: value("trips_status_requests_total", {"request": "update", "outcome": outcome})
        for outcome in ("applied", "repeated", "invalid", "refused")
    }
    assert counted == {"applied": 1, "repeated": 1, "invalid": 1, "refused": 0}


ENGINE, ASK = planned()


@settings(deadline=None)
@given(
    st.sampled_from(["/trip/tripStatus", "/trip/plan"]),
    st.binary() | anything.map(lambda value: json.dumps(value).encode()) | near_misses,
)
def test_no_body_makes_an_error_of_ours(path, body):
    answer = ASK("POST", path, content=body)
    assert answer.status_code in {200, 400, 409, 422}
    fields = answer.json()
    if path == "/trip/tripStatus":
        assert set(fields) in ({"success", "errorCode"}, {"ErrorType", "Description", "ErrorCode"})
        assert (answer.status_code == 200) == ("success" in fields)
