"""Days of driving: enough messages that all that only happens to long timelines does, against the same oracle."""

from __future__ import annotations

import math
import os
from random import Random

import pytest
from bench import Bench, Expected, check_announcements, check_view, to_records
from strategies import EPOCH, HOUR, VALUES, Arrival, Message, everything_known

from streams.trips.rules import Rules
from streams.trips.samples import Property

MINUTE = 60_000


def drives(random: Random, days: int) -> list[Message]:
    """A vehicle that drives a few times a day, with a message every few seconds to minutes and what goes wrong."""
    messages = [everything_known(Rules())]
    clock, odometer, latitude = EPOCH, 123_456_000, 501_230_000
    while clock < EPOCH + days * 24 * HOUR:
        clock += random.choice([30_000, 5 * MINUTE, HOUR, 6 * HOUR])
        until = clock + random.choice([45_000, 10 * MINUTE, 40 * MINUTE, 3 * HOUR])
        messages.append(Message(((clock, Property.IGNITION, 1), (clock, Property.MILEAGE, odometer)), at=clock))
        while clock < until:
            clock += random.choice([1_000, 5_000, 20_000, MINUTE, 2 * MINUTE])
            odometer += random.choice([0, 10, 2_000])
            latitude += random.choice([0, 100, 5_000, -5_000])
            samples = [(clock, Property.SPEED, random.choice(VALUES[Property.SPEED]))]
            if random.random() < 0.7:
                samples.append((clock, Property.POSITION, (latitude, 73_210_000, None)))
            if random.random() < 0.3:
                samples.append((clock - random.choice([0, 0, 500]), Property.MILEAGE, odometer))
            if random.random() < 0.1:
                samples.append((clock, Property.IGNITION, random.choice([1, 1, 0])))
            if random.random() < 0.1:
                rarely = random.choice([Property.FUEL, Property.DOORS, Property.WINDOWS, Property.UNIT])
                samples.append((clock, rarely, random.choice(VALUES[rarely])))
            messages.append(Message(tuple(samples), at=clock))
        if random.random() < 0.1:
            clock += 2 * HOUR  # its OFF is lost
        else:
            clock += random.choice([1, 5_000])
            messages.append(Message(((clock, Property.IGNITION, 0), (clock, Property.MILEAGE, odometer)), at=clock))
    return messages


def disordered(random: Random, messages: list[Message]) -> list[Message]:
    """Some messages come minutes to hours late, some again, some whole stretches at once."""
    places = []
    for number, message in enumerate(messages):
        delay = random.choice([0] * 20 + [3, 20, 200])
        places.append((number + delay, message))
        if random.random() < 0.03:
            places.append((number + random.choice([1, 10, 300]), message))
    stretch = random.randrange(len(messages))
    places = [
        (stretch + 400 if stretch <= number < stretch + 60 and number else number, message)
        for number, message in places
    ]
    return [
        messages[0],
        *(message for _, message in sorted(places, key=lambda each: each[0]) if message != messages[0]),
    ]


@pytest.mark.parametrize("seed", range(int(os.environ.get("TRIPS_TEST_LONG_RUNS", "3"))))
@pytest.mark.parametrize(
    "of",
    [
        Rules(correction_horizon_ms=2 * HOUR),
        Rules(correction_horizon_ms=24 * HOUR, merge_gap_ms=2 * MINUTE, ready_delay_ms=30_000),
        Rules(correction_horizon_ms=30 * MINUTE, silence_timeout_ms=0, min_distance_m=500),
        Rules(correction_horizon_ms=30 * MINUTE, ready_delay_ms=3 * HOUR, silence_timeout_ms=20 * MINUTE),
    ],
    ids=["default", "merging", "never silent", "waiting for longer than the horizon"],
)
def test_days_of_driving_are_told_as_the_oracle_tells_them(of, seed):
    random = Random(seed)
    messages = drives(random, days=4)
    if seed:
        messages = disordered(random, messages)
    records = to_records(Arrival(message) for message in messages)
    expected = Expected(of)
    bench = Bench(of)
    place = 0
    while place < len(records):
        size = random.choice([1, 1, 10, 100])
        bench.feed(records[place : place + size])
        for message, record in zip(messages[place : place + size], records[place : place + size], strict=True):
            expected.offer(message, record)
        if random.random() < 0.2:
            bench.start()
        if random.random() < 0.02:
            check_view(bench.view(), expected.trips())
        place += size
    assert [late.record.offset for late in bench.late] == expected.late
    check_view(bench.view(), expected.trips())
    bench.close()
    bench.check_promises()
    check_view(bench.view(), expected.trips(math.inf))
    check_announcements(random.sample(bench.said, 3), expected)
