"""How fast `trips derive` tells the trips of a file, beside plain parsing of the same file.

    python benchmarks/offline.py [--messages 200000] [--vehicles 1000] [--rounds 3] [--json FILE]

Each in a process of its own. What starting takes is measured with an empty file, and taken off.
"""
# ruff: noqa: INP001

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from fleet import SINCE, messages
from measuring import Took, arguments, emit, markdown, median_and_range, run

_PARSE = "import sys, orjson\nfor line in open(sys.argv[1], 'rb'): orjson.loads(line)"
WAYS = {
    "orjson.loads": [sys.executable, "-c", _PARSE],
    "trips derive": [sys.executable, "-P", "-m", "streams.cli", "derive"],
}


def main() -> None:
    """From the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--vehicles", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    took: dict[str, list[Took]] = {name: [] for name in WAYS}
    started: dict[str, list[Took]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        empty, file = Path(folder) / "empty.jsonl", Path(folder) / "telemetry.jsonl"
        empty.touch()
        with file.open("wb") as out:
            out.writelines(value + b"\n" for _, value in messages(options.messages, options.vehicles, SINCE))
        for _ in range(options.rounds):
            for name, command in WAYS.items():
                started[name].append(run(*command, str(empty)))
                took[name].append(run(*command, str(file)))
    cost = {
        name: [max(one.cpu - statistics.median(start.cpu for start in started[name]), 1e-9) for one in found]
        for name, found in took.items()
    }
    plain = statistics.median(cost["orjson.loads"])
    rows = [
        (
            name,
            median_and_range([options.messages / one.wall for one in found]),
            median_and_range([seconds / options.messages * 1e6 for seconds in cost[name]], ".2f"),
            f"{statistics.median(cost[name]) / plain:.1f}",
            f"{statistics.median(one.wall for one in started[name]):.2f}",
        )
        for name, found in took.items()
    ]
    head = ("", "messages/s, start included", "CPU, us a message", "times orjson.loads", "start, s")
    title = (
        f"a file of {options.messages:,} messages of {options.vehicles:,} vehicles; medians of {options.rounds} rounds"
    )
    emit(title, markdown(head, rows), {"took": took, "started": started}, options.json)


if __name__ == "__main__":
    main()
