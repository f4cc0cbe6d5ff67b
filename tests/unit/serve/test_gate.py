"""Who may ask: on every route, whatever it is."""

import asyncio
import threading
import time

import pytest
from serve_world import DAY, ReadSide, announcement, at, trip_id
from unit.status.direct import DirectEngine

from streams.errors import TripsError
from streams.serve.app import build_api
from streams.serve.gate import RateLimit
from streams.serve.keys import SCOPES, KeyStore
from streams.serve.metrics import ServeMetrics

PATHS = {"trip_id": trip_id("v1", DAY), "vehicle_id": "v1", "tripId": "1"}
PLAN = {"tmsTripId": "T-1", "vehicleId": "v1", "windowStart": at(DAY), "windowEnd": at(DAY + 3_600_000)}


def routes(router):
    """All routes, those of included routers as well: path and method."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner)
        else:
            for method in sorted(route.methods - {"HEAD", "OPTIONS"}):
                yield method, route.path


ROUTES = sorted(set(routes(build_api(None, ServeMetrics(), status=DirectEngine()).router)))
"""Needed scope of each; a route that is not here has no test, and fails one."""
NEEDED = {
    ("GET", "/trips"): "read",
    ("GET", "/trips/export.csv"): "read",
    ("GET", "/trips/{trip_id}"): "read",
    ("GET", "/trips/{trip_id}/route"): "read",
    ("DELETE", "/trips/{trip_id}"): "delete",
    ("GET", "/vehicles/{vehicle_id:path}/trips"): "read",
    ("GET", "/vehicles/{vehicle_id:path}/state"): "read",
    ("GET", "/openapi.json"): "admin",
    ("POST", "/trip/tripStatus"): "status",
    ("POST", "/trip/plan"): "status",
    ("GET", "/trip/plan"): "status",
    ("GET", "/trip/plan/{tripId}"): "status",
}


def test_every_route_is_known_here():
    assert set(ROUTES) == set(NEEDED)


def filled(path):
    for name, value in PATHS.items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return path


@pytest.fixture
def here(make_read_side, tmp_path):
    async def delete(trip_id, vehicle_id):
        raise AssertionError("asked for the deletion of a trip")

    side = make_read_side(f"sqlite:///{tmp_path}/a.db", delete=delete)
    side.say(announcement("TripDataReady"))
    assert side.client("status").request("POST", "/trip/plan", json=PLAN).status_code == 200
    return side


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_refuses_without_with_wrong_and_with_too_small_keys(here, method, path):
    url, needed = filled(path), NEEDED[method, path]
    key, token = here.keys.create("right", [needed])
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {token}",
        token,
        f"Bearer {token[:-1]}",
        f"Bearer {token[:-1]}{'A' if token[-1] != 'A' else 'B'}",
        f"Bearer trips_{key.id}_{'A' * 43}",
        f"Bearer {token} {token}",
        f"Bearer {token.upper()}",
        f"Bearer trips_aaaaaaaaaa_{'A' * 43}",
    ]
    for authorization in wrong:
        answer = here.client(Authorization=authorization).request(method, url)
        assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Bearer"), authorization
        assert answer.headers["content-type"] == "application/problem+json"
        assert token not in answer.text
    answer = here.client().request(method, url)
    assert answer.status_code == 401
    others = [scope for scope in SCOPES if scope not in (needed, "admin")]
    answer = here.client(*others).request(method, url)
    assert (answer.status_code, answer.json()["status"]) == (403, 403)
    # And not by chance: expired and revoked keys are refused, the right one is not.
    expired = here.keys.create("old", [needed], expires_at=time.time_ns() // 1_000_000 - 1)[1]
    assert here.client(Authorization=f"Bearer {expired}").request(method, url).status_code == 401
    if method == "GET":
        url += "?tmsTripId=T-1" if path == "/trip/plan" else ""
        for scope in (needed, "admin"):
            assert here.client(scope).request(method, url).status_code == 200
        assert here.client(Authorization=f"bearer {token}").request(method, url).status_code == 200
        here.keys.revoke(key.id)
        assert here.client(Authorization=f"Bearer {token}").request(method, url).status_code == 401


@pytest.mark.parametrize("path", ["/", "/nothing", "/docs", "/redoc", "/health", "/metrics", "/trips/", "//trips"])
def test_what_is_no_route_tells_nothing_without_a_key(here, path):
    assert here.client().get(path).status_code == 401
    assert here.client("read").get(path).status_code == 404


def test_a_method_that_is_not_there_is_a_problem_too(here):
    answer = here.client("admin").request("POST", "/trips")
    assert (answer.status_code, answer.json()["title"]) == (405, "Method Not Allowed")


# -- development -----------------------------------------------------------------------------------------------------


def test_on_loopback_without_any_key_everybody_may_until_there_is_one(tmp_path, make_read_side):
    side = make_read_side(f"sqlite:///{tmp_path}/a.db", public=False)
    assert side.client().get("/trips").status_code == 200
    for host in ("trips.example.com", "evil.example.com:8000", "127.0.0.1.example.com", ""):
        assert side.client(Host=host).get("/trips").status_code == 401, host
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert side.client(Host=host).get("/trips").status_code == 200, host
    for page in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert side.client(**page).request("POST", "/trip/plan", json=PLAN).status_code == 401, page
    assert side.client(**{"Sec-Fetch-Site": "none"}).get("/trips").status_code == 200  # typed into a browser
    assert side.client(Authorization="Bearer wrong").get("/trips").status_code == 401
    key, _ = side.keys.create("first", ["read"])
    side.gate._opened = (0, True)
    assert side.client().get("/trips").status_code == 401
    side.keys.revoke(key.id)  # back to nobody, not back to everybody
    side.gate._opened = (0, True)
    assert side.client().get("/trips").status_code == 401


def test_others_never_get_in_without_a_key(tmp_path, make_read_side):
    assert make_read_side(f"sqlite:///{tmp_path}/a.db", public=True).client().get("/trips").status_code == 401


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_kept_as_a_hash_only(read_side):
    key, token = read_side.keys.create("Jörg's", ["read", "status"])
    assert token.startswith(f"trips_{key.id}_")
    assert len(token.split("_", 2)[2]) == 43  # 256 bits
    with read_side.engine.connect() as connection:
        (row,) = connection.exec_driver_sql("SELECT * FROM api_keys").all()
    assert token not in str(tuple(row))
    assert token.split("_", 2)[2] not in str(tuple(row))
    assert [(one.name, one.scopes) for one in read_side.keys.all()] == [("Jörg's", {"read", "status"})]
    assert KeyStore(read_side.engine).find(token) == key
    assert read_side.keys.create("another", ["read"])[1] != token


def test_revoking_is_for_good_and_of_what_is_there(read_side):
    key, token = read_side.keys.create("one", ["admin"])
    assert read_side.keys.any_counts()
    read_side.keys.revoke(key.id)
    (revoked,) = read_side.keys.all()
    read_side.keys.revoke(key.id)
    assert read_side.keys.all() == [revoked]
    assert (read_side.keys.find(token), read_side.keys.any_counts(), read_side.keys.any_ever()) == (None, False, True)
    with pytest.raises(TripsError, match="no key nobody"):
        read_side.keys.revoke("nobody")


def test_what_another_process_revokes_is_refused_within_two_seconds(here, monkeypatch):
    key, token = here.keys.create("one", ["read"])
    client = here.client(Authorization=f"Bearer {token}")
    assert client.get("/trips").status_code == 200
    KeyStore(here.engine).revoke(key.id)
    now = time.monotonic()
    monkeypatch.setattr("streams.serve.keys.time.monotonic", lambda: now + 2.1)
    assert client.get("/trips").status_code == 401


def test_however_many_keys_are_guessed_few_are_looked_up_at_once_and_right_ones_are_not_forgotten(here, monkeypatch):
    key, token = here.keys.create("one", ["read"])
    assert here.client(Authorization=f"Bearer {token}").get("/trips").status_code == 200
    asked, find, looking, most = [], here.keys.find, [], []

    def slowly(key):
        looking.append(key)
        most.append(len(looking))
        time.sleep(0.01)
        asked.append(key)
        looking.remove(key)
        return find(key)

    monkeypatch.setattr("streams.serve.keys._REMEMBERED", 8)
    monkeypatch.setattr(here.keys, "find", slowly)
    guesses = [f"trips_{number:010}_{'x' * 43}" for number in range(20)]

    async def guess():
        await asyncio.gather(*(here.client(Authorization=f"Bearer {one}")._request("GET", "/trips") for one in guesses))

    asyncio.run(guess())
    assert len(asked) == 20
    assert max(most) <= 2
    assert key.id in here.keys._known


def test_a_key_that_was_right_does_not_stand_in_line_with_guesses(here, monkeypatch):
    right = here.client("read")
    assert right.get("/trips").status_code == 200
    monkeypatch.setattr("streams.serve.keys._FRESH", 0.0)  # so it is looked up again
    find, release = here.keys.find, threading.Event()

    def stuck(key):
        assert not key.endswith("xxx") or release.wait(10)
        return find(key)

    monkeypatch.setattr(here.keys, "find", stuck)
    guesses = [f"trips_{number:010}_{'x' * 43}" for number in range(4)]

    async def ask():
        guessing = [
            asyncio.create_task(here.client(Authorization=f"Bearer {one}")._request("GET", "/trips")) for one in guesses
        ]
        await asyncio.sleep(0.1)
        try:
            async with asyncio.timeout(5):
                return (await right._request("GET", "/trips")).status_code
        finally:
            release.set()
            await asyncio.gather(*guessing)

    assert asyncio.run(ask()) == 200


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_at_its_rate_and_holds_twice_that():
    now = [0.0]
    limit = RateLimit(10, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(21)] == [0] * 20 + [1]
    assert limit.take("b") == 0
    now[0] += 0.5
    assert [limit.take("a") for _ in range(6)] == [0] * 5 + [1]
    now[0] += 1000
    assert [limit.take("a") for _ in range(21)].count(0) == 20


def test_a_slow_rate_says_how_long_to_wait():
    limit = RateLimit(0.1, clock=lambda: 0.0)
    assert limit.take("a") == 8  # not one token in the bucket: 0.2 of 1, at 0.1 a second


def test_no_rate_is_no_limit():
    limit = RateLimit(0)
    assert {limit.take("a") for _ in range(1000)} == {0}


def test_each_key_has_its_own_rate(tmp_path, make_read_side):
    side = make_read_side(f"sqlite:///{tmp_path}/a.db", serve_rate_limit=1)
    busy, other = side.client("read"), side.client("read")
    statuses = [busy.get("/trips").status_code for _ in range(5)]
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 429
    refused = busy.get("/trips")
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["status"] == 429
    assert other.get("/trips").status_code == 200


def test_guessing_is_slowed_down_but_does_not_shut_out_who_has_a_key(here):
    guessing, right = here.client(Authorization="Bearer guess"), here.client("read")
    assert guessing.get("/trips").status_code == 401
    # On a slow machine some are forgiven in between.
    assert any(guessing.get("/trips").status_code == 429 for _ in range(3_000))
    assert right.get("/trips").status_code == 200


def test_bodies_and_queries_have_a_largest_size(tmp_path, make_read_side):
    side = make_read_side(f"sqlite:///{tmp_path}/a.db", serve_max_request_bytes=1024)
    client = side.client("admin")
    assert client.request("GET", "/trips", content=b"x" * 1024).status_code == 200
    assert client.request("GET", "/trips", content=b"x" * 1025).status_code == 413

    async def endless():
        while True:
            yield b"x" * 100

    assert client.request("GET", "/trips", content=endless()).status_code == 413
    answer = client.get("/trips", vehicle="x" * 9000)
    assert (answer.status_code, answer.headers["content-type"]) == (414, "application/problem+json")


def test_what_is_answered_and_refused_is_counted_by_route(here):
    client = here.client("read")
    client.get("/trips")
    client.get(f"/trips/{trip_id('v1', DAY)}")
    client.get("/trips/nonsense")
    client.get("/nothing")
    client.request("DELETE", f"/trips/{trip_id('v1', DAY)}")
    here.client().get("/trips")

    def count(route, method, status):
        labels = {"route": route, "method": method, "status": status}
        return here.metrics.registry.get_sample_value("trips_serve_requests_total", labels)

    assert count("/trips", "GET", "200") == 1
    assert count("/trips/{trip_id}", "GET", "200") == 1
    assert count("/trips/{trip_id}", "GET", "422") == 1
    assert count("/trips/{trip_id}", "DELETE", "403") == 1
    assert count("none", "GET", "404") == 1
    assert count("none", "GET", "401") == 1
    refused = {
        reason: here.metrics.registry.get_sample_value("trips_serve_refused_requests_total", {"reason": reason})
        for reason in ("unauthorized", "forbidden")
    }
    assert refused == {"unauthorized": 1, "forbidden": 1}


def test_a_database_that_is_gone_is_a_problem_without_words_of_its_own(tmp_path):
    side = ReadSide(f"sqlite:///{tmp_path}/a.db")
    client = side.client("read")
    with side.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trips")
    answer = client.get("/trips")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "no such table" not in answer.text
    with side.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE api_keys")
    assert side.client(Authorization=f"Bearer trips_aaaaaaaaaa_{'A' * 43}").get("/trips").status_code == 503
    side.close()
