"""The benchmarks work; how fast is not asked here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_core_is_measured():
    command = [sys.executable, "benchmarks/core.py", "--messages", "3000", "--vehicles", "50", "--rounds", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("x orjson.loads") == 5
