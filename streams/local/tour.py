"""What ``trips demo --full`` shows besides: planned trips, looking trips up, deleting one, and pushes.

Two more processes run beside the worker, ``trips push worker`` and ``trips serve``, and an endpoint of our own takes
what is pushed. Everything that is told was answered or pushed in this run. What does not come true in time is an error,
with the log of the process that should have done it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
import orjson

from streams.errors import TripsError
from streams.local.processes import LOOK_EVERY_S, Process, new_folder
from streams.local.receiver import Receiver
from streams.local.words import clock_time, day_and_time, distance
from streams.push.report import report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from streams.local.receiver import Attempt
    from streams.local.show import Story, View
    from streams.settings import Settings

__all__ = ["Tour", "guided"]

_Found = TypeVar("_Found")

# One drive of the recording, and when its driver has accepted it: before it began.
_PLAN: Final = {
    "tmsTripId": "TOUR-4711",
    "vehicleId": "omaha-3",
    "windowStart": "2019-05-28T00:00:00Z",
    "windowEnd": "2019-05-28T06:00:00Z",
}
_ACCEPTED: Final = {
    "tmsTripId": _PLAN["tmsTripId"],
    "status": 1,
    "timeStamp": "2019-05-28T00:10:00Z",
    "loc": {"Coords": {"Lat": "41.256538", "Lon": "-95.934502"}},
}
# Standard Webhooks tries again after 5 s: after half a second, then, give or take a tenth.
_RETRY_SCALE: Final = 0.1
_WITHIN_S: Final = 20.0
# An answer that waits for a decision, or for a worker, takes 10 s at most.
_ANSWER_WITHIN_S: Final = 15.0
_PROFILES: Final = ("standard", "drivequant")
_DELETIONS: Final = frozenset({"TripDeleted", "TRIP_DELETION"})
_SHOWN_WIDTH: Final = 36


@asynccontextmanager
async def guided(settings: Settings, story: Story, view: View) -> AsyncIterator[Tour]:
    """A tour, with its two processes; whoever guides it ends them before the block ends."""
    async with (
        Receiver() as receiver,
        aiohttp.ClientSession(
            f"http://127.0.0.1:{settings.serve_port}", timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
        ) as session,
    ):
        yield Tour(settings, story, view, receiver, session)


class Tour:
    """One tour.

    Args:
        settings: of the demo; its ports are free.
        story: what was announced.
        view: where to tell it.
        receiver: takes the pushes.
        session: asks the server.

    Attributes:
        summary: what was seen, in lines.
    """

    def __init__(
        self, settings: Settings, story: Story, view: View, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        self._settings = settings
        self._story = story
        self._view = view
        self._receiver = receiver
        self._session = session
        self._plan = 0
        self.summary: list[str] = []

    def start(self, processes: list[Process]) -> None:
        """Start the two processes; each is in the list, to be ended, as soon as it runs."""
        settings, receiver = self._settings, self._receiver
        folder = new_folder()
        subscriptions = folder / "subscriptions.json"
        subscriptions.write_bytes(
            orjson.dumps(
                {
                    "subscriptions": [
                        {
                            "id": "demo-standard",
                            "url": receiver.url("standard"),
                            "profile": "standard",
                            "events": [settings.ready_event_name, "TripDeleted"],
                            "secrets": ["env:PUSH_SECRET_DEMO"],
                        },
                        {
                            "id": "demo-drivequant",
                            "url": receiver.url("drivequant"),
                            "profile": "drivequant",
                            "authorization": "env:PUSH_SECRET_DEMO_AUTHORIZATION",
                        },
                    ]
                }
            )
        )
        self._push = Process(
            "the push worker",
            ["push", "worker"],
            settings,
            port=settings.push_http_port,
            folder=folder,
            environment={
                "TRIPS_PUSH_HTTP_PORT": str(settings.push_http_port),
                "TRIPS_PUSH_FILE": str(subscriptions),
                "TRIPS_PUSH_ALLOWED_NETWORKS": "127.0.0.1",
                "TRIPS_PUSH_RETRY_SCALE": str(_RETRY_SCALE),
                "PUSH_SECRET_DEMO": receiver.secret,
                "PUSH_SECRET_DEMO_AUTHORIZATION": receiver.authorization,
            },
        )
        processes.append(self._push)
        folder = new_folder()
        self._serve = Process(
            "the server",
            ["serve"],
            settings,
            port=settings.serve_http_port,
            folder=folder,
            environment={
                "TRIPS_SERVE_HOST": settings.serve_host,
                "TRIPS_SERVE_PORT": str(settings.serve_port),
                "TRIPS_SERVE_HTTP_PORT": str(settings.serve_http_port),
                "TRIPS_SERVE_DATABASE": f"sqlite:///{folder / 'trips.sqlite3'}",
            },
        )
        processes.append(self._serve)

    # -- before the drives -----------------------------------------------------------------------------------------

    async def plan_a_trip(self) -> None:
        """A trip is planned and accepted; nothing is linked to it yet."""
        self._view.step(f"Planning a trip of {_PLAN['vehicleId']}, which its driver accepts")
        plan = await self._decided("POST", "/trip/plan", _PLAN)
        self._plan = plan["tripId"]
        self._tell("POST /trip/plan", f"{plan['tmsTripId']} is tripId {self._plan}, {plan['tripStatus']}")
        answer = await self._decided("POST", "/trip/tripStatus", _ACCEPTED)
        if answer != {"success": True, "errorCode": 0}:
            raise TripsError(f"the plan could not be accepted: {answer}; the log of the server:\n{self._serve.log()}")
        self._tell("POST /trip/tripStatus", f"status {_ACCEPTED['status']} (Accepted): success")
        plan = await self._get(f"/trip/plan/{self._plan}")
        self._tell(f"GET /trip/plan/{self._plan}", self._in_words(plan))

    # -- after them ------------------------------------------------------------------------------------------------

    async def look_around(self, catch_up: Callable[[], Awaitable[None]]) -> None:
        """Trips are looked up, one is deleted, and what is pushed of it comes.

        Args:
            catch_up: reads the announcements that are there by now.
        """
        ready = {
            trip_id: word
            for trip_id, word in self._story.trips.items()
            if word["metadata"]["type"] == self._settings.ready_event_name
        }
        plan = await self._look_up(ready)
        pushed = await self._see_pushes(ready)
        gone = max(set(ready) - {trip["id"] for trip in plan["trips"]}, default=None)
        if gone is None:
            raise TripsError("there is no trip to delete: do your settings make the recorded drives too short?")
        await self._delete(gone, ready[gone]["data"]["trip"], catch_up)
        delivered = await self._see_push_of_deletion(gone, pushed)
        left = await self._see_that_it_is_gone(gone, set(ready) - {gone})
        self._view.step("Looking at the planned trip")
        plan = await self._get(f"/trip/plan/{self._plan}")
        self._tell(f"GET /trip/plan/{self._plan}", self._in_words(plan))
        self.summary += [
            f"{len(ready)} trips looked up over HTTP; 1 of them deleted, {left} left.",
            f"{delivered} pushes delivered, the one of its deletion at the second attempt.",
            f"Plan {plan['tmsTripId']}: {self._in_words(plan)}.",
        ]

    async def _look_up(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Returns the plan with the trip that is linked to it."""
        self._view.step("Looking trips up over HTTP")

        async def all_there() -> list[dict[str, Any]] | None:
            items: list[dict[str, Any]] = (await self._get("/trips?status=FINISHED"))["items"]
            return items if {trip["id"] for trip in items} == set(ready) else None

        items = await self._until(f"{len(ready)} trips at GET /trips", all_there, self._serve)
        vehicles = Counter(trip["vehicle_id"] for trip in items)
        each = ", ".join(f"{count} of {vehicle}" for vehicle, count in sorted(vehicles.items()))
        self._tell("GET /trips?status=FINISHED", f"{len(items)} trips: {each}")

        async def linked() -> dict[str, Any] | None:
            found = await self._get(f"/trip/plan/{self._plan}")
            return found if found["trips"] and "end" in found["trips"][-1] else None

        plan = await self._until(f"a trip that is linked to {_PLAN['tmsTripId']}", linked, self._serve)
        trip_id = plan["trips"][0]["id"]
        detail = await self._get(f"/trips/{trip_id}")
        trip = detail["trip"]
        told = ", ".join(word["metadata"]["type"] for word in detail["history"])
        of = f", {detail['plan']['tripStatus']} as {detail['plan']['tmsTripId']}" if "plan" in detail else ""
        self._tell("GET /trips/{trip_id}", f"trip {trip['key']}: {distance(trip['metrics'])}{of}; {told}")
        route = await self._get(f"/trips/{trip_id}/route")
        points = len(route["geometry"]["coordinates"]) if route["geometry"] else 0
        self._tell("GET /trips/{trip_id}/route", f"a line of {points} positions ({route['properties']['source']})")
        state = await self._get(f"/vehicles/{trip['vehicle_id']}/state")
        parked = "" if state["on_trip"] else f", parked since {day_and_time(state['last_end']['end']['timestamp'])}"
        now = f"on a trip: {'yes' if state['on_trip'] else 'no'}{parked}"
        self._tell(f"GET /vehicles/{trip['vehicle_id']}/state", now)
        return plan

    async def _see_pushes(self, ready: dict[str, Any]) -> int:
        """Returns how many were taken."""
        self._view.step("Receiving pushes")
        due = {f"{word['metadata']['id']}-demo-standard" for word in ready.values()}

        async def all_taken() -> list[Attempt] | None:
            taken = [attempt for attempt in self._receiver.attempts if attempt.taken]
            return taken if {attempt.id for attempt in taken} >= due else None

        taken = await self._until(f"{len(due)} pushes", all_taken, self._push)
        counts = Counter(attempt.event for attempt in taken)
        events = ", ".join(f"{count} {event}" for event, count in counts.items())
        self._tell("Standard Webhooks", f"{events}: each is signed as it must be, and taken")
        return len({attempt.id for attempt in taken})

    async def _delete(self, trip_id: str, trip: dict[str, Any], catch_up: Callable[[], Awaitable[None]]) -> None:
        self._view.step(f"Deleting trip {trip['key']} of {trip['vehicle_id']}")

        async def deleted() -> dict[str, Any] | None:
            # 202: the worker has not answered in time; asking again does no harm.
            status, answer = await self._ask("DELETE", f"/trips/{trip_id}")
            if status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
                raise self._refused("DELETE", f"/trips/{trip_id}", status, answer)
            return answer if status == HTTPStatus.OK else None

        answer = await self._until(f"the deletion of trip {trip['key']}", deleted, self._serve)
        self._tell("DELETE /trips/{trip_id}", f"{answer['state']}, requested at {answer['requested_at']}")
        await catch_up()

    async def _see_push_of_deletion(self, trip_id: str, before: int) -> int:
        """Returns how many pushes were delivered by then, as the push workers count them."""
        self._view.step("Receiving the pushes of its deletion; the first attempt is refused")

        async def both_taken() -> dict[str, list[Attempt]] | None:
            of_it = [one for one in self._receiver.attempts if one.trip_id == trip_id and one.event in _DELETIONS]
            found = {profile: [one for one in of_it if one.profile == profile] for profile in _PROFILES}
            return found if all(any(one.taken for one in attempts) for attempts in found.values()) else None

        found = await self._until("the push of the deletion", both_taken, self._push)
        if self._receiver.forged:
            raise TripsError(f"{self._receiver.forged} pushes were not signed as they must be")
        first, second = found["standard"][0], next(one for one in found["standard"] if one.taken)
        if first.taken or first.id != second.id:
            raise TripsError(f"no second attempt with the same id was needed: {first.id}, {second.id}")
        self._tell("Standard Webhooks, 1st attempt", f"{first.event}: HTTP {first.status}")
        again = f"{second.event}: HTTP {second.status}, {second.at - first.at:.1f} s later, with the same webhook-id"
        self._tell("2nd attempt", again)
        (drivequant,) = found["drivequant"][:1]
        self._tell("DriveQuant", f"{orjson.dumps(drivequant.body).decode()}: HTTP {drivequant.status}")

        due = before + len(_PROFILES)

        async def counted() -> int | None:
            lines = await report(self._settings)
            delivered = sum(line.delivered for line in lines)
            return delivered if delivered >= due and not any(line.waiting for line in lines) else None

        delivered = await self._until(f"{due} deliveries in trips push report", counted, self._push)
        self._tell("trips push report", f"{delivered} delivered, 0 waiting")
        return delivered

    async def _see_that_it_is_gone(self, trip_id: str, others: set[str]) -> int:
        """Returns how many trips are left."""
        self._view.step("Looking for the deleted trip")

        async def gone() -> dict[str, Any] | None:
            status, answer = await self._ask("GET", f"/trips/{trip_id}")
            if status not in (HTTPStatus.OK, HTTPStatus.GONE):
                raise self._refused("GET", f"/trips/{trip_id}", status, answer)
            return answer if status == HTTPStatus.GONE else None

        answer = await self._until("a deleted trip that is gone", gone, self._serve)
        self._tell("GET /trips/{trip_id}", f"HTTP {answer['status']}: {answer['detail']}")
        left: list[Any] = (await self._get("/trips?status=FINISHED"))["items"]
        if {trip["id"] for trip in left} != others:
            raise TripsError(f"{len(left)} trips are left, and not the {len(others)} that were not deleted")
        self._tell("GET /trips?status=FINISHED", f"{len(left)} trips")
        return len(left)

    def _in_words(self, plan: dict[str, Any]) -> str:
        trips = [
            f"trip {self._story.trips[trip['id']]['data']['trip']['key']}, "
            f"{day_and_time(trip['start'])} to {clock_time(trip.get('end')) or 'now'}"
            for trip in plan["trips"]
        ]
        return f"{plan['tripStatus']}, " + (f"linked to {'; '.join(trips)}" if trips else "no trip yet")

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _decided(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Ask for a decision; where none comes (503), asking again is what the answer says to do."""

        async def decided() -> dict[str, Any] | None:
            status, answer = await self._ask(method, path, body)
            if status not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE):
                raise self._refused(method, path, status, answer)
            return answer if status == HTTPStatus.OK else None

        return await self._until(f"an answer to {method} {path}", decided, self._serve)

    async def _get(self, path: str) -> dict[str, Any]:
        status, answer = await self._ask("GET", path)
        if status != HTTPStatus.OK:
            raise self._refused("GET", path, status, answer)
        return answer

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        try:
            async with self._session.request(method, path, json=body) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._serve.see_that_it_runs()
            raise TripsError(
                f"the server did not answer {method} {path} ({error!r}); its log:\n{self._serve.log()}"
            ) from error
        try:
            return response.status, orjson.loads(text)
        except ValueError:
            raise self._refused(method, path, response.status, text) from None

    def _refused(self, method: str, path: str, status: int, answer: object) -> TripsError:
        return TripsError(f"{method} {path} was answered {status}: {answer}; the server's log:\n{self._serve.log()}")

    async def _until(self, what: str, look: Callable[[], Awaitable[_Found | None]], process: Process) -> _Found:
        """Look until there is something.

        Raises:
            TripsError: there is nothing in time, or the process ends.
        """
        deadline = time.monotonic() + _WITHIN_S
        while (found := await look()) is None:
            process.see_that_it_runs()
            if time.monotonic() > deadline:
                forged = f" ({self._receiver.forged} came with a wrong signature)" if self._receiver.forged else ""
                raise TripsError(
                    f"waited {_WITHIN_S:.0f} s for {what}{forged}; the log of {process.name}:\n{process.log()}"
                )
            await asyncio.sleep(LOOK_EVERY_S)
        return found

    def _tell(self, asked: str, seen: str) -> None:
        self._view.fact(f"{asked:<{_SHOWN_WIDTH}} {seen}")
