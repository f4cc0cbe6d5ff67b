"""The report: when the next attempt is, and that there is none where nothing is sent."""

import pytest
from pushing import START, entry, subscription

from streams.push.cli import _in_words
from streams.push.deliveries import Delivery
from streams.push.report import Line, _Sum
from streams.push.subscriptions import Switch

PAST, FUTURE = "2026-03-01T08:00:00.000Z", "2999-03-01T08:00:00.000Z"


@pytest.mark.parametrize(
    ("due", "says"),
    [(PAST, f"oldest since {PAST}, an attempt is due"), (FUTURE, f"oldest since {PAST}, next attempt at {FUTURE}")],
)
def test_no_next_attempt_is_in_the_past(due, says):
    line = Line("dq", waiting=1, oldest=PAST, next=due)
    assert _in_words(line) == f"dq (on): 0 delivered, 1 waiting, 0 discarded, {says}"


def test_what_rests_has_no_next_attempt():
    waiting = _Sum("one")
    waiting.waiting.append(Delivery(1, "a" * 16, "one", "01E", "TripDeleted", "01T", "V", START, START))
    assert waiting.line(entry(subscription())).next == PAST
    resting = waiting.line(entry(subscription(), off=Switch(at=PAST, reason="paused")))
    assert (resting.oldest, resting.next) == (PAST, None)
    assert waiting.line(None).next is None
