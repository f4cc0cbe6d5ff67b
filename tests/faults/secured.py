"""A broker that listens in every way that a cluster may want to be spoken to, and the users that it knows."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from streams.local.broker import LocalKafka, free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from faults.certificates import Certificates

__all__ = ["SESSION_S", "SecuredKafka"]

SESSION_S: Final = 2
"""A login on the listener ``session`` is good for so many seconds; then the broker ends the connection."""

LISTENERS: Final = {
    "plain": "PLAINTEXT",  # ours: to look, to feed, to judge
    "login": "SASL_SSL",
    "session": "SASL_SSL",
    "login_in_the_clear": "SASL_PLAINTEXT",
    "tls": "SSL",
    "mutual_tls": "SSL",  # it wants a certificate of its clients, too
    "mutual_tls_1_2": "SSL",
    "expired": "SSL",
    "wrong_host": "SSL",
    "by_name_only": "SSL",  # its certificate is for localhost, and it calls itself 127.0.0.1
}
_MECHANISMS: Final = {"SCRAM-SHA-256": (1, "sha256"), "SCRAM-SHA-512": (2, "sha512")}
_LOGIN: Final = "org.apache.kafka.common.security"


class SecuredKafka:
    """One node with a listener for each way to connect; ``servers["tls"]`` is where it answers to TLS.

    Args:
        certificates: the broker's, and whose it trusts.
        plain_users: those who log in by PLAIN, which are part of the broker's configuration: name to password.
        data: as of ``LocalKafka``.
    """

    def __init__(
        self, certificates: Certificates, *, plain_users: dict[str, str] | None = None, data: Path | None = None
    ) -> None:
        ports = dict(zip([*LISTENERS, "controller"], free_ports(len(LISTENERS) + 1), strict=True))
        self.servers = {name: f"127.0.0.1:{ports[name]}" for name in LISTENERS}
        advertised = [f"{name.upper()}://{servers}" for name, servers in self.servers.items()]
        protocols = {**LISTENERS, "controller": "PLAINTEXT"}
        properties = {
            "listeners": ",".join([*advertised, f"CONTROLLER://127.0.0.1:{ports['controller']}"]),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(f"{name.upper()}:{is_}" for name, is_ in protocols.items()),
            "inter.broker.listener.name": "PLAIN",
            "controller.quorum.voters": f"1@127.0.0.1:{ports['controller']}",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates.broker.store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates.authority),
            "listener.name.mutual_tls.ssl.client.auth": "required",
            "listener.name.mutual_tls_1_2.ssl.client.auth": "required",
            "listener.name.mutual_tls_1_2.ssl.enabled.protocols": "TLSv1.2",
            "listener.name.expired.ssl.keystore.location": str(certificates.expired.store),
            "listener.name.wrong_host.ssl.keystore.location": str(certificates.wrong_host.store),
            "listener.name.by_name_only.ssl.keystore.location": str(certificates.by_name_only.store),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256",
        }
        for name in ("login", "session", "login_in_the_clear"):
            for mechanism in _MECHANISMS:
                properties[f"listener.name.{name}.{mechanism.lower()}.sasl.jaas.config"] = (
                    f"{_LOGIN}.scram.ScramLoginModule required;"
                )
        properties["listener.name.session.scram-sha-512.connections.max.reauth.ms"] = f"{SESSION_S * 1000}"
        if plain_users:
            users = " ".join(f'user_{name}="{password}"' for name, password in plain_users.items())
            properties |= {
                "listener.name.login.sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
                "listener.name.login.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required {users};",
            }
        self._kafka = LocalKafka(port=ports["plain"], data=data, properties=properties)

    def __enter__(self) -> Self:
        self._kafka.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._kafka.stop()

    async def add_user(self, name: str, password: str, *mechanisms: str) -> None:
        """Let somebody log in by these mechanisms of SCRAM; or give them another password."""
        for mechanism in mechanisms or _MECHANISMS:
            number, digest = _MECHANISMS[mechanism]
            salt, rounds = os.urandom(16), 4096
            salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, rounds)
            await self._alter([(name, number, rounds, salt, salted, {})])

    async def _alter(self, upsertions: list[Any]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers["plain"])
        await admin.start()
        try:
            answer = await admin._send_request(AlterUserScramCredentials([], upsertions))
            assert all(code == 0 for _, code, _, _ in answer.results), answer
        finally:
            await admin.close()


# What aiokafka has no request for (KIP-554).


class AlterUserScramCredentialsResponse_v0(Response):  # noqa: N801 - as aiokafka names them
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString()),
                ("error_code", Int16),
                ("error_message", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class AlterUserScramCredentialsRequest_v0(RequestStruct):  # noqa: N801
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = AlterUserScramCredentialsResponse_v0
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString()), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString()),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class AlterUserScramCredentials(Request[AlterUserScramCredentialsRequest_v0]):
    API_KEY = 51

    def __init__(self, deletions: list[Any], upsertions: list[Any]) -> None:
        self._parts = deletions, upsertions

    def build(
        self, request_struct_class: type[AlterUserScramCredentialsRequest_v0]
    ) -> AlterUserScramCredentialsRequest_v0:
        return request_struct_class(*self._parts, {})
