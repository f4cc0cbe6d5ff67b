"""Brokers that are stopped, killed, cut off, slow or full, and one of three: nothing is lost, and workers go on.

Load and judge always talk to the broker directly; workers through a proxy where the fault is one of the network.
"""

import asyncio
import time

import pytest
from faults.brokers import Cluster, Node, SmallDisk, scratch_folder
from faults.proxy import Proxy

from streams.local.broker import free_ports
from streams.settings import Settings

pytestmark = pytest.mark.timeout(420)

# Messages a second. What comes in is also what is judged afterwards, which takes a second for each thousand.
RATE = 600
LONG_RATE = 200
# Longer than all timeouts in which a client of a broker gives up: 20 to 60 s.
AWAY = 75.0


@pytest.fixture
def folder():
    with scratch_folder() as folder:
        yield folder


@pytest.fixture
def settings_on(unique):
    """Settings as those of the other faults, on a cluster of this test's own."""

    def settings_on(servers, name="app", **changes):
        values = {
            "bootstrap_servers": servers,
            "application_id": f"{unique}-{name}",
            "topic_prefix": f"{unique}.{name}.",
            "partitions": 4,
            "session_timeout": 2,
            "silence_timeout": 600,
            "correction_horizon": 1200,
            "http_port": 0,
        }
        return Settings.load(**{**values, **changes})

    return settings_on


@pytest.fixture
def node(folder):
    with Node(folder / "node") as node:
        yield node


@pytest.fixture
def proxied(folder, seed):
    """A node and the proxy in front of it."""
    (port,) = free_ports(1)
    node = Node(folder / "node", proxy_port=port)
    with node, Proxy(port, node.behind_proxy, seed) as proxy:
        yield node, proxy


def tell_of_ends(run):
    """Into the table: how many workers have given up (and were started again)."""
    count = len(list(run.ends()))
    run.row.note = f"{count} worker{'' if count == 1 else 's'} ended and restarted" if count else "no worker ended"


async def goes_on(run):
    """Every worker is ready, or another process in its place is."""
    await asyncio.gather(*(place.running(within=90.0) for place in run.places))


async def end(run):
    """The fault is over: workers go on, and all is judged."""
    await goes_on(run)
    tell_of_ends(run)
    await run.finish()


@pytest.mark.parametrize(("how", "repetitions"), [("stopped", 2), ("kill -9", 3)])
async def test_a_broker_that_comes_back(drill, settings_on, node, *, every_fault, how, repetitions):
    run = await drill(f"broker: {how}, started again", settings_on(node.servers))
    await run.start_workers(2)
    run.load.start(rate=RATE)
    for _ in range(repetitions if every_fault else 1):
        await run.pause(2.0, 4.0)
        run.repetitions += 1
        await asyncio.to_thread(node.stop if how == "stopped" else node.kill)
        await run.pause(0.0, 3.0)
        await asyncio.to_thread(node.start)
        await run.recovered(time.monotonic())
    await end(run)


async def test_all_connections_are_reset(drill, settings_on, proxied, every_fault):
    node, proxy = proxied
    run = await drill("network: all connections reset", settings_on(proxy.address), feed=settings_on(node.servers))
    await run.start_workers(2)
    run.load.start(rate=RATE)
    for _ in range(10 if every_fault else 4):
        await run.pause(0.3, 2.0)
        run.repetitions += 1
        assert proxy.reset() > 0
        await run.recovered(time.monotonic())
    # No reason to give up, but for one whose connections came back later than the session timeout.
    reasons = {reason.partition(":")[0] for _, said in run.ends() for reason in said}
    assert reasons <= {"Fenced"}
    await end(run)


@pytest.mark.all_faults
async def test_a_broker_that_is_away_for_longer_than_every_timeout(drill, settings_on, proxied):
    node, proxy = proxied
    # One application finds its broker gone, another one in a network that swallows everything. Of the workers of the
    # first, one has nothing to do: there is one partition.
    runs = [
        await drill(f"broker: refuses for {AWAY:.0f} s", settings_on(node.servers, "refused", partitions=1)),
        await drill(
            f"broker: silent for {AWAY:.0f} s",
            settings_on(proxy.address, "silent"),
            feed=settings_on(node.servers, "silent"),
        ),
    ]
    for run in runs:
        await run.start_workers(2)
        run.load.start(rate=LONG_RATE / 2)
        run.repetitions += 1
    await runs[0].pause(3.0, 5.0)
    proxy.cut()
    await asyncio.to_thread(node.kill)
    began = time.monotonic()
    # An outage is no reason not to end when asked to.
    stopped = runs[1].chance.choice(runs[1].workers)
    stopped.terminate()
    last_ready = [0.0, 0.0]
    while time.monotonic() < began + AWAY:
        for number, run in enumerate(runs):
            for place in run.places:
                if place.worker is not None and (await place.worker.probe("/health/ready"))[0] == 200:
                    last_ready[number] = time.monotonic() - began
        await asyncio.sleep(0.5)
        assert not stopped.alive or time.monotonic() < began + 60.0
    await asyncio.to_thread(node.start)
    proxy.heal()
    since = time.monotonic()
    await asyncio.gather(*(run.recovered(since) for run in runs))
    await asyncio.gather(*(goes_on(run) for run in runs))
    for run, seconds in zip(runs, last_ready, strict=True):
        tell_of_ends(run)
        run.row.note += f"; the last was ready for {seconds:.0f} s of it"
        assert seconds < 40.0, run.row.note
    for run in runs:
        await run.finish()


@pytest.mark.all_faults
async def test_a_slow_network_is_slow_and_nothing_else(drill, settings_on, proxied):
    node, proxy = proxied
    # A heartbeat takes a second there and back: a session of 2 s would be a misconfiguration.
    run = await drill(
        "network: 500 ms each way for 30 s",
        settings_on(proxy.address, session_timeout=6),
        feed=settings_on(node.servers, session_timeout=6),
    )
    workers = await run.start_workers(2)
    run.load.start(rate=LONG_RATE)
    await run.pause(2.0, 3.0)
    proxy.latency = 0.5
    run.repetitions += 1
    began = time.monotonic()
    while time.monotonic() < began + 30.0:
        # What is in the log now is committed soon, again and again: the lag is bounded.
        assert await run.recovered(time.monotonic(), within=20.0) > 0.5
    run.row.note = f"the lag meanwhile was at most {max(run.row.recovery):.0f} s"
    proxy.heal()
    assert run.workers == workers
    await run.finish()


@pytest.mark.all_faults
async def test_a_lossy_network(drill, settings_on, proxied):
    node, proxy = proxied
    run = await drill("network: resets and stalls for 40 s", settings_on(proxy.address), feed=settings_on(node.servers))
    await run.start_workers(2)
    run.load.start(rate=LONG_RATE)
    await run.pause(1.0, 2.0)
    proxy.lossy(resets=0.05, stalls=0.2, stall=3.0)
    await asyncio.sleep(40.0)
    proxy.heal()
    await run.recovered(time.monotonic())
    run.repetitions = proxy.resets + proxy.stalls
    assert run.repetitions > 20
    await end(run)


@pytest.mark.all_faults
async def test_connections_that_die_and_nobody_is_told(drill, settings_on, proxied):
    node, proxy = proxied
    run = await drill("network: connections die silently", settings_on(proxy.address), feed=settings_on(node.servers))
    await run.start_workers(2)
    run.load.start(rate=LONG_RATE)
    for share in (0.5, 1.0):
        await run.pause(2.0, 4.0)
        run.repetitions += proxy.forget(share)
        await run.recovered(time.monotonic())
    for place in run.places:  # one that has a dead connection, and does not know yet, has nobody to say goodbye to
        place.expect_stop = {0, 1}
    await end(run)


@pytest.mark.all_faults
async def test_a_worker_that_only_hears_or_only_speaks(drill, settings_on, proxied):
    node, proxy = proxied
    run = await drill("network: one worker's cut, one way", settings_on(node.servers))
    await run.start_workers(1)
    run.settings = settings_on(proxy.address)
    await run.start_workers(1)
    run.load.start(rate=LONG_RATE)
    # Until the other one has taken over; and for longer than a checkpoint may take.
    for direction, seconds in (("up", 0.0), ("down", 0.0), ("up", 30.0), ("down", 30.0)):
        await run.pause(1.0, 3.0)
        run.repetitions += 1
        began = time.monotonic()
        proxy.cut(direction)
        await run.recovered(began)
        await asyncio.sleep(began + seconds - time.monotonic())
        proxy.heal()
    await end(run)


@pytest.mark.all_faults
async def test_a_full_disk(drill, settings_on, folder):
    with SmallDisk(folder / "node" / "data", megabytes=96) as disk, Node(folder / "node") as node:
        run = await drill("broker: its disk is full", settings_on(node.servers))
        await run.start_workers(2)
        run.load.start(rate=LONG_RATE)
        by_itself = 0
        for _ in range(2):
            await run.pause(3.0, 5.0)
            run.repetitions += 1
            disk.fill(node)
            by_itself += await asyncio.to_thread(node.ended, 15.0)
            assert any(word in node.log_text() for word in ("No space left", "File too large")), node.log_text()[-2000:]
            await asyncio.to_thread(node.kill)  # if it has not ended, an operator does that
            disk.free(node)
            await asyncio.to_thread(node.start)
            await run.recovered(time.monotonic())
        assert disk.folder.joinpath("meta.properties").exists()
        await goes_on(run)
        tell_of_ends(run)
        run.row.note += f"; the broker ended by itself {by_itself} times; "
        run.row.note += "a file system of its own" if disk.mounted else "a limit on its files"
        await run.finish()


@pytest.mark.all_faults
async def test_any_one_of_three_brokers(drill, settings_on, folder):
    async with Cluster(folder) as cluster:
        settings = settings_on(cluster.servers, replication_factor=3)
        run = await drill("three brokers: leaders and coordinators killed", settings)
        await run.start_workers(2)
        run.load.start(rate=LONG_RATE / 2)
        await cluster.whole()
        killed = []
        roles = ["partition leader", "group coordinator", "transaction coordinator"] * 3
        run.chance.shuffle(roles)
        for role in roles:
            await run.pause(0.0, 2.0)
            number = run.chance.randrange(settings.partitions)
            topics = settings.topics
            match role:
                case "group coordinator":
                    node = await cluster.group_coordinator(settings.application_id)
                case "transaction coordinator":
                    node = await cluster.transaction_coordinator(f"{settings.application_id}-{number}")
                case _:
                    topic = run.chance.choice([topics.telemetry, topics.changelog, topics.events])
                    node = await cluster.leader(topic, number)
            run.repetitions += 1
            killed.append((role, node.number))
            began = time.monotonic()
            await asyncio.to_thread(node.kill)
            # Two brokers of three are enough.
            await run.recovered(began)
            await asyncio.to_thread(node.start)
            await cluster.whole()
        assert len(killed) >= 8
        await goes_on(run)
        tell_of_ends(run)
        await run.finish()
