"""Alembic runs this. The connection, inside its transaction, comes from ``streams.serve.database.migrate``."""
# ruff: noqa: INP001

from alembic import context

from streams.serve.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # in SQLite as well: we begin its transactions ourselves
    version_table="schema_version",
)
context.run_migrations()
