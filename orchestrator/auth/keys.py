"""The key that a hub signs tokens with: made on first use, read by nobody else.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from orchestrator.files import write_new_private
from protocol.errors import FleetlineError

__all__ = ["SIGNING_KEY", "KeyUnusable", "load_signing_key"]

SIGNING_KEY = Path("keys") / "signing.pem"
"""Where the signing key is in a data directory."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeyUnusable(FleetlineError):
    """The key file is there and cannot be used. The message says what to do."""


def load_signing_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return the signing key in `<data_dir>/keys/signing.pem`, made where it is missing.

    Two hubs that start at once agree on one: the file is made under another name and then given its own,
    which fails for the second, and that one reads what the first wrote.

    Raises:
        KeyUnusable: the file can be read by others, or holds no Ed25519 key.
    """
    path = data_dir / SIGNING_KEY
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        write_new_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return _read(path)


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as fault:
        raise KeyUnusable(f"the signing key {path} cannot be read: {fault.strerror}") from fault
    if mode & OTHERS:
        raise KeyUnusable(f"the signing key {path} can be read by others (mode {mode:o}); chmod 600 it, or remove it")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise KeyUnusable(f"{path} holds no private key that can be read: {fault}") from fault
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path} holds a key of another kind; an Ed25519 key is needed")
    return key
