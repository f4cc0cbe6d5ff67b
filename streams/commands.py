"""Commands, from bytes to what is to be done, or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import ValidationError

from schemas.commands import DeleteTrip
from streams.telemetry.problems import Problem, Reason
from streams.trips.identity import identify, start_of
from streams.trips.vehicle import Deleting

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["DeleteCommand", "read_command"]

_MAX_BYTES: Final = 16_384
"""Many times what a command takes."""


class DeleteCommand(NamedTuple):
    """A trip is to be deleted. Trip and vehicle belong together."""

    trip_id: str
    vehicle_id: str
    deleting: Deleting


def read_command(value: bytes | None) -> DeleteCommand | Problem:
    """The command in a record, or what is wrong with it."""
    if value is None or len(value) > _MAX_BYTES:
        return _bad("it has no value" if value is None else f"it has {len(value):,} bytes, a command at most 16,384")
    try:
        command = DeleteTrip.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return _bad(f"{where}: {first['msg']}" if where else first["msg"])
    start = start_of(command.trip_id)
    if start is None or identify(command.vehicle_id, start).id != command.trip_id:
        return _bad(f"trip_id: {command.trip_id} is not a trip of vehicle {command.vehicle_id!r}")
    end = None if command.end is None else _ms(command.end)
    return DeleteCommand(
        command.trip_id,
        command.vehicle_id,
        Deleting(start, _ms(command.requested_at), command.revision, end),
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _bad(what: str) -> Problem:
    return Problem(Reason.BAD_COMMAND, None, f"no command that can be carried out: {what}")
