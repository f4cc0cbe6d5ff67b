"""The file of subscriptions: what is wrong in it, and brokers that are away when it changes."""

import asyncio
from types import SimpleNamespace

import pytest

from streams.errors import ClusterError, UsageError
from streams.push import app
from streams.push.subscriptions import Book
from streams.settings import Settings

FILE = """
[[subscriptions]]
id = "inside"
url = "https://169.254.169.254/latest"
profile = "drivequant"
"""


class TakenError(Exception):
    """Ends the test."""


async def test_a_file_that_changes_while_the_brokers_are_away_is_taken_in_when_they_are_back(monkeypatch, tmp_path):
    path, left = tmp_path / "push.toml", [ClusterError("away"), ClusterError("away")]
    path.write_text('[tenants]\nacme = ["ACME-*"]')

    async def sync(_settings, file):
        raise left.pop() if left else TakenError(file.tenants)

    monkeypatch.setattr(app, "_LOOK_AT_FILE_EVERY", 0.001)
    monkeypatch.setattr(app, "sync", sync)
    with pytest.raises(TakenError, match="acme"):
        await app.follow_file(Settings.given(), path, None, Book())


async def test_a_file_that_was_refused_for_a_name_is_taken_in_when_the_name_is_free(monkeypatch, tmp_path):
    path, book, tries = tmp_path / "push.toml", Book(), []
    path.write_text('[tenants]\nacme = ["ACME-*"]')
    by_command = SimpleNamespace(source="command")
    book.entries["mine"] = by_command

    async def sync(_settings, _file):
        tries.append(dict(book.entries))
        match len(tries):
            case 1:
                asyncio.get_running_loop().call_later(0.05, book.entries.clear)
                raise UsageError("mine was added by a command")
            case 2:  # and the brokers are away just then
                raise ClusterError("away")
        raise TakenError

    monkeypatch.setattr(app, "_LOOK_AT_FILE_EVERY", 0.001)
    monkeypatch.setattr(app, "sync", sync)
    with pytest.raises(TakenError):
        async with asyncio.timeout(10):
            await app.follow_file(Settings.given(), path, None, book)
    assert tries == [{"mine": by_command}, {}, {}]


def test_a_url_of_the_file_is_checked_like_that_of_a_command(tmp_path):
    path = tmp_path / "push.toml"
    path.write_text(FILE)
    with pytest.raises(UsageError, match=r"push.toml: subscription inside: this URL is refused: 169.254.169.254 is li"):
        app.read_checked(Settings.given(), path)
    allowed = Settings.given(push_allowed_networks="169.254.0.0/16")
    assert app.read_checked(allowed, path).subscriptions[0].id == "inside"
