"""What Faust remembers of each batch until it commits it: it never commits here, and so must remember nothing."""

import asyncio
import time

from aiokafka import AIOKafkaProducer
from worker_process import WorkerProcess

from streams.local.broker import free_ports

PROGRAM = """
import sys, threading, time
from streams import app
from streams.runtime import worker
from streams.settings import Settings

def tell(of):
    while True:
        time.sleep(0.1)
        consumer = of.consumer
        read = sum(consumer._sequences.values())
        kept = sum(map(len, consumer._acked.values())) + sum(map(len, consumer._acked_index.values()))
        print(f"batches {read} kept {kept + len(consumer._unacked_messages)}", flush=True)

begin = worker.App.__init__
def with_a_look(self, *arguments, **options):
    begin(self, *arguments, **options)
    threading.Thread(target=tell, args=(self,), daemon=True).start()
worker.App.__init__ = with_a_look
sys.exit(app.run_worker(Settings.load()))
"""


async def test_nothing_of_a_batch_is_kept_by_faust(created_topics, tmp_path):
    (port,) = free_ports(1)
    worker = WorkerProcess(created_topics, tmp_path, "worker", port, extra={}, command=("-c", PROGRAM))
    try:
        worker.wait_until_ready()
        producer = AIOKafkaProducer(bootstrap_servers=created_topics.bootstrap_servers)
        await producer.start()
        try:
            for _ in range(10):
                await producer.send_and_wait(created_topics.topics.telemetry, b"{}", b"v", partition=0)
                await asyncio.sleep(0.15)
        finally:
            await producer.stop()
        deadline = time.monotonic() + 20
        while not (told := [line.split() for line in worker.output().splitlines() if line.startswith("batches ")]) or (
            int(told[-1][1]) < 5 or int(told[-1][3])
        ):
            assert time.monotonic() < deadline, told[-3:]
            await asyncio.sleep(0.1)
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
