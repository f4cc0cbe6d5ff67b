"""Taking partitions over: Faust says when, and this in which order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import faust
from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service

from streams.errors import ClusterError, InternalError
from streams.runtime.logs import FAUST_LOGGER

if TYPE_CHECKING:
    from streams.runtime.worker import Worker

__all__ = ["PartitionRecovery", "PartitionTableManager", "VehicleTable"]

# A partition that is taken away while it is being taken over: the next assignment is there within a rebalance's time,
# which is 30 s and a session timeout (seconds).
_NEXT_WITHIN: Final = 90.0
_LOOK_EVERY: Final = 0.1
# Closing consumers and producers of brokers that are there takes some milliseconds (seconds).
_CANCELLED_WITHIN: Final = 5.0


class VehicleTable(faust.Table):  # type: ignore[misc]
    """The table of all vehicles: for each partition of the source a processor, with a changelog.

    To Faust it is a table like any other, which makes Faust recover before it reads; it has no use for Faust's stores
    and for its writing of the changelog, record by record and outside of transactions.
    """

    logger = FAUST_LOGGER

    worker: Worker

    def __len__(self) -> int:
        return sum(partition.processor.vehicles for partition in self.worker.partitions.values())


class PartitionRecovery(Recovery):  # type: ignore[misc]
    """Faust's recovery service, with the steps of :meth:`_take_over` instead of its own.

    Faust's own order resumes the partitions, seeks, and then empties all queues, in which by then there may be records:
    they are lost, and later commits pass over them. It also waits for ever for a changelog whose last offsets hold no
    record.
    """

    logger = FAUST_LOGGER

    @Service.task  # type: ignore[untyped-decorator]
    async def _restart_recovery(self) -> None:
        while not self.should_stop:
            stopped = await self.wait_for_stopped(self.signal_recovery_start)
            self.signal_recovery_start.clear()
            if stopped:
                return
            work = asyncio.ensure_future(self._take_over(self._generation_id))
            try:
                await self._wait(work)
            except RebalanceAgain:
                # The next assignment has come. This one has been cancelled: what it has opened is closed first.
                await asyncio.wait([work], timeout=_CANCELLED_WITHIN)
            except IllegalStateError as error:
                if not await self._another_assignment():
                    self.app.worker.fail(
                        ClusterError(
                            f"A partition was taken away while it was being taken over ({error}), and no assignment "
                            f"came within {_NEXT_WITHIN:.0f} s after that: are brokers away?"
                        )
                    )
                    return
            except ServiceStopped:
                return
            except asyncio.CancelledError:
                if work.cancelled() and not self.should_stop:
                    # By itself: nobody would go on, and nobody would know.
                    self.app.worker.fail(InternalError("The taking over of partitions was cancelled."))
                raise
            except Exception as error:  # noqa: BLE001 - an error here would only end this task
                self.app.worker.fail(error)
                return

    async def _another_assignment(self) -> bool:
        """Wait for it, or for the end of this service. False: it does not come."""
        deadline = time.monotonic() + _NEXT_WITHIN
        while not (self.should_stop or self.signal_recovery_start.is_set()):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_EVERY)
        return True

    async def _take_over(self, generation: int) -> None:
        app, consumer = self.app, self.app.consumer
        assigned = consumer.assignment()
        await app.on_rebalance_complete.send()

        # 1. Fence the previous owners off, read the state back, and find out where it goes on; nothing can be written
        #    behind our back any more.
        await app.worker.take_over({tp.partition for tp in assigned}, generation, consumer)
        if app.consumer_generation_id != generation:
            return

        # 2. Let events flow. This empties the queues: nothing that matters may be in them yet, nor be fetched.
        app.flow_control.resume()
        consumer.resume_flow()

        # 3. Set the positions to where the state goes on, and only then let it be fetched.
        async with consumer.fetching:
            if assigned:
                await consumer.perform_seek()
            if app.consumer_generation_id != generation:
                return  # it was given up again while the positions were being set
            consumer.resume_partitions(assigned)
            app.worker.open(generation)

        # 4. What Faust wants to know.
        self.completed.set()
        await app._fetcher.maybe_start()  # noqa: SLF001 - as Faust's own recovery does
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()

    @Service.task  # type: ignore[untyped-decorator]
    async def _slurp_changelogs(self) -> None:
        """Faust's reading of changelogs; ours is in ``streams.runtime.changelog``."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _publish_stats(self) -> None:
        """Faust's logging of it."""


class PartitionTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager, without a subscription to the changelog: it is read with a consumer of its own."""

    logger = FAUST_LOGGER

    @property
    def recovery(self) -> PartitionRecovery:
        """The recovery service."""
        if self._recovery is None:  # type: ignore[has-type]
            self._recovery = PartitionRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Start; Faust waits a second here for agents that declare tables as they start."""
        await self._update_channels()
        await self.recovery.start()

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
        self._tables_registered.set()
