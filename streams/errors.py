"""The exceptions of this project: one tree, so that one ``except`` catches what we say on purpose.

::

    TripsError              says what is wrong, where, and what to do about it
      UsageError            the caller's: a wrong command line                    exit code 2
        SettingsError       wrong settings, one line each                         exit code 2
      ClusterError          the cluster's: away, a topic missing or different     exit code 1
        RefusedError        it answers, but does not want us: waiting is no help  exit code 1
      DatabaseError         the read side's database: away, refusing, full      exit code 1
      StateError            stored state that cannot be read, or is newer         exit code 1
      UnknownTripError      there is no such trip                                 exit code 1
      InternalError         ours                                                  exit code 1

The message is for the person at the terminal: whole sentences, no traceback needed. A record that is wrong is no
exception at all: it goes to the dead letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ClusterError",
    "DatabaseError",
    "InternalError",
    "RefusedError",
    "SettingsError",
    "StateError",
    "TripsError",
    "UnknownTripError",
    "UsageError",
]


class TripsError(Exception):
    """Everything that this project raises on purpose and does not catch itself."""

    exit_code: ClassVar[int] = 1
    """What a command that ends with this error exits with."""


class UsageError(TripsError):
    """A wrong command line."""

    exit_code = 2


class SettingsError(UsageError):
    """Wrong settings: all of them at once.

    Args:
        problems: one line a setting: its environment variable, its value (never a secret), and what is allowed.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ClusterError(TripsError):
    """A Kafka cluster that is away, or is not as it must be."""


class RefusedError(ClusterError):
    """A broker that answers, but does not let us in: a wrong password or certificate, another protocol.

    Waiting does not help: the message names the setting to look at.
    """


class DatabaseError(TripsError):
    """The read side's database is away, refuses, or has no room."""


class StateError(TripsError):
    """Stored state that cannot be read: damaged, or written by a newer version."""


class UnknownTripError(TripsError):
    """There is no such trip: nothing was announced about it, or nothing that is still there."""


class InternalError(TripsError):
    """A mistake of this program: it stops rather than go on with what it no longer trusts."""
