"""What a newcomer sees first, from the first line to the summary."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from streams.local.broker import accepts

pytestmark = pytest.mark.kafka

DISTANCES = [8.359, 1.215, 3.340, 12.734, 1.100, 2.257]


def command(*arguments):
    return [sys.executable, "-m", "streams.cli", *arguments]


def environment(folder, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")}
    # What the demo leaves behind would be here.
    return {**clean, "TMPDIR": str(folder), **more}


def run(folder, *arguments, **more):
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def children_of_tests(folder):
    """Processes that were started with this folder in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in (process / "cmdline").read_text():
                found.append(process.name)
    return found


def wait_until(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def by_vehicle(announcements):
    """What is said about each vehicle, in order: the parts that do not depend on how the records were numbered."""
    told = {}
    for one in announcements:
        trip = {name: value for name, value in one["data"]["trip"].items() if name != "revision"}
        told.setdefault(trip["vehicle_id"], []).append((one["metadata"]["type"], one["data"].get("reason"), trip))
    return told


def test_json_announces_what_derive_tells_and_leaves_nothing_behind(tmp_path):
    begun = time.monotonic()
    demo = run(tmp_path, "demo", "--json")
    took = time.monotonic() - begun
    assert demo.returncode == 0, demo.stderr
    assert took < 60
    announcements = [json.loads(line) for line in demo.stdout.splitlines()]
    kinds = [one["metadata"]["type"] for one in announcements]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "TripStarted": 7,
        "TripEnded": 7,
        "TripDataReady": 6,
        "TripDiscarded": 1,
    }
    ready = [one["data"]["trip"] for one in announcements if one["metadata"]["type"] == "TripDataReady"]
    ready.sort(key=lambda trip: trip["start"]["timestamp"])
    for trip, kilometres in zip(ready, DISTANCES, strict=True):
        assert trip["metrics"]["distance_source"] == "ODOMETER"
        assert abs(trip["metrics"]["distance_in_km"] - kilometres) < 0.001
    (discarded,) = [one["data"] for one in announcements if one["metadata"]["type"] == "TripDiscarded"]
    assert discarded["reason"] == "TOO_SHORT"
    assert discarded["trip"]["metrics"]["duration_in_ms"] == 53_000

    recording = Path(__file__).parents[2] / "streams" / "local" / "data" / "drives.jsonl.gz"
    derived = run(tmp_path, "derive", str(recording))
    assert by_vehicle(announcements) == by_vehicle(json.loads(line) for line in derived.stdout.splitlines())

    assert children_of_tests(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_plain_lines_end_with_a_summary(tmp_path, kafka):
    demo = run(tmp_path, "demo", "--speed", "0", "--bootstrap-servers", kafka)
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "\x1b" not in demo.stdout
    summary = demo.stdout.split("Summary")[1]
    for kilometres in DISTANCES:
        assert f"{kilometres:.3f} km" in summary
    for part in ("2019-05-26 21:31:08", "21:54:09", "23:01 min", "53 s", "TOO_SHORT", "START_UNOBSERVED"):
        assert part in summary
    assert "7 TripStarted, 7 TripEnded, 6 TripDataReady, 1 TripDiscarded." in summary


async def test_a_cluster_that_is_there_is_left_as_it_was(tmp_path, kafka):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    before = set(await admin.list_topics())
    demo = run(tmp_path, "demo", "--speed", "0", "--json", TRIPS_BOOTSTRAP_SERVERS=kafka, TRIPS_PARTITIONS="3")
    assert demo.returncode == 0, demo.stderr
    assert len(demo.stdout.splitlines()) == 21
    await_gone = time.monotonic() + 10
    while left := set(await admin.list_topics()) - before - {"__consumer_offsets", "__transaction_state"}:
        assert time.monotonic() < await_gone, left
    await admin.close()
    assert children_of_tests(tmp_path) == []


def read_until(terminal, text, timeout=60.0):
    seen, deadline = "", time.monotonic() + timeout
    while text not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


@contextlib.contextmanager
def on_a_terminal(folder, *arguments, **more):
    ours, theirs = pty.openpty()
    more = {"COLUMNS": "140", "LINES": "50", "TERM": "xterm-256color", **more}
    with subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(folder, **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            if process.poll() is None:
                process.kill()
            os.close(ours)


def test_on_a_terminal_the_table_lives_and_keep_running_stays_until_ctrl_c(tmp_path):
    with on_a_terminal(tmp_path, "demo", "--speed", "900", "--keep-running") as (process, terminal):
        live = read_until(terminal, "● driving")
        assert "Starting Apache Kafka 4.1.1" in live
        rest = live + read_until(terminal, "/metrics")
        assert "Summary" in rest
        assert "Everything stays up until Ctrl-C" in rest
        servers = rest.split("TRIPS_BOOTSTRAP_SERVERS=")[1].split()[0]
        checked = run(tmp_path, "check", TRIPS_BOOTSTRAP_SERVERS=servers)
        assert checked.returncode == 0
        assert "revisions: the state is there: they go on from it" in checked.stdout
        tail = subprocess.Popen(
            command("tail", "--from-beginning", "--bootstrap-servers", servers),
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
        )
        with tail:
            lines = [tail.stdout.readline() for _ in range(21)]
            tail.send_signal(signal.SIGTERM)
        assert sum("started" in line for line in lines) == 7
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            # A terminal that nobody reads would hold it up.
            if select.select([terminal], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    os.read(terminal, 65536)
        assert process.poll() == 0
    assert not accepts(int(servers.rpartition(":")[2]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", ["Starting Apache Kafka", "Starting a worker", "started"])
def test_an_interruption_is_clean_wherever_it_comes(tmp_path, after):
    with subprocess.Popen(
        command("demo"),
        cwd=tmp_path,
        env=environment(tmp_path, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if after in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.strip() == "trips: interrupted"
    assert children_of_tests(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_nothing_outlives_a_demo_that_is_killed(tmp_path):
    with subprocess.Popen(
        command("demo"), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if "Replaying" in line:
                break
        assert children_of_tests(tmp_path)
        process.kill()
    wait_until(lambda: children_of_tests(tmp_path) == [])
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_ends_ends_the_demo_with_its_reason(tmp_path, kafka):
    with subprocess.Popen(
        command("demo", "--bootstrap-servers", kafka),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if "Replaying" in line:
                break
        (guard,) = children_of_tests(tmp_path)  # the worker itself is started without the folder's name
        (worker,) = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("trips: the worker ended (exit code -9); its log:\n")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
