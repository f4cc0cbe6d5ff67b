"""The file of subscriptions, and brokers that are away when it changes."""

import asyncio

import pytest

from streams.errors import ClusterError
from streams.push import app
from streams.settings import Settings

TENANT = '[tenants]\nacme = ["ACME-*"]\n'


@pytest.fixture
def follow(monkeypatch, tmp_path):
    """Follows a file that has changed, with what comes of each attempt to take it in."""
    monkeypatch.setattr(app, "_LOOK_AT_FILE_EVERY", 0.001)
    path = tmp_path / "push.toml"
    path.write_text(TENANT)
    taken = []

    async def run(*errors):
        left = list(errors)

        async def sync(_settings, file):
            if left:
                raise left.pop(0)
            taken.append(file.tenants)

        monkeypatch.setattr(app, "sync", sync)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.follow_file(Settings.given(), path, None), 0.2)
        return taken

    return run


async def test_a_file_that_changes_while_the_brokers_are_away_is_taken_in_when_they_are_back(follow):
    assert await follow(ClusterError("away"), ClusterError("away")) == [{"acme": ("ACME-*",)}]
