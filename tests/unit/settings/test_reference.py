from pathlib import Path

from streams.settings import Settings, reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_document_is_what_the_model_says():
    assert DOCUMENT.read_text(encoding="utf-8") == reference(), "python -m streams.settings > docs/settings.md"


def test_every_setting_is_in_the_document():
    text = reference()
    for name in Settings.model_fields:
        assert text.count(f"| `TRIPS_{name.upper()}` |") == 1
