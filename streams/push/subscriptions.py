"""Subscriptions: who wants to be told what, and how. Models, and the book of all that there are; no I/O.

A tenant is a group of vehicles with a name: patterns of vehicle ids. It is defined in the file of ``TRIPS_PUSH_FILE``,
and a subscription that names one gets what is about its vehicles, and nothing else.
"""

from __future__ import annotations

import json
import tomllib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from streams.errors import StateError, UsageError
from streams.push.credentials import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["EVENTS", "Book", "Entry", "Limits", "PushFile", "Subscription", "Switch", "explain_invalid", "read_file"]

EVENTS: Final = ("TripStarted", "TripEnded", "TripDataReady", "TripMetricsReady", "TripDiscarded", "TripDeleted")
_FORMAT: Final = 1
_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def _reference(value: str) -> str:
    if REFERENCE.fullmatch(value) is None:
        # Without the value: it may be the secret itself.
        raise ValueError("must be env:PUSH_SECRET_… or file:NAME: the secret itself is never stored")
    return value


Name = Annotated[str, Field(pattern=_NAME)]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
Reference = Annotated[str, AfterValidator(_reference)]
EventName = Literal["TripStarted", "TripEnded", "TripDataReady", "TripMetricsReady", "TripDiscarded", "TripDeleted"]


class _Model(BaseModel):
    # Inputs are not shown in errors: among them may be a secret that somebody has put in the wrong place.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Limits(_Model):
    """What one worker asks of an endpoint at most.

    Attributes:
        concurrency: attempts at once.
        rate: attempts a second.
        timeout: seconds for one attempt, from the look-up of the name to the status of the answer.
    """

    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    rate: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    timeout: Annotated[float, Field(ge=0.1, le=120)] = 20.0


class Subscription(_Model):
    """What somebody wants to be told, and how.

    Attributes:
        id: its name.
        url: where to.
        profile: how a request looks, and when it is tried again.
        events: types of announcements; empty: all that the profile has.
        vehicles: ids of vehicles, or patterns of them (``*``, ``?``, ``[…]``); empty: all.
        tenant: only vehicles of this tenant.
        authorization: reference to the whole value of the Authorization header.
        secrets: references to the signing secrets of Standard Webhooks; two while they are being changed.
        limits: of the endpoint.
    """

    id: Name
    url: Annotated[str, Field(min_length=1, max_length=2000)]
    profile: Literal["drivequant", "standard"]
    events: tuple[EventName, ...] = ()
    vehicles: tuple[Pattern, ...] = ()
    tenant: Name | None = None
    authorization: Reference | None = None
    secrets: Annotated[tuple[Reference, ...], Field(max_length=2)] = ()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
        if self.profile == "drivequant":
            if self.secrets:
                raise ValueError("the profile drivequant signs nothing: it has no secrets, but an authorization")
            if set(self.events) - {"TripDeleted"}:
                raise ValueError("the profile drivequant tells of TripDeleted only")
        elif not self.secrets:
            raise ValueError("the profile standard signs what it sends: it needs a secret")
        return self

    @property
    def wanted(self) -> frozenset[str]:
        """The types of announcements that it is about."""
        if self.profile == "drivequant":
            return frozenset({"TripDeleted"})
        return frozenset(self.events or EVENTS)


class Switch(_Model):
    """Why nothing is sent at the moment, and since when."""

    at: str
    reason: str


class Entry(_Model):
    """A subscription as it is kept.

    Attributes:
        uid: another one each time that a subscription is added, whatever its name.
        added_at: RFC 3339.
        source: ``file``, or ``command``.
        begins: by partition of the events, the offset of the first event that is its business. A partition that is
            not in it begins with its first event.
        off: it was paused, or an endpoint has said that it is gone.
    """

    format: Literal[1] = 1
    uid: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    added_at: str
    source: Literal["file", "command"]
    begins: dict[int, int]
    off: Switch | None = None
    definition: Subscription

    def record(self) -> bytes:
        """As the value of a Kafka record."""
        return self.model_dump_json(exclude_defaults=False).encode()


class PushFile(_Model):
    """The file of ``TRIPS_PUSH_FILE``."""

    tenants: dict[Name, tuple[Pattern, ...]] = {}
    subscriptions: tuple[Subscription, ...] = ()

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        names = [one.id for one in self.subscriptions]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"there is more than one subscription {twice[0]}")
        for one in self.subscriptions:
            if one.tenant is not None and one.tenant not in self.tenants:
                raise ValueError(f"subscription {one.id}: there is no tenant {one.tenant} in this file")
        return self


def explain_invalid(error: ValidationError) -> str:
    """What is wrong, in one line, without the values."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, detail["loc"])), detail["msg"].removeprefix("Value error, "))))
        for detail in error.errors(include_url=False, include_input=False)
    )


def read_file(path: Path) -> PushFile:
    """Read and check the file of subscriptions and tenants.

    Raises:
        UsageError: it cannot be read, or is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return PushFile.model_validate(values)
    except OSError as error:
        raise UsageError(f"TRIPS_PUSH_FILE={path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise UsageError(f"TRIPS_PUSH_FILE={path}: {explain_invalid(error)}") from None
    except ValueError as error:  # not JSON, not TOML, not UTF-8
        raise UsageError(f"TRIPS_PUSH_FILE={path}: {error}") from None


_TENANT: Final = b"tenant/"
_SUBSCRIPTION: Final = b"subscription/"


class Book:
    """All subscriptions and tenants: what the records of the topic, taken in order, say."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.tenants: dict[str, tuple[str, ...]] = {}
        self._by_event: dict[str, list[Entry]] | None = None

    def take(self, key: bytes, value: bytes | None) -> None:
        """Take a record in.

        Raises:
            StateError: it is none of ours, or of a newer version.
        """
        self._by_event = None
        name = key.partition(b"/")[2].decode(errors="replace")
        if key.startswith(_TENANT):
            if value is None:
                self.tenants.pop(name, None)
            else:
                self.tenants[name] = tuple(json.loads(value)["vehicles"])
        elif key.startswith(_SUBSCRIPTION):
            if value is None:
                self.entries.pop(name, None)
            else:
                try:
                    self.entries[name] = Entry.model_validate_json(value)
                except ValidationError as error:
                    raise StateError(
                        f"subscription {name} cannot be read ({explain_invalid(error)}): was it written by a newer "
                        "version of ignition-trips?"
                    ) from None

    def interested(self, event: str, vehicle_id: str, partition: int, offset: int) -> Iterator[Entry]:
        """Who is to be told of an event.

        Args:
            event: its type.
            vehicle_id: whom it is about.
            partition: where it stands.
            offset: and at which place there.
        """
        if self._by_event is None:
            self._by_event = {name: [] for name in EVENTS}
            for entry in self.entries.values():
                for name in entry.definition.wanted:
                    self._by_event[name].append(entry)
        for entry in self._by_event.get(event, ()):
            if offset >= entry.begins.get(partition, 0) and self._is_about(entry.definition, vehicle_id):
                yield entry

    def by_uid(self, uid: str) -> Entry | None:
        """The subscription as it was added then, whatever there is of its name."""
        return next((entry for entry in self.entries.values() if entry.uid == uid), None)

    def asks_for(self, entry: Entry, event: str, vehicle_id: str) -> bool:
        """Whether a subscription is to be told such a thing, as it is defined now."""
        return event in entry.definition.wanted and self._is_about(entry.definition, vehicle_id)

    def _is_about(self, definition: Subscription, vehicle_id: str) -> bool:
        if definition.vehicles and not _matches(vehicle_id, definition.vehicles):
            return False
        # A tenant that is not known has no vehicles.
        return definition.tenant is None or _matches(vehicle_id, self.tenants.get(definition.tenant, ()))


def _matches(vehicle_id: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(vehicle_id, pattern) for pattern in patterns)


def subscription_key(name: str) -> bytes:
    """The key of a subscription's record."""
    return _SUBSCRIPTION + name.encode()


def tenant_records(tenants: Mapping[str, Iterable[str]], book: Book) -> dict[bytes, bytes | None]:
    """What is to be written so that there are these tenants, and no others."""
    records: dict[bytes, bytes | None] = {_TENANT + name.encode(): None for name in book.tenants if name not in tenants}
    for name, vehicles in tenants.items():
        if book.tenants.get(name) != tuple(vehicles):
            records[_TENANT + name.encode()] = json.dumps({"vehicles": list(vehicles)}).encode()
    return records
