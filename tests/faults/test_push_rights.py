"""The rights that docs/push.md lists are all that a push worker needs: on a broker that gives it exactly those."""

import asyncio
import base64

import pytest
from endpoint import HttpEndpoint, announcement, publish
from integration.test_rights import PASSWORD, allow, guarded_kafka  # noqa: F401 - a fixture
from worker_process import WorkerProcess

from streams.local.broker import free_ports
from streams.push import book
from streams.push.report import report, request_retries
from streams.settings import Settings
from streams.topics import create_topics

US = "ignition-trips-push"
RIGHTS = [
    ("topic", "trip-events", "literal", "Read"),
    ("topic", "trip-events", "literal", "DescribeConfigs"),
    ("topic", "trip-push-dead-letters", "literal", "Write"),
    ("topic", "trip-push-dead-letters", "literal", "DescribeConfigs"),
    *(
        ("topic", f"{US}-{name}", "literal", operation)
        for name in ("requests", "changelog", "subscriptions")
        for operation in ("Read", "DescribeConfigs")
    ),
    *(("topic", f"{US}-{name}", "literal", "Write") for name in ("changelog", "subscriptions")),
    ("group", US, "literal", "Read"),
    ("transactional-id", f"{US}-", "prefixed", "Write"),
]


@pytest.mark.all_faults
async def test_the_rights_of_the_page_are_enough_for_everything_that_a_push_worker_does(guarded_kafka, tmp_path):  # noqa: F811
    ours, theirs = guarded_kafka
    admin = Settings.load(bootstrap_servers=ours, partitions=2)
    await create_topics(admin)
    await allow(ours, RIGHTS)
    settings = Settings.load(
        bootstrap_servers=theirs,
        security_protocol="SASL_PLAINTEXT",
        sasl_username="ignition-trips",
        sasl_password=PASSWORD,
    )
    answer = 500
    async with HttpEndpoint(lambda _: answer) as endpoint:
        file = tmp_path / "push.toml"
        file.write_text(
            f'[[subscriptions]]\nid = "one"\nurl = "{endpoint.url}"\nprofile = "standard"\n'
            'secrets = ["env:PUSH_SECRET_ONE"]\n'
        )
        (port,) = free_ports(1)
        extra = {
            "TRIPS_PUSH_HTTP_PORT": str(port),
            "TRIPS_SASL_PASSWORD": PASSWORD,
            "TRIPS_PUSH_FILE": str(file),
            "TRIPS_PUSH_ALLOWED_NETWORKS": "127.0.0.1",
            "TRIPS_PUSH_RETRY_SCALE": "0.000001",
            "PUSH_SECRET_ONE": base64.b64encode(b"s" * 32).decode(),
        }
        worker = WorkerProcess(
            settings, tmp_path, "push", port, extra=extra, command=("-m", "streams.cli", "push", "worker")
        )
        try:
            await asyncio.to_thread(worker.wait_until_ready)
            await publish(admin, announcement(1))
            async with asyncio.timeout(30):
                while not any(line.discarded for line in await report(admin)):  # noqa: ASYNC110 - as below
                    await asyncio.sleep(0.2)
            answer = 200
            assert await request_retries(admin, subscription=None, ids=()) == (1, [])
            await endpoint.received(11)
            answer = 410
            await publish(admin, announcement(2))
            async with asyncio.timeout(30):
                while (await book.read_book(admin)).entries["one"].off is None:  # noqa: ASYNC110 - it happens in Kafka
                    await asyncio.sleep(0.2)
            assert worker.stop() == 0
        finally:
            if worker.process.poll() is None:
                worker.kill()
    assert PASSWORD not in worker.output()
