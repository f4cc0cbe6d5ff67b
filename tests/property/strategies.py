"""Telemetry with the hard cases on purpose, in few and small parts so that what fails can be read.

A vehicle's samples stand at a handful of instants, whose distances are the limits of the rules, just under them and
just over them. Messages put samples together as devices do: most of one instant, some with times of their own. Two
messages may well say different things about one instant. The order of messages says nothing about their times: late
edges that split, join, shift and erase trips come by themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

from hypothesis import assume
from hypothesis import strategies as st

from streams.trips.rules import Rules
from streams.trips.samples import Property

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oracle.derive import Sample

__all__ = [
    "EPOCH",
    "HOUR",
    "Arrival",
    "Message",
    "anyhow",
    "drives",
    "encode",
    "everything_known",
    "in_order",
    "over_time",
    "rules",
    "taken_back",
]

EPOCH: Final = 1_772_352_000_000
"""2026-03-01T08:00:00Z."""

VEHICLES: Final = ("V1", "V2", "Ü 3")

SECOND: Final = 1_000
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

NAMES: Final = {
    Property.IGNITION: "ignition",
    Property.IMMOBILIZER: "immobilizer",
    Property.DRIVING_ENABLED: "driving_enabled",
    Property.POSITION: "position",
    Property.MILEAGE: "mileage_in_kilometers",
    Property.SPEED: "speed_in_kmh",
    Property.HEADING: "heading_in_degrees",
    Property.ENERGY: "state_of_charge_or_fuel_level_in_percent",
    Property.STATE_OF_CHARGE: "state_of_charge_in_percent",
    Property.FUEL: "fuel_level_in_percent",
    Property.DOORS: "doors_status",
    Property.WINDOWS: "windows_status",
    Property.UNIT: "telematics_unit",
}

VALUES: Final[dict[Property, list[Any]]] = {
    Property.IGNITION: [1, 0],
    Property.IMMOBILIZER: [1, 0],
    Property.DRIVING_ENABLED: [1, 0],
    Property.POSITION: [
        (50_123 * 10_000, 73_210_000, None),
        (50_124 * 10_000, 73_210_000, None),  # 111 m north: a jump within a second
        (50_124 * 10_000, 73_210_000, 1_205),
        (50_153 * 10_000, 73_210_000, None),  # 3.3 km: a jump within half a minute
        (50_153 * 10_000, 73_220_000, -5),
        (51_123 * 10_000, 73_210_000, None),  # 111 km
        (-33_900_000, 1_512_100_000, None),  # the other side
    ],
    # 0.1 m: stuck, backwards, just and just not plausible over a minute, far from plausible
    Property.MILEAGE: [123_456_000, 123_457_000, 123_486_000, 123_516_000, 123_516_001, 123_455_999, 0, 10**11],
    Property.SPEED: [0, 299, 0, 299, 300, 5_055, 40_000],
    Property.HEADING: [0, 3_600],
    Property.ENERGY: [3_500, 3_525, 10_000],
    Property.STATE_OF_CHARGE: [4_200, 4_199],
    Property.FUEL: [0, 10_000],
    Property.DOORS: [0, 1],
    Property.WINDOWS: [0, 1],
    Property.UNIT: [("2A24", "CLOUDBOXX"), ("2A24", "B"), ("2A25", "A")],
}


@dataclass(frozen=True)
class Message:
    """What one record says. ``style`` chooses among the ways to write the same."""

    samples: tuple[Sample, ...]
    vehicle_id: str = "V1"
    at: int = EPOCH
    style: int = 0
    flow_id: str | None = None

    def __repr__(self) -> str:
        said = ", ".join(
            f"{prop.name}={value}" + (f"@{t - EPOCH}" if t != self.at else "") for t, prop, value in self.samples
        )
        flow = f" flow={self.flow_id}" if self.flow_id else ""
        return f"<{self.vehicle_id} {self.at - EPOCH}: {said}{flow}>"

    def _repr_pretty_(self, printer: Any, _cycle: object) -> None:
        printer.text(repr(self))  # what hypothesis shows of a failure: a line each


# ---------------------------------------------------------------------------------------------- messages as bytes


def encode(message: Message) -> bytes:
    """The JSON of a message."""
    body: dict[str, Any] = {"vehicle_id": message.vehicle_id}
    plain = message.style & 1 == 0 or any(prop == Property.UNIT for _, prop, _ in message.samples)
    if plain:
        body["timestamp"] = _time(message.at, message.style)
    for t, prop, value in message.samples:
        if prop == Property.UNIT or (plain and t == message.at):
            body[NAMES[prop]] = _value(prop, value, message.style)
        else:
            body[NAMES[prop]] = {"timestamp": _time(t, message.style), "value": _value(prop, value, message.style)}
    if message.flow_id is not None:
        body = {"metadata": {"flow_id": message.flow_id}, "data": body}
    return json.dumps(body).encode()


def _time(ms: int, style: int) -> int | str:
    if style & 2:
        return ms
    zone = timezone(timedelta(hours=5, minutes=30)) if style & 4 else UTC
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).astimezone(zone).isoformat()


def _value(prop: Property, value: Any, style: int) -> Any:
    if prop == Property.IGNITION:
        return (("OFF", "ACCESSORY")[style >> 1 & 1], "ON")[value] if style & 4 == 0 else bool(value)
    if prop == Property.IMMOBILIZER:
        return ("LOCKED", "UNLOCKED")[value]
    if prop == Property.DRIVING_ENABLED:
        return bool(value)
    if prop == Property.POSITION:
        latitude, longitude, altitude = value
        position = {"lat": latitude / 1e7, "lon": longitude / 1e7}
        return position if altitude is None else position | {"altitude": altitude / 10}
    if prop in {Property.DOORS, Property.WINDOWS}:
        return ("CLOSED", "OPEN")[value]
    if prop == Property.UNIT:
        return {"id": value[0], "brand": value[1]}
    step = {Property.MILEAGE: 10_000, Property.HEADING: 10}.get(prop, 100)
    return value // step if value % step == 0 else value / step


# ---------------------------------------------------------------------------------------------- what is generated


def rules(**fixed: Any) -> st.SearchStrategy[Rules]:
    """All variations of the rules; the simplest first. The horizon is far away unless one is given."""
    choices: dict[str, st.SearchStrategy[Any]] = {
        "trigger": st.sampled_from([Property.IGNITION, Property.IGNITION, Property.DRIVING_ENABLED]),
        "unknown_start": st.sampled_from(["start", "start", "ignore"]),
        "min_duration_ms": st.sampled_from([MINUTE, 0, 5 * MINUTE]),
        "min_distance_m": st.sampled_from([0, 0, 112, 3_000]),
        "merge_gap_ms": st.sampled_from([0, 0, 30 * SECOND, 2 * MINUTE]),
        "ready_delay_ms": st.sampled_from([0, 0, 30 * SECOND, 5 * MINUTE, 2 * HOUR]),
        "silence_timeout_ms": st.sampled_from([HOUR, 10 * MINUTE, 0]),
        "correction_horizon_ms": st.just(400 * DAY),
        "revision_base": st.sampled_from([0, 0, 1_000_000]),
        "ready_event_name": st.sampled_from(["TripDataReady", "TripMetricsReady"]),
    } | {name: st.just(value) for name, value in fixed.items()}
    return st.builds(Rules, **choices)


def distances(of: Rules) -> list[int]:
    """How far apart two neighbouring instants may be: the limits of the rules, and one over and under them."""
    limits = {of.merge_gap_ms, of.ready_delay_ms, of.silence_timeout_ms, of.min_duration_ms} - {0}
    near = {limit + by for limit in limits for by in (-1, 0, 1)}
    return [MINUTE, SECOND, 1, MINUTE, 30 * SECOND, 30 * SECOND, *sorted(near | {59_999, 60_000, 60_001, 4 * MINUTE})]


def _others(of: Rules) -> st.SearchStrategy[list[Property]]:
    """A few properties beside the trigger: few, so that there are many samples of each."""
    places = [Property.POSITION]
    energy = [Property.ENERGY, Property.STATE_OF_CHARGE, Property.FUEL]
    last_known = [Property.DOORS, Property.WINDOWS, Property.UNIT]
    chosen = st.sampled_from(
        [
            [],
            places,
            [Property.MILEAGE],
            [Property.SPEED],
            [Property.MILEAGE, *places],
            [Property.SPEED, *places],
            energy,
            last_known,
            [Property.HEADING, Property.IGNITION, Property.IMMOBILIZER],
            list(VALUES),
        ]
    )
    return chosen.map(lambda props: [prop for prop in props if prop != of.trigger])


@dataclass(frozen=True)
class Arrival:
    """A message on its way in.

    ``pause``: how long Kafka's clock stood before it, in ms. ``ends_batch``: it is the last of its batch, after which
    the partition has nothing more for ``wait`` ms, what is behind the horizon may be folded, and the processor may be
    started anew.
    """

    message: Message
    pause: int = 0
    ends_batch: bool = True
    wait: int = 0
    restart: bool = False
    fold: bool = False

    def __repr__(self) -> str:
        words = [f"pause {self.pause}"] if self.pause else []
        words += [repr(self.message)]
        words += ["|"] if self.ends_batch else []
        words += [f"wait {self.wait}"] if self.wait else []
        words += ["fold"] if self.fold else []
        words += ["restart"] if self.restart else []
        return " ".join(words)

    def _repr_pretty_(self, printer: Any, _cycle: object) -> None:
        printer.text(repr(self))


@st.composite
def _message(
    draw: st.DrawFn, *, of: Rules, instants: Sequence[int], back: int, others: Sequence[Property], vehicles: int
) -> Message:
    """A message about one of the newest instants, so many and one more."""
    newest = len(instants) - 1
    place = newest - draw(st.integers(0, min(back, newest)))
    at = instants[place]
    samples: list[Sample] = []
    if draw(st.integers(0, 3)) < 3:
        on = place % 2 == 0  # on and off by turns, mostly: most trips are observed from start to end
        samples.append((at, of.trigger, int(on if draw(st.integers(0, 3)) < 3 else not on)))
    for prop in others:
        if draw(st.booleans()):
            t = at
            if prop != Property.UNIT and draw(st.integers(0, 4)) == 4:
                t = instants[newest - draw(st.integers(0, min(back, newest)))]
            samples.append((t, prop, draw(st.sampled_from(VALUES[prop]))))
    return Message(
        tuple(samples),
        at=at,
        vehicle_id=draw(st.sampled_from(VEHICLES[:vehicles])),
        style=draw(st.integers(0, 7)),
        flow_id=draw(st.sampled_from([None, None, None, "flow-1", "flow-2"])),
    )


@st.composite
def _arrivals(
    draw: st.DrawFn, messages: st.SearchStrategy[Message], of: Rules, *, max_size: int, repeated: int
) -> list[Arrival]:
    """Messages as they come; some were there before, up to so many of ten."""
    waits = sorted({0, of.merge_gap_ms, of.ready_delay_ms, of.silence_timeout_ms})
    pauses = st.sampled_from([0, 0, 1, *waits, *(wait + 1 for wait in waits)])
    one = st.tuples(
        messages,
        st.integers(0, 9),
        st.integers(0, max_size),
        pauses,
        st.booleans(),
        pauses,
        st.integers(0, 3),
        st.booleans(),
    )
    sizes = st.sampled_from([1, max_size // 2])  # hypothesis alone would make most lists short
    arrivals: list[Arrival] = []
    for message, chance, again, pause, ends_batch, wait, restart, fold in draw(
        sizes.flatmap(lambda size: st.lists(one, min_size=size, max_size=max_size))
    ):
        if arrivals and chance >= 10 - repeated:
            message = arrivals[again % len(arrivals)].message  # noqa: PLW2901 - instead of a new one
        arrivals.append(Arrival(message, pause, not ends_batch, wait, restart == 3, fold))
    return arrivals


@st.composite
def anyhow(draw: st.DrawFn, of: Rules, *, max_size: int = 14, vehicles: int = 2) -> list[Arrival]:
    """Messages of one or several vehicles in any order: a later one may be about any of the instants."""
    steps = draw(st.lists(st.sampled_from(distances(of)), min_size=1, max_size=max_size))
    instants = list(accumulate(steps, initial=EPOCH))
    vehicles = draw(st.integers(1, vehicles))
    messages = _message(of=of, instants=instants, back=len(instants), others=draw(_others(of)), vehicles=vehicles)
    return draw(_arrivals(messages, of, max_size=max_size, repeated=2))


@st.composite
def over_time(draw: st.DrawFn, of: Rules, *, max_size: int = 25, jitter: bool = True) -> list[Arrival]:
    """Messages of one vehicle over a long time: most about the newest instant, some about one further back.

    The first says everything, with the trigger off, so that nothing is unknown when the horizon passes.
    """
    steps = draw(st.lists(st.sampled_from(distances(of)), min_size=1, max_size=max_size))
    others = draw(_others(of))
    arrivals = [Arrival(everything_known(of))]
    for number in range(len(steps)):
        instants = list(accumulate(steps[: number + 1], initial=EPOCH))
        back = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 8])) if jitter else 0
        messages = _message(of=of, instants=instants, back=back, others=others, vehicles=1)
        arrivals += draw(_arrivals(messages, of, max_size=2, repeated=0))
        if jitter and draw(st.integers(0, 9)) == 9:
            arrivals.append(draw(st.sampled_from(arrivals)))
    return arrivals


@st.composite
def drives(draw: st.DrawFn, of: Rules) -> list[Arrival]:
    """A few drives of one vehicle one after the other, some of their messages late, some repeated."""
    apart, others = st.sampled_from(distances(of)), draw(_others(of))

    def message(at: int, on: bool | None) -> Message:  # noqa: FBT001
        samples: list[Sample] = [] if on is None else [(at, of.trigger, int(on))]
        samples += [(at, prop, draw(st.sampled_from(VALUES[prop]))) for prop in others if draw(st.booleans())]
        return Message(tuple(samples), at=at, flow_id=draw(st.sampled_from([None, None, "flow-1"])))

    at, said = EPOCH, [everything_known(of)]
    for _ in range(draw(st.integers(2, 4))):
        kinds = [True, *(draw(st.sampled_from([None, None, True])) for _ in range(draw(st.integers(0, 4))))]
        kinds += draw(st.sampled_from([[False], [False], [False], [False, None], []]))
        for kind in kinds:
            at += draw(apart)
            said.append(message(at, kind))
    places = [(place + draw(st.sampled_from([0, 0, 0, 0, 0, 2, 6])), place) for place in range(len(said))]
    arrivals = [
        Arrival(
            said[place],
            pause=draw(st.sampled_from([0, 0, 0, of.merge_gap_ms + 1, of.silence_timeout_ms + 1])),
            ends_batch=draw(st.booleans()),
            wait=draw(st.sampled_from([0, 0, of.ready_delay_ms + 1, of.silence_timeout_ms + 1])),
            restart=draw(st.integers(0, 3)) == 3,
            fold=draw(st.booleans()),
        )
        for _, place in sorted(places)
    ]
    return [*arrivals, *(Arrival(one.message) for one in arrivals if draw(st.integers(0, 5)) == 5)]


@st.composite
def taken_back(draw: st.DrawFn, of: Rules) -> tuple[list[Arrival], int, int]:
    """A few drives. An ON before one of them takes it back, and later an OFF between the two makes it after all.

    Also the number of the arrival that takes it back, and its start.
    """
    arrivals = draw(drives(of))
    edges = sorted((t, on) for arrival in arrivals for t, prop, on in arrival.message.samples if prop == of.trigger)
    starts = [(off, on) for (off, was_on), (on, now_on) in pairwise(edges) if now_on and not was_on and on - off > 2]
    assume(starts)
    off, start = draw(st.sampled_from(starts))
    place = 1 + max(place for place, one in enumerate(arrivals) if (start, of.trigger, 1) in one.message.samples)
    place += draw(st.sampled_from([0, 0, 0, 1, 2]))
    before, again = off + (start - off) // 3, off + 2 * (start - off) // 3
    for at, on in ((before, 1), (again, 0)):
        place = min(place, len(arrivals))
        arrivals.insert(place, Arrival(Message(((at, of.trigger, on),), at=at), restart=draw(st.booleans())))
        place += draw(st.sampled_from([1, 1, 1, 2, 3])) if on else 0
    back = next(number for number, one in enumerate(arrivals) if one.message.at == before)
    return arrivals, back, start


def in_order(arrivals: Sequence[Arrival]) -> list[Message]:
    """The same messages with every sample at the message's own instant, each later than the one before."""
    ordered: list[Message] = []
    for message in sorted((arrival.message for arrival in arrivals), key=lambda each: each.at):
        if ordered and message.at <= ordered[-1].at:
            message = replace(message, at=ordered[-1].at + 1)  # noqa: PLW2901 - the rest of the loop is about this one
        samples = tuple((message.at, prop, value) for _, prop, value in message.samples)
        ordered.append(replace(message, samples=samples))
    return ordered


def everything_known(of: Rules, vehicle_id: str = "V1") -> Message:
    """A message with a value of every property, the trigger off."""
    samples = tuple((EPOCH, prop, 0 if prop == of.trigger else values[0]) for prop, values in VALUES.items())
    return Message(samples, vehicle_id)
