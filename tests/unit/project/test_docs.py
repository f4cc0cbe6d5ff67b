import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest
from repository import TOP, anchors, name, outside_fences, pages, tracked

from streams.push.metrics import PushMetrics
from streams.push.subscriptions import Limits, Subscription, read_file
from streams.runtime.metrics import Metrics
from streams.settings import Settings
from streams.telemetry.reader import Reader

README = (TOP / "README.md").read_text(encoding="utf-8")


def load_diagram():
    spec = importlib.util.spec_from_file_location("diagram", TOP / "docs" / "diagram.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in re.findall(r"\[[^]]*\]\(([^)\s]+)\)", outside_fences(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not any(there in (file, *file.parents) for file in tracked()) or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_setting_that_is_named_exists(page):
    known = {f"TRIPS_{field.upper()}" for field in Settings.model_fields} | {"TRIPS_CONFIG_FILE"}
    named = set(re.findall(r"\bTRIPS_(?!TEST_)[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named - known == set()


def test_the_diagram_is_the_table():
    diagram = load_diagram()
    page = diagram.PAGE.read_text(encoding="utf-8")
    assert diagram.drawn(page) == page, "docs/how-it-works.md is out of date: `make docs`"


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match=r"how-it-works\.md must hold"):
        load_diagram().drawn("# no markers\n")


@pytest.mark.parametrize("path", tracked(), ids=name)
def test_nothing_names_a_place_on_somebodys_machine(path):
    found = re.findall(r"(?<![\w.~}$])/(?:root|home|work|tmp|Users)/\w+", path.read_text(encoding="utf-8"))
    assert found == []


@pytest.fixture(scope="module")
def announcements():
    """What `trips derive` says of the recorded drives, by trip key and event."""
    drives = TOP / "streams" / "local" / "data" / "drives.jsonl.gz"
    result = subprocess.run([sys.executable, "-m", "streams.cli", "derive", drives], capture_output=True, check=True)
    said = [json.loads(line) for line in result.stdout.splitlines()]
    return {(one["data"]["trip"]["key"], one["metadata"]["type"]): one for one in said}


def test_the_readmes_telemetry_is_without_a_fault_and_its_trip_is_what_comes_out(announcements):
    telemetry, announcement = re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)
    assert Reader(max_clock_skew_ms=None).read(telemetry.encode(), None, 0).problems == ()
    assert json.loads(announcement) == announcements["GYKQJ", "TripDataReady"]


def test_the_readmes_demo_shows_the_trips_that_come_out(announcements):
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in README.splitlines() if line.startswith("│")]
    shown = {row[0]: row for row in rows[1:]}
    ended = {
        key: one["data"] for (key, event), one in announcements.items() if event in {"TripDataReady", "TripDiscarded"}
    }
    assert shown.keys() == ended.keys()
    for key, data in ended.items():
        trip, row = data["trip"], shown[key]
        assert row[1] == trip["vehicle_id"]
        assert row[2].replace(" ", "T") + "Z" == trip["start"]["timestamp"]
        assert row[3] == trip["end"]["timestamp"][11:19]
        assert row[5] == f"{trip['metrics']['distance_in_km']:.3f} km"
        assert row[7] == ("discarded" if "reason" in data else "ready")
    counts = Counter(event for _, event in announcements)
    for event, count in counts.items():
        assert f"{count} {event}" in README


def test_every_metric_is_explained():
    metrics = Metrics()
    metrics.show(SimpleNamespace(ready=False, partitions={}, answered=0))
    there = set(re.findall(r"^# HELP (\w+)", generate_latest(metrics.registry).decode(), flags=re.MULTILINE))
    page = (TOP / "docs" / "operating.md").read_text(encoding="utf-8")
    # Those of the process are known by their names.
    there = {name for name in there if name.startswith("trips_")}
    assert set(re.findall(r"^\| `(trips_\w+)` \|", page, flags=re.MULTILINE)) == there


def test_every_metric_of_pushes_is_explained():
    metrics = PushMetrics()
    metrics.show(SimpleNamespace(ready=False, partitions={}, under_way=0, subscriptions=0))
    there = set(re.findall(r"^# HELP (\w+)", generate_latest(metrics.registry).decode(), flags=re.MULTILINE))
    page = (TOP / "docs" / "push.md").read_text(encoding="utf-8")
    there = {name for name in there if name.startswith("trips_")}
    assert set(re.findall(r"^\| `(trips_\w+)` \|", page, flags=re.MULTILINE)) == there


def test_the_file_of_subscriptions_on_the_page_about_pushes_is_one(tmp_path):
    page = (TOP / "docs" / "push.md").read_text(encoding="utf-8")
    (file,) = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "push.toml").write_text(file)
    assert [one.id for one in read_file(tmp_path / "push.toml").subscriptions] == ["acme-deletions", "acme-trips"]
    fields = re.findall(r"^\| `([a-z.]+)` \| `", page, flags=re.MULTILINE)
    limits = [f"limits.{name}" for name in Limits.model_fields]
    assert sorted(fields) == sorted([*(name for name in Subscription.model_fields if name != "limits"), *limits])


def test_the_changelog_knows_the_version():
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
