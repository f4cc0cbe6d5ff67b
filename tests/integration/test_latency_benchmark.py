"""The benchmark of latency works; how fast is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.kafka
def test_latency_is_measured_with_each_guarantee_and_reader(tmp_path):
    target = tmp_path / "rounds.json"
    options = ["--vehicles", "60", "--rate", "200", "--seconds", "3", "--rounds", "1", "--warm-up", "0"]
    options += ["--json", str(target)]
    result = subprocess.run(
        [sys.executable, "benchmarks/latency.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads(target.read_text())["rounds"]
    assert [(row["guarantee"], row["reader"]) for row in rows] == [
        ("exactly_once", "read_committed"),
        ("at_least_once", "read_committed"),
        ("at_least_once", "read_uncommitted"),
    ]
    for row in rows:
        assert row["ended"] >= row["ready"] > 1
        assert row["repeated"] == 0
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert f"| {row['guarantee']} | {row['reader']} | {row['ready']} |" in result.stdout
