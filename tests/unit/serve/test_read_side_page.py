"""docs/read-side.md against the code."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import generate_latest
from pydantic import TypeAdapter
from unit.serve.test_gate import NEEDED

from schemas.read_side import TripPage
from streams.serve.examples import EXAMPLES
from streams.serve.keys import SCOPES
from streams.serve.listing import ListQuery
from streams.serve.metrics import ServeMetrics

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs" / "read-side.md").read_text(encoding="utf-8")


def test_every_metric_is_on_the_page():
    metrics = ServeMetrics()
    metrics.show(SimpleNamespace(ready=True, silence=0.0))
    there = set(re.findall(r"^# HELP (trips_\w+)", generate_latest(metrics.registry).decode(), flags=re.MULTILINE))
    assert set(re.findall(r"^\| `(trips_\w+)` \|", PAGE, flags=re.MULTILINE)) == there


def test_every_route_is_on_the_page_with_its_scope():
    told = {
        (*route.split(" "), scope)
        for routes, scope in re.findall(r"^\| (`[A-Z]+ /.*?`) \| `(\w+)` \|", PAGE, flags=re.MULTILINE)
        for route in re.findall(r"`([^`]+)`", routes)
    }
    assert told == {(method, path.replace(":path", ""), scope) for (method, path), scope in NEEDED.items()}


def test_every_scope_and_parameter_is_on_the_page():
    section = PAGE.split("## Who may ask")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == list(SCOPES)
    section = PAGE.split("### Lists")[1].split("\n###")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, flags=re.MULTILINE)
    told = {name for cell in cells for name in cell.split("`")[1::2]}
    assert told == set(ListQuery.model_fields) - {"order"}


def test_the_example_is_what_is_answered():
    (example,) = re.findall(r"^```json\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    page = TypeAdapter(TripPage).validate_json(example)
    assert json.loads(example)["items"] == EXAMPLES.page["items"]
    assert page.next_cursor is None
