"""Prints the plans on docs/performance.md anew, each below its command: `make docs`.

The unit costs stand in streams/local/plan.py; a test fails where the page says otherwise.
"""
# ruff: noqa: INP001, S603

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("performance.md")


def printed(page: str) -> str:
    """The page with what each command prints."""

    def answer(found: re.Match[str]) -> str:
        command = [sys.executable, "-m", "streams.cli", *found[1].split()]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return f"```text\n$ trips {found[1]}\n{said}```"

    return re.sub(r"^```text\n\$ trips (plan [^\n]*)\n.*?^```$", answer, page, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
