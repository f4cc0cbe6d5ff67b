"""Lanes with senders of the test's own, and a clock in its hand."""

import asyncio
import itertools

import pytest
from pushing import START, HandClock, book_of, entry, subscription

from streams.push.deliveries import Delivery
from streams.push.dispatcher import Dispatcher
from streams.push.processor import Outcome
from streams.push.subscriptions import Switch, subscription_key

PAUSED = Switch(at="2026-03-01T08:00:00.000Z", reason="paused")


class Sender:
    """Answers at once, or when it is let."""

    def __init__(self, definition):
        self.definition = definition
        self.sent = []
        self.under_way = 0
        self.most = 0
        self.closed = False
        self.free = asyncio.Event()

    async def attempt(self, _payload, delivery_id):
        self.sent.append(delivery_id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if "slow" in self.definition.url:
                await self.free.wait()
        finally:
            self.under_way -= 1
        return Outcome(START, 0.0, 200)

    async def close(self):
        self.closed = True


class Bench:
    def __init__(self, *entries):
        self.clock = HandClock()
        self.book = book_of(*entries)
        self.senders = {}
        self.settled = []
        self.failures = []
        self.numbers = iter(range(10_000))
        self.dispatcher = Dispatcher(self.book, self.new_sender, self.clock, self.settle, self.failures.append)

    def new_sender(self, definition):
        self.senders[definition.id] = Sender(definition)
        return self.senders[definition.id]

    def settle(self, partition, delivery, _entry, outcome):
        self.settled.append((partition, delivery.id, outcome.status))

    def deliveries(self, one, count, *, due=START):
        return [
            Delivery(number, one.uid, one.definition.id, f"e{number}", "TripEnded", "01T", "V", START, due)
            for number in (next(self.numbers) for _ in range(count))
        ]

    def change(self, one):
        self.book.take(subscription_key(one.definition.id), one.record())
        self.dispatcher.book_changed()

    async def rest(self):
        for _ in range(30):
            await asyncio.sleep(0)


@pytest.fixture
async def bench():
    made = []

    def make(*entries):
        made.append(Bench(*entries))
        return made[-1]

    yield make
    for one in made:
        await one.dispatcher.close()


def lane(name, *, slow=False, rate=10_000, concurrency=4, **more):
    url = f"https://{'slow' if slow else 'quick'}.example/push"
    limits = {"rate": rate, "concurrency": concurrency}
    return entry(subscription(url, name=name, limits=limits), **more)


async def drain(one, steps=50):
    for _ in range(steps):
        one.clock.move(1)
        await one.rest()


async def test_a_dead_endpoint_holds_nobody_up_but_itself(bench):
    slow, quick = lane("slow", slow=True, concurrency=2), lane("quick")
    one = bench(slow, quick)
    one.dispatcher.schedule(0, one.deliveries(slow, 50))
    one.dispatcher.schedule(0, one.deliveries(quick, 50))
    await drain(one, 100)
    assert one.senders["slow"].most == 2
    assert len(one.senders["slow"].sent) == 2
    assert len(one.senders["quick"].sent) == 50
    assert len(one.settled) == 50
    assert one.dispatcher.under_way == 2


async def test_no_more_at_once_than_allowed_and_all_in_the_end(bench):
    slow = lane("slow", slow=True, concurrency=3)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 10))
    await drain(one)
    one.senders["slow"].free.set()
    await drain(one)
    assert one.senders["slow"].most == 3
    assert len(one.settled) == 10


async def test_no_more_a_second_than_allowed(bench):
    slow = lane("quick", rate=10)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 100))
    counts = []
    for _ in range(5):
        for _ in range(100):
            one.clock.move(10)
            await one.rest()
        counts.append(len(one.senders["quick"].sent))
    steps = [later - earlier for earlier, later in itertools.pairwise(counts)]
    assert all(9 <= step <= 10 for step in steps), counts
    assert counts[0] <= 11


async def test_what_is_due_later_is_sent_later_and_in_order(bench):
    one_lane = lane("quick", concurrency=1)
    one = bench(one_lane)
    late, soon, now = (one.deliveries(one_lane, 1, due=START + seconds * 1000)[0] for seconds in (60, 5, 0))
    one.dispatcher.schedule(0, [late, soon, now])
    await drain(one)
    assert one.senders["quick"].sent == [now.id]
    one.clock.move(5000)
    await drain(one)
    assert one.senders["quick"].sent == [now.id, soon.id]
    one.clock.move(60_000)
    await drain(one)
    assert one.senders["quick"].sent == [now.id, soon.id, late.id]


async def test_what_rests_waits_and_goes_on(bench):
    paused = lane("quick", off=PAUSED)
    one = bench(paused)
    one.dispatcher.schedule(0, one.deliveries(paused, 3))
    await drain(one)
    assert one.senders["quick"].sent == []
    one.change(lane("quick"))
    await drain(one)
    assert len(one.settled) == 3


async def test_one_that_is_gone_rests_at_once(bench):
    quick = lane("quick", concurrency=1)
    one = bench(quick)
    one.dispatcher.schedule(0, one.deliveries(quick, 1))
    await drain(one)
    one.dispatcher.rest(quick.uid, PAUSED)
    one.dispatcher.schedule(0, one.deliveries(quick, 5))
    await drain(one)
    assert len(one.settled) == 1


async def test_what_an_endpoint_has_said_holds_until_the_book_says_it(bench):
    quick = lane("quick")
    one = bench(quick)
    one.dispatcher.schedule(0, one.deliveries(quick, 1))
    await drain(one)
    assert one.dispatcher.rest(quick.uid, PAUSED)
    assert not one.dispatcher.rest(quick.uid, PAUSED)  # it rests already
    one.dispatcher.schedule(0, one.deliveries(quick, 1))
    one.change(lane("other"))  # somebody adds another one
    one.change(lane("quick", concurrency=9))
    await drain(one)
    assert len(one.settled) == 1
    one.change(lane("quick", off=PAUSED))
    one.dispatcher.rest_by_book(quick.uid)
    await drain(one)
    assert len(one.settled) == 1
    one.change(lane("quick"))
    await drain(one)
    assert len(one.settled) == 2


async def test_a_higher_rate_counts_at_once(bench):
    slow = lane("quick", rate=0.001)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 3))
    await drain(one)
    assert len(one.settled) == 1
    one.change(lane("quick", rate=1000))
    await drain(one)
    assert len(one.settled) == 3


async def test_a_removed_subscription_is_sent_nothing_more(bench):
    slow = lane("slow", slow=True, concurrency=1)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 5))
    await drain(one)
    one.book.take(subscription_key("slow"), None)
    one.dispatcher.book_changed()
    await drain(one)
    assert one.senders["slow"].closed
    assert len(one.senders["slow"].sent) == 1
    one.dispatcher.schedule(0, one.deliveries(slow, 1))
    await drain(one)
    assert len(one.senders["slow"].sent) == 1


async def test_a_changed_subscription_goes_on_with_what_it_says_now(bench):
    slow = lane("one", slow=True, concurrency=1)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 3))
    await drain(one)
    before = one.senders["one"]
    one.change(lane("one", concurrency=2))
    await drain(one)
    assert len(one.senders["one"].sent) == 2
    assert not before.closed  # an attempt is under way with it
    before.free.set()
    await drain(one)
    assert before.closed
    assert len(one.settled) == 3


async def test_a_subscription_that_is_removed_after_it_was_changed_leaves_nothing_open(bench):
    slow = lane("one", slow=True)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 1))
    await drain(one)
    before = one.senders["one"]
    one.change(lane("one", concurrency=2))
    one.book.take(subscription_key("one"), None)
    one.dispatcher.book_changed()
    await drain(one)
    assert before.closed
    assert one.senders["one"].closed


async def test_of_partitions_that_are_given_up_nothing_more_is_begun(bench):
    slow = lane("slow", slow=True, concurrency=2)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 5))
    one.dispatcher.schedule(1, one.deliveries(slow, 5))
    await drain(one)
    await one.dispatcher.forget([0], grace=0.01)
    assert one.settled == []  # cancelled: whoever comes next makes these attempts again
    one.senders["slow"].free.set()
    await drain(one)
    assert {partition for partition, _, _ in one.settled} == {1}
    assert len(one.settled) == 5


async def test_an_attempt_that_ends_in_time_still_counts_when_its_partition_is_given_up(bench):
    slow = lane("slow", slow=True, concurrency=2)
    one = bench(slow)
    one.dispatcher.schedule(0, one.deliveries(slow, 2))
    await drain(one)
    forgetting = asyncio.create_task(one.dispatcher.forget([0], grace=5))
    await one.rest()
    one.senders["slow"].free.set()
    await forgetting
    assert len(one.settled) == 2


async def test_what_does_not_wait_any_more_is_not_sent(bench):
    quick = lane("quick")
    one = bench(quick)
    gone, there = one.deliveries(quick, 2, due=START + 1000)
    one.dispatcher.schedule(0, [gone, there])
    await one.rest()
    gone.gone = True
    one.clock.move(1000)
    await drain(one)
    assert one.senders["quick"].sent == [there.id]


async def test_what_must_not_happen_is_told(bench):
    quick = lane("quick")
    one = bench(quick)
    one.dispatcher._settle = one.settle = lambda *_: 1 / 0
    one.dispatcher.schedule(0, one.deliveries(quick, 1))
    await drain(one)
    assert [type(failure) for failure in one.failures] == [ZeroDivisionError]
