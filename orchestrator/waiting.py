"""Those who wait for runs to end: the answers to their requests come when the last entry stands in the log.

Who waits is told by the tail of the run's log, as subscriptions are, and so sees the entry once it is durable. It is
mostly this hub that writes it; where another hub does, its hint or the next look at the store brings it here.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from orchestrator.chunks import prefixes
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.reading import Reading
from orchestrator.tail import Tail
from orchestrator.verdicts import log_state
from protocol.control import CONTROL
from protocol.entry import Entry
from protocol.ids import LogName
from protocol.requests import RunWait, RunWaited

__all__ = ["Waiting"]

_ENDINGS = prefixes(tuple(kind for kind, control in CONTROL.items() if control.terminal))


class _Watch:
    """Looks for the entry that ends a run in what comes to the tail of its log.

    Attributes:
        seen: that entry; None where it is to be looked for in the store, or not any more.
    """

    __slots__ = ("_at", "_tail", "seen")

    def __init__(self, seen: asyncio.Future[Entry | None]) -> None:
        self._tail: Tail | None = None
        self._at = 0
        self.seen = seen

    def begin(self, tail: Tail, at: int) -> None:
        """Look at what the tail has after `at`, now and from now on."""
        self._tail, self._at = tail, at
        self.pump()

    def pump(self) -> None:
        """See `orchestrator.tail.Subscriber`."""
        tail = self._tail
        while tail is not None and self._at < tail.head and not self.seen.done():
            chunk = tail.chunk_after(self._at)
            if chunk is None:
                self.reverify()
                return
            self._at = chunk.upto
            for entry in chunk.entries:
                if entry.packed.startswith(_ENDINGS):
                    self.seen.set_result(entry)
                    break

    def reverify(self) -> None:
        """See `orchestrator.tail.Subscriber`."""
        if not self.seen.done():
            self.seen.set_result(None)


class Waiting:
    """The waits of one hub's sessions.

    Args:
        line: for the tails of logs.
        reading: what is read of runs.
    """

    def __init__(self, line: Line, reading: Reading) -> None:
        self._line = line
        self._reading = reading
        self._waits: defaultdict[str, set[_Watch]] = defaultdict(set)

    def __len__(self) -> int:
        """How many waits there are."""
        return sum(map(len, self._waits.values()))

    async def wait(self, peer: Peer, _op: str, params: RunWait) -> RunWaited:
        """Answer `run.wait`."""
        log = LogName.parse(f"run/{params.run}", peer.namespace)
        return RunWaited(end=await self.end(peer, log, params.wait_ms))

    async def end(self, peer: Peer, log: LogName, wait_ms: int) -> Entry | None:
        """Return the entry that ended a run, once there is one; None where there is none in time, or the session ends.

        Raises:
            RequestError: `not_found`.
            StoreUnavailable: the store does not answer.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_ms / 1000
        while not peer.over and loop.time() < until_s:
            watch = _Watch(loop.create_future())
            tail = self._line.tails.join(log, watch)
            late = loop.call_at(until_s, watch.reverify)
            self._waits[peer.session].add(watch)
            try:
                ended = await self._begin(watch, tail) or await watch.seen
            finally:
                late.cancel()
                self._line.tails.leave(tail, watch)
                self._forget(peer.session, watch)
            if ended is not None:
                return ended
        return None

    def gone(self, peer: Peer) -> None:
        """Give up what a session waits for: it is over."""
        for watch in self._waits.pop(peer.session, ()):
            watch.reverify()

    def _forget(self, session: str, watch: _Watch) -> None:
        waits = self._waits.get(session)
        if waits is not None:
            waits.discard(watch)
            if not waits:
                del self._waits[session]

    async def _begin(self, watch: _Watch, tail: Tail) -> Entry | None:
        """Begin to watch a run; where it is over already, return its last entry."""
        if tail.chunk_after(0) is None:
            await asyncio.sleep(0)  # what this hub has just written comes to its tail at the end of the turn
        if tail.chunk_after(0) is not None:  # then it has all that came after
            watch.begin(tail, 0)
            return None
        state = await log_state(self._line, tail)
        meta = await self._reading.meta(tail.log)
        if not meta.final:
            watch.begin(tail, 0 if state is None else state.head)
            return None
        ended = await self._reading.entry(tail.log, meta.head)
        if ended is None:
            watch.reverify()  # it was deleted since: looking again says so
        return ended
