import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]

SUITE = """
import pytest
def test_plain(): pass
@pytest.mark.kafka
def test_kafka(): {body}
"""


def run(folder, *arguments):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "kafka_ran",
            "-o",
            f"pythonpath={TESTS}",
            "-o",
            "markers=kafka",
            *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two processes"])
@pytest.mark.parametrize(
    ("body", "arguments", "code", "says"),
    [
        ("pass", (), 0, "1 of 1 passed"),
        ("pytest.skip('no broker')", (), 1, "did not pass: test_suite.py::test_kafka"),
        ("pass", ("-m", "not kafka"), 1, "0 of 0 passed"),
        ("assert False", (), 1, "did not pass: test_suite.py::test_kafka"),
    ],
    ids=["ran", "skipped", "left out", "failed"],
)
def test_a_run_counts_only_if_its_kafka_tests_ran(tmp_path, processes, body, arguments, code, says):
    (tmp_path / "test_suite.py").write_text(SUITE.format(body=body))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    result = run(tmp_path, *processes, *arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert says in result.stdout
