"""What the demo shows: a live table on a terminal, plain lines otherwise, or the announcements as they are."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.local.words import (
    clock_time,
    day_and_time,
    distance,
    duration,
    in_words,
    parse_time,
    reasons,
    speed,
    time_of_day,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from streams.local.replay import Paced

__all__ = ["JsonView", "LiveView", "PlainView", "Story", "View", "choose_view"]

_RANK: Final = {"TripStarted": 0, "TripEnded": 1, "TripDeleted": 3}  # the others, final ones: 2
_WORDS: Final = {
    "TripStarted": ("driving", "cyan"),
    "TripEnded": ("ended", "blue"),
    "TripDiscarded": ("discarded", "yellow"),
    "TripDeleted": ("deleted", "red"),
}
_REFRESHES_A_SECOND: Final = 8
_LEAST_WIDTH: Final = 130
# Narrower terminals see no years, top speeds and positions (columns).
_WIDE: Final = 120
_WORTH_TELLING_S: Final = 0.1


@dataclass(slots=True)
class Story:
    """What has happened so far: the same for every view.

    Attributes:
        trips: the last word about each trip, by id, in the order in which the trips began to be told.
        vehicles: the last known value of each property that the table shows, by vehicle.
        counts: announcements by event.
        sent: messages so far, and in all.
        time_ms: the recorded time that the replay has come to.
        dead_letters: how many there are.
        complaint: what was wrong with the first of them.
        is_told: whether the summary was shown.
    """

    trips: dict[str, dict[str, Any]] = field(default_factory=dict)
    vehicles: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    total: int = 0
    time_ms: int = 0
    dead_letters: int = 0
    complaint: str = ""
    is_told: bool = False

    def announced(self, announcement: dict[str, Any]) -> None:
        """Take an announcement, by the consumer's rule: the highest revision wins, and within one the later step."""
        self.counts[announcement["metadata"]["type"]] += 1
        trip = announcement["data"]["trip"]
        known = self.trips.get(trip["id"])
        if known is None or _order(announcement) >= _order(known):
            self.trips[trip["id"]] = announcement

    def sent_one(self, message: Paced) -> None:
        """Take a message that was sent."""
        self.sent += 1
        self.time_ms = max(self.time_ms, message.time_ms)
        if message.key is not None:
            vehicle = self.vehicles.setdefault(message.key.decode(), {"messages": 0})
            vehicle["messages"] += 1
            vehicle.update(orjson.loads(message.value))


def _order(announcement: Mapping[str, Any]) -> tuple[bool, int, int]:
    kind = announcement["metadata"]["type"]
    return kind == "TripDeleted", announcement["data"]["trip"]["revision"], _RANK.get(kind, 2)


class View(Protocol):
    """What the demo tells, as it happens. A context manager: from the first line to the last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def step(self, text: str) -> None:
        """What is going on now."""

    def sent(self) -> None:
        """A message was sent: the story knows it."""

    def announced(self, payload: bytes, announcement: Mapping[str, Any]) -> None:
        """An announcement was read: the story knows it."""

    def fact(self, text: str) -> None:
        """What was seen in this step."""

    def finished(self, closing: list[str]) -> None:
        """All has been told: a summary, and some closing lines."""


def choose_view(story: Story, *, as_json: bool) -> View:
    """The view for where our output goes."""
    if as_json:
        return JsonView(story)
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(story, console)
    return PlainView(story, Console(width=max(console.width, _LEAST_WIDTH), highlight=False))


class PlainView:
    """A line for everything that happens, and the summary as aligned text."""

    def __init__(self, story: Story, console: Console) -> None:
        self._story = story
        self._console = console
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def step(self, text: str) -> None:
        """See :class:`View`."""
        self._line(f"[{time.monotonic() - self._start:5.1f} s] {text}")

    def sent(self) -> None:
        """Not told: there are thousands."""

    def announced(self, payload: bytes, announcement: Mapping[str, Any]) -> None:  # noqa: ARG002
        """See :class:`View`."""
        self._line(f"          {in_words(announcement)}")

    def fact(self, text: str) -> None:
        """See :class:`View`."""
        self._line(f"          {text}")

    def finished(self, closing: list[str]) -> None:
        """See :class:`View`."""
        self._line("")
        self._console.print(trip_table(self._story, "Summary", self._console.width))
        for line in closing:
            self._line(line)

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class JsonView(PlainView):
    """The announcements on stdout, one JSON a line; everything else on stderr."""

    def __init__(self, story: Story) -> None:
        super().__init__(story, Console(stderr=True, width=_LEAST_WIDTH, highlight=False))

    def announced(self, payload: bytes, announcement: Mapping[str, Any]) -> None:  # noqa: ARG002
        """See :class:`View`."""
        sys.stdout.buffer.write(payload + b"\n")
        sys.stdout.buffer.flush()


class LiveView:
    """Vehicles and trips in tables that follow what happens."""

    def __init__(self, story: Story, console: Console) -> None:
        self._story = story
        self._console = console
        self._steps: list[tuple[str, float]] = []
        self._is_finished = False
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=_REFRESHES_A_SECOND,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._console.print(Text("ignition-trips demo", style="bold"), end="")
        self._console.print(Text("  recorded drives through a real Apache Kafka", style="dim"))
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def step(self, text: str) -> None:
        """See :class:`View`."""
        self._tick_off()
        self._steps.append((text, time.monotonic()))
        if self._is_finished:
            self._console.print(Text(text, style="dim"))

    def sent(self) -> None:
        """The live table looks by itself."""

    def announced(self, payload: bytes, announcement: Mapping[str, Any]) -> None:  # noqa: ARG002
        """See :class:`View`."""
        if self._is_finished:
            self._console.print(Text(in_words(announcement)), soft_wrap=True)

    def fact(self, text: str) -> None:
        """See :class:`View`."""
        self._tick_off()
        self._live.console.print(Text(f"  {text}", style="dim"), soft_wrap=True)

    def finished(self, closing: list[str]) -> None:
        """See :class:`View`."""
        self._tick_off()
        self._is_finished = True
        self._live.stop()
        self._console.print(trip_table(self._story, "Summary", self._console.width))
        for line in closing:
            # Commands stay whole, to be copied; sentences break between words.
            self._console.print(Text(line), soft_wrap=line.startswith(" "))

    def _tick_off(self) -> None:
        """The last step is done: leave it above the live part."""
        if self._steps and not self._is_finished:
            text, since = self._steps.pop()
            took = time.monotonic() - since
            line = Text.assemble(("✓ ", "green"), text, (f"  {took:.1f} s" if took >= _WORTH_TELLING_S else "", "dim"))
            self._live.console.print(line)

    def _picture(self) -> Group:
        parts: list[Any] = []
        if self._steps:
            text, since = self._steps[-1]
            dots = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int((time.monotonic() - since) * 10) % 10]
            parts.append(Text.assemble((f"{dots} ", "cyan"), text, (f"  {time.monotonic() - since:.0f} s", "dim")))
        story = self._story
        if story.total:
            bar = Table.grid(padding=(0, 2))
            bar.add_row(
                ProgressBar(total=story.total, completed=story.sent, width=40),
                f"{story.sent} of {story.total} messages",
                Text(time_of_day(story.time_ms), style="dim"),
            )
            width = self._console.width
            parts += [bar, _vehicle_table(story, wide=width >= _WIDE), trip_table(story, "Trips", width)]
        return Group(*parts)


def _vehicle_table(story: Story, *, wide: bool) -> Table:
    table = Table(title="Vehicles", title_justify="left", box=box.ROUNDED, border_style="dim")
    table.add_column("vehicle", style="bold")
    table.add_column("", width=9)
    for name in ("last heard", "speed", "odometer", "messages", *(("position",) if wide else ())):
        table.add_column(name, justify="right")
    driving = {
        trip["data"]["trip"]["vehicle_id"] for trip in story.trips.values() if trip["metadata"]["type"] == "TripStarted"
    }
    for name, vehicle in story.vehicles.items():
        position = vehicle.get("position")
        table.add_row(
            name,
            Text("● driving", style="green") if name in driving else Text("○ parked", style="dim"),
            clock_time(vehicle["timestamp"]),
            f"{vehicle.get('speed_in_kmh', 0):.0f} km/h" if name in driving else "",
            f"{vehicle.get('mileage_in_kilometers', 0):.1f} km",
            str(vehicle["messages"]),
            *((f"{position['lat']:.5f}, {position['lon']:.5f}" if position else "",) if wide else ()),
        )
    return table


def trip_table(story: Story, title: str, width: int) -> Table:
    """The last word about each trip, for a terminal of so many columns."""
    wide = width >= _WIDE
    frame = box.ROUNDED if wide else box.SIMPLE_HEAD
    table = Table(title=title, title_justify="left", box=frame, border_style="dim", padding=(0, 1 if wide else 0))
    table.add_column("trip", style="bold", no_wrap=True)
    table.add_column("vehicle", overflow="fold")
    for name in ("start (UTC)", "end", "duration", "distance", *(("top speed",) if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("flags", overflow="fold")
    for announcement in story.trips.values():
        table.add_row(*_cells(announcement, story.time_ms, wide=wide))
    return table


def _cells(announcement: Mapping[str, Any], now_ms: int, *, wide: bool) -> list[str | Text]:
    kind, data = announcement["metadata"]["type"], announcement["data"]
    trip = data["trip"]
    metrics = trip.get("metrics") or {}
    word, colour = _WORDS.get(kind, ("ready", "green"))
    start, end = trip.get("start", {}).get("timestamp"), trip.get("end", {}).get("timestamp")
    took: str | Text = duration(metrics.get("duration_in_ms"))
    if kind == "TripStarted" and start is not None:
        took = Text(duration(max(0, now_ms - int(parse_time(start).timestamp() * 1000))), style="dim")
    same_day = start is not None and end is not None and start[:10] == end[:10]
    return [
        trip["key"],
        trip["vehicle_id"],
        # Without the year, where there is little room.
        day_and_time(start)[0 if wide else 5 :],
        clock_time(end) if same_day else day_and_time(end)[0 if wide else 5 :],
        took,
        distance(metrics),
        *((speed(metrics),) if wide else ()),
        Text(word, style=colour),
        reasons(data),
    ]
