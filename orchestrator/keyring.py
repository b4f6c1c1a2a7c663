"""The keys of peers, as operators see them and decide about them: the methods `key.*`.

Each decision is one commit, guarded on the record that was read; what is so already may be asked for again.

Specification: docs/protocol.md, section "Keys of peers".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Any

from orchestrator.auth.enrolment import read_text
from orchestrator.auth.revocation import Revocations
from orchestrator.core.enrolment import Ids, KeyCommand, KeyPlace, KeyRecord, KeyState, changed, write
from orchestrator.core.permissions import Action
from orchestrator.core.revoking import Subject, Target
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store.commits import Outcome
from protocol.codes import ErrorCode
from protocol.errors import InvalidName, RequestError
from protocol.frames import Part, Role
from protocol.requests import KeyChange, KeyList, KeyListed, PeerKey, RefusedKey

__all__ = ["Keyring"]

MARKED_MS = 30 * 24 * 3600 * 1000
"""How long hubs keep in mind that a key was revoked, for sessions that it has open; its record says so for good."""


class Keyring:
    """What this hub tells of keys, and how it decides about them when it is asked to.

    Args:
        line: where commits go.
        revocations: end the sessions that a revoked key has opened, on every hub.
    """

    def __init__(self, line: Line, revocations: Revocations) -> None:
        self._line = line
        self._revocations = revocations
        self.methods: dict[str, Callable[[Peer, str, Any], Awaitable[Part]]] = {
            "key.list": self._list,
            "key.accept": self._accept,
            "key.reject": self._reject,
            "key.revoke": self._revoke,
        }

    async def _list(self, peer: Peer, _op: str, params: KeyList) -> KeyListed:
        if params.state is not None and params.state not in set(KeyState):
            message = f"key.list: state: a key is {', '.join(KeyState)}, not {params.state[:40]!r}"
            raise RequestError(ErrorCode.INVALID_PARAMS, message)
        records = await self._records(peer)
        names = sorted(name for name in records if name > (params.after or ""))
        found = (_shown(name, KeyRecord.decode(records[name])) for name in names)
        chosen = (each for each in found if params.state in (None, each.state))
        return KeyListed(keys=tuple(islice(chosen, params.limit)))

    async def _records(self, peer: Peer) -> Mapping[str, bytes | str]:
        """Return the records that a session may see: its own, or all of its namespace where it may decide about them.

        Who may not is not the one to have all of them read.
        """
        if peer.permit.may(Action.ADMIN):
            return await self._line.store.hash_all(KeyPlace(peer.namespace, peer.role, peer.id).key)
        place = _place(peer.namespace, peer.principal.replace(":", "/"))
        text = await read_text(self._line, place)
        return {} if text is None else {place.field: text}

    async def _accept(self, peer: Peer, _op: str, params: KeyChange) -> PeerKey:
        return await self._change(peer, KeyCommand.ACCEPT, params)

    async def _reject(self, peer: Peer, _op: str, params: KeyChange) -> PeerKey:
        return await self._change(peer, KeyCommand.REJECT, params)

    async def _revoke(self, peer: Peer, _op: str, params: KeyChange) -> PeerKey:
        return await self._change(peer, KeyCommand.REVOKE, params)

    async def _change(self, peer: Peer, command: KeyCommand, params: KeyChange) -> PeerKey:
        place = _place(peer.namespace, params.name)
        while True:
            text = await read_text(self._line, place)
            if text is None:
                raise RequestError(ErrorCode.NOT_FOUND, f"no key of {place.field} is known")
            known = KeyRecord.decode(text)
            if params.fingerprint not in (None, known.fingerprint):
                message = f"the key of {place.field} is {known.fingerprint}, not the one that was named"
                raise RequestError(ErrorCode.KEY_STATE, message, data={"fingerprint": known.fingerprint})
            ids = Ids(self._line.new_commit_id(), peer.principal, self._line.now_ms())
            record = changed(known, command, ids)
            if record is None:
                message = f"the key of {place.field} is {known.state.value}: {_INSTEAD[known.state]}"
                raise RequestError(ErrorCode.KEY_STATE, message, data={"state": known.state.value})
            if command is KeyCommand.REVOKE:  # first: where this hub dies between the two, what was open has ended
                target = Target(place.namespace, Subject.KEY, known.fingerprint)
                await self._revocations.revoke(target, peer.principal, ids.now_ms + MARKED_MS)
            if record is known or isinstance(await settle(self._line, write(place, text, record, ids)), Outcome):
                return _shown(place.field, record)


_INSTEAD = {
    KeyState.PENDING: "accept or reject it",
    KeyState.ACCEPTED: "one that is in use is revoked",
    KeyState.REJECTED: "accept or revoke it",
    KeyState.REVOKED: "that is for good; let the peer enrol a new key",
}


def _place(namespace: str, name: str) -> KeyPlace:
    """Read `agent/ID` or `client/NAME`.

    Raises:
        InvalidName: it is neither.
    """
    role, slash, rest = name.partition("/")
    if not slash or role not in set(Role):
        raise InvalidName(f"{name[:160]!r} is not the name of a key; that is agent/ID or client/NAME")
    return KeyPlace.make(namespace, Role(role), rest)


def _shown(name: str, record: KeyRecord) -> PeerKey:
    other = record.other
    return PeerKey(
        name=name,
        state=record.state.value,
        fingerprint=record.fingerprint,
        scopes=record.scopes,
        may={what: tuple(patterns) for what, patterns in record.may.items()},
        asked_ms=record.asked_ms,
        changed_ms=record.changed_ms,
        by=record.by,
        refused=RefusedKey(fingerprint=other.fingerprint, ts_ms=other.ts_ms, count=other.count) if other else None,
    )
