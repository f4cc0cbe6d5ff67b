"""What the tests of pushes have in common: subscriptions, senders, and a clock in the test's hand."""

import asyncio
import base64
import heapq
import itertools
import ssl

from streams.push.guard import Policy
from streams.push.sender import Endpoint
from streams.push.subscriptions import Book, Entry, Subscription, subscription_key
from streams.settings import Settings

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NEW_SECRET = base64.b64encode(bytes(range(32, 64))).decode()  # without the prefix: allowed, too
AUTHORIZATION = "Basic Y3VzdG9tZXI6c2VjcmV0"
START = 1_772_352_000_000  # 2026-03-01T08:00:00Z
DAY = 86_400_000
LOOPBACK = Policy.of(Settings.given(push_allowed_networks="127.0.0.0/8"))


def subscription(url="https://example.com/push", *, profile="drivequant", name="one", **more):
    if profile == "standard":
        more.setdefault("secrets", ("env:PUSH_SECRET_ONE",))
    return Subscription(id=name, url=url, profile=profile, **more)


def entry(definition, *, uid=None, **more):
    return Entry(
        uid=uid or f"{abs(hash(definition.id)) % 16**16:016x}",
        added_at="2026-03-01T08:00:00.000Z",
        source="command",
        begins=more.pop("begins", {}),
        definition=definition,
        **more,
    )


def book_of(*entries, tenants=None):
    book = Book()
    for one in entries:
        book.take(subscription_key(one.definition.id), one.record())
    book.tenants |= tenants or {}
    return book


def sender(definition, tmp_path, *, now=lambda: START, trust=None):
    return Endpoint(definition, LOOPBACK, tmp_path, trust or ssl.create_default_context(), now)


class HandClock:
    """Stands still until somebody moves it; whoever waits wakes up when its time has come."""

    def __init__(self, now_ms=START):
        self._now = now_ms
        self._waiting = []
        self._order = itertools.count()

    def now_ms(self):
        return self._now

    def monotonic(self):
        return self._now / 1000

    async def wait(self, event, seconds):
        due = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._now + max(1, int(seconds * 1000)), next(self._order), due))
        woken = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([due, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            due.cancel()

    def move(self, milliseconds):
        self._now += milliseconds
        while self._waiting and self._waiting[0][0] <= self._now:
            _, _, due = heapq.heappop(self._waiting)
            if not due.done():
                due.set_result(None)


class Record:
    timestamp = START

    def __init__(self, offset, key, value, headers):
        self.offset, self.key, self.value, self.headers = offset, key, value, headers
