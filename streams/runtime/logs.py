"""Structured logs: readable on a terminal, JSON anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["FAUST_LOGGER", "configure_logs", "hide_credentials"]

FAUST_LOGGER: Final = logging.getLogger("faust")
"""For our subclasses of Faust's services: what they say of themselves is Faust's, and would go by our name."""

# What these libraries say below this is about themselves. Faust's and mode's errors come with tracebacks of what we log
# in one line ourselves; aiokafka's "Unable connect" and the like are worth seeing.
_LEVELS: Final = {
    "aiokafka": logging.WARNING,
    "faust": logging.ERROR,
    "mode": logging.ERROR,
    "aiohttp": logging.WARNING,
    "alembic": logging.WARNING,
    "uvicorn": logging.WARNING,
}
# While a broker is away, aiokafka says so ten times a second (seconds).
_REPEAT_AFTER: Final = 30.0


class _Repeated(logging.Filter):
    """Lets what a library says over and over through once in a while, and takes its errors for what they are to us."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it has not been said lately."""
        if record.name.startswith("streams"):
            return True
        if record.name.startswith("aiokafka") and record.levelno == logging.ERROR:
            # It says so and tries again; what comes of it is told by us.
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        key, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._said.get(key, -_REPEAT_AFTER) < _REPEAT_AFTER:
            return False
        self._said[key] = now
        return True


class _Discreet(logging.Filter):
    """aiokafka's debug log shows every request, and so the one that has the password in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Takes the content out of what logs us in; it is said all the same."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{type(argument).__name__}(…)" if type(argument).__name__.startswith("SaslAuthenticate") else argument
                for argument in record.args
            )
        return True


_DISCREET: Final = _Discreet()


def hide_credentials() -> None:
    """Keep passwords out of what aiokafka logs in this process; safe to repeat."""
    logging.getLogger("aiokafka.conn").addFilter(_DISCREET)


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Without a traceback, and on one line; the reason is in the event."""
    event.pop("exc_info", None)
    event.pop("stack_info", None)
    event["event"] = " ".join(str(event["event"]).split())
    return event


def configure_logs(*, debug: bool = False) -> None:
    """Set up all logging of this process, to stderr.

    Args:
        debug: tell everything, with tracebacks.
    """
    common: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not debug:
        common.append(_one_line)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Any] = (
        # The default shows the values of local variables beside a traceback, and passwords are among them.
        [structlog.dev.ConsoleRenderer(pad_event_to=32, exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    if not debug:
        handler.addFilter(_Repeated())
    hide_credentials()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(logging.DEBUG if debug else level)
