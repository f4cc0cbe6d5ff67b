"""Secrets by reference: ``env:NAME`` or ``file:NAME``. What is stored and shown is the reference.

Whoever may add subscriptions chooses where credentials are sent. So only those can be referred to that were put there
for this: variables that begin with ``PUSH_SECRET_``, and files in ``TRIPS_PUSH_SECRETS_FOLDER``. They are read anew
for each attempt: a file that is replaced counts at once.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Final

__all__ = ["REFERENCE", "CredentialError", "resolve", "signing_key"]

REFERENCE: Final = re.compile(r"env:PUSH_SECRET_[A-Za-z0-9_]{1,100}|file:[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
_LARGEST: Final = 8192
_WEBHOOK_PREFIX: Final = "whsec_"
# Standard Webhooks: 24 to 64 bytes.
_KEY_SIZES: Final = range(24, 65)


class CredentialError(Exception):
    """A secret that cannot be used; names the reference, and never the secret."""


def resolve(reference: str, folder: Path) -> str:
    """The secret that a reference means.

    Args:
        reference: as in a subscription.
        folder: ``TRIPS_PUSH_SECRETS_FOLDER``.

    Raises:
        CredentialError: there is none, or it is none.
    """
    if REFERENCE.fullmatch(reference) is None:
        raise CredentialError("a credential must be env:PUSH_SECRET_… or file:NAME")
    kind, _, name = reference.partition(":")
    secret = os.environ.get(name, "") if kind == "env" else _read(reference, name, folder)
    secret = secret.strip()
    if not secret:
        raise CredentialError(f"{reference} is not set, or empty")
    if not secret.isprintable() or not secret.isascii() or len(secret) > _LARGEST:
        raise CredentialError(f"{reference} must be one line of at most {_LARGEST} ASCII characters")
    return secret


def _read(reference: str, name: str, folder: Path) -> str:
    try:
        path = (folder / name).resolve(strict=True)
        # Kubernetes mounts files as links; they stay inside of the folder.
        if not path.is_relative_to(folder.resolve()):
            raise CredentialError(f"{reference} leads out of TRIPS_PUSH_SECRETS_FOLDER")
        with path.open("rb") as file:
            return file.read(2 * _LARGEST).decode()
    except OSError as error:
        raise CredentialError(f"{reference} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise CredentialError(f"{reference} is not text") from None


def signing_key(reference: str, folder: Path) -> bytes:
    """The key of a Standard Webhooks secret: base64 after an optional ``whsec_``.

    Raises:
        CredentialError: there is none, or it is none.
    """
    text = resolve(reference, folder).removeprefix(_WEBHOOK_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise CredentialError(f"{reference} must be whsec_ and base64") from None
    if len(key) not in _KEY_SIZES:
        raise CredentialError(f"{reference} must be {_KEY_SIZES[0]} to {_KEY_SIZES[-1]} bytes in base64")
    return key
