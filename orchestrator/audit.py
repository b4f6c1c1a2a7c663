"""Writes down what was refused: to whom, what and when, and never a token, a key or a body.

    connection, requests, publishes, subscriptions -> Audit.note -> (a second later) -> agent/ID or topic/audit

`note` counts and returns; it fails nobody, waits for nothing and asks no store. What a hub has counted and not written
is lost with it when it is killed: at most a second of new refusals, and a minute's count of those that repeat.

Specification: docs/protocol.md, section "Audit".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import structlog

from orchestrator.core.refusals import Counted, Refusal, Tallies, audit_log, network_of
from orchestrator.core.sessions import Denied
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Append, Commit, Full, Outcome
from orchestrator.telemetry import Counters
from protocol.codes import CloseCode, ErrorCode
from protocol.control import Kind, pack_control
from protocol.frames import Identify, Role
from protocol.ids import LogName, partition_of
from protocol.refusals import What

__all__ = ["SESSIONS", "Audit"]

PERIOD_S = 1.0
WRITTEN_AT_ONCE_MAX = 64
"""Entries of one commit."""
SYSTEM = "default"
"""The namespace whose concern it is what nobody did who is known."""
KEY_CODES = frozenset({CloseCode.KEY_REFUSED, CloseCode.KEY_REVOKED})
SESSIONS = "sessions"
"""The reason for which nobody is refused a session but by a limit of the principal's own."""
NOTED_CODES = KEY_CODES | {CloseCode.UNAUTHENTICATED, CloseCode.FORBIDDEN, CloseCode.REVOKED}
"""Why somebody is refused a session, where that is no accident of the connection."""

log_ = structlog.get_logger()


class Audit:
    """What this hub refused.

    Args:
        line: where it is written down.
        counters: of the hub.
    """

    def __init__(self, line: Line, counters: Counters) -> None:
        self._line = line
        self._counters = counters
        self._tallies = Tallies()

    # ── noting ───────────────────────────────────────────────────────────────

    def note(self, refusal: Refusal) -> None:
        """Count a refusal; it is written down beside everything else."""
        self._counters.refusals += 1
        self._tallies.note(refusal, self._line.now_ms())

    def forbidden(self, peer: Peer, what: What, about: str, reason: str = "") -> None:
        """Note that a session asked for what its token does not permit."""
        self._refused(peer, what, ErrorCode.FORBIDDEN, about, reason)

    def limited(self, peer: Peer, what: What, about: str) -> None:
        """Note that a session asked for more than its principal may, and which limit that is."""
        self._refused(peer, what, ErrorCode.TOO_MANY, about)

    def turned_away(self, address: str, code: CloseCode, reason: str) -> None:
        """Note that a connection was not let in, or cut off before it had said who it is."""
        network = network_of(address)
        self.note(Refusal(SYSTEM, What.CONNECTION, code.name.lower(), reason, network=network))

    def _refused(self, peer: Peer, what: What, code: ErrorCode, about: str, reason: str = "") -> None:
        agent = peer.id if peer.role is Role.AGENT else ""
        self.note(Refusal(peer.namespace, what, code.value, reason, peer.principal, about, agent=agent))

    def denied(self, frame: Identify, denied: Denied, address: str) -> None:
        """Note that a peer was given no session, where that was because of who it is or is not."""
        if denied.code not in NOTED_CODES and denied.reason != SESSIONS:
            return
        code, principal = denied.code.name.lower(), denied.principal
        if principal is None:  # what it says of itself may be anything, and is written down nowhere
            self.note(Refusal(SYSTEM, What.SESSION, code, denied.reason, network=network_of(address)))
            return
        agent = frame.id if frame.role is Role.AGENT else ""
        about = f"agent/{agent}" if agent else ""
        who = f"token:{principal.name}" if agent else f"client:{principal.name}"
        what = What.KEY if denied.code in KEY_CODES else denied.what
        self.note(Refusal(principal.namespace, what, code, denied.reason, who, about, agent=agent))

    # ── writing ──────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Write down what was noted, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.write()

    async def write(self, *, everything: bool = False) -> None:
        """Write down what is due, or everything; what the store does not take is tried again."""
        by_log: defaultdict[LogName, list[Counted]] = defaultdict(list)
        for counted in self._tallies.take(self._line.now_ms(), everything=everything):
            by_log[counted.refusal.log].append(counted)
        for log, found in by_log.items():
            for start in range(0, len(found), WRITTEN_AT_ONCE_MAX):
                some = found[start : start + WRITTEN_AT_ONCE_MAX]
                try:
                    await self._write(log, some)
                except StoreError as fault:
                    self._tallies.put_back(some)
                    log_.warning("refusals_not_written", log=log.path, namespace=log.namespace, reason=str(fault))

    async def _write(self, log: LogName, counted: Sequence[Counted]) -> None:
        """Append to a log; an agent that has none, since it never connected, is told of where admins look."""
        audit = audit_log(log.namespace)
        if log != audit and not isinstance(await settle(self._line, self._commit(log, counted, made=True)), Outcome):
            log = audit
        if log == audit:
            await settle(self._line, self._commit(log, counted))

    def _commit(self, log: LogName, counted: Sequence[Counted], *, made: bool = False) -> Commit:
        entries = tuple(pack_control(Kind.REFUSED, self._line.src, each.body()) for each in counted)
        return Commit(
            id=self._line.new_commit_id(),
            partition=partition_of(log),
            appends=(Append(log, entries, self._line.new_epoch()),),
            below=(Full(keys.meta(log), 1),) if made else (),
        )
