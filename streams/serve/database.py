"""The read side's database: SQLite or PostgreSQL, by its URL; connections to read with, and one way to write.

Writers take turns: in SQLite by its one lock, in PostgreSQL by a lock on the row of ``projection``. So several
processes may write to one database, and each finds what the one before has left.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, event, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from streams.errors import DatabaseError, SettingsError, StateError
from streams.serve.tables import projection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

    from streams.settings import Settings

__all__ = ["DEFAULT_URL", "database_url", "insert", "migrate", "open_database", "reading", "writing"]

DEFAULT_URL: Final = "sqlite:///trips.sqlite3"
_VARIABLE: Final = "TRIPS_SERVE_DATABASE"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Seconds that a writer waits for another one (SQLite), and that connecting may take (PostgreSQL).
_BUSY_TIMEOUT: Final = 30
_CONNECT_TIMEOUT: Final = 10
# A read that takes longer is a mistake, and is ended (milliseconds; PostgreSQL).
_STATEMENT_TIMEOUT: Final = 30_000
# As many as there are requests at once that wait for the database, and the projector.
_CONNECTIONS: Final = 16
# "Migrations of ignition-trips", as a number that nobody else uses for a lock.
_MIGRATION_LOCK: Final = 0x7472_6970_73
_WRITES: Final = "trips_writes"


def database_url(settings: Settings) -> URL:
    """Where the database is.

    Raises:
        SettingsError: the URL cannot be read.
    """
    given = settings.serve_database
    try:
        url = make_url(DEFAULT_URL if given is None else given.get_secret_value())
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        raise SettingsError([f"{_VARIABLE}: not a URL: sqlite:///FILE, or postgresql://…"]) from None
    return url


def open_database(settings: Settings) -> Engine:
    """Connect, and bring the tables up to date.

    Raises:
        SettingsError: the URL cannot be read, or its file not be made.
        DatabaseError: the database is away, or refuses.
        StateError: its tables are those of a newer version.
    """
    url = database_url(settings)
    engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
    try:
        with _told(engine):
            migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _sqlite(url: URL) -> Engine:
    # With the rights of its user alone: hashes of keys are in it. SQLite gives its other files the same.
    path = Path(url.database or "")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise SettingsError([f"{_VARIABLE}: {path} cannot be written ({error.strerror})"]) from None
    engine = create_engine(
        url, hide_parameters=True, pool_size=_CONNECTIONS, max_overflow=8, connect_args={"timeout": _BUSY_TIMEOUT}
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, and not before the first write
        for pragma in (
            "journal_mode = WAL",  # readers do not wait for the writer, nor it for them
            "synchronous = FULL",  # a key that was revoked stays so when the power fails
            "secure_delete = ON",  # what is deleted is overwritten
            "temp_store = MEMORY",  # a container has nowhere else to write to
            "cache_size = -16384",
            "mmap_size = 1073741824",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_size=_CONNECTIONS,
        max_overflow=8,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT,
            "options": f"-c statement_timeout={_STATEMENT_TIMEOUT} -c timezone=UTC",
            "application_name": "ignition-trips",
        },
    )


def _shown(url: URL) -> str:
    """The URL without its secrets: libpq takes a password among the options as well."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    """The driver's errors as ours, in one line and without what was written."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise DatabaseError(f"The database {_shown(engine.url)} ({_VARIABLE}) cannot be used: {reason}") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that sees one state of the database, and changes nothing.

    Raises:
        DatabaseError: the database is away, or refuses.
    """
    with _told(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":  # by itself, each statement would see another one
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[tuple[Connection, int]]:
    """A transaction that no other writer runs beside, and the projection's generation.

    Raises:
        DatabaseError: the database is away, or refuses.
    """
    with (
        _told(engine),
        engine.connect().execution_options(**{_WRITES: True}) as connection,
        connection.begin(),
    ):
        generation = connection.execute(select(projection.c.generation).with_for_update()).scalar_one()
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield connection, generation


def insert(connection: Connection, table: Any) -> Any:
    """An insert that can say what is done where the row is there; both databases say it in the same way."""
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return build(table)


def migrate(engine: Engine) -> None:
    """Bring the tables to what this version knows; safe to run side by side.

    Raises:
        StateError: they are those of a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StateError(
                f"The database {_shown(engine.url)} was made by a newer version of "
                f"ignition-trips: start that version, or set another {_VARIABLE} ({error})"
            ) from None
