"""A pytest plugin for CI: the run fails where no test that needs a real Kafka has passed, or one was skipped.

A suite without them would be green as well, and would say nothing of the main thing. `pytest -p kafka_ran` asks for it.
Tests may run in several processes: what they are marked with goes along with their reports.
"""

import pytest

_MARK = ("kafka_ran", "kafka")


class KafkaRan:
    def __init__(self):
        self.asked = set()
        self.passed = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        for item in items:
            if item.get_closest_marker("kafka"):
                item.user_properties.append(_MARK)

    def pytest_runtest_logreport(self, report):
        if _MARK in map(tuple, report.user_properties):
            self.asked.add(report.nodeid)
            if report.when == "call" and report.passed:
                self.passed.add(report.nodeid)

    def pytest_sessionfinish(self, session, exitstatus):
        if hasattr(session.config, "workerinput"):
            return  # one of several processes: who has started them knows of all
        if exitstatus == pytest.ExitCode.OK and (not self.passed or self.passed != self.asked):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("tests on a real Kafka")
        terminalreporter.line(f"{len(self.passed)} of {len(self.asked)} passed")
        for nodeid in sorted(self.asked - self.passed):
            terminalreporter.line(f"did not pass: {nodeid}")


def pytest_configure(config):
    config.pluginmanager.register(KafkaRan(), "kafka_ran_report")
