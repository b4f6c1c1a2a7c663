"""Keys of peers: what is known of each, who gets in with one, and what changes that. Pure decisions.

A name (an agent's id or a client's name, in a namespace) has one key at a time. All keys of a namespace lie in one
partition, beside the uses of its join tokens, so that a use is counted and a key recorded in one commit, and of two
that enrol the same name at once one is refused.

    nothing  --enrol--> accepted     --ask--> pending
    pending  --accept--> accepted    --reject--> rejected    --revoke--> revoked
    accepted --revoke--> revoked
    rejected --accept--> accepted    --replace--> pending    --revoke--> revoked
    revoked  --replace--> pending

`enrol` and `ask` are what a join token does, as the hub's policy says; `replace` is another key with a join token: it
takes the place of one that is no good any more, and an operator decides. What the table does not name is refused, but
for what is so already. A name that ever had an accepted key is bound: no token lets anybody in under it without a key.

Specification: docs/protocol.md, section "Keys of peers".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from zlib import crc32

from orchestrator.auth.principal import Join
from orchestrator.core.sessions import Denied
from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Below, Commit, Guard, HashSet
from protocol.codes import CloseCode
from protocol.frames import Role
from protocol.ids import PARTITIONS, check_name
from protocol.proof import fingerprint

__all__ = [
    "BOUND_FIELD",
    "HINT",
    "TRANSITIONS",
    "USES_MARGIN_MS",
    "Ids",
    "JoinUse",
    "KeyCommand",
    "KeyPlace",
    "KeyRecord",
    "KeyState",
    "OtherKey",
    "changed",
    "enrolled",
    "enter",
    "judge_key",
    "judge_token",
    "note_other",
    "write",
]

BOUND_FIELD = "version"
"""Of a namespace's word: every commit that binds a name to keys sets it to its own id."""
HINT = "bound"
"""The word that tells other hubs of such a commit."""
USES_MARGIN_MS = 24 * 3600 * 1000
"""How much longer than a join token the count of its uses is kept: clocks differ."""
OTHER_PERIOD_MS = 1_000
"""A refused key is noted at most so often for a name: whoever is refused does not set the store's pace."""


class KeyState(StrEnum):
    """What a key is good for."""

    PENDING = "pending"
    """An operator has to decide."""
    ACCEPTED = "accepted"
    """It lets its holder in."""
    REJECTED = "rejected"
    """An operator decided against it."""
    REVOKED = "revoked"
    """It is no good any more, for ever."""


class KeyCommand(StrEnum):
    """What changes a key's state."""

    ENROL = "enrol"
    ASK = "ask"
    REPLACE = "replace"
    ACCEPT = "accept"
    REJECT = "reject"
    REVOKE = "revoke"


TRANSITIONS: dict[tuple[KeyState | None, KeyCommand], KeyState] = {
    (None, KeyCommand.ENROL): KeyState.ACCEPTED,
    (None, KeyCommand.ASK): KeyState.PENDING,
    (KeyState.PENDING, KeyCommand.ACCEPT): KeyState.ACCEPTED,
    (KeyState.PENDING, KeyCommand.REJECT): KeyState.REJECTED,
    (KeyState.PENDING, KeyCommand.REVOKE): KeyState.REVOKED,
    (KeyState.ACCEPTED, KeyCommand.REVOKE): KeyState.REVOKED,
    (KeyState.REJECTED, KeyCommand.ACCEPT): KeyState.ACCEPTED,
    (KeyState.REJECTED, KeyCommand.REPLACE): KeyState.PENDING,
    (KeyState.REJECTED, KeyCommand.REVOKE): KeyState.REVOKED,
    (KeyState.REVOKED, KeyCommand.REPLACE): KeyState.PENDING,
}
"""(state, command) -> the state after it; a pair that is not here is refused."""

_SO_ALREADY = {
    KeyCommand.ACCEPT: KeyState.ACCEPTED,
    KeyCommand.REJECT: KeyState.REJECTED,
    KeyCommand.REVOKE: KeyState.REVOKED,
}


def enter(state: KeyState | None, command: KeyCommand) -> KeyState | None:
    """Return the state after a command; None where the command is refused. What is so already stays so."""
    if _SO_ALREADY.get(command) is state and state is not None:
        return state
    return TRANSITIONS.get((state, command))


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Whose key it is; `partition` is where all keys of the namespace lie."""

    namespace: str
    role: Role
    name: str

    @classmethod
    def make(cls, namespace: str, role: Role, name: str) -> KeyPlace:
        """Make one of names that a peer gave.

        Raises:
            InvalidName: one is none.
        """
        return cls(check_name(namespace), role, check_name(name))

    @property
    def field(self) -> str:
        """What people call it, and the field of its record: `agent/ID` or `client/NAME`."""
        return f"{self.role.value}/{self.name}"

    @property
    def partition(self) -> int:
        """The partition that holds the keys of the namespace."""
        return crc32(f"{self.namespace}/identities".encode()) % PARTITIONS

    @property
    def key(self) -> str:
        """The key of the namespace's records."""
        return keys.identities(self.partition, self.namespace)

    @property
    def bound_key(self) -> str:
        """The key of the word that is another one after a name of the namespace was bound to keys."""
        return keys.bound(self.partition, self.namespace)


@dataclass(frozen=True, slots=True)
class OtherKey:
    """The last other key that somebody came with under a name, and how often that was written down."""

    fingerprint: str
    ts_ms: int
    count: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of the key of a name.

    Attributes:
        state: what it is good for.
        key: the public key, in hex.
        scopes: what its holder may do.
        bound: a key of this name was accepted once.
        asked_ms: when it was recorded.
        changed_ms: when its state changed last.
        by: who changed it: a principal, or `join:<name>` of the join token.
        other: another key that was refused, if any.
        may: the names that its holder does it with, as in a token.
    """

    state: KeyState
    key: str
    scopes: tuple[str, ...]
    bound: bool
    asked_ms: int
    changed_ms: int
    by: str
    other: OtherKey | None = None
    may: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """What people compare keys by."""
        return fingerprint(bytes.fromhex(self.key))

    def encode(self) -> str:
        """Return the record as it is stored; the same record is always the same text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def decode(cls, text: bytes | str) -> KeyRecord:
        """Read a record that was stored."""
        said = json.loads(text)
        other = said.pop("other", None)
        said |= {"state": KeyState(said["state"]), "scopes": tuple(said["scopes"])}
        names = {field.name for field in fields(cls)}  # a later version may have written more
        return cls(**{name: said[name] for name in said.keys() & names}, other=OtherKey(**other) if other else None)


@dataclass(frozen=True, slots=True)
class JoinUse:
    """A use of a join token that a commit counts.

    Attributes:
        token_id: its `jti`.
        uses: for how many keys it is good.
        left_ms: how long it is still good.
    """

    token_id: str
    uses: int
    left_ms: int


@dataclass(frozen=True, slots=True)
class Ids:
    """What a proposal needs that is new: the id of the commit, who it is for, and the time by the store's clock."""

    commit: str
    src: str
    now_ms: int


def judge_key(record: KeyRecord, place: KeyPlace) -> Denied | None:
    """Decide whether the holder of a name's key gets in; that it holds it was checked."""
    match record.state:
        case KeyState.ACCEPTED:
            return None
        case KeyState.PENDING:
            message = f"an operator has to accept this key: fleetline key accept {place.field} ({record.fingerprint})"
            return Denied(CloseCode.KEY_PENDING, message)
        case KeyState.REJECTED:
            return Denied(CloseCode.KEY_REFUSED, f"an operator rejected this key of {place.field}")
        case KeyState.REVOKED:
            return Denied(CloseCode.KEY_REVOKED, f"this key of {place.field} was revoked")


def judge_token(record: KeyRecord | None, place: KeyPlace) -> Denied | None:
    """Decide whether a token alone lets somebody in under a name; the token was verified."""
    if record is None or not record.bound:
        return None
    if record.state is KeyState.REVOKED:
        return Denied(CloseCode.KEY_REVOKED, f"the key of {place.field} was revoked; it needs a new one")
    message = f"{place.field} has a key: a token without its proof lets nobody in"
    return Denied(CloseCode.UNAUTHENTICATED, message, "no_proof")


def enrolled(known: KeyRecord | None, key: bytes, join: Join, ids: Ids, *, asks: bool) -> KeyRecord | None:
    """Return the record after somebody came with a join token and this key; None where the name has another one.

    `asks`: the hub's policy leaves every key to an operator.
    """
    first = KeyCommand.ASK if asks else KeyCommand.ENROL
    command = first if known is None else KeyCommand.REPLACE
    state = enter(known.state if known else None, command)
    if state is None:
        return None
    return KeyRecord(
        state=state,
        key=key.hex(),
        scopes=tuple(sorted(join.scopes)),
        may=join.may.claim(),
        bound=state is KeyState.ACCEPTED or (known is not None and known.bound),
        asked_ms=ids.now_ms,
        changed_ms=ids.now_ms,
        by=ids.src,
        other=None,
    )


def changed(record: KeyRecord, command: KeyCommand, ids: Ids) -> KeyRecord | None:
    """Return the record after an operator's command; None where that is refused."""
    state = enter(record.state, command)
    if state is None or state is record.state:
        return record if state is not None else None
    return replace(
        record,
        state=state,
        bound=record.bound or state is KeyState.ACCEPTED,
        changed_ms=ids.now_ms,
        by=ids.src,
    )


def note_other(record: KeyRecord, key: bytes, now_ms: int) -> KeyRecord | None:
    """Return the record after another key was refused; None where that is not to be written down now."""
    known = record.other
    if known is not None and 0 <= now_ms - known.ts_ms < OTHER_PERIOD_MS:
        return None
    return replace(record, other=OtherKey(fingerprint(key), now_ms, 1 if known is None else known.count + 1))


def write(
    place: KeyPlace,
    read: str | None,
    record: KeyRecord,
    ids: Ids,
    *,
    use: JoinUse | None = None,
) -> Commit:
    """Propose to put a record in the place of what was read there, counting the use of a join token with it.

    Its first condition is that the record is as it was read, its second, with `use`, that there is a use left.
    Where the key is accepted by it, hubs are told to look for sessions that a token alone opened.
    """
    binds = record.state is KeyState.ACCEPTED and (read is None or KeyRecord.decode(read).state is not record.state)
    told = (HashSet(place.bound_key, {BOUND_FIELD: ids.commit}),) if binds else ()
    counted: tuple[HashSet, ...] = ()
    below: tuple[Below, ...] = ()
    if use is not None:
        uses = keys.joins(place.partition, place.namespace, use.token_id)
        spent: Mapping[str, str] = {f"{place.field} {record.fingerprint}": str(ids.now_ms)}
        counted = (HashSet(uses, spent, ttl_ms=max(0, use.left_ms) + USES_MARGIN_MS),)
        below = (Below(uses, use.uses),)
    return Commit(
        id=ids.commit,
        partition=place.partition,
        guards=(Guard(place.key, place.field, ABSENT if read is None else read),),
        below=below,
        ops=(HashSet(place.key, {place.field: record.encode()}), *counted, *told),
        hints=(HINT,) if binds else (),
    )
