"""The projection's tables: what announcements change in them, in one transaction with how far they have been read.

So each announcement counts once, whatever is read twice and whoever else is writing. Nothing in these tables comes
from a clock: the same topics make the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, delete, or_, select, tuple_, update

from streams.serve.database import insert
from streams.serve.tables import announcements, positions, projection, trips, vehicles
from streams.serve.words import DELETED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from streams.serve.words import Word

__all__ = [
    "Place",
    "Position",
    "advance",
    "apply_announcements",
    "apply_latest",
    "begin_anew",
    "put_positions",
    "read_positions",
    "trip_row",
]

# SQLite takes up to 32,766 parameters in a statement, older ones 999.
_AT_ONCE: Final = 500

Place = tuple[str, int]
"""Topic and partition."""


class Position(NamedTuple):
    """Up to where a partition is in the tables.

    Attributes:
        topic_id: Kafka's id of the topic, hexadecimal; empty: not known.
        next_offset: the first record that is not.
        until: where it ended when the projection was begun; None: it was not there yet. ``trips`` is read up to there.
    """

    topic_id: str
    next_offset: int
    until: int | None = None

    @property
    def done(self) -> bool:
        """Whether all of it that was there when the projection was begun is in the tables."""
        return self.until is not None and self.next_offset >= self.until

    @property
    def unfinished(self) -> bool:
        """Whether some of that is not."""
        return self.until is not None and self.next_offset < self.until


def read_positions(connection: Connection) -> dict[Place, Position]:
    """All positions; none: nothing has been projected yet, or it has to begin anew."""
    return {
        (row.topic, row.partition): Position(row.topic_id, row.next_offset, row.until_offset)
        for row in connection.execute(select(positions))
    }


def put_positions(connection: Connection, these: Mapping[Place, Position]) -> None:
    """Add positions of partitions that had none."""
    if these:
        connection.execute(
            positions.insert(),
            [
                {
                    "topic": topic,
                    "partition": partition,
                    "topic_id": position.topic_id,
                    "next_offset": position.next_offset,
                    "until_offset": position.until,
                }
                for (topic, partition), position in these.items()
            ],
        )


def advance(connection: Connection, offsets: Mapping[Place, int]) -> None:
    """Set how far partitions have been read."""
    connection.execute(
        update(positions)
        .where(positions.c.topic == bindparam("t"), positions.c.partition == bindparam("p"))
        .values(next_offset=bindparam("n")),
        [{"t": topic, "p": partition, "n": offset} for (topic, partition), offset in offsets.items()],
    )


def begin_anew(connection: Connection) -> None:
    """Empty everything that comes from Kafka. Whoever projects into it notices by the generation."""
    for table in (trips, announcements, vehicles, positions):
        connection.execute(delete(table))
    connection.execute(update(projection).values(generation=projection.c.generation + 1))


def apply_latest(connection: Connection, records: Iterable[tuple[str, Word | None]]) -> None:
    """Records of ``trips``, in order, before any announcement: trip id and its word, None for a tombstone."""
    last = dict(records)
    _upsert_trips(connection, [word for word in last.values() if word is not None])
    for some in _portions([trip_id for trip_id, word in last.items() if word is None]):
        connection.execute(delete(trips).where(trips.c.id.in_(some)))


def apply_announcements(connection: Connection, words: Sequence[Word]) -> None:
    """Records of ``trip-events``, those of each partition in order."""
    deleted = _deleted(connection, {word.trip_id for word in words})
    erase: list[str] = []
    best: dict[str, Word] = {}
    newest: dict[str, bytes] = {}
    for word in words:
        newest[word.vehicle_id] = word.last
        before = best.get(word.trip_id)
        if before is None or word.rank >= before.rank:
            best[word.trip_id] = word
        if word.deleted and word.trip_id not in deleted:
            deleted.add(word.trip_id)
            erase.append(word.trip_id)
    history = [word for word in words if word.trip_id not in deleted]
    if history:
        connection.execute(
            insert(connection, announcements).on_conflict_do_nothing(),
            [
                {
                    "trip_id": word.trip_id,
                    "revision": word.revision,
                    "stage": word.stage,
                    "type": word.type,
                    "payload": word.payload,
                }
                for word in history
            ],
        )
    for some in _portions(erase):
        connection.execute(delete(announcements).where(announcements.c.trip_id.in_(some)))
    _upsert_trips(connection, best.values())
    if newest:
        statement = insert(connection, vehicles)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_={"last": statement.excluded.last}),
            [{"id": vehicle_id, "last": last} for vehicle_id, last in newest.items()],
        )


def _deleted(connection: Connection, trip_ids: set[str]) -> set[str]:
    return {
        trip_id
        for some in _portions(sorted(trip_ids))
        for (trip_id,) in connection.execute(select(trips.c.id).where(trips.c.id.in_(some), trips.c.status == DELETED))
    }


def trip_row(word: Word) -> dict[str, Any]:
    """What a trip's row in ``trips`` holds."""
    return {
        "id": word.trip_id,
        "vehicle_id": word.vehicle_id,
        "status": word.status,
        "revision": word.revision,
        "stage": word.stage,
        "flags": word.flags,
        "view": word.view,
    }


def _upsert_trips(connection: Connection, words: Iterable[Word]) -> None:
    rows = [trip_row(word) for word in words]
    if not rows:
        return
    statement = insert(connection, trips)
    new = statement.excluded
    # The consumer's rule once more, between what is there and what comes.
    counts = and_(
        trips.c.status != DELETED,
        or_(new.status == DELETED, tuple_(new.revision, new.stage) > tuple_(trips.c.revision, trips.c.stage)),
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["id"],
            set_={column.name: new[column.name] for column in trips.columns if column.name != "id"},
            where=counts,
        ),
        rows,
    )


def _portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
