"""Who may open a session, and what opening and ending one writes: pure decisions.

An agent's session is numbered by a fence that lives in the meta of the agent's own log. Opening one is a
commit guarded on the fence that was read: of two that open at once, one is refused, reads again and gets
the higher fence. So there is always one newest session of an agent id, and everybody can tell which.

Specification: docs/protocol.md, section "Sessions".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.auth.principal import Principal
from orchestrator.core.permissions import Action, Permit, may_open
from orchestrator.core.standing import TOLD_FIELD, drained, undrained
from orchestrator.store import keys
from orchestrator.store.commits import Append, Commit, Guard, HashSet
from protocol.codes import CloseCode
from protocol.control import Connected, Disconnected, Kind, Superseded, pack_control
from protocol.errors import InvalidLabel, InvalidName
from protocol.frames import Identify, Role
from protocol.ids import LogKind, LogName, check_name, partition_of
from protocol.refusals import What
from protocol.selector import check_labels
from protocol.version import VERSION

__all__ = [
    "MARK_FIELD",
    "VERSIONS",
    "Denied",
    "Newcomer",
    "Opening",
    "agent_log",
    "close_session",
    "judge",
    "open_session",
    "permit_of",
    "principal_name",
    "was_superseded",
]

VERSIONS = (VERSION,)
OPEN = "1"
MARK_FIELD = "mark"
"""Of the token that opened the agent's last session, see `orchestrator.auth.tokens`."""
CLOSED = "0"
SUPERSEDED_MAX = 16
"""Processes remembered that had an agent's id before others took it over."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a peer gets no session.

    Attributes:
        code: its connection is closed with.
        message: for whoever asked.
        reason: a word of ours for it, as the audit has it.
        principal: who asked, where that is known.
        what: they asked for.
    """

    code: CloseCode
    message: str
    reason: str = ""
    principal: Principal | None = None
    what: What = What.SESSION


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An agent's session that is to be opened: ids that the hub minted, its own, and the mark of the agent's token."""

    session: str
    instance: str
    hub_id: str
    src: str
    commit: str
    epoch: str
    mark: str


@dataclass(frozen=True, slots=True)
class Opening:
    """A proposal to open an agent's session.

    Attributes:
        commit: refused where another session opened meanwhile; read again and propose anew.
        fence: the session's, once it is committed.
        takeover: whether another process had the id before.
        previous: the session before, or "".
    """

    commit: Commit
    fence: int
    takeover: bool
    previous: str


def principal_name(principal: Principal, frame: Identify) -> str:
    """Return what entries of this peer carry as `src`. A client is who its token says, whatever its id."""
    return f"agent:{frame.id}" if frame.role is Role.AGENT else f"client:{principal.name}"


def judge(frame: Identify, principal: Principal) -> Permit | Denied:
    """Return what an authenticated peer may do in the session that it asks for, or why it may not open it."""
    if frame.version not in VERSIONS:
        spoken = ", ".join(map(str, VERSIONS))
        return Denied(CloseCode.VERSION_UNSUPPORTED, f"version {frame.version} is not spoken here, only {spoken}")
    try:
        check_name(frame.id)
        check_name(frame.instance)
        for name in (*frame.queues, *(handler.name for handler in frame.handlers)):
            check_name(name)
        check_labels(frame.labels)
    except (InvalidName, InvalidLabel) as fault:
        return Denied(CloseCode.INVALID_FRAME, f"identify: {fault}")
    if not may_open(principal.scopes, frame.role):
        message = f"the token's scopes permit no session as {frame.role.value}"
        return Denied(CloseCode.FORBIDDEN, message, "role", principal)
    if frame.role is Role.AGENT and not principal.may_be(frame.id):
        message = f"the token does not permit to be agent {frame.id!r}"
        return Denied(CloseCode.FORBIDDEN, message, "agent", principal)
    permit = permit_of(principal, frame.role, frame.id)
    for queue in frame.queues:
        if frame.role is Role.AGENT and not permit.on_queue(Action.SERVE, queue):
            message = f"the token does not permit to take runs from queue {queue!r}"
            return Denied(CloseCode.FORBIDDEN, message, "queue", principal, What.SERVE)
    return permit


def permit_of(principal: Principal, role: Role, peer_id: str) -> Permit:
    """Return what a session in this role may do; `peer_id` is the agent's, where it is one's."""
    return Permit(principal.scopes, principal.may, role, peer_id if role is Role.AGENT else "")


def agent_log(namespace: str, agent_id: str) -> LogName:
    """Return the log of an agent."""
    return LogName(namespace, LogKind.AGENT, agent_id)


def open_session(log: LogName, meta: Mapping[str, str] | None, newcomer: Newcomer, store_ms: int) -> Opening:
    """Propose to open a session of the agent whose log this is, given the log's meta."""
    known = meta or {}
    fence = max(int(known.get("fence", 0)) + 1, store_ms)
    previous = known.get("session", "")
    takeover = known.get("instance", newcomer.instance) != newcomer.instance
    connected = Connected(
        session=newcomer.session, fence=fence, instance=newcomer.instance, hub=newcomer.hub_id, takeover=takeover
    )
    entries = [pack_control(Kind.CONNECTED, newcomer.src, connected)]
    if previous and known.get("open") == OPEN:
        gone = Superseded(session=previous, by=newcomer.session)
        entries.insert(0, pack_control(Kind.SUPERSEDED, newcomer.src, gone))
    key = keys.meta(log)
    fields = {
        "fence": str(fence),
        "session": newcomer.session,
        "instance": newcomer.instance,
        "hub": newcomer.hub_id,
        "open": OPEN,
        MARK_FIELD: newcomer.mark,
    }
    if takeover:
        fields["superseded"] = " ".join([*_superseded(known), known["instance"]][-SUPERSEDED_MAX:])
    commit = Commit(
        id=newcomer.commit,
        partition=partition_of(log),
        guards=(Guard(key, "fence", known.get("fence")), Guard(key, TOLD_FIELD, known.get(TOLD_FIELD))),
        appends=(Append(log, tuple(entries), newcomer.epoch),),
        ops=(HashSet(key, fields),),
    )
    return Opening(commit, fence, takeover, previous)


def was_superseded(meta: Mapping[str, str] | None, instance: str) -> bool:
    """Whether another process took the agent's id over from this one, which comes back without having heard of it.

    It must not take the id over in turn: the newer process is the agent now.
    """
    return instance in _superseded(meta or {})


def _superseded(meta: Mapping[str, str]) -> list[str]:
    return meta.get("superseded", "").split()


def close_session(
    log: LogName, session: str, reason: str, src: str, commit: str, *, drained_instance: str = ""
) -> Commit:
    """Propose to write down that a session ended; refused where a newer one opened.

    `drained_instance` is the process that ended it, having been told to finish.
    """
    entry = pack_control(Kind.DISCONNECTED, src, Disconnected(session=session, reason=reason))
    over = (drained(src, drained_instance),) if drained_instance else ()
    key = keys.meta(log)
    return Commit(
        id=commit,
        partition=partition_of(log),
        guards=(Guard(key, "session", session),),
        appends=(Append(log, (entry, *over), ""),),
        ops=(HashSet(key, {"open": CLOSED}), *((undrained(log),) if over else ())),
    )
