"""One transactional producer per source partition, so that only one worker can write for it.

Opening the producer (``InitProducerId``) ends what transaction the previous owner has open, and refuses it any other:
a worker that was frozen or cut off while its partition moved on finds that out at its next checkpoint, and not by
overwriting newer state.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from streams.delivery.producer import CheckpointProducer
from streams.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Fence", "Fences"]

_log = structlog.get_logger(__name__)

# aiokafka goes on asking for a producer id for ever; a broker that restarts is back within this, in seconds.
_OPEN_TIMEOUT: Final = 60.0
_CLOSE_TIMEOUT: Final = 10.0


class Fence:
    """The right to write for one partition: its producer.

    Attributes:
        producer: started.
        plain: one without transactions, the same for all partitions; None: none is needed.
        unbroken: nobody else has had the right since our last fence of this partition, so that what we know of the
            partition is still true.
    """

    def __init__(
        self, producer: CheckpointProducer, previous: tuple[int, int] | None, plain: CheckpointProducer | None = None
    ) -> None:
        self.producer = producer
        self.plain = plain
        manager = producer._txn_manager  # noqa: SLF001 - no public way to it
        self.identity: tuple[int, int] = (manager.producer_id, manager.producer_epoch)
        # Each opening raises the epoch by one.
        self.unbroken = previous is not None and self.identity == (previous[0], previous[1] + 1)


class Fences:
    """The producers of the partitions that this worker has.

    Args:
        application_id: the first part of each transactional id; the second is the partition.
        settings: keyword arguments for each producer.
        with_plain: open a producer without transactions beside them. It is renewed when they are, so that nothing that
            it has not delivered by then is delivered in the name of another assignment.
    """

    def __init__(self, application_id: str, settings: Mapping[str, Any], *, with_plain: bool = False) -> None:
        self._application_id = application_id
        self._settings = settings
        self._with_plain = with_plain
        self._plain: CheckpointProducer | None = None
        self._open: dict[int, Fence] = {}
        self._identities: dict[int, tuple[int, int]] = {}

    async def renew(self, partitions: Iterable[int]) -> dict[int, Fence]:
        """Open the producers of these partitions anew, and close all others.

        At every assignment, also of partitions that stay: another worker may have had them in between.

        Raises:
            ClusterError: the brokers did not answer in time.
            KafkaError: they refused.
        """
        await self.close()
        producers = {
            partition: CheckpointProducer(transactional_id=f"{self._application_id}-{partition}", **self._settings)
            for partition in sorted(partitions)
        }
        plain = CheckpointProducer(enable_idempotence=True, **self._settings) if self._with_plain else None
        opened = [*producers.values(), *([] if plain is None else [plain])]
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT), asyncio.TaskGroup() as group:
                for producer in opened:
                    group.create_task(producer.start())
        except TimeoutError:
            await _stop(opened)
            raise ClusterError(
                f"The Kafka brokers did not open the transactional producers of partitions {sorted(producers)} within "
                f"{_OPEN_TIMEOUT:.0f} s. Look at the brokers' transaction coordinator (__transaction_state)."
            ) from None
        except BaseExceptionGroup as group_error:
            await _stop(opened)
            raise group_error.exceptions[0] from None
        except BaseException:
            await _stop(opened)
            raise
        self._plain = plain
        self._open = {number: Fence(one, self._identities.get(number), plain) for number, one in producers.items()}
        self._identities |= {number: fence.identity for number, fence in self._open.items()}
        return dict(self._open)

    async def close(self) -> None:
        """Close all producers. A transaction that is open stays open, until the next owner ends it."""
        fences, self._open = self._open, {}
        plain, self._plain = self._plain, None
        await _stop([*(fence.producer for fence in fences.values()), *([] if plain is None else [plain])])


async def _stop(producers: Iterable[CheckpointProducer]) -> None:
    stops = [asyncio.ensure_future(producer.stop()) for producer in producers]
    if stops:
        done, late = await asyncio.wait(stops, timeout=_CLOSE_TIMEOUT)
        for one in late:
            one.cancel()
        for one in done:
            if not one.cancelled() and one.exception() is not None:
                _log.debug("producer did not close cleanly", error=repr(one.exception()))
