"""Why a broker that answers does not let us in, and which setting to look at.

aiokafka logs why a connection failed and goes on trying. A wrong password does not get right by trying, so whoever
could not connect asks here: brokers are asked once more, one after the other, and what they do is put into words. Where
a broker only hangs up, it is found out what it speaks.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from streams.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streams.settings import Settings

__all__ = ["find_refusal"]

# Seconds: for one answer, and for everything. A broker that refuses does so at once.
_ANSWER_TIMEOUT: Final = 3.0
_TIMEOUT: Final = 8.0
# A broker looks at our certificate when we think that the connection stands; its complaint is there after a moment.
_COMPLAINT_WITHIN: Final = 1.0

_FAILURES: Final = (KafkaError, OSError, EOFError, TimeoutError, AssertionError)

# X509_V_ERR_… of OpenSSL (x509_vfy.h).
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_WRONG_HOST: Final = (62, 64)
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
# What TLS answers to a plain request begins with: an alert (21) of TLS 1.x, taken by Kafka's clients for a length.
_TLS_ALERT: Final = 0x1503


async def find_refusal(settings: Settings, client: Mapping[str, Any] | None = None) -> RefusedError | None:
    """Ask all brokers that can be reached whether they let us in.

    Args:
        settings: how we connect.
        client: those of ``settings.client()`` that connections are made with; files may have changed since. None: anew.

    Returns:
        Why the first one that does not want us does not, in one line; None: none is there, or all are content.
    """
    client = dict(client or settings.client())
    servers = [server.rpartition(":") for server in client.pop("bootstrap_servers")]
    refusal = None
    try:
        async with asyncio.timeout(_TIMEOUT):
            for host, _, port in servers:
                address = host.strip("[]"), int(port)
                try:
                    brokers = await _brokers(address, client)
                except _FAILURES as error:
                    refusal = refusal or await _why(address, error, settings, client)
                else:
                    # One way in is enough; but then its brokers send us to each other.
                    return await _first_refusal(brokers - {address}, client, settings)
    except TimeoutError:
        pass
    return refusal


async def _first_refusal(
    brokers: set[tuple[str, int]], client: Mapping[str, Any], settings: Settings
) -> RefusedError | None:
    for address in sorted(brokers):
        try:
            await _brokers(address, client)
        except _FAILURES as error:
            refusal = await _why(address, error, settings, client)
            if refusal is not None:
                return refusal
    return None


async def _brokers(address: tuple[str, int], client: Mapping[str, Any]) -> set[tuple[str, int]]:
    """The addresses of all brokers, as this one names them."""
    connection = AIOKafkaConnection(*address, request_timeout_ms=int(_ANSWER_TIMEOUT * 1000), **client)
    try:
        await connection.connect()
        answer = await connection.send(MetadataRequest([]))
        return {(host, port) for _, host, port, *_ in answer.brokers}
    finally:
        connection.close()


async def _why(
    address: tuple[str, int], error: BaseException, settings: Settings, client: Mapping[str, Any]
) -> RefusedError | None:
    """What a failed connection means; None: nothing that a setting could cure."""
    reason = next(filter(None, (_known(cause, settings) for cause in _causes(error))), None)
    if reason is None or isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        reason = await _another_protocol(address, error, settings) or reason
    if reason is None and _is_tls(settings):
        reason = await _complaint(address, settings, client)
    return RefusedError(f"The broker at {address[0]}:{address[1]} {reason}") if reason is not None else None


def _known(error: BaseException, settings: Settings) -> str | None:
    match error:
        case SaslAuthenticationFailed():
            return (
                f"does not let {settings.sasl_username!r} in by {settings.sasl_mechanism}: check TRIPS_SASL_USERNAME, "
                "TRIPS_SASL_PASSWORD and TRIPS_SASL_MECHANISM."
            )
        case UnsupportedSaslMechanismError():
            return f"does not take TRIPS_SASL_MECHANISM={settings.sasl_mechanism}."
        case ssl.SSLCertVerificationError():
            return _certificate(error.verify_code, error.verify_message, settings)
        case ssl.SSLError() if "CERTIFICATE_REQUIRED" in (error.reason or ""):
            return "wants a certificate of ours: set TRIPS_SSL_CERTFILE and TRIPS_SSL_KEYFILE."
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            alert = (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower()
            if settings.ssl_certfile is None:
                return (
                    f"ends TLS with {alert!r}: if it wants a certificate, set TRIPS_SSL_CERTFILE and TRIPS_SSL_KEYFILE."
                )
            return (
                f"does not accept our certificate ({alert!r}): check TRIPS_SSL_CERTFILE={settings.ssl_certfile}, that "
                "it is valid and that the broker trusts who has issued it."
            )
        case _:
            return None


def _certificate(code: int, message: str, settings: Settings) -> str:
    trusted = (
        f"TRIPS_SSL_CAFILE={settings.ssl_cafile}" if settings.ssl_cafile else "TRIPS_SSL_CAFILE (now: the system's)"
    )
    if code == _EXPIRED:
        return (
            f"has a certificate that has expired: renew it there (or, if it is its authority's, in {trusted}), and see "
            "whether the clock of this machine is right."
        )
    if code == _NOT_YET_VALID:
        return "has a certificate that is not valid yet: see whether the clock of this machine is right."
    if code in _WRONG_HOST:
        return (
            "has a certificate for another host: name the broker in TRIPS_BOOTSTRAP_SERVERS (and in its "
            "advertised.listeners) as the certificate does, or do without this check: TRIPS_SSL_CHECK_HOSTNAME=false."
        )
    if code in _UNKNOWN_AUTHORITY:
        return f"has a certificate of an authority that we do not trust: it must be in {trusted}."
    return f"has a certificate that we do not accept ({message}): check {trusted}."


async def _another_protocol(address: tuple[str, int], error: BaseException, settings: Settings) -> str | None:
    spoken, mechanisms = await _spoken(address)
    if spoken is None and not _is_tls(settings) and _answered_with_tls(error):
        return f"speaks TLS: TRIPS_SECURITY_PROTOCOL={settings.security_protocol} must be SSL or SASL_SSL there."
    if spoken is None:
        return None
    if spoken != settings.security_protocol:
        return f"speaks {spoken}: set TRIPS_SECURITY_PROTOCOL, which is {settings.security_protocol}, to that."
    if mechanisms and settings.sasl_mechanism not in mechanisms:
        return (
            f"does not take TRIPS_SASL_MECHANISM={settings.sasl_mechanism}: it takes {', '.join(sorted(mechanisms))}."
        )
    return None


async def _spoken(address: tuple[str, int]) -> tuple[str | None, frozenset[str]]:
    """The security protocol of a listener, and its SASL mechanisms; None: not found out."""
    for transport, context in (("PLAINTEXT", None), ("SSL", _unverified())):
        connection = AIOKafkaConnection(
            *address,
            request_timeout_ms=int(_ANSWER_TIMEOUT * 1000),
            security_protocol=transport,
            ssl_context=context,
        )
        try:
            await connection.connect()
            answer = await connection.send(SaslHandShakeRequest("PLAIN"))
        except _FAILURES:
            continue
        finally:
            connection.close()
        if answer.error_code == IllegalSaslStateError.errno:
            return transport, frozenset()
        return f"SASL_{transport}", frozenset(answer.enabled_mechanisms)
    return None, frozenset()


def _unverified() -> ssl.SSLContext:
    """To see whether somebody speaks TLS; nothing is sent that others should not know."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _complaint(address: tuple[str, int], settings: Settings, client: Mapping[str, Any]) -> str | None:
    """What the broker says of our certificate if it is not interrupted."""
    writer = None
    try:
        async with asyncio.timeout(_COMPLAINT_WITHIN):
            reader, writer = await asyncio.open_connection(*address, ssl=client["ssl_context"])
            await reader.read(1)
    except _FAILURES as error:
        return _known(error, settings)
    finally:
        if writer is not None:
            writer.close()
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _answered_with_tls(error: BaseException) -> bool:
    return any(
        isinstance(cause, asyncio.IncompleteReadError) and (cause.expected or 0) >> 16 == _TLS_ALERT
        for cause in _causes(error)
    )


def _is_tls(settings: Settings) -> bool:
    return settings.security_protocol in {"SSL", "SASL_SSL"}
