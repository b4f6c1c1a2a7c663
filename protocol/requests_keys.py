"""The methods of `request` that are about keys of peers: what each takes and answers.

The table is in `protocol.requests`.

Specification: docs/protocol.md, sections "Requests" and "Keys of peers".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames import Name, Part, UInt
from protocol.requests_agents import LIST_MAX

__all__ = ["KeyChange", "KeyList", "KeyListed", "PeerKey", "RefusedKey"]


class KeyList(Part):
    """`key.list`: the keys of the namespace, by name: the first ones after the name `after`, up to `limit`.

    With `state`, those in that state.
    """

    state: str | None = None
    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = LIST_MAX
    after: Name | None = None


class KeyChange(Part):
    """`key.accept`, `key.reject`, `key.revoke`: decide about the key of a name, `agent/ID` or `client/NAME`.

    With `fingerprint`, of that key alone. Errors: `not_found`, `key_state`.
    """

    name: Name
    fingerprint: str | None = None


class RefusedKey(Part):
    """The last other key that was refused under a name, and how often that was noted."""

    fingerprint: str
    ts_ms: UInt
    count: UInt


class PeerKey(Part):
    """A key: whose it is, what it is good for, who said so last; `may` is what it is held to, as in a token."""

    name: Name
    state: str
    fingerprint: str
    scopes: tuple[str, ...]
    may: dict[str, tuple[str, ...]] = {}
    asked_ms: UInt
    changed_ms: UInt
    by: str
    refused: RefusedKey | None = None


class KeyListed(Part):
    """Keys by name."""

    keys: tuple[PeerKey, ...]
