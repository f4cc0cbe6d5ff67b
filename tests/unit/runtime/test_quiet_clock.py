from streams.runtime.batches import Progress
from streams.runtime.partition import QuietClock

AT_END = Progress(position=7, end=7, answered_ms=1, batches=0)
NOT_AT_END = Progress(position=6, end=7, answered_ms=1, batches=0)


def answered(number):
    return AT_END._replace(answered_ms=number)


def test_no_time_passes_before_the_end_is_known():
    clock = QuietClock()
    assert clock.read(100.0) is None
    clock.look(5000, None, 100.0)
    assert clock.read(101.0) is None


def test_time_passes_at_the_end():
    clock = QuietClock()
    clock.look(5000, AT_END, 100.0)
    assert clock.read(100.0) == 5000
    assert clock.read(101.5) == 6500


def test_no_time_passes_where_there_is_something_to_read():
    clock = QuietClock()
    clock.look(5000, NOT_AT_END, 100.0)
    assert clock.read(101.0) is None


def test_time_spent_behind_the_end_does_not_count():
    clock = QuietClock()
    clock.look(5000, answered(1), 100.0)
    clock.look(5000, NOT_AT_END, 101.0)
    clock.look(5600, answered(2), 150.0)
    assert clock.read(151.0) == 6600


def test_an_end_that_is_not_answered_yet_is_no_end():
    clock = QuietClock()
    clock.look(5000, AT_END._replace(end=None), 100.0)
    assert clock.read(101.0) is None


def test_time_without_an_answer_of_the_broker_does_not_count():
    clock = QuietClock()
    clock.look(5000, answered(1), 100.0)
    clock.look(5000, answered(2), 101.0)
    clock.look(5000, answered(2), 103.0)
    assert clock.read(103.0) == 8_000
    assert clock.read(103.5) == 6_000  # the last answer is 2.5 s old: what has been since is not known
    assert clock.read(400.0) == 6_000


def test_time_goes_on_from_the_next_answer():
    """An outage, or a worker that was frozen: the first answer after it may be from before it."""
    clock = QuietClock()
    clock.look(5000, answered(1), 100.0)
    clock.look(5000, answered(2), 100.5)
    clock.look(5000, answered(3), 160.0)
    assert clock.read(160.0) == 5_500
    clock.look(5000, answered(4), 160.5)
    assert clock.read(160.5) == 6_000


def test_looking_often_does_not_lose_parts_of_milliseconds():
    clock = QuietClock()
    for step in range(1001):
        clock.look(5000, answered(step), 100.0 + step * 0.0009)
    assert clock.read(100.9) == 5900
