"""Certificates of every kind that a broker and its clients may present: right, expired, for another host, of nobody.

All are made anew for each run, in a folder: PEM, the keys as PKCS #8, which is the one form that Kafka takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KEY_PASSWORD", "Certificates", "Identity"]

KEY_PASSWORD = "the-password-of-the-key"


@dataclass(frozen=True)
class Identity:
    """A certificate with its key. ``store``: both in one file, as Kafka's ``ssl.keystore.location`` wants them."""

    certificate: Path
    key: Path
    store: Path
    locked_key: Path
    """The key once more, encrypted with ``KEY_PASSWORD``."""


class Certificates:
    """An authority, what it has issued, and another authority that nobody here trusts.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority, another = trustme.CA(organization_name="Trips"), trustme.CA(organization_name="Somebody else")
        self.authority = self._write("authority.pem", authority.cert_pem.bytes())
        self.another_authority = self._write("another-authority.pem", another.cert_pem.bytes())
        now = datetime.now(UTC)
        self.broker = self._issue("broker", authority, "127.0.0.1", "localhost")
        self.expired = self._issue(
            "expired", authority, "127.0.0.1", not_before=now - timedelta(days=9), not_after=now - timedelta(days=2)
        )
        self.wrong_host = self._issue("wrong-host", authority, "kafka.example.com")
        self.by_name_only = self._issue("by-name-only", authority, "localhost")
        self.client = self._issue("client", authority, "worker@example.com")
        self.client_of_another = self._issue("client-of-another", another, "worker@example.com")

    def _issue(self, name: str, authority: trustme.CA, *subjects: str, **validity: datetime) -> Identity:
        leaf = authority.issue_cert(*subjects, **validity)
        certificate = b"".join(part.bytes() for part in leaf.cert_chain_pems)
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), password=None)

        def pem(how: serialization.KeySerializationEncryption) -> bytes:
            return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

        plain = pem(serialization.NoEncryption())
        return Identity(
            certificate=self._write(f"{name}.pem", certificate),
            key=self._write(f"{name}.key", plain),
            store=self._write(f"{name}.store.pem", plain + certificate),
            locked_key=self._write(
                f"{name}.locked.key", pem(serialization.BestAvailableEncryption(KEY_PASSWORD.encode()))
            ),
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path
