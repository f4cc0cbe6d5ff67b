"""What a push worker does beside its batches, without a Kafka."""

from types import SimpleNamespace

import pytest
from pushing import START, book_of, entry, subscription

from streams.errors import ClusterError
from streams.push import worker as module
from streams.push.processor import Event, PushProcessor, Retry
from streams.push.subscriptions import subscription_key
from streams.push.worker import PushWorker
from streams.settings import Settings

STANDARD = entry(subscription(profile="standard", name="std"), uid="a" * 16)


class EndError(Exception):
    """Of the records."""


class Reader:
    """Has read the book only as far as it had to."""

    def __init__(self, *later):
        self.book, self.later = book_of(), later

    async def catch_up(self):
        for one in self.later:
            self.book.take(subscription_key(one.definition.id), one.record())


class Consumer:
    """Of the requests; ends the test when there are no more."""

    def __init__(self, *records):
        self.fetches = [{"place": list(records)}]

    def __call__(self, **_):
        return self

    async def start(self):
        pass

    stop = start

    async def beginning_offsets(self, places):
        return dict.fromkeys(places, 0)

    def assign(self, _):
        pass

    def seek(self, *_):
        pass

    async def getmany(self, **_):
        if not self.fetches:
            raise EndError
        return self.fetches.pop()


@pytest.fixture
def worker():
    one = PushWorker.__new__(PushWorker)
    one._settings, one._reader = Settings.given(), Reader(STANDARD)
    processor = PushProcessor(0, one._reader.book, now=lambda: START, chance=lambda: 0.5, scale=1.0, max_waiting=10)
    one.partitions = {0: SimpleNamespace(processor=processor, changed=lambda: None)}
    return one


async def test_an_endpoint_that_is_gone_is_written_down_as_such_when_the_brokers_are_back(worker, monkeypatch):
    left, done = [ClusterError("away"), ClusterError("away")], []

    async def switch(_settings, name, reason, *, uid):
        if left:
            raise left.pop()
        done.append((name, reason, uid))

    monkeypatch.setattr(module, "switch", switch)
    monkeypatch.setattr(module, "_DISABLE_AGAIN", 0.001)
    worker._dispatcher = SimpleNamespace(rest_by_book=done.append)
    await worker._disable(STANDARD, "gone")
    assert done == [("std", "gone", "a" * 16), "a" * 16]


async def test_a_request_for_a_subscription_that_was_just_added_waits_for_the_book(worker, monkeypatch):
    retry = Retry(0, 7, "a" * 16, "std", Event("01E", "TripDataReady", "01T", "V"), "{}", "then")
    monkeypatch.setattr(module, "AIOKafkaConsumer", Consumer(SimpleNamespace(offset=0, value=retry.record())))
    with pytest.raises(EndError):
        await worker._read_requests()
    assert [one.id for one in worker.partitions[0].processor.waiting()] == ["01E-std"]
