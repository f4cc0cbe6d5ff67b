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
    clock.look(5000, answered(2), 110.0)
    clock.look(5000, answered(2), 112.0)
    assert clock.read(112.0) == 17_000
    assert clock.read(112.5) == 15_000  # the last answer is 2.5 s old: what has been since is not known
    assert clock.read(400.0) == 15_000


def test_time_goes_on_with_the_next_answer():
    clock = QuietClock()
    clock.look(5000, answered(1), 100.0)
    clock.look(5000, answered(1), 160.0)
    clock.look(5000, answered(2), 160.5)
    assert clock.read(160.5) == 65_500


def test_looking_often_does_not_lose_parts_of_milliseconds():
    clock = QuietClock()
    for step in range(1001):
        clock.look(5000, answered(step), 100.0 + step * 0.0009)
    assert clock.read(100.9) == 5900
