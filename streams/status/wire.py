"""Requests and answers as Kafka records: bytes, keys and headers, no I/O.

A request goes to the topic of requests. What it led to is written behind its records into the changelog, under a key
of a ring: so whoever follows the changelog sees the plan as it is after the request before it sees the answer, and
answers need no topic, and no clearing away, of their own.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from streams.delivery.messages import Headers, Message
from streams.status.bodies import PlanBody, UpdateBody
from streams.status.rules import Status

if TYPE_CHECKING:
    from streams.status.book import Event

__all__ = ["ANSWER", "Request", "answer_record", "event_message", "pack_request", "read_answer", "read_request"]

ANSWER: Final = b"a"
"""What the keys of answers begin with."""
_RING: Final = 1024


class Request(NamedTuple):
    """What somebody wants to be decided.

    Attributes:
        id: made up by the process that was asked.
    """

    id: str
    body: UpdateBody | PlanBody


def pack_request(request: Request) -> bytes:
    """The value of a request's record."""
    kind = "update" if isinstance(request.body, UpdateBody) else "plan"
    return orjson.dumps({"id": request.id, "kind": kind, "body": asdict(request.body)})


def read_request(value: bytes) -> Request:
    """The request of a record.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    fields = orjson.loads(value)
    body = fields["body"]
    if fields["kind"] == "update":
        body["status"] = Status(body["status"])
        return Request(fields["id"], UpdateBody(**body))
    return Request(fields["id"], PlanBody(**body))


def answer_record(request_id: str, offset: int, answer: dict[str, Any]) -> tuple[bytes, bytes]:
    """Key and value of an answer's record.

    Args:
        request_id: of the request.
        offset: of its record.
        answer: what came of it.
    """
    return b"%b%d" % (ANSWER, offset % _RING), orjson.dumps({"id": request_id, "answer": answer})


def read_answer(value: bytes) -> tuple[str, dict[str, Any]]:
    """The id of the request, and the answer, of a record."""
    fields = orjson.loads(value)
    return fields["id"], fields["answer"]


def event_message(event: Event, ce_source: bytes) -> Message:
    """The record for ``trip-status-events``, with CloudEvents 1.0 headers in binary mode."""
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.event_id.encode()),
        ("ce_source", ce_source),
        ("ce_type", event.kind.encode()),
        ("ce_time", event.occurred_at.encode()),
        ("ce_subject", str(event.plan_id).encode()),
        ("content-type", b"application/json"),
    ]
    return Message(event.vehicle_id.encode(), event.payload, headers)
