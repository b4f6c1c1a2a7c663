"""Takes tokens, agents and keys back, on every hub within a second, whoever has a session with them.

Each hub holds all marks in memory (`orchestrator.core.revoking`), so that to look costs nothing. It is told of a change
by a hint, and asks the store twice a second for the word that every change sets anew, since hints may be lost. A hub
listens to nobody before it has read the marks.

A session is judged when it opens, by what its token says, however that was verified: neither the cache of verified
tokens nor the mark that spares a signature knows of revocation, so neither can let anybody past it. It is judged again
when `enforce` can see it, and by `enforce` at every change, so that no mark is missed between the two.

Specification: docs/protocol.md, section "Revocation".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog

from orchestrator.auth.principal import Principal
from orchestrator.core import revoking
from orchestrator.core.revoking import MARKS_KEY, Mark, Marks, Subject, Target
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Outcome
from protocol.codes import CloseCode, ErrorCode
from protocol.errors import RequestError
from protocol.frames import Part, Role
from protocol.ids import check_name
from protocol.requests_tokens import (
    RevokedList,
    RevokedListed,
    RevokedMark,
    TokenCheck,
    TokenChecked,
    TokenRevoke,
    TokenRevoked,
    TokenUnrevoke,
    TokenUnrevoked,
)

if TYPE_CHECKING:
    from orchestrator.services import Services

__all__ = ["POLL_S", "Revocations", "enforce", "why_ended"]

POLL_S = 0.5
"""How often the store is asked whether marks have changed, in case a hint was lost."""

log_ = structlog.get_logger()


class Revocations:
    """What was revoked, as one hub knows it.

    Args:
        line: where commits go.

    Attributes:
        methods: what it answers to requests.
        on_change: called whenever marks were read that are others than before.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._marks = Marks()
        self._woken = asyncio.Event()
        self.on_change: Callable[[], None] | None = None
        self.methods: dict[str, Callable[[Peer, str, Any], Awaitable[Part]]] = {
            "token.revoke": self._token_revoke,
            "token.unrevoke": self._token_unrevoke,
            "token.revoked": self._token_revoked,
            "token.check": self._token_check,
        }

    def why(self, bearer: Principal, agent: str | None = None, key: str | None = None) -> str | None:
        """Return why whoever has a token, and comes as an agent with a key, gets no session; None where he does."""
        return self._marks.why(bearer, agent, key)

    async def revoke(self, target: Target, by: str, until_ms: int | None = None) -> Mark:
        """Revoke something, for good or until a time. It holds here at once, elsewhere within a second.

        Args:
            target: what.
            by: the principal who does it.
            until_ms: from when on it does not matter: when the token expires, say.

        Raises:
            RequestError: `limit_reached`, there are too many marks.
            StoreUnavailable: the store does not answer.
        """
        while True:
            (known,) = await self._line.store.hash_get(MARKS_KEY, target.field)
            was = Mark.parse(target.field, known) if known is not None else None
            if known is None and self._marks.count(target.namespace) >= revoking.NAMESPACE_MARKS_MAX:
                raise _too_many(revoking.NAMESPACE_MARKS_MAX, f" of {target.namespace}")
            mark = revoking.wider(Mark(target, self._line.now_ms(), until_ms, by), was)
            result = await settle(self._line, revoking.revoke(self._line.new_commit_id(), mark, known))
            if isinstance(result, Outcome):
                self._marks.put(mark)
                self._woken.set()
                log_.info("revoked", subject=target.subject.value, namespace=target.namespace, id=target.id, by=by)
                return mark
            if result.guard > 0:
                raise _too_many(revoking.MARKS_MAX)

    async def lift(self, target: Target) -> None:
        """Let something be good again.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        await settle(self._line, revoking.lift(self._line.new_commit_id(), target))
        self._marks.drop(target)
        self._woken.set()

    def hint(self, word: str) -> None:
        """Take a word of another hub's commit."""
        if word == revoking.HINT:
            self._woken.set()

    async def load(self) -> None:
        """Read the marks where they have changed.

        Raises:
            StoreError: they cannot be read; what was known holds.
        """
        (version,) = await self._line.store.hash_get(MARKS_KEY, revoking.VERSION_FIELD)
        if version == self._marks.version:
            return
        self._marks = Marks(await self._line.store.hash_all(MARKS_KEY))
        if self._marks.unreadable:
            log_.error("marks_unreadable", fields=self._marks.unreadable[:10], reason="a later release wrote them")
        if self.on_change is not None:
            self.on_change()

    async def run(self) -> None:
        """Keep the marks up to date until cancelled, and forget those whose time is over."""
        while True:
            self._woken.clear()
            try:
                await self.load()
                await self._forget()
            except StoreError as fault:
                log_.debug("marks_not_read", reason=str(fault))
                self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()

    async def _forget(self) -> None:
        """Drop marks that matter no more. Two hubs that do it at once do it once."""
        gone = self._marks.over(self._line.now_ms())
        if gone and isinstance(await self._line.commit(revoking.forget(self._line.new_commit_id(), gone)), Outcome):
            log_.info("marks_forgotten", count=len(gone))

    async def _token_revoke(self, peer: Peer, _op: str, params: TokenRevoke) -> TokenRevoked:
        target = _target(peer, "token.revoke", params.token, params.name)
        if params.expires_ms is not None and params.expires_ms <= self._line.now_ms():
            message = "by what it says itself it has expired; where that is in doubt, revoke its id without a time"
            raise RequestError(ErrorCode.INVALID_PARAMS, f"token.revoke: {message}")
        mark = await self.revoke(target, peer.principal, params.expires_ms)
        return TokenRevoked(since_ms=mark.since_ms, until_ms=mark.until_ms)

    async def _token_unrevoke(self, peer: Peer, _op: str, params: TokenUnrevoke) -> TokenUnrevoked:
        target = _target(peer, "token.unrevoke", params.token, params.name)
        (known,) = await self._line.store.hash_get(MARKS_KEY, target.field)
        if known is not None:
            await self.lift(target)
            log_.info(
                "unrevoked", subject=target.subject.value, namespace=target.namespace, id=target.id, by=peer.principal
            )
        return TokenUnrevoked(was_revoked=known is not None)

    async def _token_revoked(self, peer: Peer, _op: str, params: RevokedList) -> RevokedListed:
        await self.load()
        shown = (
            RevokedMark(subject=at.subject.value, id=at.id, since_ms=mark.since_ms, until_ms=mark.until_ms, by=mark.by)
            for at, mark in ((mark.target, mark) for mark in self._marks.of(peer.namespace)[: params.limit])
        )
        return RevokedListed(marks=tuple(shown))

    async def _token_check(self, peer: Peer, _op: str, params: TokenCheck) -> TokenChecked:
        await self.load()
        why = self._marks.why_token(peer.namespace, params.token, params.name, params.issued_s)
        return TokenChecked(namespace=peer.namespace, revoked=why is not None, reason=why)


def _target(peer: Peer, method: str, token: str | None, name: str | None) -> Target:
    """Return what a request is about.

    Raises:
        RequestError: it is neither one token nor one name.
        InvalidName: the name is none.
    """
    if (token is None) is (name is None):
        raise RequestError(ErrorCode.INVALID_PARAMS, f"{method}: it is either one token, or all of a name")
    if token is not None:
        return Target(peer.namespace, Subject.TOKEN, token)
    return Target(peer.namespace, Subject.NAME, check_name(name or ""))


def _too_many(limit: int, whose: str = "") -> RequestError:
    message = f"{limit} tokens, names, agents and keys{whose} are revoked, which is as many as may be"
    remedy = "marks of tokens go when these have expired; to be rid of all tokens at once, change the signing key"
    return RequestError(ErrorCode.LIMIT_REACHED, f"{message}; {remedy}")


def why_ended(hub: Services, peer: Peer) -> str | None:
    """Return why a session must end, by what is revoked now; None where it may go on."""
    if peer.bearer is None:
        return None
    return hub.revocations.why(peer.bearer, peer.id if peer.role is Role.AGENT else None, peer.key)


def enforce(hub: Services) -> None:
    """End every session on this hub that something revoked has opened."""
    for connection in tuple(hub.connections):
        why = why_ended(hub, connection.peer) if connection.peer is not None else None
        if why is not None:
            connection.fail(CloseCode.REVOKED, why)
