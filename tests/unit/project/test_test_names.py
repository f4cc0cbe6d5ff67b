"""Two test files of the same name cannot be collected in one run: found here, and not where the run breaks off."""

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[2]


def test_each_name_is_there_once():
    count = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, times in count.items() if times > 1] == []
