import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams import cli
from streams.errors import ClusterError

COMMANDS = [
    ["demo"],
    ["worker"],
    ["derive"],
    ["replay"],
    ["tail"],
    ["broker"],
    ["topics"],
    ["topics", "create"],
    ["topics", "check"],
    ["check"],
    ["schemas"],
    ["plan"],
    ["serve"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
    ["push"],
    *(
        ["push", command]
        for command in ("worker", "add", "list", "remove", "test", "pause", "resume", "report", "retry")
    ),
]


@pytest.fixture
def trips(capfd, monkeypatch, tmp_path):
    """Runs a command in this process; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return end.value.code, out, err

    return run


@pytest.mark.parametrize("command", [[], *COMMANDS])
def test_every_command_has_help(trips, command):
    code, out, err = trips(*command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(['trips', *command])}")


def test_every_command_is_in_the_help_with_a_whole_sentence(trips):
    _, out, _ = trips("--help")
    for name in {command[0] for command in COMMANDS}:
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
        assert line.endswith(".")
        assert not line.endswith("...")


def test_no_command_is_a_request_for_help(trips):
    assert trips() == trips("--help")


def test_the_version(trips):
    code, out, _ = trips("--version")
    assert code == 0
    assert out.startswith("ignition-trips ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "trips: No such option: --nonsense (see trips --help)\n"),
        (["demmo"], "trips: No such command 'demmo'. (see trips --help)\n"),
        (["derive", "--speed"], "trips: No such option: --speed (see trips derive --help)\n"),
        (["replay"], "trips: Missing argument 'FILE|-'. (see trips replay --help)\n"),
        (["derive", "/no/such/file"], "trips: /no/such/file: No such file or directory\n"),
        (
            ["demo", "--speed", "-1"],
            "trips: Invalid value for '--speed': -1.0 is not in the range x>=0. (see trips demo --help)\n",
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(trips, arguments, says):
    assert trips(*arguments) == (2, "", says)


@pytest.mark.parametrize("command", [["worker"], ["derive", "-"], ["check"], ["topics", "check"], ["tail"], ["demo"]])
def test_wrong_settings_are_a_line_each_and_exit_2(trips, monkeypatch, command):
    monkeypatch.setenv("TRIPS_PARTITIONS", "none")
    monkeypatch.setenv("TRIPS_SILENCE_TIMEOUT", "soon")
    code, out, err = trips(*command)
    assert (code, out) == (2, "")
    assert err == (
        "trips: TRIPS_PARTITIONS='none': must be a whole number, 1 to 10000\n"
        "trips: TRIPS_SILENCE_TIMEOUT='soon': must be seconds, or ISO 8601 such as PT30M; whole milliseconds\n"
    )


TRIP = [
    {"vehicle_id": "A", "timestamp": "2026-03-01T08:00:00Z", "ignition": "ON"},
    {"vehicle_id": "A", "timestamp": "2026-03-01T08:10:00Z", "ignition": "OFF"},
]


def test_derive_prints_announcements_and_names_bad_lines(trips, tmp_path):
    file = tmp_path / "trip.jsonl"
    file.write_text("\n".join([json.dumps(TRIP[0]), "nonsense", json.dumps(TRIP[1])]))
    code, out, err = trips("derive", file)
    assert code == 0
    assert [json.loads(line)["metadata"]["type"] for line in out.splitlines()] == [
        "TripStarted",
        "TripEnded",
        "TripDataReady",
    ]
    assert err.startswith("line 2: ")
    assert len(err.splitlines()) == 1

    strict = trips("derive", file, "--strict")
    assert strict[:2] == (1, out)
    assert strict[2] == f"{err}trips: 1 line was bad\n"


def test_derive_takes_the_rules_from_the_settings(trips, tmp_path, monkeypatch):
    file = tmp_path / "trip.jsonl"
    file.write_text("\n".join(map(json.dumps, TRIP)))
    monkeypatch.setenv("TRIPS_MIN_DURATION", "PT11M")
    _, out, _ = trips("derive", file)
    assert json.loads(out.splitlines()[-1])["data"]["reason"] == "TOO_SHORT"


def test_schemas_are_written(trips, tmp_path):
    code, out, _ = trips("schemas", tmp_path / "out")
    assert code == 0
    written = out.splitlines()
    assert any(path.endswith("asyncapi.json") or "asyncapi" in path for path in written)
    assert all(Path(path).stat().st_size for path in written)


def test_an_error_shows_its_traceback_only_when_asked(trips, monkeypatch):
    def fail(*_arguments, **_options):
        raise ClusterError("the broker has gone fishing")

    monkeypatch.setattr("streams.topics.check_topics", fail)
    assert trips("topics", "check") == (1, "", "trips: the broker has gone fishing\n")
    code, _, err = trips("--debug", "topics", "check")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("trips: the broker has gone fishing\n")


def test_what_should_not_happen_is_one_line_too(trips, monkeypatch):
    def fail(*_arguments, **_options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("streams.topics.check_topics", fail)
    code, out, err = trips("topics", "check")
    assert (code, out) == (1, "")
    assert err == "trips: this should not happen: ZeroDivisionError: division by zero (more with trips --debug)\n"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    file = tmp_path / "trips.jsonl"
    with file.open("w") as lines:
        for minute in range(3000):
            state = "ON" if minute % 2 else "OFF"
            time_ms = 1_772_352_000_000 + minute * 60_000
            lines.write(json.dumps({"vehicle_id": "A", "timestamp": time_ms, "ignition": state}) + "\n")
    command = [sys.executable, "-m", "streams.cli", "derive", str(file)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_help_is_quick(tmp_path):
    """Beside a Python that imports click and nothing else, in the same minute on the same machine."""

    def quickest(*arguments):
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, capture_output=True)
            took.append(time.perf_counter() - begun)
        return min(took)

    assert quickest("-m", "streams.cli", "--help") < 3 * quickest("-c", "import click")


def test_help_imports_nothing_heavy():
    heavy = ("faust", "aiokafka", "pydantic", "rich", "asyncio", "aiohttp")
    code = f"import sys; from streams import cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
