"""Telemetry of a fleet, sent all the while: late, out of order, repeated and broken messages among the good ones.

Everything comes of the seed but the moment at which it is sent. What counts in the end is what is in Kafka's log: a
message whose delivery is in doubt is sent again, as gateways do.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Load", "fleet"]

EPOCH = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MINUTE = 60_000

Message = tuple[bytes, bytes]
"""Key and value."""


def drives(vehicle: str, chance: random.Random) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a vehicle senses, in order, for ever: (epoch ms, message without its time)."""
    t = EPOCH + chance.randrange(30 * MINUTE)
    mileage, latitude, longitude = chance.randrange(100_000) + 0.5, 50 + chance.random(), 7 + chance.random()
    only_edges = chance.random() < 0.05
    yield t, {"ignition": "OFF", "telematics_unit": {"id": f"unit-{vehicle}", "brand": "CLOUDBOXX"}}
    while True:
        t += chance.randrange(1_000, 8 * MINUTE)  # parked
        if chance.random() < 0.3:
            yield t, {"doors_status": "OPEN", "state_of_charge_in_percent": chance.randrange(100)}
            t += chance.randrange(1_000, 20_000)
        yield t, {"ignition": "ON", "position": place(latitude, longitude), "mileage_in_kilometers": round(mileage, 1)}
        short = chance.random() < 0.15
        gap_at = chance.randrange(30) if chance.random() < 0.08 else -1
        for number in range(chance.randrange(1, 4) if short else chance.randrange(6, 50)):
            t += chance.randrange(1_000, 15_000)
            if number == gap_at:
                t += chance.randrange(8, 14) * MINUTE  # the silence timeout of these runs is 10 minutes
            latitude += chance.uniform(-0.001, 0.001)
            longitude += chance.uniform(-0.001, 0.001)
            mileage += chance.random() / 10
            said: dict[str, Any] = {"speed_in_kmh": round(chance.uniform(0, 120), 1)}
            if chance.random() < 0.8:
                said["position"] = place(latitude, longitude)
            if chance.random() < 0.5:
                said["mileage_in_kilometers"] = {"timestamp": t - chance.randrange(900), "value": round(mileage, 1)}
            if chance.random() < 0.2:
                said["ignition"] = "ON"
            if not only_edges:
                yield t, said
        t += chance.randrange(500, 8_000)
        if gap_at < 0 or chance.random() < 0.5:
            yield t, {"ignition": "OFF", "mileage_in_kilometers": round(mileage, 1), "doors_status": "CLOSED"}


def place(latitude: float, longitude: float) -> dict[str, float]:
    return {"lat": round(latitude, 6), "lon": round(longitude, 6)}


def disordered(vehicle: str, chance: random.Random) -> Iterator[Message]:
    """The vehicle's messages as they reach Kafka."""
    key = vehicle.encode()
    held: list[tuple[int, int, bytes]] = []  # (number of the message after which it comes, tie, value)
    ties = itertools.count()
    for number, (t, said) in enumerate(drives(vehicle, chance)):
        body = {"vehicle_id": vehicle, "timestamp": t, **said}
        fate = chance.random()
        if fate < 0.01:
            body["speed_in_kmh"] = chance.choice(["fast", -1, 401, None, True])  # the rest of it counts
        value = json.dumps(body).encode()
        if fate > 0.995:
            yield key, value[: chance.randrange(len(value))]  # torn: the device sends it again
        if chance.random() < 0.06:
            heapq.heappush(held, (number + chance.randrange(1, 12), next(ties), value))  # out of order
        elif chance.random() < 0.01:
            heapq.heappush(held, (number + chance.randrange(100, 400), next(ties), value))  # perhaps behind the horizon
        else:
            yield key, value
        if chance.random() < 0.1:
            heapq.heappush(held, (number + chance.randrange(30), next(ties), value))  # once more
        while held and held[0][0] <= number:
            yield key, heapq.heappop(held)[2]


def fleet(seed: int, vehicles: int, *, newcomers: float = 0.002) -> Iterator[Message]:
    """The messages of all vehicles, for ever. Now and then one comes that is seen once and never again."""
    chance = random.Random(f"{seed} fleet")
    names = [f"car-{seed}-{number}" for number in range(vehicles)]
    sources = [disordered(name, random.Random(f"{seed} {name}")) for name in names]
    for number in itertools.count():
        if chance.random() < newcomers:
            name = f"once-{seed}-{number}"
            yield name.encode(), json.dumps({"vehicle_id": name, "timestamp": EPOCH, "ignition": "ON"}).encode()
        yield next(chance.choice(sources))


_MANY: Final = 25_000
_AFTER_MANY: Final = 100.0
"""A drill that takes long goes on with fewer messages a second: all that was sent is also judged."""


class Load:
    """Sends a fleet's messages at a rate until it is stopped, whatever happens to the brokers.

    Args:
        settings: where the cluster is, and what the topic is called.
        seed: of everything.
        vehicles: how many there are, those that come only once apart.
        messages: instead of those of a fleet.
    """

    def __init__(
        self, settings: Any, seed: int, *, vehicles: int = 150, messages: Iterator[Message] | None = None
    ) -> None:
        self.sent = 0
        """Messages that a broker has acknowledged, sent twice or not."""
        self.errors = 0
        self._settings = settings
        self._messages = messages or fleet(seed, vehicles)
        self._again: list[Message] = []
        self._in_flight: dict[asyncio.Future[Any], Message] = {}
        self._producer: AIOKafkaProducer | None = None
        self._broken = False
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._given_up = False

    def start(self, *, rate: float = 800.0) -> None:
        """Begin to send, so many messages a second."""
        self._stopping = False
        self._task = asyncio.create_task(self._run(rate), name="load")

    async def stop(self) -> None:
        """Send no new ones, and wait until all that are on their way have arrived."""
        self._stopping = True
        task, self._task = self._task, None
        if task is not None:
            await task

    async def cancel(self) -> None:
        """End at once."""
        self._stopping = self._given_up = True
        task, self._task = self._task, None
        if task is None:
            return
        async with asyncio.timeout(60):
            while not task.done():  # wait_for (Python 3.11) and aiokafka may swallow a cancellation
                task.cancel()
                await asyncio.wait([task], timeout=1)

    async def _run(self, rate: float) -> None:
        began, taken = time.monotonic(), 0
        try:
            while not self._given_up and (not self._stopping or self._again or self._in_flight):
                if taken > _MANY and rate > _AFTER_MANY:
                    rate, began, taken = _AFTER_MANY, time.monotonic(), 0
                behind = (time.monotonic() - began) * rate - taken
                if behind > rate:  # the brokers were away: go on from here at the same rate
                    began, behind = time.monotonic() - taken / rate, 0
                while self._again and len(self._in_flight) < 2_000 and not self._given_up:
                    await self._send(self._again.pop())
                for _ in range(int(behind)):
                    if self._stopping or self._again or len(self._in_flight) >= 2_000:
                        break
                    taken += 1
                    await self._send(next(self._messages))
                await asyncio.sleep(0.01)
        finally:
            await self._close()

    async def _send(self, message: Message) -> None:
        if self._broken:
            await self._close()
        try:
            if self._producer is None:
                client = self._settings.client()
                self._producer = AIOKafkaProducer(
                    **client, acks="all", enable_idempotence=True, linger_ms=5, request_timeout_ms=5_000
                )
                await asyncio.wait_for(self._producer.start(), 10)
            key, value = message
            future = await asyncio.wait_for(self._producer.send(self._settings.topics.telemetry, value, key=key), 10)
        except (KafkaError, OSError, TimeoutError):
            await self._failed(message)
            return
        self._in_flight[future] = message
        future.add_done_callback(self._delivered)

    def _delivered(self, done: asyncio.Future[Any]) -> None:
        message = self._in_flight.pop(done)
        if done.cancelled() or done.exception() is not None:
            self.errors += 1
            self._again.append(message)
            # A batch that has failed leaves a hole in the producer's sequence numbers: no later one would be taken.
            self._broken = True
        else:
            self.sent += 1

    async def _failed(self, message: Message) -> None:
        self.errors += 1
        self._again.append(message)
        await self._close()
        await asyncio.sleep(0.2)

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 10)
            # What a producer has left when it is not given the time to end, it never tells of.
            for future in self._in_flight:
                future.cancel()
            await asyncio.sleep(0)
        self._broken = False
