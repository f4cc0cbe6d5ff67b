import threading
import time

from streams.runtime.watchdog import Watchdog


def test_it_acts_when_its_time_has_passed():
    acted = threading.Event()
    Watchdog(0.01, acted.set).let_loose()
    assert acted.wait(5)


def test_called_off_it_does_nothing():
    acted = threading.Event()
    watchdog = Watchdog(0.05, acted.set)
    watchdog.let_loose()
    watchdog.call_off()
    assert not acted.wait(0.3)


def test_it_needs_no_new_thread_when_there_may_be_no_memory_for_one(monkeypatch):
    acted = threading.Event()
    watchdog = Watchdog(0.01, acted.set)

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    watchdog.let_loose()
    assert acted.wait(5)


def test_to_let_it_loose_again_or_late_changes_nothing():
    acted = []
    watchdog = Watchdog(0.01, lambda: acted.append(1))
    for _ in range(3):
        watchdog.let_loose()
    time.sleep(0.2)
    watchdog.let_loose()
    watchdog.call_off()
    time.sleep(0.1)
    assert acted == [1]
