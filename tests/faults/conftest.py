"""What the fault tests have in common: seeds, the drill, and the table at the end.

``TRIPS_TEST_FAULTS=all`` runs everything; without it, what CI has the time for. ``TRIPS_TEST_SEED`` repeats a run.
``TRIPS_TEST_TABLE`` names a file for the table (Markdown) beside the one that is printed. With
``TRIPS_TEST_GUARANTEE=at_least_once`` all workers work like that, and the judge allows repetitions.
"""

from __future__ import annotations

import gc
import os
import platform
import random
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from faults.drill import Drill, Row, prepare
from faults.load import Load

from streams.local.broker import KAFKA_VERSION

PROFILE = os.environ.get("TRIPS_TEST_FAULTS", "few")
# Some of them run side by side in processes of their own, which inherit the seed.
os.environ["TRIPS_TEST_SEED"] = os.environ.get("TRIPS_TEST_SEED") or str(random.SystemRandom().randrange(10**6))
SEED = int(os.environ["TRIPS_TEST_SEED"])
GUARANTEE = os.environ.get("TRIPS_TEST_GUARANTEE") or "exactly_once"
HERE = Path(__file__).parent

_TOLD: list[Row] = []


def pytest_configure():
    assert PROFILE in {"few", "all"}, f"TRIPS_TEST_FAULTS={PROFILE}: it is few or all"


def pytest_report_header():
    return f"faults: {PROFILE}, {GUARANTEE}, TRIPS_TEST_SEED={SEED}"


def pytest_collection_modifyitems(config, items):
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.kafka)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
        reason = item.get_closest_marker("transactions_only")
        if reason is not None and GUARANTEE == "at_least_once":
            item.add_marker(pytest.mark.skip(reason=reason.args[0]))
        # Clients that a fault interrupts leave connections to the garbage collector.
        item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
    if PROFILE == "few":
        left_out = [item for item in ours if item.get_closest_marker("all_faults")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
    else:
        items.sort(key=lambda item: item.path.name != "test_soak.py")  # beside it, all others can be run


@pytest.fixture
def add_row(request):
    """Adds a row to the table, as it is when the test is over."""
    rows = []
    yield rows.append
    request.node.user_properties += [("fault", asdict(row)) for row in rows]


@pytest.fixture(autouse=True)
def no_litter():
    """Connections that a fault has left to the garbage collector are collected here, where that is no warning."""
    yield
    gc.collect()


@pytest.fixture
def every_fault():
    """Whether there is time for everything."""
    return PROFILE == "all"


@pytest.fixture
def seed():
    """Of all random choices of this test; printed with the table."""
    return SEED


@pytest.fixture
def settings(make_settings):
    """Four partitions, quick failover, and a horizon that some messages miss."""
    return make_settings(**FAULTS)


FAULTS = {
    "partitions": 4,
    "session_timeout": 2,
    "silence_timeout": 600,
    "correction_horizon": 1200,
    "processing_guarantee": GUARANTEE,
}


@pytest.fixture
async def drill(add_row, seed, tmp_path):
    """Makes drills: ``await drill("what breaks", settings)``; whatever they have started ends with the test."""
    made = []

    async def make(fault, settings, *, feed=None, vehicles=150):
        row = Row(fault, seed)
        add_row(row)
        folder = tmp_path / f"drill-{len(made)}"
        folder.mkdir()
        feed = feed or settings
        await prepare(feed)
        one = Drill(row, settings, feed, folder, Load(feed, seed, vehicles=vehicles))
        made.append(one)
        return one

    yield make
    for one in made:
        await one.destroy()


# -- the table ---------------------------------------------------------------------------------------------------------

COLUMNS = (
    ("fault", lambda row: row.fault),
    ("repetitions", lambda row: f"{row.repetitions}"),
    ("messages", lambda row: f"{row.messages:,}"),
    ("trips", lambda row: f"{row.trips:,}" if row.judged else "-"),
    ("missing", lambda row: f"{row.missing}" if row.judged else "-"),
    ("extra", lambda row: f"{row.extra}" if row.judged else "-"),
    ("different", lambda row: f"{row.different}" if row.judged else "-"),
    ("duplicates", lambda row: f"{row.duplicates}" if row.judged else "-"),
    ("seconds to recover: median / most", lambda row: row.recovery_text),
    ("", lambda row: row.note if row.clean else f"NOT CLEAN {row.note}"),
)


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        _TOLD.extend(Row(**value) for name, value in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter):
    rows = sorted(_TOLD, key=lambda row: row.fault)
    if not rows:
        return
    cells = [[name for name, _ in COLUMNS], *([show(row) for _, show in COLUMNS] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(COLUMNS))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    terminalreporter.section("faults")
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, seed {SEED}, Apache Kafka {KAFKA_VERSION}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {GUARANTEE}"
    )
    terminalreporter.line(about)
    for line in lines:
        terminalreporter.line(line.rstrip())
    target = os.environ.get("TRIPS_TEST_TABLE")
    if target:
        text = "\n".join([about, "", *(f"| {line} |" for line in lines), ""])
        Path(target).write_text(text, encoding="utf-8")
