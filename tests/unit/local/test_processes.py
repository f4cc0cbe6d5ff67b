import os
import time

import pytest

from streams.errors import TripsError
from streams.local import processes
from streams.local.broker import free_ports
from streams.local.processes import Process, new_folder, running
from streams.settings import Settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def waits(tmp_path, folder):
    """A command that runs until it is ended, and is never ready."""
    os.mkfifo(tmp_path / "fifo")
    return "derive", str(tmp_path / "fifo")


def start(*command, **environment):
    (port,) = free_ports(1)
    return Process("the worker", command, Settings.given(), port=port, environment=environment)


async def test_one_that_ends_is_named_with_its_exit_code_and_what_it_said(folder):
    process = start("worker", TRIPS_PARTITIONS="none")
    async with running([process]):
        with pytest.raises(TripsError) as raised:
            await process.until_ready()
    first, *log = str(raised.value).splitlines()
    assert first == "the worker ended (exit code 2); its log:"
    assert log == ["trips: TRIPS_PARTITIONS='none': must be a whole number, 1 to 10000"]
    assert list(folder.iterdir()) == []


async def test_one_that_does_not_become_ready_is_not_waited_for_for_ever(waits, monkeypatch):
    monkeypatch.setattr(processes, "_READY_WITHIN_S", 0.5)
    process = start(*waits)
    async with running([process]):
        with pytest.raises(TripsError, match="the worker was not ready within 0 s; its log:"):
            await process.until_ready()
        process.see_that_it_runs()


async def test_all_end_with_the_block_at_the_same_time(folder, waits, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_S", 0.0)
    several = [start(*waits) for _ in range(3)]
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        async with running(several):
            raise ZeroDivisionError
    assert time.monotonic() - begun < 10
    for process in several:
        with pytest.raises(TripsError, match="the worker ended"):
            process.see_that_it_runs()
    assert list(folder.iterdir()) == []


def test_a_folder_is_a_new_one_each_time(folder):
    assert new_folder() != new_folder()
    assert len(list(folder.iterdir())) == 2
