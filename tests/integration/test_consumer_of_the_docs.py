"""The consumer in docs/events.md, run as the page says, against a real Kafka."""

import asyncio
import gzip
import json
import re
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

from aiokafka import AIOKafkaProducer

from streams.processor import Processor
from streams.telemetry.reader import Reader
from streams.trips.rules import Rules

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def announcements():
    packed = resources.files("streams.local").joinpath("data/drives.jsonl.gz").read_bytes()
    processor = Processor(Rules(), Reader(max_clock_skew_ms=None), offline=True)
    for number, value in enumerate(gzip.decompress(packed).splitlines(), start=1):
        processor.process([SimpleNamespace(offset=number, timestamp=0, key=None, value=value, headers=())])
    return processor.take().announcements


async def test_it_prints_each_committed_announcement_once_and_no_aborted_one(created_topics, unique, tmp_path):
    settings = created_topics
    everything = announcements()
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, transactional_id=unique)
    await producer.start()
    try:
        await producer.begin_transaction()
        aborted = json.loads(everything[0].payload)
        aborted["data"]["trip"]["revision"] = 999_999
        await producer.send_and_wait(settings.topics.events, json.dumps(aborted).encode(), key=b"omaha-1")
        await producer.abort_transaction()
        for _ in range(2):  # the second time it is all old news
            async with producer.transaction():
                for one in everything:
                    await producer.send(settings.topics.events, one.payload, key=one.vehicle_id.encode())
    finally:
        await producer.stop()

    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    script = tmp_path / "consumer.py"
    script.write_text(source)
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, settings.bootstrap_servers, settings.topics.events, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            lines = [(await process.stdout.readline()).decode().split() for _ in everything]
        # Nothing more comes, though there is more to read.
        try:
            async with asyncio.timeout(2):
                surplus = await process.stdout.readline()
        except TimeoutError:
            surplus = b""
    finally:
        process.kill()
        await process.wait()
    assert surplus == b""
    assert sorted(lines) == sorted([one.vehicle_id, one.trip_id, str(one.revision), one.event] for one in everything)
