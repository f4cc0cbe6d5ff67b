"""The commands of the read side: ``trips serve``, ``trips keys``."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NoReturn

import click

from streams.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.serve.keys import KeyStore

__all__ = ["keys", "serve"]

_DAYS_MS: Final = 86_400_000


@click.command()
@click.option("--bootstrap-servers", metavar="HOST:PORT", help="The Kafka cluster; instead of TRIPS_BOOTSTRAP_SERVERS.")
@click.option("--rebuild", is_flag=True, help="Make the projection anew, from what the topics hold.")
@click.pass_obj
def serve(debug: bool, *, bootstrap_servers: str | None, rebuild: bool) -> NoReturn:  # noqa: FBT001
    """Serve trips over HTTP: look them up, export them, delete them.

    Keeps a projection of the announcements in a database (TRIPS_SERVE_DATABASE) and answers from it on
    TRIPS_SERVE_HOST and TRIPS_SERVE_PORT. Health, readiness and metrics are on TRIPS_SERVE_HTTP_PORT. Every request
    needs a key (`trips keys create`), but on this machine's own address as long as none was ever made.
    """
    from streams.settings import Settings

    settings = Settings.load(bootstrap_servers=bootstrap_servers)  # before the slow imports: settings are checked first
    from streams.serve.app import run_server

    sys.exit(run_server(settings, rebuild=rebuild, debug=debug))


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of `trips serve`."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "delete", "status", "admin"]),
    help="What it is for; several times for several. admin: everything.",
)
@click.option("--expires-in", type=click.IntRange(1, 36_500), metavar="DAYS", help="Refuse it after so many days.")
def keys_create(*, name: str, scopes: tuple[str, ...], expires_in: int | None) -> None:
    """Make a key, and print it: once, now or never.

    NAME says whose it is. Only a hash of the key is kept. It goes into the header Authorization, after Bearer.
    """
    if not scopes:
        raise UsageError("say what the key is for: --scope read, delete, status or admin; several times for several")
    if not name.strip() or len(name) > 200:
        raise UsageError("NAME must have 1 to 200 characters")
    expires_at = None if expires_in is None else time.time_ns() // 1_000_000 + expires_in * _DAYS_MS
    with _store() as store:
        key, token = store.create(name, scopes, expires_at=expires_at)
    click.echo(f"Key {key.id} for {', '.join(sorted(key.scopes))}. It is shown this once:", err=True)
    click.echo(token)


@keys.command("list")
def keys_list() -> None:
    """List the keys: whose, what for, since when. Never the keys themselves."""

    def day(instant: int | None) -> str:
        return "" if instant is None else datetime.fromtimestamp(instant / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    with _store() as store:
        there = store.all()
    if not there:
        click.echo("There are none: `trips keys create` makes one.", err=True)
    now = time.time_ns() // 1_000_000
    for key in there:
        if key.revoked_at is not None:
            state = f"revoked {day(key.revoked_at)}"
        elif not key.counts(now):
            state = f"expired {day(key.expires_at)}"
        else:
            state = f"until {day(key.expires_at)}" if key.expires_at else "valid"
        name = "".join(letter if letter.isprintable() else "?" for letter in key.name)
        click.echo(f"{key.id}  {day(key.created_at)}  {','.join(sorted(key.scopes)):<25}  {state:<28}  {name}")


@keys.command("revoke")
@click.argument("key_id")
def keys_revoke(*, key_id: str) -> None:
    """Refuse a key, from within 2 seconds on, for good."""
    with _store() as store:
        store.revoke(key_id)
    click.echo(f"Key {key_id} is revoked.", err=True)


@contextmanager
def _store() -> Iterator[KeyStore]:
    from streams.serve.database import open_database
    from streams.serve.keys import KeyStore
    from streams.settings import Settings

    engine = open_database(Settings.load())
    try:
        yield KeyStore(engine)
    finally:
        engine.dispose()
