"""The bytes that a peer signs to prove that it holds a key."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.frames import Identify, Role
from protocol.proof import FINGERPRINT_CHARS, fingerprint, proof_bytes

VECTORS = json.loads((Path(__file__).parents[3] / "docs" / "protocol-vectors.json").read_text(encoding="utf-8"))
PARTS: dict[str, Any] = {
    "hub": "h",
    "nonce": b"n",
    "role": Role.AGENT,
    "id": "i",
    "instance": "p",
    "version": 1,
    "namespace": "ns",
    "name": "i",
}
CHANGED: dict[str, Any] = {
    "hub": "h2",
    "nonce": b"m",
    "role": Role.CLIENT,
    "id": "j",
    "instance": "q",
    "version": 2,
    "namespace": "nt",
    "name": "j",
}


def signed(**changed: Any) -> bytes:
    said = PARTS | changed
    frame = Identify(**{field: said[field] for field in ("version", "role", "id", "instance")})
    return proof_bytes(said["hub"], said["nonce"], frame, said["namespace"], said["name"])


@pytest.mark.parametrize("row", VECTORS["proofs"], ids=lambda row: row["name"])
def test_a_proof_made_from_the_document_verifies(row: dict[str, Any]) -> None:
    texts = ("role", "namespace", "name", "id", "instance")
    fields = [row["hub"].encode(), bytes.fromhex(row["nonce"]), *(row[text].encode() for text in texts)]
    fields.append(str(row["version"]).encode())
    made = b"fleetline identify proof 1\0" + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert made.hex() == row["signed"]
    key = bytes.fromhex(row["key"])
    Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(row["signature"]), made)
    assert fingerprint(key) == row["fingerprint"]
    assert b64decode(row["fingerprint"].removeprefix("SHA256:") + "=") == sha256(key).digest()
    assert len(row["fingerprint"]) == FINGERPRINT_CHARS


def test_every_part_of_the_session_is_signed() -> None:
    variants = [signed(), *(signed(**{part: value}) for part, value in CHANGED.items())]
    assert all(one != other for one, other in combinations(variants, 2))


def test_no_part_can_run_into_the_next() -> None:
    assert signed(hub="ha", nonce=b"b") != signed(hub="h", nonce=b"ab")
    assert signed(namespace="ns", name="xi") != signed(namespace="nsx", name="i")
