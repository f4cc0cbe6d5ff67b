"""What a status update does to a planned trip: one table, read like a specification.

The statuses and their meaning are those of Trimble's "Update Trip Status". What it leaves open is decided here, and
docs/status.md says why.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TERMINAL", "TRANSITIONS", "Cell", "State", "Status", "refusal"]


class Status(IntEnum):
    """What an update says; the number is what is sent."""

    REJECTED = 0
    ACCEPTED = 1
    COMPLETED = 2
    CANCELED = 3
    RECEIVED = 4

    @property
    def word(self) -> str:
        """As it is written in answers and events: ``Accepted``."""
        return self.name.capitalize()


class State(Enum):
    """How a planned trip stands: its ``tripStatus``."""

    PLANNED = "Planned"
    RECEIVED = "Received"
    IN_PROGRESS = "InProgress"
    REJECTED = "Rejected"
    COMPLETED = "Completed"
    CANCELED = "Canceled"


TERMINAL: Final = frozenset({State.REJECTED, State.COMPLETED, State.CANCELED})
"""Nothing leads out of these, and trips that begin from here on are not of the plan."""


class Cell(NamedTuple):
    """What an update does in a state.

    Attributes:
        to: the state that it leads to; the same one: the update is recorded and changes nothing else. None: refused.
        by_seed: Trimble's page says so; else we do.
    """

    to: State | None
    by_seed: bool


def _seed(to: State | None) -> Cell:
    return Cell(to, by_seed=True)


def _ours(to: State | None) -> Cell:
    return Cell(to, by_seed=False)


TRANSITIONS: Final[Mapping[State, Mapping[Status, Cell]]] = {
    State.PLANNED: {
        Status.RECEIVED: _seed(State.RECEIVED),
        Status.ACCEPTED: _seed(State.IN_PROGRESS),
        Status.REJECTED: _seed(State.REJECTED),
        Status.COMPLETED: _ours(State.COMPLETED),
        Status.CANCELED: _seed(State.CANCELED),
    },
    State.RECEIVED: {
        Status.RECEIVED: _ours(State.RECEIVED),
        Status.ACCEPTED: _seed(State.IN_PROGRESS),
        Status.REJECTED: _seed(State.REJECTED),
        Status.COMPLETED: _ours(State.COMPLETED),
        Status.CANCELED: _seed(State.CANCELED),
    },
    State.IN_PROGRESS: {
        Status.RECEIVED: _ours(State.IN_PROGRESS),
        Status.ACCEPTED: _ours(State.IN_PROGRESS),
        Status.REJECTED: _ours(State.REJECTED),
        Status.COMPLETED: _seed(State.COMPLETED),
        Status.CANCELED: _seed(State.CANCELED),
    },
    State.REJECTED: {
        Status.RECEIVED: _ours(None),
        Status.ACCEPTED: _ours(None),
        Status.REJECTED: _ours(State.REJECTED),
        Status.COMPLETED: _ours(None),
        Status.CANCELED: _ours(None),
    },
    State.COMPLETED: {
        Status.RECEIVED: _ours(None),
        Status.ACCEPTED: _seed(None),
        Status.REJECTED: _ours(None),
        Status.COMPLETED: _ours(State.COMPLETED),
        Status.CANCELED: _seed(None),
    },
    State.CANCELED: {
        Status.RECEIVED: _ours(None),
        Status.ACCEPTED: _seed(None),
        Status.REJECTED: _ours(None),
        Status.COMPLETED: _seed(None),
        Status.CANCELED: _ours(State.CANCELED),
    },
}


def refusal(status: Status, state: State) -> str:
    """Why an update is refused, in the words of the seed."""
    return f"Can't perform modification action '{status.word}' if a trip has been '{state.value}'."
