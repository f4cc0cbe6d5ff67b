"""The whole table: five statuses in each state, written down by hand."""

import pytest

from streams.status.rules import TERMINAL, TRANSITIONS, State, Status, refusal

#               Received        Accepted      Rejected     Completed     Canceled
EXPECTED = {
    "Planned": ("Received", "InProgress", "Rejected", "Completed", "Canceled"),
    "Received": ("Received", "InProgress", "Rejected", "Completed", "Canceled"),
    "InProgress": ("InProgress", "InProgress", "Rejected", "Completed", "Canceled"),
    "Rejected": (None, None, "Rejected", None, None),
    "Completed": (None, None, None, "Completed", None),
    "Canceled": (None, None, None, None, "Canceled"),
}
STATUSES = ("Received", "Accepted", "Rejected", "Completed", "Canceled")
CELLS = [(state, status, to) for state, row in EXPECTED.items() for status, to in zip(STATUSES, row, strict=True)]


def test_the_numbers_are_those_of_the_seed():  # seeds/004_66b18354c030506b.txt, "Request Fields"
    assert {int(status): status.word for status in Status} == {
        0: "Rejected",
        1: "Accepted",
        2: "Completed",
        3: "Canceled",
        4: "Received",
    }


@pytest.mark.parametrize(("state", "status", "to"), CELLS)
def test_every_cell_of_the_table(state, status, to):
    found = TRANSITIONS[State(state)][Status[status.upper()]].to
    assert (found and found.value) == to


def test_the_table_is_whole():
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Status) for row in TRANSITIONS.values())


def test_nothing_leads_out_of_a_terminal_state():
    assert {State.REJECTED, State.COMPLETED, State.CANCELED} == TERMINAL
    for state in TERMINAL:
        assert {cell.to for cell in TRANSITIONS[state].values()} == {state, None}


@pytest.mark.parametrize(
    ("status", "state", "text"),  # seeds/004_66b18354c030506b.txt, "ArgumentException Examples"
    [
        ("ACCEPTED", "Canceled", "Can't perform modification action 'Accepted' if a trip has been 'Canceled'."),
        ("CANCELED", "Completed", "Can't perform modification action 'Canceled' if a trip has been 'Completed'."),
    ],
)
def test_refusals_are_in_the_words_of_the_seed(status, state, text):
    assert TRANSITIONS[State(state)][Status[status]] == (None, True)
    assert refusal(Status[status], State(state)) == text
