"""Draws the machine of streams/trips/machine.py into docs/how-it-works.md, between the markers there: `make docs`.

The transition table is the one place where the machine is written down; a test fails where the page says otherwise.
"""
# ruff: noqa: INP001

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from streams.trips.machine import TRANSITIONS, Action, Event, Phase, Step

PAGE = Path(__file__).with_name("how-it-works.md")
BEGIN = "<!-- machine: written by docs/diagram.py -->\n"
END = "<!-- end of machine -->\n"

_START = Phase.UNKNOWN


def words(action: Action) -> str:
    """An action as a person says it: ``END_INFERRED_START_UNOBSERVED`` is "end inferred, start unobserved"."""
    return action.name.lower().replace("_", " ").replace(" start ", ", start ")


def diagram() -> str:
    """All that changes something, as a Mermaid state diagram. What changes nothing stands in the table only."""
    arrows: dict[tuple[Phase, Step], list[Event]] = defaultdict(list)
    for phase, steps in TRANSITIONS.items():
        for event, step in steps.items():
            if step.phase is not phase or step.action is not Action.NOTHING:
                arrows[phase, step].append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {_START.name}"]
    lines += [f"    {phase.name}: {phase.name}<br/>{phase.value}" for phase in Phase]
    for (phase, step), events in arrows.items():
        label = "<br/>or ".join(event.value for event in events)
        if step.action is not Action.NOTHING:
            label += f"<br/><i>{words(step.action)}</i>"
        lines.append(f"    {phase.name} --> {step.phase.name}: {label}")
    return "\n".join(["```mermaid", *lines, "```", ""])


def table() -> str:
    """The whole table, one row a state: where an event leads, and what is done. A dash: cannot come there."""

    def cell(step: Step | None) -> str:
        if step is None:
            return "-"
        return step.phase.name if step.action is Action.NOTHING else f"{step.phase.name}, *{words(step.action)}*"

    lines = ["| | " + " | ".join(event.value for event in Event) + " |", "|---" * (len(Event) + 1) + "|"]
    for phase in Phase:
        cells = [cell(TRANSITIONS[phase].get(event)) for event in Event]
        lines.append(f"| **{phase.name}** | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def drawn(page: str) -> str:
    """The page with what lies between the markers drawn anew.

    Raises:
        ValueError: the page does not have the two markers, once each and in order.
    """
    before, found, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{PAGE.name} must hold {BEGIN.strip()} and, after it, {END.strip()}")
    return f"{before}{BEGIN}\n{diagram()}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
