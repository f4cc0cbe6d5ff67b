"""One attempt over HTTP: what is sent, where it may go, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from streams.push import profiles
from streams.push.aside import Aside
from streams.push.credentials import CredentialError, resolve, signing_key
from streams.push.guard import Guard, GuardedResolver, RefusedAddressError, RefusedUrlError
from streams.push.processor import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streams.push.guard import Policy
    from streams.push.subscriptions import Subscription
    from streams.settings import Settings

__all__ = ["Endpoint", "ssl_context"]

# An answer's body does not matter. So much of it is read that a connection can be used again, and no more.
_READ_AT_MOST: Final = 16 * 1024
_READ_FOR_S: Final = 2.0
# A connection that an endpoint closes while we send on it anew fails the attempt. Common servers keep idle ones for 5 s
# and more.
_IDLE_S: Final = 4.0
_AGENT: Final = "ignition-trips-push/1"
TEST_HEADER: Final = "X-Ignition-Trips-Test"


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """By what endpoints are trusted."""
    context = ssl.create_default_context()
    if settings.push_ssl_cafile is not None:
        context.load_verify_locations(cafile=settings.push_ssl_cafile)
    return context


class Endpoint:
    """Where a subscription's deliveries go: connections of its own, so that no other one waits for them.

    Args:
        subscription: what is asked for.
        policy: where it may go.
        secrets: the folder of secrets.
        trust: by what endpoints are trusted.
        now: the wall clock, epoch ms.
        lookup: ``getaddrinfo``, or what stands for it in tests.
    """

    def __init__(
        self,
        subscription: Subscription,
        policy: Policy,
        secrets: Path,
        trust: ssl.SSLContext,
        now: Callable[[], int],
        *,
        lookup: Callable[[str, int], list[Any]] | None = None,
    ) -> None:
        self.subscription = subscription
        self._policy = policy
        self._secrets = secrets
        self._trust = trust
        self._now = now
        self._lookup = lookup
        self._guard: Guard | None = None
        self._resolver: GuardedResolver | None = None
        self._session: aiohttp.ClientSession | None = None
        self._reader = Aside("credentials")

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()
        self._reader.close()

    async def attempt(self, payload: bytes, delivery_id: str, *, is_test: bool = False) -> Outcome:
        """Make an attempt. Never raises, but when it is cancelled.

        Args:
            payload: the announcement.
            delivery_id: the same at every attempt.
            is_test: it is marked as no real one.
        """
        at_ms, began = self._now(), time.monotonic()
        status, error, retry_after, made = None, None, None, True
        try:
            request = await self._prepared(payload, delivery_id, at_ms // 1000)
            headers = {**request.headers, **({TEST_HEADER: "true"} if is_test else {})}
            async with asyncio.timeout(self.subscription.limits.timeout):
                answer = await self._post(headers, request.body)
            status, retry_after = answer.status, answer.headers.get("Retry-After")
            await _skim(answer)
        except CredentialError as reason:
            error, made = str(reason), False
        except (RefusedUrlError, RefusedAddressError, profiles.WrongEventError) as reason:
            error = f"refused: {reason}"
        except TimeoutError:
            error = f"no answer within {self.subscription.limits.timeout:g} s"
        except Exception as reason:  # noqa: BLE001 - whatever an endpoint does to us, it is a failed attempt
            error = _explain(reason)
        if status is not None and not 200 <= status < 300:
            error = f"HTTP {status}"
        return Outcome(
            at_ms=at_ms,
            seconds=time.monotonic() - began,
            status=status,
            error=error,
            retry_after_s=profiles.retry_after_s(retry_after, self._now()),
            gone=status == 410 and self.subscription.profile == "standard",
            made=made,
        )

    async def _prepared(self, payload: bytes, delivery_id: str, seconds: int) -> profiles.Request:
        """The request; with credentials from files, read in a thread: a folder may be far away, and hang."""
        one = self.subscription
        if not any(reference.startswith("file:") for reference in (*one.secrets, one.authorization or "")):
            return self._request(payload, delivery_id, seconds)
        try:
            async with asyncio.timeout(one.limits.timeout):
                return await self._reader.run(self._request, payload, delivery_id, seconds)
        except TimeoutError:
            raise CredentialError(f"its credentials cannot be read within {one.limits.timeout:g} s") from None

    def _request(self, payload: bytes, delivery_id: str, seconds: int) -> profiles.Request:
        one = self.subscription
        authorization = None if one.authorization is None else resolve(one.authorization, self._secrets)
        if one.profile == "drivequant":
            return profiles.drivequant(payload, authorization)
        keys = [signing_key(reference, self._secrets) for reference in one.secrets]
        return profiles.standard(payload, delivery_id, seconds, keys, authorization)

    async def _post(self, headers: dict[str, str], body: bytes) -> aiohttp.ClientResponse:
        """The answer, as far as its headers."""
        if self._guard is None:
            self._guard = Guard(self.subscription.url, self._policy)
        session = self._connect(self._guard)
        return await session.post(self._guard.url, data=body, headers=headers, allow_redirects=False)

    def _connect(self, guard: Guard) -> aiohttp.ClientSession:
        if self._session is None:
            self._resolver = GuardedResolver(guard, self._lookup)
            is_daily = self.subscription.profile == "drivequant"
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,
                socket_factory=guard.socket,
                ssl=self._trust,
                limit=0,  # the dispatcher's business
                # An attempt that failed costs a day with drivequant, and deletions are rare: a new connection each.
                force_close=is_daily,
                keepalive_timeout=None if is_daily else _IDLE_S,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # no proxies from the environment: they would connect to anything for us
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"User-Agent": _AGENT},
                raise_for_status=False,
            )
        return self._session


async def _skim(answer: aiohttp.ClientResponse) -> None:
    """The status has been told, and that is what counts: whatever happens here changes nothing."""
    left = _READ_AT_MOST
    try:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_READ_FOR_S):
                while left > 0 and (some := await answer.content.read(left)):
                    left -= len(some)
                if left > 0:
                    answer.release()  # that was all of it: the connection may be used again
    finally:
        answer.close()


def _explain(error: Exception) -> str:
    """What went wrong, in a few words, without the URL: it may hold a secret."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the name does not resolve"
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {_words(getattr(error.certificate_error, 'verify_message', '') or 'certificate refused')}"
        case aiohttp.ClientSSLError():
            return f"TLS: {_words(getattr(error.os_error, 'reason', '') or 'handshake failed')}"
        case aiohttp.ClientConnectorError(os_error=RefusedAddressError() | RefusedUrlError() as reason):
            return f"refused: {reason}"
        case aiohttp.ClientConnectorError():
            return f"cannot connect: {_words(error.os_error.strerror or 'no reason given')}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case aiohttp.ClientOSError():
            return f"the connection broke: {_words(error.strerror or type(error).__name__)}"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ClientResponseError():
            return "the answer is no HTTP"
        case _:
            return f"{type(error).__name__}"


def _words(text: str) -> str:
    return " ".join(text.split())[:120]
