"""`trips worker` that fails at a chosen step of a chosen checkpoint.

``TRIPS_TEST_FAULT`` is ``action:step:count``: what happens, where, and at which time that this step is taken, counted
over all partitions. Actions: ``raise`` an exception, ``kill`` or ``freeze`` the process (SIGKILL, SIGSTOP), ``delay``
this one and all that follow by 1.5 s.

=============  =====================================================================
step           is taken
=============  =====================================================================
``fence``      when the producers have been opened, before any state is read
``restore``    when some state has been read back
``apply``      when a batch is about to be applied
``take``       when the output has been taken from the processor
``begin``      before the transaction begins
``add``        before its partitions are added
``offset``     before the offset is written
``send``       when some records are about to be sent
``deliver``    when some records have been sent, and their delivery is awaited
``commit``     before the commit
``committed``  after the commit, before anybody in this process knows of it
=============  =====================================================================

With ``at_least_once`` also:

=============  =====================================================================
``letters``    before dead letters and late records are sent, ahead of the transaction
``announce``   before announcements are sent, behind it
``announced``  when they are delivered, before the next transaction settles them
=============  =====================================================================
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.produce import ProduceRequest

from streams.app import run_worker
from streams.delivery.producer import CheckpointProducer
from streams.errors import TripsError
from streams.processor import Processor
from streams.runtime.fences import Fences
from streams.settings import Settings

STEPS = ("begin", "add", "offset", "send", "deliver", "commit", "committed")
"""Those of a checkpoint's transaction."""
PLAIN_STEPS = ("letters", "announce", "announced")
"""Those outside of it, with ``at_least_once``."""
AROUND = ("fence", "restore", "apply", "take")


def steps_of(guarantee: str) -> tuple[str, ...]:
    """All steps of a checkpoint."""
    return STEPS if guarantee == "exactly_once" else (*STEPS, *PLAIN_STEPS)


class InjectedError(Exception):
    """The fault."""


class Fault:
    """Happens once, but for delays."""

    def __init__(self, plan: str) -> None:
        self.action, self.step, count = plan.split(":")
        self.left = int(count)

    def at(self, step: str | None) -> None:
        """This step is being taken."""
        if step != self.step:
            return
        self.left -= 1
        if self.left or self.action == "delay":
            return
        sys.stderr.write(f"FAULT {self.action} at {self.step}\n")
        sys.stderr.flush()
        if self.action == "raise":
            raise InjectedError(f"injected at {self.step}")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)

    async def pause(self, step: str | None) -> None:
        """Take one's time for this step."""
        if self.action == "delay" and step == self.step and self.left <= 0:
            await asyncio.sleep(1.5)


def install(fault: Fault) -> None:
    """Have the steps tell the fault that they are taken."""
    before(AIOKafkaProducer, "begin_transaction", fault, "begin")
    before(TransactionManager, "maybe_add_partition_to_txn", fault, "add")
    before(CheckpointProducer, "tell", fault, "offset")
    before(CheckpointProducer, "commit_transaction", fault, "commit")
    after(CheckpointProducer, "commit_transaction", fault, "committed")
    after(CheckpointProducer, "_numbered", fault, "send")
    after(AIOKafkaProducer, "send_batch", fault, "send")
    after(Fences, "renew", fault, "fence")
    after(Processor, "restore", fault, "restore")
    before(Processor, "process", fault, "apply")
    after(Processor, "take", fault, "take")

    send = AIOKafkaConnection.send

    def sending(connection: Any, request: Any, **options: Any) -> Any:
        answer = send(connection, request, **options)
        fault.at("deliver" if isinstance(request, ProduceRequest) else None)
        return answer

    AIOKafkaConnection.send = sending

    deliver, events = CheckpointProducer.deliver, Settings.load().topics.events

    async def delivering(producer: Any, batches: Any) -> None:
        if producer._txn_manager.transactional_id is not None:
            await deliver(producer, batches)
            return
        announcements = any(place.topic == events for place in batches)
        step = "announce" if announcements else "letters" if batches else None
        fault.at(step)
        await fault.pause(step)
        await deliver(producer, batches)
        fault.at("announced" if announcements else None)

    CheckpointProducer.deliver = delivering  # type: ignore[method-assign]


def before(owner: Any, name: str, fault: Fault, step: str) -> None:
    wrap(owner, name, fault, step, None)


def after(owner: Any, name: str, fault: Fault, step: str) -> None:
    wrap(owner, name, fault, None, step)


def wrap(owner: Any, name: str, fault: Fault, first: str | None, last: str | None) -> None:
    original = getattr(owner, name)

    if asyncio.iscoroutinefunction(original):

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            fault.at(first)
            await fault.pause(first)
            result = await original(*args, **kwargs)
            fault.at(last)
            return result

    else:

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            fault.at(first)
            result = original(*args, **kwargs)
            fault.at(last)
            return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    plan = os.environ.pop("TRIPS_TEST_FAULT", "")
    if plan:
        install(Fault(plan))
    try:
        sys.exit(run_worker(Settings.load(), debug="--debug" in sys.argv))
    except TripsError as error:
        sys.stderr.write(f"trips: {error}\n")
        sys.exit(error.exit_code)
