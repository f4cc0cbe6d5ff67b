import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.local.guarded import Guarded

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(300)"]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(300)",
]
ORDERLY = [
    sys.executable,
    "-S",
    "-c",
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(300)",
]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def up(log):
    return lambda: log.exists() and "up" in log.read_text()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "of the process"
    folder.mkdir()
    return folder


def test_stop_ends_the_process_and_removes_its_folder(folder):
    process = Guarded(SLEEP, log=folder / "log", remove=folder)
    wait_until(up(folder / "log"))
    assert process.wait(0) is None
    process.stop()
    assert not is_running(process.pid)
    assert not folder.exists()
    assert process.exit_code == -signal.SIGKILL
    process.stop()


def test_a_process_with_grace_ends_by_itself(folder):
    process = Guarded(ORDERLY, log=folder / "log", grace=10)
    wait_until(up(folder / "log"))
    process.stop()
    assert process.exit_code == 7
    assert folder.exists()


def test_one_that_does_not_is_killed(folder):
    process = Guarded(STUBBORN, log=folder / "log", grace=0.3)
    wait_until(up(folder / "log"))
    process.stop()
    assert process.exit_code == -signal.SIGKILL


def test_the_end_of_a_process_is_noticed_with_what_it_said_last(folder):
    process = Guarded([sys.executable, "-c", "print('so long'); raise SystemExit(3)"], log=folder / "log")
    assert process.wait(10) == 3
    assert process.wait(0) == 3
    assert process.tail() == "so long"
    process.stop()


def test_a_command_that_is_not_there_is_an_error(folder, capfd):
    with pytest.raises(OSError, match="/no/such/command could not be started: No such file or directory"):
        Guarded(["/no/such/command"], log=folder / "log")
    assert capfd.readouterr().err == ""


STARTER = """
import sys, time
from pathlib import Path
from streams.local.guarded import Guarded
folder = Path(sys.argv[1])
process = Guarded([sys.executable, "-S", "-c", "import time; time.sleep(300)"], log=folder / "log", remove=folder)
print(process.pid, process._guard.pid, flush=True)
time.sleep(300)
"""


def start(folder):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True)
    process, guard = map(int, starter.stdout.readline().split())
    return starter, process, guard


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_the_starter_ends_the_process_ends_with_it_and_its_folder_goes(folder, number):
    starter, process, guard = start(folder)
    with starter:
        assert is_running(process)
        starter.send_signal(number)
        starter.wait(10)
    wait_until(lambda: not is_running(process) and not is_running(guard))
    assert not folder.exists()


def test_ctrl_c_at_a_terminal_does_not_reach_the_process(folder):
    starter, process, guard = start(folder)
    with starter:
        assert os.getpgid(process) != os.getpgid(starter.pid)
        os.kill(guard, signal.SIGINT)
        os.kill(guard, signal.SIGTERM)
        time.sleep(0.3)
        assert is_running(process)
        starter.kill()
    wait_until(lambda: not is_running(process))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_guard_that_is_killed_takes_the_process_with_it(folder):
    starter, process, guard = start(folder)
    with starter:
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not is_running(process))
        starter.kill()
