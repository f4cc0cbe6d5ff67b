"""What was announced: the last word about each trip that is not settled yet.

Words are stored in pages of a few, so that one that changes does not have all of a day written again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Any, Final

import msgpack

from streams.trips.samples import Moment
from streams.trips.state import packb

__all__ = ["Ledger", "State", "Word"]

_PAGE: Final = 32


class State(IntEnum):
    """What was said of a trip last."""

    STARTED = 0
    ENDED = 1
    READY = 2
    DISCARDED = 3


@dataclass(slots=True)
class Word:
    """What was last announced about a trip.

    Attributes:
        page: under which number it is stored.
        end: the end that was announced.
        decided: the instant that decided it, as :attr:`streams.trips.trip.Trip.decided`.
        digest: of what was last announced as ready or discarded.
        published: whether the ``trips`` topic holds it.
        owed: its content has changed since, and is to be told when ``ready_delay`` has passed.
    """

    page: int
    state: State = State.STARTED
    end: int | None = None
    decided: int | None = None
    digest: bytes = b""
    published: bool = False
    owed: bool = False

    @property
    def waits(self) -> bool:
        """Whether the trip is to be told as ready or discarded once ``ready_delay`` has passed."""
        return self.owed or self.state is State.ENDED


class Ledger:
    """The words about the trips of one vehicle, by their starts.

    Attributes:
        waiting: the starts of those that wait for ``ready_delay``, and their words.
        settled_before: trips that start before this are settled, and nothing is remembered of them here.
    """

    __slots__ = ("_changed", "_pages", "_starts", "_words", "settled_before", "waiting")

    def __init__(self) -> None:
        self._words: dict[int, Word] = {}
        self._starts: list[int] = []
        self._pages: Counter[int] = Counter()
        self._changed: set[int] = set()
        self.waiting: dict[int, Word] = {}
        self.settled_before: Moment = -inf

    def get(self, start: int) -> Word | None:
        """The word about the trip that starts then."""
        return self._words.get(start)

    def starts(self, begin: Moment) -> list[int]:
        """The starts from ``begin`` on, in order."""
        return self._starts[bisect_left(self._starts, begin) :]

    def open(self, start: int) -> Word:
        """A trip has started, or goes on after all."""
        word = self._words.get(start)
        if word is None:
            word = self._words[start] = Word(self._page())
            self._pages[word.page] += 1
            insort(self._starts, start)
        else:
            word = self._words[start] = Word(word.page)
        self.note(start, word)
        return word

    def note(self, start: int, word: Word) -> None:
        """A word has changed."""
        self._changed.add(word.page)
        if word.waits:
            self.waiting[start] = word
        else:
            self.waiting.pop(start, None)

    def remove(self, start: int) -> Word:
        """There is no such trip any more."""
        word = self._words.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        self._forget(start, word)
        return word

    def settle(self, horizon: Moment) -> None:
        """Forget the words about trips that nothing can change any more, up to the first that is not one of them."""
        count = 0
        for start in self._starts:
            word = self._words[start]
            if word.state < State.READY or word.owed or word.decided is None or word.decided >= horizon:
                break
            del self._words[start]
            self._forget(start, word)
            self.settled_before = start + 1
            count += 1
        del self._starts[:count]

    def _forget(self, start: int, word: Word) -> None:
        self.waiting.pop(start, None)
        self._changed.add(word.page)
        self._pages[word.page] -= 1
        if not self._pages[word.page]:
            del self._pages[word.page]

    def _page(self) -> int:
        """Where there is room: the newest word's page, or the first that is free."""
        if self._starts:
            newest = self._words[self._starts[-1]].page
            if self._pages[newest] < _PAGE:
                return newest
        return next(number for number in range(len(self._pages) + 1) if number not in self._pages)

    def store(self) -> dict[int, bytes]:
        """The pages that have changed since the last time; one without words is empty."""
        if not self._changed:
            return {}
        pages = self._dump(self._changed)
        self._changed = set()
        return pages

    def dump(self) -> tuple[tuple[int, bytes], ...]:
        """All pages."""
        return tuple(self._dump(set(self._pages)).items())

    def _dump(self, numbers: set[int]) -> dict[int, bytes]:
        flat: dict[int, list[Any]] = {number: [] for number in numbers}
        if not numbers:
            return {}
        for start in self._starts:
            word = self._words[start]
            if word.page in flat:
                end = None if word.end is None else word.end - start
                decided = None if word.decided is None else word.decided - start
                state = word.state << 2 | word.owed << 1 | word.published
                flat[word.page] += [start, state, end, decided, word.digest]
        return {number: packb(words) if words else b"" for number, words in flat.items()}

    @classmethod
    def load(cls, pages: Iterable[tuple[int, bytes]], settled_before: Moment) -> Ledger:
        """The inverse of :meth:`dump`."""
        ledger = cls()
        ledger.settled_before = settled_before
        for number, packed in pages:
            flat = msgpack.unpackb(packed)
            for place in range(0, len(flat), 5):
                start, state, end, decided, digest = flat[place : place + 5]
                word = Word(
                    number,
                    State(state >> 2),
                    None if end is None else start + end,
                    None if decided is None else start + decided,
                    digest,
                    bool(state & 1),
                    bool(state & 2),
                )
                ledger._words[start] = word
                ledger._pages[number] += 1
                if word.waits:
                    ledger.waiting[start] = word
        ledger._starts = sorted(ledger._words)
        return ledger
