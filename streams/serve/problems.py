"""Errors as RFC 9457 problem details: ``application/problem+json``."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from streams.errors import DatabaseError
from streams.serve.queries import UnfinishedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request

__all__ = ["ProblemError", "handle_problems", "problem"]

_log = structlog.get_logger(__name__)

_MEDIA_TYPE: Final = "application/problem+json"
_RETRY_SECONDS: Final = "5"


class ProblemError(Exception):
    """What becomes a problem for the one who asks.

    Args:
        status: of HTTP.
        detail: what is wrong in this case, and what to do about it.
        kind: the last part of the problem's type; empty: HTTP's status says it all.
        headers: of the answer.
        members: more members of the problem.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str = "",
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        self.status, self.detail, self.kind, self.headers, self.members = status, detail, kind, headers, members
        super().__init__(detail)

    def response(self) -> Response:
        """The answer."""
        return problem(self.status, self.detail, kind=self.kind, headers=self.headers, **self.members)


def problem(
    status: int, detail: str | None, *, kind: str = "", headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """An answer with a problem; the arguments are those of :class:`ProblemError`."""
    content = {
        "type": f"urn:ignition-trips:problem:{kind}" if kind else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        **({"detail": detail} if detail else {}),
        **members,
    }
    return Response(orjson.dumps(content), status, headers=dict(headers or {}), media_type=_MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Make problems of everything that an application raises."""

    @app.exception_handler(ProblemError)
    def _problem(_: Request, error: ProblemError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    def _http(_: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        detail = None if error.detail == phrase else str(error.detail)
        return problem(error.status_code, detail, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may be anything, and long.
        errors = [{"where": ".".join(str(part) for part in one["loc"]), "what": one["msg"]} for one in error.errors()]
        return problem(422, "; ".join(f"{one['where']}: {one['what']}" for one in errors[:5]), errors=errors[:50])

    @app.exception_handler(DatabaseError)
    def _database(_: Request, error: DatabaseError) -> Response:
        _log.error("a request could not be answered", reason=str(error))
        return problem(
            503, "The database does not answer. Try again in a moment.", headers={"Retry-After": _RETRY_SECONDS}
        )

    @app.exception_handler(UnfinishedError)
    def _unfinished(_: Request, __: UnfinishedError) -> Response:
        return problem(
            503,
            "What is known of trips is being read from Kafka. Try again in a moment.",
            kind="unfinished",
            headers={"Retry-After": _RETRY_SECONDS},
        )

    @app.exception_handler(Exception)
    def _ours(_: Request, __: Exception) -> Response:
        return problem(500, "A mistake of this program; its log has more.")
