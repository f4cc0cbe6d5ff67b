"""The connection to the cluster: what is right works, what is wrong is refused at once, and no secret is told.

On a broker that listens with TLS, with client certificates, and with SASL/SCRAM. A wrong password and the like are no
outage: waiting does not mend them, so one line says which setting to look at. Secrets stand in the environment of the
process and nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from faults.certificates import KEY_PASSWORD, Certificates
from faults.secured import SESSION_S, SecuredKafka
from integration.cluster import caught_up, feed
from worker_process import WorkerProcess, environment_of

from streams.local.broker import free_ports
from streams.settings import Settings
from streams.topics import create_topics

USER = "ignition-trips"
PASSWORD = "the-password-of-the-user"
AT_ONCE_S = 20
"""From its first line to its end; a worker that finds no broker waits for 30 s."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(certificates):
    with SecuredKafka(certificates, plain_users={USER: PASSWORD}) as kafka:
        asyncio.run(kafka.add_user(USER, PASSWORD))
        yield kafka


@pytest.fixture
def connect(secured, certificates, unique):
    """Makes settings for a listener; names are this test's own, and the broker's authority is trusted."""

    def make(listener, **how):
        names = {
            "application_id": unique,
            "topic_prefix": f"{unique}.",
            "partitions": 4,
            "session_timeout": 2,
            "silence_timeout": 600,
            "correction_horizon": 1200,
        }
        if "SSL" in how.get("security_protocol", ""):
            how = {"ssl_cafile": certificates.authority, **how}
        return Settings.load(**{"bootstrap_servers": secured.servers[listener], **names, **how})

    return make


def login(protocol="SASL_SSL", mechanism="SCRAM-SHA-512", username=USER, password=PASSWORD):
    return {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_username": username,
        "sasl_password": password,
    }


def certificate(identity, **more):
    return {"security_protocol": "SSL", "ssl_certfile": identity.certificate, "ssl_keyfile": identity.key, **more}


# ------------------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize(
    "way",
    [
        "SASL_SSL, SCRAM-SHA-512",
        "SSL, certificate of ours, key with a password",
        *(
            pytest.param(way, marks=pytest.mark.all_faults)
            for way in ("SASL_SSL, SCRAM-SHA-256", "SASL_SSL, PLAIN", "SASL_PLAINTEXT, SCRAM-SHA-512", "SSL")
        ),
    ],
)
async def test_a_right_connection_carries_a_load(way, connect, certificates, drill):
    match way.split(", "):
        case ["SSL"]:
            settings = connect("tls", security_protocol="SSL")
        case ["SSL", *_]:
            ours = certificates.client
            how = certificate(ours, ssl_keyfile=ours.locked_key, ssl_key_password=KEY_PASSWORD)
            settings = connect("mutual_tls", **how)
        case [protocol, mechanism]:
            listener = "login" if protocol == "SASL_SSL" else "login_in_the_clear"
            settings = connect(listener, **login(protocol, mechanism))
    run = await drill(f"none: {way}", settings, feed=connect("plain"))
    await run.start_workers(1)
    run.load.start(rate=600)
    await asyncio.sleep(3)
    await run.finish()


# ------------------------------------------------------------------------------------------------------- what is wrong


@dataclass
class Refused:
    """A connection that does not come about. ``names``: what its line must say."""

    listener: str
    how: Any
    names: tuple[str, ...]


CREDENTIALS = ("TRIPS_SASL_USERNAME", "TRIPS_SASL_PASSWORD")
REFUSALS = {
    "wrong password": Refused("login", lambda _: login(password="wrong-password"), (USER, *CREDENTIALS)),
    "unknown user": Refused("login", lambda _: login(username="nobody"), ("nobody", *CREDENTIALS)),
    "wrong password in the clear": Refused(
        "login_in_the_clear", lambda _: login("SASL_PLAINTEXT", password="wrong-password"), CREDENTIALS
    ),
    "wrong mechanism": Refused(
        "login_in_the_clear",
        lambda _: login("SASL_PLAINTEXT", mechanism="PLAIN"),
        ("TRIPS_SASL_MECHANISM=PLAIN", "SCRAM-SHA-256, SCRAM-SHA-512"),
    ),
    "expired certificate": Refused(
        "expired", lambda _: {"security_protocol": "SSL"}, ("expired", "clock", "TRIPS_SSL_CAFILE")
    ),
    "certificate for another host": Refused(
        "wrong_host",
        lambda _: {"security_protocol": "SSL"},
        ("another host", "TRIPS_BOOTSTRAP_SERVERS", "TRIPS_SSL_CHECK_HOSTNAME"),
    ),
    "certificate not for the advertised host": Refused(
        "by_name_only",
        lambda _: {"security_protocol": "SSL"},
        ("127.0.0.1", "another host", "advertised.listeners"),
    ),
    "unknown authority": Refused(
        "tls",
        lambda certificates: {"security_protocol": "SSL", "ssl_cafile": certificates.another_authority},
        ("authority", "TRIPS_SSL_CAFILE", "another-authority.pem"),
    ),
    "authority of the system": Refused(
        "tls", lambda _: {"security_protocol": "SSL", "ssl_cafile": None}, ("authority", "TRIPS_SSL_CAFILE")
    ),
    "no certificate of ours": Refused(
        "mutual_tls", lambda _: {"security_protocol": "SSL"}, ("TRIPS_SSL_CERTFILE", "TRIPS_SSL_KEYFILE")
    ),
    "no certificate of ours, TLS 1.2": Refused(
        "mutual_tls_1_2", lambda _: {"security_protocol": "SSL"}, ("TRIPS_SSL_CERTFILE", "TRIPS_SSL_KEYFILE")
    ),
    "certificate of ours by another authority": Refused(
        "mutual_tls",
        lambda certificates: certificate(certificates.client_of_another),
        ("TRIPS_SSL_CERTFILE", "client-of-another.pem"),
    ),
    "plain to TLS": Refused("tls", lambda _: {}, ("TRIPS_SECURITY_PROTOCOL", "speaks SSL", "is PLAINTEXT")),
    "plain to TLS with client certificates": Refused(
        "mutual_tls", lambda _: {}, ("TRIPS_SECURITY_PROTOCOL=PLAINTEXT", "TLS")
    ),
    "TLS to plain": Refused(
        "plain", lambda _: {"security_protocol": "SSL"}, ("TRIPS_SECURITY_PROTOCOL", "speaks PLAINTEXT", "is SSL")
    ),
    "no login where one is wanted": Refused(
        "login", lambda _: {"security_protocol": "SSL"}, ("TRIPS_SECURITY_PROTOCOL", "speaks SASL_SSL", "is SSL")
    ),
    "login where none is wanted": Refused(
        "plain", lambda _: login("SASL_PLAINTEXT"), ("TRIPS_SECURITY_PROTOCOL", "speaks PLAINTEXT")
    ),
}
PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
SAID = {
    re.split(r"[A-Z'=:…(]", phrase)[0]
    for cell in re.findall(r"^\| (`(?:does|speaks|has|wants) [^|]*) \|", PAGE, re.MULTILINE)
    for phrase in re.findall("`(.*?)`", cell)
}
"""How the lines that the page explains begin, after the broker's address."""
COMMANDS = ("worker", "check", "topics check", "tail", "topics create", "replay -")


async def run_command(command, settings, folder, **environment):
    """Exit code, output and errors of a command, and its seconds: those of a worker from its first line on."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TRIPS_")}
    variables |= environment_of(settings) | {"TRIPS_HTTP_PORT": "0"} | environment
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streams.cli", *command.split()),
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ended, started = datetime.now(UTC), re.search(r'"starting".*"timestamp": "(.*?)"', errors.decode())
    seconds = (ended - datetime.fromisoformat(started[1])).total_seconds() if started else 0
    return process.returncode, out.decode(), errors.decode(), seconds


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_is_wrong_is_refused_at_once_by_every_command(case, connect, certificates, every_fault, tmp_path):
    refused = REFUSALS[case]
    settings = connect(refused.listener, **refused.how(certificates))
    if case == "certificate not for the advertised host":
        settings = settings.model_copy(
            update={"bootstrap_servers": settings.bootstrap_servers.replace("127.0.0.1", "localhost")}
        )
    # They all connect in the same way: where there is little time, two cases will do for the others.
    others = COMMANDS[1:] if every_fault or case in {"wrong password", "plain to TLS"} else []
    commands = ["worker", *others]
    # Two at a time, as many as the smallest machine has processors: it is their time that counts.
    for pair in (commands[at : at + 2] for at in range(0, len(commands), 2)):
        for command, (code, out, errors, seconds) in zip(
            pair, await asyncio.gather(*(run_command(one, settings, tmp_path) for one in pair)), strict=True
        ):
            said = f"trips {command} ({seconds:.1f} s, exit {code})\n{out}\n{errors}"
            assert code == 1, said
            assert 0 < seconds < AT_ONCE_S or command != "worker", said
            plain = [line for line in errors.splitlines() if not line.startswith("{")]
            assert len(plain) == 1, said
            reason = plain[0]
            if command == "check":
                (reason,) = re.findall(r"^wrong +broker: (.*)", out, re.MULTILINE)
            assert all(name in reason for name in refused.names), said
            assert any(f" {phrase}" in reason for phrase in SAID), f"docs/operating.md does not have {reason!r}"
            assert "Traceback" not in said
            assert PASSWORD not in said
            assert "wrong-password" not in said


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("worker", "TRIPS_SSL_CAFILE", "not-there.pem"),
        ("check", "TRIPS_SSL_CERTFILE", "not-there.pem"),
        ("tail", "TRIPS_SSL_KEY_PASSWORD", "not-the-password"),
    ],
)
async def test_files_that_cannot_be_used_are_wrong_settings(command, name, value, connect, certificates, tmp_path):
    ours = certificates.client
    settings = connect("mutual_tls", **certificate(ours, ssl_keyfile=ours.locked_key, ssl_key_password=KEY_PASSWORD))
    code, out, errors, _ = await run_command(command, settings, tmp_path, **{name: value})
    assert (code, out) == (2, "")
    (line,) = errors.splitlines()
    # A wrong password shows where it is used: when the certificate is loaded with its key.
    assert ("TRIPS_SSL_CERTFILE" if name == "TRIPS_SSL_KEY_PASSWORD" else name) in line
    assert KEY_PASSWORD not in line
    assert "not-the-password" not in line


# ------------------------------------------------------------------------------------------- what changes while it runs


@pytest.mark.all_faults
async def test_a_login_that_is_taken_away_ends_the_worker_and_a_new_password_lets_it_go_on(connect, secured, drill):
    user = "on-session"
    await secured.add_user(user, PASSWORD)
    settings = connect("session", **login(username=user))
    run = await drill("security: connections cut, login revoked, new password", settings, feed=connect("plain"))
    await run.start_workers(1)
    run.load.start(rate=150)
    # The broker ends each connection that is older than this. That alone disturbs nobody (on a machine that is busy, it
    # may take longer than the session timeout to be back).
    await asyncio.sleep(3 * SESSION_S)
    before = list(run.ends())
    assert all(said[0].startswith("Fenced") for _, said in before)
    assert before or "KafkaConnectionError" in run.workers[0].log_text(), "no connection was cut"

    since = time.monotonic()
    await secured.add_user(user, "another-password")
    run.repetitions += 1
    # It may find itself cut off first, in the middle of an answer. Who is started then is refused.
    reason = ""
    for count in (1, 2):
        if "does not let" not in reason:
            await run.ended(len(before) + count)
            code, (reason,) = list(run.ends())[len(before) + count - 1]
            assert code == 1
    run.plan = lambda: {"TRIPS_SASL_PASSWORD": "another-password"}
    assert f"does not let '{user}' in" in reason
    assert "TRIPS_SASL_PASSWORD" in reason
    await run.recovered(since)
    await run.finish()


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("mechanism", ["PLAIN", pytest.param("SCRAM-SHA-512", marks=pytest.mark.all_faults)])
async def test_no_secret_is_told_not_even_with_debug(mechanism, connect, certificates, tmp_path):
    ours = certificates.client
    how = certificate(ours, ssl_keyfile=ours.locked_key, ssl_key_password=KEY_PASSWORD)
    settings = connect("login", **{**how, **login(mechanism=mechanism)})
    plain = connect("plain")
    await create_topics(plain)
    (port,) = free_ports(1)
    command = ("-m", "streams.cli", "--debug", "worker")
    worker = WorkerProcess(settings, tmp_path, "worker", port, extra={}, command=command)
    try:
        await asyncio.to_thread(worker.wait_until_ready)
        message = '{"vehicle_id":"JQ7RP","timestamp":"2026-03-05T08:00:00Z","ignition":"%s"}'
        await feed(plain, [(b"JQ7RP", (message % "ON").encode()), (b"JQ7RP", b"not JSON")])
        await caught_up(plain, 2)
        told = {
            "process list": Path(f"/proc/{worker.process.pid}/cmdline").read_text(),  # noqa: ASYNC240 - it is no file
            "metrics": worker.get("/metrics")[1],
            "health": worker.get("/health/ready")[1],
        }
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
    told["log"] = worker.output()
    # The log is one in which the secret would be: it has the requests that log us in.
    assert "SaslAuthenticateRequest" in told["log"]
    for command in ("check", "--debug check", "--debug topics check"):
        _, out, errors, _ = await run_command(command, settings, tmp_path)
        told[command] = out + errors
    assert "TRIPS_SASL_PASSWORD=**" in told["check"]
    assert "SaslAuthenticateRequest" in told["--debug check"]
    for command in ("--debug worker", "--debug check"):
        wrong = connect("login", **{**how, **login(mechanism=mechanism, username="nobody")})
        code, out, errors, _ = await run_command(command, wrong, tmp_path)
        assert code == 1
        assert "Traceback" in errors
        told[f"{command}, refused"] = out + errors
    for secret in (PASSWORD, KEY_PASSWORD):
        spellings = (secret, base64.b64encode(secret.encode()).decode(), secret.encode().hex())
        leaks = [place for place, text in told.items() for spelling in spellings if spelling in text]
        assert not leaks, f"{secret!r} in: {', '.join(leaks)}"
