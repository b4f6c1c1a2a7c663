"""Keeps the key sets of other issuers: read from a file when it changes, fetched from an address every few minutes.

What cannot be read or fetched leaves the keys that were known. A token that names a key which is not known makes its
issuer's set be fetched at once, yet not again and again.

Specification: docs/protocol.md, section "Other issuers".
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.auth.foreign import KeySetInvalid, read_key_set
from orchestrator.files import stamp_of
from orchestrator.settings_issuers import Issuer, is_address

__all__ = ["FETCH_S", "Issuers", "KeySet"]

FETCH_S = 300.0
"""How often a key set is fetched from an address."""
APART_S = 5.0
"""How often at most, for tokens that name keys which are not known, or where it did not answer."""
TIMEOUT_S = 4.0
SET_BYTES_MAX = 256 * 1024

log_ = structlog.get_logger()


@dataclass(slots=True, eq=False)
class KeySet:
    """The keys of one issuer, as they were read last.

    Attributes:
        keys: by `kid`; none before the first time.
        known: whether they were read at all.
    """

    name: str
    issuer: Issuer
    keys: dict[str, Ed25519PublicKey] = field(default_factory=dict)
    known: bool = False
    stamp: object = None
    next_s: float = 0.0
    apart_s: float = 0.0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def signer(self, kid: str) -> str | None:
        """Return what a principal has as `signer` whose token a key signed; another key of that `kid` is another."""
        key = self.keys.get(kid)
        return None if key is None else f"{self.name} {key.public_bytes_raw().hex()} {kid}"


class Issuers:
    """The issuers that a deployment trusts beside itself.

    Args:
        settings: by the name that their tokens have as `iss`.
    """

    def __init__(self, settings: Mapping[str, Issuer]) -> None:
        self._sets = {name: KeySet(name, issuer) for name, issuer in settings.items()}

    def __bool__(self) -> bool:
        return bool(self._sets)

    def get(self, name: object) -> KeySet | None:
        """Return the keys of an issuer; None where it is not trusted."""
        return self._sets.get(name) if isinstance(name, str) else None

    def believes(self, signer: str) -> bool:
        """Whether a key is still in the set of its issuer, see `KeySet.signer`."""
        name, _, key = signer.partition(" ")  # the settings take no issuer with a space in its name
        found = self._sets.get(name)
        return found is not None and found.signer(key.partition(" ")[2]) == signer

    async def load(self) -> bool:
        """Read what is due. Returns whether any key is another."""
        changed = await asyncio.gather(*(self._refresh(each) for each in self._sets.values()))
        return any(changed)

    async def seek(self, name: object, kid: object) -> None:
        """Look for a key that is not known, where that was not done a moment ago."""
        found = self.get(name)
        if found is not None and kid not in found.keys and time.monotonic() >= found.apart_s:
            found.next_s = 0.0
            await self._refresh(found)

    async def _refresh(self, known: KeySet) -> bool:
        async with known.reading:
            now_s = time.monotonic()
            if now_s < known.next_s:
                return False
            known.apart_s = now_s + APART_S
            address = is_address(known.issuer.jwks)
            known.next_s = now_s + (FETCH_S if address else 0.0)
            try:
                content = await asyncio.to_thread(_fetch if address else _changed, known)
                if content is None:
                    return False
                keys = read_key_set(content)
            except (KeySetInvalid, OSError, ValueError) as fault:
                if address:
                    known.next_s = now_s + APART_S
                log_.warning("key_set_not_read", issuer=known.name, where=known.issuer.jwks, reason=str(fault)[:200])
                return False
            before, known.keys, known.known = known.keys, keys, True
            if before == keys:
                return False
            log_.info("key_set_read", issuer=known.name, keys=sorted(keys))
            return True


def _changed(known: KeySet) -> bytes | None:
    """Return a file's content where it has changed."""
    path = Path(known.issuer.jwks)
    stamp = stamp_of(path.stat())
    if stamp == known.stamp:
        return None
    with path.open("rb") as file:
        content = file.read(SET_BYTES_MAX + 1)
    known.stamp = stamp
    return _bounded(content)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: where keys come from is for the settings alone to say."""

    def redirect_request(self, *_what: object, **_how: object) -> None:
        return None


def _fetch(known: KeySet) -> bytes:
    """Return what an address answers; it was checked to be https, or http on this machine.

    Raises:
        OSError: nobody answers, with 200, in time.
        KeySetInvalid: it is too large.
    """
    url = known.issuer.jwks
    handlers: list[urllib.request.BaseHandler] = [_Stay()]
    if url.startswith("http://"):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S) as answer:
            return _bounded(answer.read(SET_BYTES_MAX + 1))
    except URLError as fault:
        raise OSError(str(fault)) from fault


def _bounded(content: bytes) -> bytes:
    if len(content) > SET_BYTES_MAX:
        raise KeySetInvalid(f"it has more than {SET_BYTES_MAX} bytes")
    return content
