"""API keys: made here, shown once, kept as hashes.

A key is ``trips_<id>_<secret>``: the id finds its row, and the secret has 256 random bits. So a plain SHA-256 is as
good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select, update

from streams.errors import TripsError
from streams.serve.database import reading, writing
from streams.serve.tables import api_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

__all__ = ["SCOPES", "ApiKey", "KeyStore"]

SCOPES: Final = {
    "read": "look trips and vehicles up",
    "delete": "delete trips",
    "status": "plan trips and update their status",
    "admin": "all of these, and the API's own description",
}
"""What a key may be for."""

_ID_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_KEY: Final = re.compile(r"trips_([a-z0-9]{10})_([A-Za-z0-9_-]{43})")
# A key that was looked up is trusted for so long: a revoked one is refused within this (seconds).
_FRESH: Final = 2.0
_REMEMBERED: Final = 4096
_NOBODY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key. Instants in epoch ms."""

    id: str
    name: str
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def allows(self, scope: str) -> bool:
        """Whether it is for this."""
        return scope in self.scopes or "admin" in self.scopes

    def counts(self, now: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyStore:
    """The keys in the database. Its methods wait for the database: call them in a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[float, tuple[ApiKey, str] | None]] = {}

    def create(self, name: str, scopes: Iterable[str], *, expires_at: int | None = None) -> tuple[ApiKey, str]:
        """Make a key; returns what is known of it, and the key itself, which nobody can find out again."""
        key = ApiKey(
            id="".join(secrets.choice(_ID_LETTERS) for _ in range(10)),
            name=name,
            scopes=frozenset(scopes),
            created_at=_now(),
            expires_at=expires_at,
        )
        token = f"trips_{key.id}_{secrets.token_urlsafe(32)}"
        with writing(self._engine) as (connection, _):
            connection.execute(
                api_keys.insert().values(
                    id=key.id,
                    name=key.name,
                    hash=_hash(token),
                    scopes=",".join(sorted(key.scopes)),
                    created_at=key.created_at,
                    expires_at=key.expires_at,
                )
            )
        return key, token

    def all(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return [_key(row) for row in rows]

    def revoke(self, key_id: str) -> None:
        """Refuse a key from now on. One that is revoked stays so.

        Raises:
            TripsError: there is none with this id.
        """
        with writing(self._engine) as (connection, _):
            there = connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id)
                .values(revoked_at=func.coalesce(api_keys.c.revoked_at, _now()))
            ).rowcount
        if not there:
            raise TripsError(f"there is no key {key_id}: `trips keys list` shows those that there are")
        self._known.pop(key_id, None)

    def any_ever(self) -> bool:
        """Whether a key was ever made, revoked and expired ones included."""
        with reading(self._engine) as connection:
            return connection.execute(select(api_keys.c.id).limit(1)).first() is not None

    def any_counts(self) -> bool:
        """Whether there is a key that opens anything."""
        now = _now()
        return any(key.counts(now) for key in self.all())

    def remembered(self, token: str) -> ApiKey | None:
        """As :meth:`find`, without asking the database; raises KeyError where it has to be asked."""
        match = _KEY.fullmatch(token)
        if match is None:
            return None
        looked, found = self._known[match[1]]
        if time.monotonic() - looked > _FRESH:
            raise KeyError(match[1])
        return _proven(token, found)

    def was_right(self, token: str) -> bool:
        """Whether it counted when it was looked up last, and has not expired since."""
        match = _KEY.fullmatch(token)
        return match is not None and _proven(token, self._known.get(match[1], (0, None))[1]) is not None

    def find(self, token: str) -> ApiKey | None:
        """The key, if it is one of ours and counts."""
        match = _KEY.fullmatch(token)
        if match is None:
            return None
        with reading(self._engine) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == match[1])).first()
        found = None if row is None else (_key(row), row.hash)
        if len(self._known) >= _REMEMBERED:
            # Those that there are stay, however many are guessed.
            there = {name: known for name, known in dict(self._known).items() if known[1] is not None}
            self._known = there if len(there) < _REMEMBERED else {}
        self._known[match[1]] = time.monotonic(), found
        return _proven(token, found)


def _proven(token: str, found: tuple[ApiKey, str] | None) -> ApiKey | None:
    # The comparison takes as long whether or not there is such a key, and however much of it is right.
    key, expected = found or (None, _NOBODY)
    right = hmac.compare_digest(_hash(token), expected)
    return key if right and key is not None and key.counts(_now()) else None


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=frozenset(row.scopes.split(",")),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now() -> int:
    return time.time_ns() // 1_000_000
