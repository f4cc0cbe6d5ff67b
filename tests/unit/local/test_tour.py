from types import SimpleNamespace

import pytest
from aiohttp import web

from streams.errors import TripsError
from streams.local import tour
from streams.local.broker import free_ports
from streams.local.show import Story
from streams.settings import Settings

LOG = "what it said last"


class Facts:
    def __init__(self):
        self.told = []

    def step(self, text):
        self.told.append(text)

    def fact(self, text):
        self.told.append(" ".join(text.split()))


@pytest.fixture
async def at(monkeypatch):
    """Starts a server that answers as told, and a tour that asks it."""
    (port,) = free_ports(1)
    runners, guides = [], []

    async def begin(answers):
        async def answer(request):
            status, body = answers[request.method, request.path]
            return web.Response(status=status, text=body)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        runners.append(runner)
        guide = tour.guided(Settings.given(serve_port=port), Story(), Facts())
        one = await guide.__aenter__()
        guides.append(guide)
        one._serve = one._push = SimpleNamespace(name="the server", log=lambda: LOG, see_that_it_runs=lambda: None)
        return one

    monkeypatch.setattr(tour, "_WITHIN_S", 0.3)
    yield begin
    for guide in guides:
        await guide.__aexit__(None, None, None)
    for runner in runners:
        await runner.cleanup()


PLANNED = '{"tripId": 7, "tmsTripId": "TOUR-4711", "tripStatus": "Planned", "trips": []}'


async def test_a_plan_that_is_accepted_is_told_as_it_was_answered(at):
    one = await at(
        {
            ("POST", "/trip/plan"): (200, PLANNED),
            ("POST", "/trip/tripStatus"): (200, '{"success": true, "errorCode": 0}'),
            ("GET", "/trip/plan/7"): (200, PLANNED.replace("Planned", "InProgress")),
        }
    )
    await one.plan_a_trip()
    assert one._view.told[1:] == [
        "POST /trip/plan TOUR-4711 is tripId 7, Planned",
        "POST /trip/tripStatus status 1 (Accepted): success",
        "GET /trip/plan/7 InProgress, no trip yet",
    ]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, '{"success": false, "errorCode": -3}', "the plan could not be accepted: {'success': False"),
        (400, '{"ErrorType": "ArgumentException"}', "POST /trip/tripStatus was answered 400"),
        (500, "no JSON", "POST /trip/tripStatus was answered 500: no JSON"),
        (503, "{}", "waited 0 s for an answer to POST /trip/tripStatus; the log of the server"),
    ],
)
async def test_an_acceptance_that_is_not_a_success_is_an_error_with_the_servers_log(at, status, body, says):
    one = await at({("POST", "/trip/plan"): (200, PLANNED), ("POST", "/trip/tripStatus"): (status, body)})
    with pytest.raises(TripsError) as raised:
        await one.plan_a_trip()
    assert str(raised.value).startswith(says)
    assert str(raised.value).endswith(LOG)
    assert not any("Accepted" in line for line in one._view.told)


async def test_trips_that_do_not_come_are_an_error_and_nothing_is_told_of_them(at):
    one = await at({("GET", "/trips"): (200, '{"items": []}')})
    one._story.trips["T1"] = {"metadata": {"id": "E1", "type": "TripDataReady"}}
    with pytest.raises(TripsError, match="waited 0 s for 1 trips at GET /trips; the log of the server:\nwhat it said"):
        await one.look_around(None)
    assert one._view.told == ["Looking trips up over HTTP"]


async def test_a_server_that_is_gone_is_an_error_and_not_a_traceback(at):
    one = await at({})
    one._session._base_url = one._session._base_url.with_port(free_ports(1)[0])
    with pytest.raises(TripsError, match="the server did not answer GET /trips"):
        await one._get("/trips")
