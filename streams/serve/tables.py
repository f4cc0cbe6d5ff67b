"""The tables of the read side's database. ``migrations`` makes them; a test compares the two.

==============  =====================================================================================
table           holds
==============  =====================================================================================
projection      one row: which generation of the projection this is; whoever writes locks it first
positions       per partition of a topic: up to where it is in the other tables, and the topic's id
trips           per trip the last word about it, by the consumer's rule; of a deleted one its names
announcements   every announcement of each trip that is not deleted: its history
vehicles        per vehicle its newest announcement
api_keys        who may ask: never the keys, only their hashes; a rebuild leaves them alone
==============  =====================================================================================

A trip's id begins with its start, so ids in order are trips in order of their starts: that is what all lists go by.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    text,
)
from sqlalchemy.types import TypeEngine

__all__ = ["announcements", "api_keys", "metadata", "positions", "projection", "trips", "vehicles"]

metadata: Final = MetaData()


def _name(length: int) -> TypeEngine[str]:
    """Text whose order is that of its bytes, whatever the database's language."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


projection: Final = Table(
    "projection",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
)

positions: Final = Table(
    "positions",
    metadata,
    Column("topic", String(249), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("topic_id", String(32), nullable=False),  # hexadecimal; empty: the brokers do not tell
    Column("next_offset", BigInteger, nullable=False),
    # Where it ended when the projection was begun, which is whole from there on. ``trips`` is read up to here, once:
    # what comes later is in ``trip-events`` as well. Null: a partition that was added later.
    Column("until_offset", BigInteger),
)

trips: Final = Table(
    "trips",
    metadata,
    Column("id", _name(26), primary_key=True),
    Column("vehicle_id", _name(600), nullable=False),
    Column("status", _name(16), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("stage", SmallInteger, nullable=False),
    Column("flags", Integer, nullable=False),
    Column("view", LargeBinary, nullable=False),  # the JSON that is answered
    Index("trips_by_status", "status", "id"),
    Index("trips_by_vehicle", "vehicle_id", "status", "id"),
    # Few trips have flags, and whoever looks for one of them must not read all the others.
    Index(
        "trips_with_flags",
        "status",
        "id",
        "flags",
        sqlite_where=text("flags <> 0"),
        postgresql_where=text("flags <> 0"),
    ),
)

announcements: Final = Table(
    "announcements",
    metadata,
    Column("trip_id", _name(26), primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("stage", SmallInteger, primary_key=True, autoincrement=False),
    Column("type", _name(32), primary_key=True),
    Column("payload", LargeBinary, nullable=False),  # as it stands in Kafka
)

vehicles: Final = Table(
    "vehicles",
    metadata,
    Column("id", _name(600), primary_key=True),
    Column("last", LargeBinary, nullable=False),  # its newest announcement, as JSON: names and instants only
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the key, hexadecimal
    Column("scopes", String(100), nullable=False),  # separated by commas
    Column("created_at", BigInteger, nullable=False),  # epoch ms, as the next two
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)
