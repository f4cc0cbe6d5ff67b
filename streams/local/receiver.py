"""An endpoint for pushes on this machine, as a customer would have one: the demo's.

It refuses the first attempt to tell of a deleted trip, so that there is a second one to see.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import orjson
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Attempt", "Receiver"]

_TAKEN: Final = 204
_REFUSED: Final = 503
_NOT_FROM_YOU: Final = 401
_DELETED: Final = "TripDeleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A request that came from whom it says it is from, and what it was answered.

    Attributes:
        profile: how it was pushed.
        id: of the delivery, the same at every attempt; of drivequant, which has none: the trip's.
        event: what it tells of.
        trip_id: of which trip.
        body: as it came.
        status: the answer.
        at: when, on the monotonic clock, in seconds.
    """

    profile: Literal["standard", "drivequant"]
    id: str
    event: str
    trip_id: str
    body: dict[str, Any]
    status: int
    at: float

    @property
    def taken(self) -> bool:
        """Whether it was taken, or refused."""
        return self.status == _TAKEN


class Receiver:
    """Listens on 127.0.0.1 for as long as the block lasts.

    Attributes:
        secret: what Standard Webhooks are signed with; made for this run.
        authorization: the header that drivequant's pushes have; likewise.
        attempts: what came, in order.
        forged: how many requests came that were not signed, or not as they must be. They are answered 401.
        port: where it listens.
    """

    def __init__(self) -> None:
        self.secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
        self.authorization = f"Bearer {secrets.token_urlsafe(24)}"
        self.attempts: list[Attempt] = []
        self.forged = 0
        self.port = 0
        application = web.Application()
        application.add_routes([web.post("/standard", self._standard), web.post("/drivequant", self._drivequant)])
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def url(self, profile: Literal["standard", "drivequant"]) -> str:
        """Where the pushes of a profile go."""
        return f"http://127.0.0.1:{self.port}/{profile}"

    async def _standard(self, request: web.Request) -> web.Response:
        payload = await request.read()
        try:
            # The library of the standard, not our own code: it is to be seen that others can verify what we sign.
            body = Webhook(self.secret).verify(payload, dict(request.headers))
        except (WebhookVerificationError, ValueError):
            return self._forged()
        delivery, event = request.headers["webhook-id"], body["metadata"]["type"]
        is_first = all(attempt.id != delivery for attempt in self.attempts)
        status = _REFUSED if event == _DELETED and is_first else _TAKEN
        return self._answer(
            Attempt(
                profile="standard",
                id=delivery,
                event=event,
                trip_id=body["data"]["trip"]["id"],
                body=body,
                status=status,
                at=time.monotonic(),
            )
        )

    async def _drivequant(self, request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), self.authorization.encode()):
            return self._forged()
        body = orjson.loads(await request.read())
        return self._answer(
            Attempt(
                profile="drivequant",
                id=body["itinId"],
                event=body["event"],
                trip_id=body["itinId"],
                body=body,
                status=_TAKEN,
                at=time.monotonic(),
            )
        )

    def _answer(self, attempt: Attempt) -> web.Response:
        self.attempts.append(attempt)
        return web.Response(status=attempt.status)

    def _forged(self) -> web.Response:
        self.forged += 1
        return web.Response(status=_NOT_FROM_YOU)
