"""Proof that a peer holds a key: the bytes that it signs, and how a key is shown to people.

What is signed names everything that the session is about, so that a signature is of use for this one session alone:
another connection has another nonce, another hub another name, and another name or process its own bytes.

Specification: docs/protocol.md, section "Proof of a key".
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

from protocol.frames import Identify

__all__ = ["FINGERPRINT_CHARS", "PROOF_LABEL", "fingerprint", "proof_bytes"]

PROOF_LABEL = b"fleetline identify proof 1\0"
"""What the signed bytes begin with: a key signs nothing else that begins so."""
LENGTH_BYTES = 4
FINGERPRINT_CHARS = 50


def proof_bytes(hub: str, nonce: bytes, frame: Identify, namespace: str, name: str) -> bytes:
    """Return the bytes to sign.

    Args:
        hub: the hub's name, as `hello` has it.
        nonce: the connection's, likewise.
        frame: who comes; `role`, `id`, `instance` and `version` are of it.
        namespace: where the key belongs.
        name: whose key it is.
    """
    fields = (
        hub.encode(),
        nonce,
        frame.role.value.encode(),
        namespace.encode(),
        name.encode(),
        frame.id.encode(),
        frame.instance.encode(),
        str(frame.version).encode(),
    )
    return PROOF_LABEL + b"".join(len(field).to_bytes(LENGTH_BYTES, "big") + field for field in fields)


def fingerprint(key: bytes) -> str:
    """Return what people compare keys by: `SHA256:` and the digest of the public key."""
    return f"SHA256:{b64encode(hashlib.sha256(key).digest()).decode().rstrip('=')}"
