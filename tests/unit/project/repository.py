"""Where this project's files are, for tests about the project itself."""

import re
import subprocess
from functools import cache
from pathlib import Path

TOP = Path(__file__).parents[3]


@cache
def tracked():
    """The files that belong to the project, without the binary ones and the lock file."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    paths = [TOP / name for name in names.split("\0") if name and name != "uv.lock"]
    return [path for path in paths if path.is_file() and path.suffix != ".gz"]


@cache
def pages():
    """The Markdown pages."""
    return [path for path in tracked() if path.suffix == ".md"]


def name(path):
    """As a test's id."""
    return str(path.relative_to(TOP))


def outside_fences(text):
    """A Markdown text without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What ``#...`` can refer to on a page, as GitHub makes it of the headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", outside_fences(page.read_text(encoding="utf-8")), flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found
