"""What is asked of the database. All of it waits for it: call it in a thread."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, exists, literal, not_, or_, select, union_all

from streams.serve.database import reading
from streams.serve.tables import announcements, positions, trips, vehicles
from streams.serve.words import DELETED, first_id, to_column

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Select

    from streams.settings import Topics

__all__ = ["Found", "Page", "Queries", "TripFilter", "UnfinishedError", "VehicleFound"]

# Corrections of one trip are a handful; this is for a device that has gone mad.
_MOST_HISTORY: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TripFilter:
    """Which trips.

    Attributes:
        statuses: their ``data_completion_status``.
        vehicle_id: of this vehicle.
        start_from: they start at this instant (epoch ms) or after it, ``start_before`` before it.
        flags: the bits of all flags that they have.
        flagged: whether they have any.
        newest_first: by start.
    """

    statuses: tuple[str, ...]
    vehicle_id: str | None = None
    start_from: int | None = None
    start_before: int | None = None
    flags: int = 0
    flagged: bool | None = None
    newest_first: bool = True


class Page(NamedTuple):
    """A part of a list: the trips as JSON, and the id after which the next part begins; None: there is none."""

    views: list[bytes]
    next_after: str | None


class Found(NamedTuple):
    """A trip: its status, its view, and what was announced about it, the oldest first."""

    status: str
    view: bytes
    history: list[bytes]


class VehicleFound(NamedTuple):
    """A vehicle: its newest announcement, the trip that is on, the last one that ended. JSON; None: there is none."""

    last: bytes | None
    current: bytes | None
    ended: bytes | None


class UnfinishedError(Exception):
    """The projection is being made: what it holds may have been corrected or deleted since."""


class Queries:
    """The questions, each in one transaction.

    Args:
        engine: the database.
        topics: what the topics are called.

    All raise :class:`UnfinishedError` until everything is projected that was there when the projection was begun.
    """

    def __init__(self, engine: Engine, topics: Topics) -> None:
        self._engine = engine
        behind = exists().where(positions.c.next_offset < positions.c.until_offset)
        # One that is not there: nobody has begun with it yet.
        there = (exists().where(positions.c.topic == name) for name in (topics.trips, topics.events))
        self._unfinished = select(literal(1)).where(or_(behind, *map(not_, there)))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with reading(self._engine) as connection:
            if connection.execute(self._unfinished).first() is not None:
                raise UnfinishedError
            yield connection

    def trips(self, wanted: TripFilter, limit: int, after: str | None) -> Page:
        """A page of trips, by their start.

        Args:
            wanted: which ones.
            limit: at most so many.
            after: the id of the last trip of the page before; None: from the beginning.
        """
        values: dict[str, Any] = {
            "vehicle": None if wanted.vehicle_id is None else to_column(wanted.vehicle_id),
            "first": None if wanted.start_from is None else first_id(wanted.start_from),
            "last": None if wanted.start_before is None else first_id(wanted.start_before),
            "after": after,
            "flags": wanted.flags or None,
        }
        given = {name: value for name, value in values.items() if value is not None}
        statement = _listing(tuple(sorted(wanted.statuses)), frozenset(given), wanted.flagged, wanted.newest_first)
        with self._reading() as connection:
            rows = connection.execute(statement, given | {"most": limit + 1}).all()
        views = [row.view for row in rows[:limit]]
        return Page(views, rows[limit - 1].id if len(rows) > limit else None)

    def trip(self, trip_id: str, *, history: bool = True) -> Found | None:
        """A trip, a deleted one as well."""
        with self._reading() as connection:
            row = connection.execute(_TRIP, {"trip": trip_id}).first()
            if row is None:
                return None
            told = []
            if history and row.status != DELETED:
                newest_first = connection.execute(_HISTORY, {"trip": trip_id, "most": _MOST_HISTORY})
                told = [one.payload for one in reversed(newest_first.all())]
        return Found(row.status, row.view, told)

    def vehicle(self, vehicle_id: str) -> VehicleFound | None:
        """What is known of a vehicle; None: it has never been heard of."""
        name = to_column(vehicle_id)
        current, ended = (
            _listing(statuses, frozenset({"vehicle"}), None, newest_first=True)
            for statuses in (("ONGOING",), ("FINISHED", "PENDING"))
        )
        newest = {"vehicle": name, "most": 1}
        with self._reading() as connection:
            last = connection.execute(_LAST, {"vehicle": name}).scalar_one_or_none()
            on = connection.execute(current, newest).first()
            over = connection.execute(ended, newest).first()
            if last is None and on is None and over is None:
                return None
        return VehicleFound(last, None if on is None else on.view, None if over is None else over.view)


# Statements are built once: that takes longer than most of them do.
_TRIP: Final = select(trips.c.status, trips.c.view).where(trips.c.id == bindparam("trip"))
_HISTORY: Final = (
    select(announcements.c.payload)
    .where(announcements.c.trip_id == bindparam("trip"))
    .order_by(announcements.c.revision.desc(), announcements.c.stage.desc(), announcements.c.type.desc())
    .limit(bindparam("most"))
)
_LAST: Final = select(vehicles.c.last).where(vehicles.c.id == bindparam("vehicle"))


@lru_cache(maxsize=1024)
def _listing(
    statuses: tuple[str, ...],
    given: frozenset[str],
    flagged: bool | None,  # noqa: FBT001 - the cache tells them apart by their places
    newest_first: bool,  # noqa: FBT001
) -> Select[tuple[str, bytes]]:
    """Trips in order of their ids, which is that of their starts.

    Of several statuses each is walked along its own index, and the walks are merged: one statement, that looks at no
    more rows than it answers, unless flags are asked for; then it looks at those that have some.

    Args:
        statuses: of the trips.
        given: the parameters that narrow it down.
        flagged: as in the filter.
        newest_first: which way.
    """
    walks = []
    for status in statuses:
        walk = select(trips.c.id, trips.c.view).where(trips.c.status == status)
        if "vehicle" in given:
            walk = walk.where(trips.c.vehicle_id == bindparam("vehicle"))
        if "first" in given:
            walk = walk.where(trips.c.id >= bindparam("first"))
        if "last" in given:
            walk = walk.where(trips.c.id < bindparam("last"))
        if "after" in given:
            after: Any = bindparam("after")
            walk = walk.where(trips.c.id < after if newest_first else trips.c.id > after)
        if "flags" in given:
            walk = walk.where(trips.c.flags.op("&")(bindparam("flags")) == bindparam("flags"))
        if flagged is False:
            walk = walk.where(trips.c.flags == 0)
        elif flagged or "flags" in given:
            walk = walk.where(trips.c.flags != 0)  # in these words, for the index of those that have some
            if "vehicle" not in given:
                walk = walk.with_hint(trips, "INDEXED BY trips_with_flags", "sqlite")
        walks.append(walk.order_by(trips.c.id.desc() if newest_first else trips.c.id).limit(bindparam("most")))
    if len(walks) == 1:
        return walks[0]
    merged = union_all(*(select(walk.subquery()) for walk in walks)).subquery()
    order = merged.c.id.desc() if newest_first else merged.c.id
    return select(merged.c.id, merged.c.view).order_by(order).limit(bindparam("most"))
