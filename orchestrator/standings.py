"""Tells agents what is said of them: that they are given no work, or are to finish and end.

The change is committed in the agent's own log before anybody is answered. This hub heeds it at once; the others hear
of it as they hear of every commit, and look again at each session's opening and every `recheck_ms`.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.core.runs import Ids
from orchestrator.core.sessions import agent_log
from orchestrator.core.standing import Standing, cordon, drain
from orchestrator.dispatch import Dispatch
from orchestrator.kept import KeptAnswers
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store.commits import Commit, Op, Outcome
from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.ids import LogName, check_name
from protocol.requests import AgentStanding

__all__ = ["Standings"]


class Standings:
    """What this hub says of agents when it is asked to.

    Args:
        line: where commits go.
        dispatch: told of every change.
        kept: answers that are given again.
    """

    def __init__(self, line: Line, dispatch: Dispatch, kept: KeptAnswers) -> None:
        self._line = line
        self._dispatch = dispatch
        self._kept = kept

    async def cordon(self, peer: Peer, op: str, agent: str, *, cordoned: bool) -> AgentStanding:
        """Let an agent be given no work, or have it again.

        Raises:
            RequestError: `not_found`, where it was never seen.
        """

        def propose(log: LogName, meta: Mapping[str, str], now: Standing) -> tuple[AgentStanding, Commit | None]:
            answer = AgentStanding(cordoned=cordoned, draining=now.drains(meta["instance"]))
            if now.cordoned == cordoned:
                return answer, None
            stored: Op = self._kept.keep(peer, log, op, answer)
            return answer, cordon(self._ids(peer), log, meta, stored, self._line.now_ms(), cordoned=cordoned)

        return await self._change(peer, op, agent, propose)

    async def drain(self, peer: Peer, op: str, agent: str, grace_ms: int | None) -> AgentStanding:
        """Let the process that has an agent's id finish what it works on, and end.

        Raises:
            RequestError: `not_found`, where it was never seen.
        """

        def propose(log: LogName, meta: Mapping[str, str], now: Standing) -> tuple[AgentStanding, Commit | None]:
            answer = AgentStanding(cordoned=now.cordoned, draining=True)
            stored: Op = self._kept.keep(peer, log, op, answer)
            return answer, drain(self._ids(peer), log, meta, stored, self._line.now_ms(), grace_ms=grace_ms)

        return await self._change(peer, op, agent, propose)

    async def _change(
        self,
        peer: Peer,
        op: str,
        agent: str,
        propose: Callable[[LogName, Mapping[str, str], Standing], tuple[AgentStanding, Commit | None]],
    ) -> AgentStanding:
        log = agent_log(peer.namespace, check_name(agent))
        while True:
            known = await self._kept.find(peer, log, op, AgentStanding)
            if known is not None:
                return known
            meta = await self._line.store.meta(log)
            if meta is None or "instance" not in meta:
                raise RequestError(ErrorCode.NOT_FOUND, f"no agent {agent!r} was ever seen")
            answer, commit = propose(log, meta, Standing.parse(meta))
            if commit is None:
                return answer
            if isinstance(await settle(self._line, commit), Outcome):
                self._dispatch.told(log, Standing.parse(await self._line.store.meta(log)))
                return answer

    def _ids(self, peer: Peer) -> Ids:
        return Ids(self._line.new_commit_id(), peer.principal, self._line.new_epoch())
