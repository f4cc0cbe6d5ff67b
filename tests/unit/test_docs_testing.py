import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def functions_of(block):
    names = {}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    return [function for name, function in names.items() if name.startswith("test_")]


@pytest.mark.parametrize("block", [block for block in BLOCKS if "find_kafka" not in block])
def test_what_the_document_shows_is_true(block):
    (test,) = functions_of(block)
    test()


def test_the_real_kafka_of_the_document(kafka, monkeypatch):
    monkeypatch.setenv("TRIPS_TEST_BOOTSTRAP_SERVERS", kafka)
    (block,) = [block for block in BLOCKS if "find_kafka" in block]
    (test,) = functions_of(block)
    test()
