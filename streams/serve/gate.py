"""What every request passes before anybody looks at what it asks for: who asks, how often, and how much is sent.

Without a key that counts nothing is answered, whatever the path. The one exception is a machine that only listens to
itself, and on which no key was ever made: development.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from streams.errors import DatabaseError
from streams.serve.keys import SCOPES, ApiKey
from streams.serve.problems import ProblemError, problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from streams.serve.keys import KeyStore
    from streams.serve.metrics import ServeMetrics

__all__ = ["Gate", "RateLimit", "needs"]

# A body that takes longer is not coming (seconds).
_BODY_TIMEOUT: Final = 15.0
_LONGEST_QUERY: Final = 8192
_BURST: Final = 2
_CALLERS: Final = 10_000
# Guessing is not promising, but noisy: a second, per address.
_WRONG_KEYS: Final = 50
# So many keys that are new to us are looked up at once: whoever guesses must not take the database from those who ask.
_LOOK_UPS: Final = 2
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="ignition-trips"'}
_EVERYTHING: Final = ApiKey(id="nobody", name="development", scopes=frozenset(SCOPES), created_at=0)
_LOOPBACK_HOST: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)


class RateLimit:
    """A token bucket for each caller.

    Args:
        rate: tokens a second; 0: no limit.
        clock: seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str) -> int:
        """Take a token: 0, or the seconds until there is one."""
        if not self._rate:
            return 0
        now = self._clock()
        tokens, at = self._buckets.get(caller, (self._rate * _BURST, now))
        tokens = min(self._rate * _BURST, tokens + (now - at) * self._rate)
        if tokens < 1:
            return max(1, math.ceil((1 - tokens) / self._rate))
        if caller not in self._buckets and len(self._buckets) >= _CALLERS:
            self._buckets.clear()
        self._buckets[caller] = tokens - 1, now
        return 0


class Gate:
    """ASGI middleware around the application.

    Args:
        app: what is behind it.
        keys: those that count.
        metrics: what is counted.
        rate: requests a second of each key.
        max_bytes: of a request's body.
        open_on_loopback: nobody but this machine can ask; without any key in the database everybody may.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyStore,
        metrics: ServeMetrics,
        rate: int,
        max_bytes: int,
        open_on_loopback: bool,
    ) -> None:
        self._app, self._keys, self._metrics, self._max_bytes = app, keys, metrics, max_bytes
        self._open = open_on_loopback
        self._opened = (-math.inf, False)
        self._rates, self._wrong = RateLimit(rate), RateLimit(_WRONG_KEYS)
        self._looking = asyncio.Semaphore(_LOOK_UPS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                scope.setdefault("state", {})["caller"] = await self._caller(scope)
                body = await self._body(scope, receive)
            except ProblemError as error:
                await error.response()(scope, receive, answer)
            except DatabaseError:
                refused = problem(503, "The database does not answer.", headers={"Retry-After": "5"})
                await refused(scope, receive, answer)
            except ClientDisconnect:
                return
            else:
                await self._app(scope, body, answer)
        finally:
            route = str(getattr(scope.get("route"), "path", "none"))
            self._metrics.answered(route, scope["method"], status, time.perf_counter() - began)

    async def _caller(self, scope: Scope) -> ApiKey:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        address = scope["client"][0] if scope.get("client") else ""
        if not token and await self._is_open(headers):
            caller = _EVERYTHING
        else:
            found = await self._find(token.strip()) if kind.lower() == "bearer" else None
            if found is None:
                wait = self._wrong.take(address)
                if wait:
                    raise self._too_many(wait)
                self._metrics.refused("unauthorized")
                raise ProblemError(
                    401, "Send an API key that counts: Authorization: Bearer trips_…", headers=_CHALLENGE
                )
            caller = found
        wait = self._rates.take(caller.id)
        if wait:
            raise self._too_many(wait)
        return caller

    def _too_many(self, wait: int) -> ProblemError:
        self._metrics.refused("rate_limited")
        return ProblemError(429, "Too many requests: slow down.", headers={"Retry-After": str(wait)})

    async def _find(self, token: str) -> ApiKey | None:
        try:
            return self._keys.remembered(token)
        except KeyError:
            # Who was right before does not stand in line with those who guess.
            async with nullcontext() if self._keys.was_right(token) else self._looking:
                return await anyio.to_thread.run_sync(self._keys.find, token)

    async def _is_open(self, headers: Mapping[bytes, str]) -> bool:
        # A web page that the developer visits must not ask: neither in the name of some host that leads here, nor by
        # this machine's own. A browser says which page asks, or at least that it is another site's.
        if not self._open or _LOOPBACK_HOST.fullmatch(headers.get(b"host", "")) is None:
            return False
        if b"origin" in headers or headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            return False
        looked, opened = self._opened
        if time.monotonic() - looked > 1:
            opened = not await anyio.to_thread.run_sync(self._keys.any_ever)
            self._opened = time.monotonic(), opened
        return opened

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The whole body, as long as it is not too much."""
        if len(scope.get("query_string", b"")) > _LONGEST_QUERY:
            raise self._too_large(414, f"The query is longer than {_LONGEST_QUERY} bytes.")
        parts, size = [], 0
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_bytes:
                        raise self._too_large(413, f"The body is longer than {self._max_bytes} bytes.")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ProblemError(
                408, f"The body did not come within {_BODY_TIMEOUT:.0f} s.", headers={"Connection": "close"}
            ) from None
        body: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            first, body = body, None
            return first if first is not None else await receive()

        return replay

    def _too_large(self, status: int, detail: str) -> ProblemError:
        self._metrics.refused("too_large")
        return ProblemError(status, detail, headers={"Connection": "close"})


def needs(scope: str) -> Callable[[Request], None]:
    """A dependency: the caller's key must be for this scope."""

    def check(request: Request) -> None:
        caller: Any = request.scope["state"]["caller"]
        if not caller.allows(scope):
            request.app.state.metrics.refused("forbidden")
            raise ProblemError(
                403, f"This key is not for {scope!r}: `trips keys create --scope {scope}` makes one that is."
            )

    return check
