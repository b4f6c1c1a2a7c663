"""Who a peer is, by the key that it proves to hold, or by its token; and how a key becomes known.

    proof, key known      its signature is checked, the record says what it is good for; a token is not looked at
    proof, key not known  with a join token, the key is recorded and the use counted, in one commit
    token alone           as good as ever, unless the name has had an accepted key

There is one check of a signature for a peer that comes back: that of its proof, or that of its token. To enrol, once
in a key's life, takes both. Nothing is told of a name before one of them was checked.

Specification: docs/protocol.md, sections "Proof of a key" and "Keys of peers".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.auth.principal import NEVER_S, Join, Principal
from orchestrator.auth.revocation import Revocations
from orchestrator.auth.tokens import TokenRefused, Tokens, claimed_namespace
from orchestrator.core.enrolment import (
    Ids,
    JoinUse,
    KeyPlace,
    KeyRecord,
    enrolled,
    judge_key,
    judge_token,
    note_other,
    write,
)
from orchestrator.core.patterns import Patterns
from orchestrator.core.permissions import may_open
from orchestrator.core.sessions import MARK_FIELD, Denied, agent_log
from orchestrator.line import Line
from orchestrator.settle import settle
from orchestrator.store.commits import Outcome
from protocol.codes import CloseCode
from protocol.errors import InvalidName
from protocol.frames import Identify, Proof, Role
from protocol.proof import fingerprint, proof_bytes

__all__ = ["Enrolment", "Identified", "read_text"]

ENROL_TRIES_MAX = 8
UNKNOWN_KEY = "this hub does not know that key: a peer enrols it with a join token (fleetline token issue NAME --join)"

log_ = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Identified:
    """A peer that is known.

    Attributes:
        principal: who it is.
        meta: of an agent's log, as it was left; None where there is none.
        mark: what the session leaves of its token, see `orchestrator.auth.tokens`; "" without one.
        key: fingerprint of the key that it holds, if it proved to.
    """

    principal: Principal
    meta: dict[str, str] | None
    mark: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """What the store had of a name: its record, with the text that a commit guards, and an agent's meta."""

    text: str | None
    record: KeyRecord | None
    meta: dict[str, str] | None


class Enrolment:
    """Tells who peers are.

    Args:
        line: for the store.
        tokens: that peers bring.
        revocations: of join tokens, too.
        asks: every key waits for an operator, whatever join token it came with.
    """

    def __init__(self, line: Line, tokens: Tokens, revocations: Revocations, *, asks: bool) -> None:
        self._line = line
        self._revocations = revocations
        self._tokens = tokens
        self._asks = asks

    async def identify(self, frame: Identify, token: str | None, nonce: bytes, now_s: int) -> Identified | Denied:
        """Return who a peer is.

        Args:
            frame: what it says of itself.
            token: that it brought, if any.
            nonce: that the hub gave this connection.
            now_s: the time, in seconds since the epoch of Unix.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if token:
            await self._tokens.prepare(token)
        try:
            if frame.proof is None:
                return await self._by_token(frame, token, now_s)
            return await self._by_proof(frame, frame.proof, token, nonce, now_s)
        except TokenRefused as fault:
            return Denied(fault.code, str(fault), fault.reason)
        except InvalidName as fault:
            return Denied(CloseCode.INVALID_FRAME, f"identify: {fault}")

    # ── by a key ─────────────────────────────────────────────────────────────

    async def _by_proof(
        self, frame: Identify, proof: Proof, token: str | None, nonce: bytes, now_s: int
    ) -> Identified | Denied:
        place = KeyPlace.make(proof.namespace, frame.role, proof.name)
        if frame.role is Role.AGENT and proof.name != frame.id:
            return Denied(CloseCode.INVALID_FRAME, "identify: an agent proves that it holds the key of its own id")
        read = await self._read(place)
        if read.record is not None and read.record.key == proof.key.hex():
            return self._check(frame, proof, nonce) or self._known(place, read.record, read.meta)
        principal = self._tokens.verify(token, now_s) if token else None
        if principal is None:
            return Denied(CloseCode.UNAUTHENTICATED, UNKNOWN_KEY, "unknown_key")
        elsewhere = principal.namespace != place.namespace  # what is known there is nothing to it
        if principal.join is None and (read.record is None or elsewhere):
            return await self._by_token(frame, token, now_s)  # it has a key elsewhere, and a token here
        wrong = _may_enrol(place, principal) or self._check(frame, proof, nonce)
        if wrong is not None:
            return wrong
        why = self._revocations.why(principal, key=fingerprint(proof.key))
        if why is not None:
            return Denied(CloseCode.REVOKED, why, principal=principal)
        if principal.join is None:
            return await self._refuse_other(place, proof.key, read, principal)
        return await self._enrol(place, proof.key, principal, principal.join, read, now_s)

    def _check(self, frame: Identify, proof: Proof, nonce: bytes) -> Denied | None:
        """Check the signature: the one costly step for a peer that comes back."""
        signed = proof_bytes(self._line.hub_id, nonce, frame, proof.namespace, proof.name)
        try:
            Ed25519PublicKey.from_public_bytes(proof.key).verify(proof.signature, signed)
        except (InvalidSignature, ValueError):
            message = "the proof does not verify: it was made for another session, or with another key"
            return Denied(CloseCode.UNAUTHENTICATED, message, "proof")
        return None

    @staticmethod
    def _known(place: KeyPlace, record: KeyRecord, meta: dict[str, str] | None) -> Identified | Denied:
        """Return who the holder of a known key is."""
        principal = Principal(
            name=place.name,
            namespace=place.namespace,
            scopes=frozenset(record.scopes),
            may=Patterns.parse(record.may),
            agents=frozenset({place.name} if place.role is Role.AGENT else ()),
            expires_s=NEVER_S,
            id=record.fingerprint,
            issued_s=NEVER_S,  # to revoke the tokens of a name revokes no key
        )
        denied = judge_key(record, place)
        if denied is not None:
            return replace(denied, principal=principal)
        return Identified(principal, meta, "", record.fingerprint)

    async def _enrol(
        self, place: KeyPlace, key: bytes, principal: Principal, join: Join, read: _Read, now_s: int
    ) -> Identified | Denied:
        """Record a key that came with a join token, and count the use with it."""
        for _ in range(ENROL_TRIES_MAX):
            ids = Ids(self._line.new_commit_id(), f"join:{principal.name}", self._line.now_ms())
            record = enrolled(read.record, key, join, ids, asks=self._asks)
            if record is None:
                return await self._refuse_other(place, key, read, principal)
            use = JoinUse(principal.id, join.uses, (principal.expires_s - now_s) * 1000)
            outcome = await settle(self._line, write(place, read.text, record, ids, use=use))
            if isinstance(outcome, Outcome):
                log_.info("key_enrolled", name=place.field, key=record.fingerprint, state=record.state.value)
                return self._known(place, record, read.meta)
            if outcome.guard > 0:
                message = f"the join token was used for {join.uses} keys, and is used up"
                return Denied(CloseCode.UNAUTHENTICATED, message, "used_up", principal)
            read = await self._read(place)  # somebody was quicker, or the reply was lost
            if read.record is not None and read.record.key == key.hex():
                return self._known(place, read.record, read.meta)
        return Denied(CloseCode.OVERLOADED, "others enrol a key of that name at the same time")

    async def _refuse_other(self, place: KeyPlace, key: bytes, read: _Read, principal: Principal) -> Denied:
        """Refuse a key of a name that has another one, and write down that somebody came with it."""
        now_ms = self._line.now_ms()
        noted = note_other(read.record, key, now_ms) if read.record is not None else None
        if noted is not None:
            ids = Ids(self._line.new_commit_id(), self._line.src, now_ms)
            await self._line.commit(write(place, read.text, noted, ids))  # where others write at once, theirs counts
            log_.warning("key_refused", name=place.field, key=fingerprint(key))
        message = f"{place.field} has another key; an operator sees both: fleetline key ls"
        return Denied(CloseCode.KEY_REFUSED, message, "another_key", principal)

    # ── by a token ───────────────────────────────────────────────────────────

    async def _by_token(self, frame: Identify, token: str | None, now_s: int) -> Identified | Denied:
        if not token:
            message = "no token came with the connection or with identify"
            return Denied(CloseCode.UNAUTHENTICATED, message, "no_token")
        if frame.role is Role.CLIENT:
            principal = self._tokens.verify(token, now_s)
            read = await self._read(KeyPlace(principal.namespace, Role.CLIENT, principal.name))
        else:
            claimed = claimed_namespace(token)
            read = await self._left(frame, claimed)
            principal = self._tokens.verify(token, now_s, (read.meta or {}).get(MARK_FIELD))
            if principal.namespace != claimed:  # a token of another issuer need not say where it is good
                read = await self._read(KeyPlace.make(principal.namespace, Role.AGENT, frame.id))
        if principal.join is not None:
            message = "a join token enrols a key and nothing else: send a proof with it"
            return Denied(CloseCode.FORBIDDEN, message, "join", principal)
        name = principal.name if frame.role is Role.CLIENT else frame.id
        denied = judge_token(read.record, KeyPlace(principal.namespace, frame.role, name))
        if denied is not None:
            return replace(denied, principal=principal)
        return Identified(principal, read.meta, self._tokens.mark(token, principal.signer))

    async def _left(self, frame: Identify, namespace: str | None) -> _Read:
        """Return what there is of an agent in the namespace that its token claims, before that is verified."""
        try:
            return await self._read(KeyPlace.make(namespace or "", Role.AGENT, frame.id))
        except InvalidName:
            return _Read(None, None, None)

    async def _read(self, place: KeyPlace) -> _Read:
        if place.role is Role.CLIENT:
            text = await read_text(self._line, place)
            return _Read(text, KeyRecord.decode(text) if text else None, None)
        log = agent_log(place.namespace, place.name)
        meta, value = await self._line.store.meta_beside(log, place.key, place.field)
        text = value.decode() if value else None
        return _Read(text, KeyRecord.decode(text) if text else None, meta)


async def read_text(line: Line, place: KeyPlace) -> str | None:
    """Return the record of a name as it is stored, which `core.enrolment.write` guards."""
    value = (await line.store.hash_get(place.key, place.field))[0]
    return value.decode() if value else None


def _may_enrol(place: KeyPlace, principal: Principal) -> Denied | None:
    """Decide whether a token is for a key of this name."""
    if principal.namespace != place.namespace:
        return Denied(CloseCode.FORBIDDEN, "the token is for another namespace", "namespace", principal)
    join = principal.join
    if join is None:
        fits = principal.may_be(place.name) if place.role is Role.AGENT else principal.name == place.name
        scopes = principal.scopes
    else:
        fits = join.fits(place.name) if place.role is Role.AGENT else principal.name == place.name
        scopes = join.scopes
    if fits and may_open(scopes, place.role):
        return None
    return Denied(CloseCode.FORBIDDEN, f"the token is not for {place.field}", "name", principal)
