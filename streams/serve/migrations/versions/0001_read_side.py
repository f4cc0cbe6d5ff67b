"""The tables of the first version.

A migration stands by itself: it does not change with ``streams.serve.tables``.
"""
# ruff: noqa: INP001

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Make them."""
    table = op.create_table(
        "projection",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(table, [{"id": 1, "generation": 1}])
    op.create_table(
        "positions",
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("topic_id", sa.String(32), nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        sa.Column("until_offset", sa.BigInteger),
    )
    op.create_table(
        "trips",
        sa.Column("id", _name(26), primary_key=True),
        sa.Column("vehicle_id", _name(600), nullable=False),
        sa.Column("status", _name(16), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.SmallInteger, nullable=False),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.Column("view", sa.LargeBinary, nullable=False),
    )
    op.create_index("trips_by_status", "trips", ["status", "id"])
    op.create_index("trips_by_vehicle", "trips", ["vehicle_id", "status", "id"])
    flagged = sa.text("flags <> 0")
    op.create_index(
        "trips_with_flags", "trips", ["status", "id", "flags"], sqlite_where=flagged, postgresql_where=flagged
    )
    op.create_table(
        "announcements",
        sa.Column("trip_id", _name(26), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("stage", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("type", _name(32), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "vehicles",
        sa.Column("id", _name(600), primary_key=True),
        sa.Column("last", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
    )


def downgrade() -> None:
    """There is no way back but a rebuild: everything but the keys comes from Kafka."""
    raise NotImplementedError
