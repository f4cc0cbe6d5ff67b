"""What a checkpoint of a push worker holds: deliveries that have changed, dead letters, the offset; all or nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from streams.delivery.checkpoint import Batches, Checkpointer, Messages
from streams.delivery.messages import Message, batch_size
from streams.push.processor import PushOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.delivery.checkpoint import Destinations
    from streams.delivery.producer import CheckpointProducer
    from streams.push.processor import Letter
    from streams.records import Output

__all__ = ["PushCheckpointer", "dead_letter", "rfc3339"]


class PushCheckpointer(Checkpointer):
    """Commits the checkpoints of one partition of pushes.

    Args:
        producer: the partition's.
        partition: its number.
        destinations: ``dead_letters`` are the pushes'.
        committed: called with what has been committed.
    """

    def __init__(
        self,
        producer: CheckpointProducer,
        partition: int,
        destinations: Destinations,
        committed: Callable[[PushOutput], None],
    ) -> None:
        super().__init__(producer, partition, destinations)
        self._committed = committed

    async def commit(self, output: Output, next_offset: int | None) -> int:
        """See :meth:`streams.delivery.checkpoint.Checkpointer.commit`."""
        size = await super().commit(output, next_offset)
        assert isinstance(output, PushOutput)  # noqa: S101 - the processor's
        self._committed(output)
        return size

    async def _batches(self, output: Output) -> Batches:
        assert isinstance(output, PushOutput)  # noqa: S101
        batches = await super()._batches(output)
        if output.letters:
            to = self._to.dead_letters
            partitions = await self._partitions(to)
            messages = Messages(list)
            for letter in output.letters:
                message = dead_letter(letter, self._source.partition, self._to.max_bytes[to])
                messages[self._place(to, message.key, partitions)].append(message)
            batches |= self._built(self._producer, messages)
        return batches


def dead_letter(letter: Letter, partition: int, max_size: int) -> Message:
    """A delivery that was given up, with its history; see ``schemas.push.PushDeadLetter``.

    Args:
        letter: what was given up.
        partition: of the events.
        max_size: ``max.message.bytes`` of the topic. An announcement that does not fit is left out.
    """
    delivery = letter.delivery
    value = {
        "id": delivery.id,
        "subscription": delivery.subscription,
        "subscription_uid": delivery.uid,
        "reason": letter.reason,
        "discarded_at": rfc3339(letter.at_ms),
        "due_since": rfc3339(delivery.created_ms),
        "attempts": [
            {"at": rfc3339(attempt.at_ms), "error": attempt.error}
            | ({} if attempt.status is None else {"status": attempt.status})
            for attempt in delivery.attempts
        ],
        "event": {
            "id": delivery.event_id,
            "type": delivery.event,
            "trip_id": delivery.trip_id,
            "vehicle_id": delivery.vehicle_id,
            "partition": partition,
            "offset": delivery.offset,
        },
    }
    key = delivery.vehicle_id.encode()
    headers: list[tuple[str, bytes | None]] = [("content-type", b"application/json")]
    whole = orjson.dumps({**value, "payload": delivery.payload.decode(errors="replace")})
    if batch_size(key, whole, headers) > max_size:
        whole = orjson.dumps(value)
    return Message(key, whole, headers)


def rfc3339(milliseconds: int) -> str:
    """An instant in UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
