"""Ends sessions that a token alone opened, on every hub within a second, once their name has an accepted key.

A new session of such a name is refused, since its record is read whenever one opens. For those that are open, every
commit that binds a name to keys sets a word of its namespace anew. Each hub looks twice a second, and at every hint of
such a commit, whether the word is another one; if so it reads the records of its sessions without a key in there.
So nothing lasts that would have to be cleared away, and a name costs nothing where nobody has such a session.

A session that is just opened may have read its record before and be seen only after that: `changed_since` tells.

Specification: docs/protocol.md, section "Keys of peers".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from orchestrator.core import enrolment
from orchestrator.core.enrolment import KeyPlace, KeyRecord, judge_token
from orchestrator.core.sessions import Denied
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.store.base import StoreError
from protocol.frames import Role

if TYPE_CHECKING:
    from orchestrator.connection import Connection
    from orchestrator.services import Services

__all__ = ["POLL_S", "Binding", "Words"]

Words = Mapping[str, bytes | None]
"""Of a namespace, the commit that last bound a name of it to a key."""

POLL_S = 0.5
"""How often the store is asked for the words, in case a hint was lost."""
NAMESPACES_AT_ONCE_MAX = 64
RECORDS_AT_ONCE_MAX = 256

log_ = structlog.get_logger()


class Binding:
    """What this hub knows of names that were bound to keys lately.

    Args:
        line: for the store.

    Attributes:
        words: of namespaces, as they were last seen; another mapping after each change.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self.words: Words = {}
        self._woken = asyncio.Event()

    async def changed_since(self, words: Words, peer: Peer) -> Denied | None:
        """Return why a session that can be seen since a moment ago must not go on; None where it may.

        Args:
            words: from before its name's record was read.
            peer: the session.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if peer.key is not None or self.words.get(peer.namespace) == words.get(peer.namespace):
            return None
        place = _place(peer)
        (text,) = await self._line.store.hash_get(place.key, place.field)
        return judge_token(KeyRecord.decode(text) if text else None, place)

    def hint(self, word: str) -> None:
        """Take a word of another hub's commit."""
        if word == enrolment.HINT:
            self._woken.set()

    async def run(self, hub: Services) -> None:
        """Look after the sessions of a hub until cancelled."""
        while True:
            self._woken.clear()
            await self.look(hub)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()

    async def look(self, hub: Services) -> None:
        """End what must end by now; what the store does not answer is asked for again the next time."""
        namespaces = list({peer.namespace for peer in _without_key(hub)})
        self.words = {namespace: self.words[namespace] for namespace in namespaces if namespace in self.words}
        for start in range(0, len(namespaces), NAMESPACES_AT_ONCE_MAX):
            some = namespaces[start : start + NAMESPACES_AT_ONCE_MAX]
            await asyncio.gather(*(self._look(hub, namespace) for namespace in some))

    async def _look(self, hub: Services, namespace: str) -> None:
        try:
            await self._compare(hub, namespace)
        except StoreError as fault:
            self.words = {known: word for known, word in self.words.items() if known != namespace}
            log_.debug("records_not_read", namespace=namespace, reason=str(fault))

    async def _compare(self, hub: Services, namespace: str) -> None:
        (word,) = await self._line.store.hash_get(KeyPlace(namespace, Role.AGENT, "").bound_key, enrolment.BOUND_FIELD)
        if word == self.words.get(namespace):
            return
        self.words = {**self.words, namespace: word}  # first: who comes after that looks for itself
        there = [(link, _place(peer)) for peer, link in _without_key(hub).items() if peer.namespace == namespace]
        for start in range(0, len(there), RECORDS_AT_ONCE_MAX):
            some = there[start : start + RECORDS_AT_ONCE_MAX]
            texts = await self._line.store.hash_get(some[0][1].key, *(place.field for _, place in some))
            for (connection, place), text in zip(some, texts, strict=True):
                denied = judge_token(KeyRecord.decode(text) if text else None, place)
                if denied is not None:
                    connection.fail(denied.code, denied.message)


def _without_key(hub: Services) -> dict[Peer, Connection]:
    """Return the sessions that a token alone opened."""
    seen = ((connection.peer, connection) for connection in hub.connections)
    return {peer: connection for peer, connection in seen if peer is not None and peer.key is None}


def _place(peer: Peer) -> KeyPlace:
    """Return the name that a session is under, by which it would be bound to a key."""
    return KeyPlace(peer.namespace, peer.role, peer.principal.partition(":")[2])
