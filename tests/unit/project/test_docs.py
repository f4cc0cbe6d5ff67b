import importlib.util
import re
import tomllib

import pytest
from repository import TOP, anchors, name, outside_fences, pages, tracked

from streams.settings import Settings


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
        if there not in tracked() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_setting_that_is_named_exists(page):
    known = {f"TRIPS_{field.upper()}" for field in Settings.model_fields} | {"TRIPS_CONFIG_FILE"}
    named = set(re.findall(r"\bTRIPS_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
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


def test_the_changelog_knows_the_version():
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
