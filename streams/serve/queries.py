"""What is asked of the database. All of it waits for it: call it in a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import select, union_all

from streams.serve.database import reading
from streams.serve.tables import announcements, trips, vehicles
from streams.serve.words import DELETED, first_id, to_column

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select

__all__ = ["Found", "Page", "Queries", "TripFilter", "VehicleFound"]

# Corrections of one trip are a handful; this is for a device that has gone mad.
_MOST_HISTORY: Final = 1000
# Of a vehicle the newest trips are looked at to find its last end: a discarded one may come in between.
_RECENT: Final = 50


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


class Queries:
    """The questions, each in one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def trips(self, wanted: TripFilter, limit: int, after: str | None) -> Page:
        """A page of trips, by their start.

        Args:
            wanted: which ones.
            limit: at most so many.
            after: the id of the last trip of the page before; None: from the beginning.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(_listing(wanted, limit + 1, after)).all()
        views = [row.view for row in rows[:limit]]
        return Page(views, rows[limit - 1].id if len(rows) > limit else None)

    def trip(self, trip_id: str, *, history: bool = True) -> Found | None:
        """A trip, a deleted one as well."""
        with reading(self._engine) as connection:
            row = connection.execute(select(trips.c.status, trips.c.view).where(trips.c.id == trip_id)).first()
            if row is None:
                return None
            told = _history(connection, trip_id) if history and row.status != DELETED else []
        return Found(row.status, row.view, told)

    def vehicle(self, vehicle_id: str) -> VehicleFound | None:
        """What is known of a vehicle; None: it has never been heard of."""
        name = to_column(vehicle_id)
        with reading(self._engine) as connection:
            last = connection.execute(select(vehicles.c.last).where(vehicles.c.id == name)).scalar_one_or_none()
            recent = connection.execute(
                select(trips.c.status, trips.c.view)
                .where(trips.c.vehicle_id == name)
                .order_by(trips.c.id.desc())
                .limit(_RECENT)
            ).all()
        if last is None and not recent:
            return None
        current = next((row.view for row in recent if row.status == "ONGOING"), None)
        ended = next((row.view for row in recent if row.status in ("PENDING", "FINISHED")), None)
        return VehicleFound(last, current, ended)


def _history(connection: Connection, trip_id: str) -> list[bytes]:
    newest = (
        select(announcements.c.payload)
        .where(announcements.c.trip_id == trip_id)
        .order_by(announcements.c.revision.desc(), announcements.c.stage.desc(), announcements.c.type.desc())
        .limit(_MOST_HISTORY)
    )
    return [row.payload for row in reversed(connection.execute(newest).all())]


def _listing(wanted: TripFilter, limit: int, after: str | None) -> Select[tuple[str, bytes]]:
    """Trips in order of their ids, which is that of their starts.

    Of several statuses each is walked along its own index, and the walks are merged: one statement that looks at no
    more rows than it answers, unless flags are asked for.
    """
    if wanted.vehicle_id is not None or wanted.flags or wanted.flagged:
        return _ordered(_filtered(wanted, after).where(trips.c.status.in_(wanted.statuses)), wanted).limit(limit)
    walks = [
        _ordered(_filtered(wanted, after).where(trips.c.status == status), wanted).limit(limit).subquery()
        for status in wanted.statuses
    ]
    merged = union_all(*(select(walk) for walk in walks)).subquery()
    order = merged.c.id.desc() if wanted.newest_first else merged.c.id
    return select(merged.c.id, merged.c.view).order_by(order).limit(limit)


def _filtered(wanted: TripFilter, after: str | None) -> Select[tuple[str, bytes]]:
    statement = select(trips.c.id, trips.c.view)
    if wanted.vehicle_id is not None:
        statement = statement.where(trips.c.vehicle_id == to_column(wanted.vehicle_id))
    if wanted.start_from is not None:
        statement = statement.where(trips.c.id >= first_id(wanted.start_from))
    if wanted.start_before is not None:
        statement = statement.where(trips.c.id < first_id(wanted.start_before))
    if after is not None:
        statement = statement.where(trips.c.id < after if wanted.newest_first else trips.c.id > after)
    if wanted.flags or wanted.flagged:
        statement = statement.where(trips.c.flags != 0)  # in these words, for the index of those that have some
    if wanted.flags:
        statement = statement.where(trips.c.flags.op("&")(wanted.flags) == wanted.flags)
    if wanted.flagged is False:
        statement = statement.where(trips.c.flags == 0)
    return statement


def _ordered(statement: Select[tuple[str, bytes]], wanted: TripFilter) -> Select[tuple[str, bytes]]:
    return statement.order_by(trips.c.id.desc() if wanted.newest_first else trips.c.id)
