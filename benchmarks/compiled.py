"""Where the packages are with the core compiled: for the other benchmarks, to measure that.

    PYTHONPATH=$(uv run python benchmarks/compiled.py) uv run python benchmarks/core.py

Builds it the first time, with uv and a C compiler, into the user's cache folder.
"""
# ruff: noqa: INP001, T201

from __future__ import annotations

import sys

from peers.environments import UnavailableError, compiled


def main() -> None:
    """From the command line."""
    try:
        print(compiled())
    except UnavailableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
