"""Telemetry from a file into Kafka, at the pace at which it was recorded, or faster."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from streams.errors import ClusterError, TripsError
from streams.telemetry.reader import Reader
from streams.topics import connect, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streams.settings import Settings

__all__ = ["Paced", "pace", "replay"]

# Shorter pauses are not worth a sleep: they are made up for with the next one.
_SHORTEST_PAUSE_S: Final = 0.002
# So many records may be under way: enough for full batches, and little to wait for when somebody interrupts.
_UNDER_WAY: Final = 5000
_LARGEST_REQUEST: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Paced:
    """A message, and when to send it.

    Attributes:
        key: the vehicle id; None where the message names none.
        at_s: seconds after the first message, at speed 1 and with long pauses cut.
        time_ms: the newest time in it, epoch ms; 0 where there is none.
    """

    value: bytes
    key: bytes | None
    at_s: float
    time_ms: int


def pace(lines: Iterable[bytes], max_gap_s: float) -> Iterator[Paced]:
    """Put messages on a time scale: that of their timestamps, with pauses longer than ``max_gap_s`` cut to that.

    A message that is older than one before it, or has no time, goes right after that one. Blank lines are left out.
    """
    reader = Reader(max_clock_skew_ms=None)
    newest, at = 0, 0.0
    for line in lines:
        if not line.strip():
            continue
        reading = reader.read(line, None, 0)
        time_ms = max((row[0] for row in reading.rows), default=0)
        if time_ms > newest:
            if newest:
                at += min((time_ms - newest) / 1000, max_gap_s)
            newest = time_ms
        key = None if reading.vehicle_id is None else reading.vehicle_id.encode()
        yield Paced(line, key, at, time_ms)


async def replay(
    messages: Iterable[Paced],
    settings: Settings,
    *,
    speed: float,
    sent: Callable[[Paced], object] = lambda _message: None,
) -> int:
    """Send messages to the telemetry topic; the record's key is the vehicle id, its timestamp the time of sending.

    Args:
        messages: of :func:`pace`.
        settings: the cluster and its topics.
        speed: times real time; 0: as fast as it goes.
        sent: told of each message that is on its way.

    Returns:
        How many were delivered. All of them: anything else is an error.

    Raises:
        ClusterError: the cluster is away, the topic is missing, or a message was refused.
    """
    topic = settings.topics.telemetry
    async with connect(settings) as admin:
        if topic not in await describe(admin, [topic]):
            raise ClusterError(f"Topic {topic} is missing. Create it with `trips topics create`.")
    producer = AIOKafkaProducer(
        **settings.client(), enable_idempotence=True, linger_ms=2, max_request_size=_LARGEST_REQUEST
    )
    try:
        await producer.start()
        return await _send_all(producer, topic, messages, speed, sent)
    except BrokenPipeError:
        raise  # it is our own reader that is gone
    except (KafkaError, OSError) as error:
        raise ClusterError(f"The Kafka cluster at {settings.bootstrap_servers} took no more: {error!r}") from error
    finally:
        await producer.stop()


async def _send_all(
    producer: AIOKafkaProducer, topic: str, messages: Iterable[Paced], speed: float, sent: Callable[[Paced], object]
) -> int:
    start, count = time.monotonic(), 0
    deliveries: set[asyncio.Future[Any]] = set()
    for message in messages:
        if speed:
            pause = start + message.at_s / speed - time.monotonic()
            if pause > _SHORTEST_PAUSE_S:
                await asyncio.sleep(pause)
        try:
            deliveries.add(await producer.send(topic, message.value, key=message.key))
        except MessageSizeTooLargeError:
            raise TripsError(f"message {count + 1} is too large for Kafka: {len(message.value)} bytes") from None
        count += 1
        sent(message)
        if len(deliveries) >= _UNDER_WAY:
            await _delivered(deliveries)
    await producer.flush()
    await _delivered(deliveries)
    return count


async def _delivered(deliveries: set[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*deliveries)
    deliveries.clear()
