"""The benchmarks that need no Kafka work; how fast is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run():
    """Runs a benchmark; returns what it printed."""

    def run(program, *arguments):
        command = [sys.executable, f"benchmarks/{program}.py", *map(str, arguments)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    return run


@pytest.fixture
def measure(run, tmp_path):
    """Runs a benchmark; returns its raw figures."""

    def measure(program, *arguments):
        raw = tmp_path / "raw.json"
        assert run(program, *arguments, "--json", raw).count("| --- |") == 1
        return json.loads(raw.read_text())

    return measure


def test_the_core_is_measured(run):
    assert run("core", "--messages", "3000", "--vehicles", "50", "--rounds", "1").count("x orjson.loads") == 5


def test_fleets_are_measured(measure):
    assert measure("scaling", "fleets", "--messages", 500, "--each", 1, "--vehicles", "10,100")["fleets"].keys() == {
        "10",
        "100",
    }


def test_all_kinds_of_loads_are_measured(measure):
    raw = measure("scaling", "loads", "--messages", 1000)
    assert len(raw["loads"]) == 11
    assert all(cost > 0 for cost in raw["loads"].values())


def test_memory_is_measured(measure):
    raw = measure("memory", "--vehicles", 20)
    changelog = {name: changelog for name, (_, changelog) in raw["bytes"].items()}
    assert changelog["idle vehicle"] > changelog["sample of a trip that is on"] > 0
    assert raw["changelog_for_input"] > 0


def test_the_telling_of_a_file_is_measured(measure):
    raw = measure("offline", "--messages", 500, "--vehicles", 10, "--rounds", 1)
    assert raw["took"].keys() == {"orjson.loads", "trips derive"}


def test_starting_is_measured(measure):
    raw = measure("startup", "--rounds", 1, "--no-kafka")
    assert raw["seconds"].keys() == {"python alone", "trips --help"}


def test_the_read_side_is_measured(measure):
    raw = measure("read_side", "--trips", 5000, "--seconds", 0.1, "--readers", 2)
    assert len(raw["questions"]) == 10
    assert all(figure > 0 for figures in raw["questions"].values() for figure in figures)
