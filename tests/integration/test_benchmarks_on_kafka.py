"""The benchmarks that need a Kafka work, and look at what comes out; how fast is not asked here."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def measure(kafka, tmp_path):
    """Runs a benchmark; returns its tables and its raw figures."""

    def run(program, *arguments):
        raw = tmp_path / "raw.json"
        command = [sys.executable, f"benchmarks/{program}.py", *arguments]
        command += ["--bootstrap-servers", kafka, "--json", str(raw)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout, json.loads(raw.read_text())

    return run


def test_this_project_and_a_peer_are_compared_and_their_outputs_checked(measure, tmp_path):
    plot = tmp_path / "plot.svg"
    runners = ("--runners", "trips-python,aiokafka", "--warm-ups", "0", "--noise", "99", "--rounds", "1")
    table, raw = measure("compare", "--messages", "4000", "--vehicles", "100", "--plot", str(plot), *runners)
    assert [(run["runner"], run["wrong"], run["error"]) for run in raw["runs"]] == [
        ("trips-python", "", ""),
        ("aiokafka", "", ""),
    ]
    assert all(run["outputs"] > 100 for run in raw["runs"])
    assert table.count("| 1/1 |") == 2
    assert ET.parse(plot).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_recovery_is_measured(measure):
    _, raw = measure("recovery", "--vehicles", "200", "--each", "2")
    (recovery,) = raw["recoveries"]
    assert recovery["records"] >= 200
    assert 0 < recovery["seconds"] < recovery["ready_s"]


def test_several_workers_are_measured(measure):
    _, raw = measure("scaling", "workers", "--messages", "1000", "--rounds", "1", "--counts", "2")
    assert [len(costs) for costs in raw["workers"].values()] == [1]


def test_checkpoints_seldom_and_often_are_measured(measure):
    _, raw = measure("scaling", "commits", "--rate", "200", "--seconds", "1", "--intervals", "0.1")
    (checkpoints,) = [row[1] for row in raw["commits"].values()]
    assert checkpoints > 0


def test_the_start_of_a_worker_is_measured(measure):
    _, raw = measure("startup", "--rounds", "1")
    assert len(raw["seconds"]["worker ready, empty state"]) == 1
    assert raw["memory_mib"][0] > 0
