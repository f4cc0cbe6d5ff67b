"""Writes the table of streams/status/rules.py into docs/status.md, between the markers there: `make docs`.

The table is the one place where it is decided what an update does; a test fails where the page says otherwise.
"""
# ruff: noqa: INP001

from __future__ import annotations

from pathlib import Path

from streams.status.rules import TRANSITIONS, Cell, State, Status

PAGE = Path(__file__).with_name("status.md")
BEGIN = "<!-- transitions: written by docs/transitions.py -->\n"
END = "<!-- end of transitions -->\n"

_ORDER = (Status.RECEIVED, Status.ACCEPTED, Status.REJECTED, Status.COMPLETED, Status.CANCELED)


def table() -> str:
    """One row a state: where each update leads. What the seed says is in bold."""

    def cell(found: Cell) -> str:
        text = "refused" if found.to is None else found.to.value
        return f"**{text}**" if found.by_seed else text

    head = " | ".join(f"{int(status)} {status.word}" for status in _ORDER)
    lines = [f"| | {head} |", "|---" * (len(_ORDER) + 1) + "|"]
    for state in State:
        cells = " | ".join(cell(TRANSITIONS[state][status]) for status in _ORDER)
        lines.append(f"| {state.value} | {cells} |")
    return "\n".join([*lines, ""])


def drawn(page: str) -> str:
    """The page with what lies between the markers written anew.

    Raises:
        ValueError: the page does not have the two markers, once each and in order.
    """
    before, found, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{PAGE.name} must hold {BEGIN.strip()} and, after it, {END.strip()}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
