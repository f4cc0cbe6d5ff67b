"""One attempt against a real server, and everything that a server can do to it."""

import ssl
import threading

import pytest
import trustme
from endpoint import GIGABYTE, HttpEndpoint, announcement
from pushing import AUTHORIZATION, NEW_SECRET, SECRET, START, sender, subscription
from standardwebhooks import Webhook

from streams.push.dispatcher import SystemClock

_, DELETED, _ = announcement(1, event="TripDeleted", trip="01T")


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("PUSH_SECRET_ONE", SECRET)
    monkeypatch.setenv("PUSH_SECRET_AUTH", AUTHORIZATION)
    (tmp_path / "new").write_text(NEW_SECRET + "\n")


async def attempt(answer, tmp_path, **more):
    async with HttpEndpoint(answer if callable(answer) else lambda _: answer) as server:
        one = sender(subscription(server.url, limits={"timeout": 0.5}, **more), tmp_path)
        try:
            return await one.attempt(DELETED, "id-one"), server
        finally:
            await one.close()


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (200, 200, None),
        (201, 201, None),
        (204, 204, None),
        (299, 299, None),
        ((301, {"Location": "http://127.0.0.1:1/"}), 301, "HTTP 301"),
        ((302, {"Location": "/elsewhere"}), 302, "HTTP 302"),
        ((307, {"Location": "/elsewhere"}), 307, "HTTP 307"),
        (400, 400, "HTTP 400"),
        (401, 401, "HTTP 401"),
        (404, 404, "HTTP 404"),
        (410, 410, "HTTP 410"),
        (429, 429, "HTTP 429"),
        (500, 500, "HTTP 500"),
        (503, 503, "HTTP 503"),
        (600, 600, "HTTP 600"),
        ("hang", None, "no answer within 0.5 s"),
        ("drip", None, None),
        ("close", None, "the connection was closed without an answer"),
        ("garbage", None, "the answer is no HTTP"),
        ("cut", 500, "HTTP 500"),
    ],
)
@pytest.mark.parametrize("profile", ["drivequant", "standard"])
async def test_two_hundreds_are_success_and_nothing_else_is(answer, status, error, profile, tmp_path):
    outcome, server = await attempt(answer, tmp_path, profile=profile)
    assert len(server.requests) == 1  # no redirect is followed, and nothing is tried again here
    assert server.requests[0].line == "POST /push HTTP/1.1"
    if answer == "drip":
        assert outcome.error in ("no answer within 0.5 s", "the answer is no HTTP")
        return
    assert (outcome.status, outcome.error) == (status, error)
    assert outcome.gone == (status == 410 and profile == "standard")
    assert outcome.made


async def test_success_is_the_status_whatever_becomes_of_the_body(tmp_path):
    outcome, _ = await attempt("cut after 200", tmp_path)
    assert (outcome.status, outcome.error) == (200, None)


@pytest.mark.parametrize(
    ("status", "error", "gone"), [(200, None, False), (503, "HTTP 503", False), (410, "HTTP 410", True)]
)
async def test_a_body_that_does_not_come_takes_nothing_back_of_what_the_headers_said(
    status, error, gone, tmp_path, monkeypatch
):
    monkeypatch.setattr("streams.push.sender._READ_FOR_S", 0.6)  # longer than the attempt may take
    answer = ("slow body", status, {"Retry-After": "7"})
    outcome, _ = await attempt(answer, tmp_path, profile="standard")
    assert (outcome.error, outcome.gone, outcome.retry_after_s) == (error, gone, 7.0)


async def test_a_gigabyte_is_not_read(tmp_path):
    outcome, server = await attempt("flood", tmp_path)
    assert (outcome.status, outcome.error) == (200, None)
    assert server.flooded < 64 * 2**20 < GIGABYTE  # what the buffers of the system hold


async def test_nobody_listens(tmp_path):
    one = sender(subscription("http://127.0.0.1:9/push"), tmp_path)
    outcome = await one.attempt(DELETED, "id-one")
    await one.close()
    assert outcome.status is None
    assert outcome.error.startswith("cannot connect: ")


async def test_a_connection_is_used_again(tmp_path):
    async with HttpEndpoint() as server:
        one = sender(subscription(server.url, profile="standard"), tmp_path)
        for _ in range(3):
            assert (await one.attempt(DELETED, "id-one")).error is None
        await one.close()
        assert [request.connection for request in server.requests] == [1, 1, 1]


async def test_a_connection_that_the_endpoint_gives_up_costs_drivequant_no_attempt_and_no_day(tmp_path):
    """As when it closes an idle one in the moment in which the next request is sent."""
    async with HttpEndpoint(lambda request: "close" if request in again() else 200) as server:

        def again():
            seen = [request.connection for request in server.requests]
            return [one for number, one in enumerate(server.requests) if one.connection in seen[:number]]

        one = sender(subscription(server.url), tmp_path)
        assert [(await one.attempt(DELETED, "id-one")).error for _ in range(3)] == [None] * 3
        await one.close()


async def test_cookies_are_not_kept(tmp_path):
    async with HttpEndpoint(lambda _: (200, {"Set-Cookie": "a=b"})) as server:
        one = sender(subscription(server.url), tmp_path)
        for _ in range(2):
            await one.attempt(DELETED, "id-one")
        await one.close()
        assert all("cookie" not in request.headers for request in server.requests)


async def test_drivequant_sends_the_authorization_and_nothing_of_ours_but_the_body(tmp_path):
    _, server = await attempt(200, tmp_path, authorization="env:PUSH_SECRET_AUTH")
    (request,) = server.requests
    assert request.headers["authorization"] == AUTHORIZATION
    assert request.headers["content-type"] == "application/json"
    assert request.body == b'{"itinId":"01T","event":"TRIP_DELETION","date":"2026-03-01T08:00:00.000+0000"}'
    assert not any(name.startswith("webhook-") for name in request.headers)


async def test_standard_is_accepted_by_the_reference_library_with_both_secrets(tmp_path):
    async with HttpEndpoint() as server:
        definition = subscription(
            server.url,
            profile="standard",
            secrets=("env:PUSH_SECRET_ONE", "file:new"),
            authorization="env:PUSH_SECRET_AUTH",
        )
        one = sender(definition, tmp_path, now=SystemClock().now_ms)
        await one.attempt(DELETED, "01EVENT-one")
        await one.close()
        (request,) = server.requests
    assert request.headers["webhook-id"] == "01EVENT-one"
    assert request.headers["authorization"] == AUTHORIZATION
    assert request.body == DELETED
    for secret in (SECRET, NEW_SECRET):
        Webhook(secret).verify(request.body, request.headers)


async def test_a_secret_is_looked_up_anew_each_time(tmp_path):
    async with HttpEndpoint() as server:
        one = sender(subscription(server.url, authorization="file:key"), tmp_path)
        missing = await one.attempt(DELETED, "id-one")
        for value in ("Bearer first", "Bearer second"):
            (tmp_path / "key").write_text(value)
            await one.attempt(DELETED, "id-one")
        await one.close()
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]
    # Nothing was sent without it, and that is no attempt.
    assert (missing.made, missing.error) == (False, "file:key cannot be read: No such file or directory")


async def test_a_folder_of_secrets_that_hangs_holds_nothing_up_and_costs_no_attempt(tmp_path, monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr("streams.push.sender.resolve", lambda *_: hangs.wait(10))
    one = sender(subscription("http://127.0.0.1:9/", authorization="file:key", limits={"timeout": 0.1}), tmp_path)
    try:
        outcome = await one.attempt(DELETED, "id-one")
    finally:
        hangs.set()
        await one.close()
    assert (outcome.made, outcome.error) == (False, "its credentials cannot be read within 0.1 s")


async def test_a_test_is_marked(tmp_path):
    async with HttpEndpoint() as server:
        one = sender(subscription(server.url), tmp_path)
        await one.attempt(DELETED, "id-one", is_test=True)
        await one.close()
        assert server.requests[0].headers["x-ignition-trips-test"] == "true"


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("Sun, 01 Mar 2026 08:00:30 GMT", 30), ("never", None)])
async def test_retry_after_is_read(value, seconds, tmp_path):
    outcome, _ = await attempt((503, {"Retry-After": value}), tmp_path, profile="standard")
    assert outcome.retry_after_s == seconds
    assert outcome.at_ms == START


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("unknown authority", "TLS: unable to get local issuer certificate"),
        ("another name", "TLS: "),
        ("plain text", "no answer within 1 s"),
        ("trusted", None),
    ],
)
async def test_tls(case, error, tmp_path):
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1" if case != "another name" else "elsewhere.example").configure_cert(server_context)
    trust = ssl.create_default_context()
    if case != "unknown authority":
        authority.configure_trust(trust)
    async with HttpEndpoint(tls=None if case == "plain text" else server_context) as server:
        definition = subscription(f"https://127.0.0.1:{server.port}/push", limits={"timeout": 1})
        one = sender(definition, tmp_path, trust=trust)
        outcome = await one.attempt(DELETED, "id-one")
        await one.close()
        assert len(server.requests) == (error is None)
    if error is None:
        assert outcome.error is None
    else:
        assert outcome.error.startswith(error)
        assert outcome.status is None
