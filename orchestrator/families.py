"""Does what runs mean for their parents and children: submits children, cancels them, tells of their ends.

Each of these crosses partitions, and is done because a timer is due that was committed with its cause. The hub that
made the commit acts at once; where it is killed, or the store does not answer, the timekeeper of another does. All of
it may be done twice, and by two hubs at the same time (`orchestrator.core.children` says why that changes nothing).

Specification: docs/protocol.md, section "Parents and children"; docs/decisions/0015-parents-and-children.md.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from orchestrator.core import children, runs
from orchestrator.core.children import MetaChild
from orchestrator.core.outcome import outcome_of
from orchestrator.core.queues import Queue
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import family_timer
from orchestrator.line import Line
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Commit, Outcome
from orchestrator.together import together
from orchestrator.writing import new_run_id, read_last, read_run
from protocol.codec import unpack_record
from protocol.control import Cancel, Kind, read_control
from protocol.entry import Record
from protocol.family import ChildEnded, Spawn
from protocol.ids import LogKind, LogName, partition_of
from protocol.run import RunState

__all__ = ["Families"]

PASSES_MAX = 16
"""How often a run's family is looked at in a row; where that is not enough, its timer is due still."""
TENDED_AT_ONCE_MAX = 64
"""Children of one run that something is done about at the same time."""
PAGE_ENTRIES = 64
REASON_CHARS_MAX = 1024

log_ = structlog.get_logger()


class Families:
    """The parents and children of a deployment, as this hub acts on them.

    Args:
        line: where commits go.
        look: told of every queue that gets a run (`Dispatch.look`).
    """

    def __init__(self, line: Line, look: Callable[[Queue], None]) -> None:
        self._line = line
        self._store = line.store
        self._look = look
        self._tended: dict[LogName, bool] = {}
        """The runs whose families are tended now, and whether there was reason to begin anew."""

    async def tend(self, log: LogName) -> None:
        """Do all there is to do about a run's parent and children, and take its timer away.

        Raises:
            StoreUnavailable: the store did not answer; what was not done is due still.
        """
        if log in self._tended:
            self._tended[log] = True
            return
        try:
            for _ in range(PASSES_MAX):
                self._tended[log] = False
                if await self._pass(log) and not self._tended[log]:
                    return
        finally:
            del self._tended[log]

    async def _pass(self, log: LogName) -> bool:
        """Look at a run's family once, and do the next step about each. Returns whether there is nothing left."""
        meta = await read_run(self._line, log)
        if meta is None:
            ops = (family_timer(log, due=False),)
            await settle(self._line, Commit(self._line.new_commit_id(), partition_of(log), ops=ops))
            return True
        records = await self._store.hash_all(keys.children(log))
        known = [MetaChild.parse(slot, text.decode()) for slot, text in records.items()]
        due = [child for child in known if children.is_due(meta, child)]
        for start in range(0, len(due), TENDED_AT_ONCE_MAX):
            await together(self._step(meta, child) for child in due[start : start + TENDED_AT_ONCE_MAX])
        if due:
            return False
        if meta.final and meta.parent and not meta.continued_as:
            await self._tell(meta)
        return isinstance(await settle(self._line, children.rest(self._ids(), meta)), Outcome)

    # Of a parent

    async def _step(self, meta: RunMeta, child: MetaChild) -> None:
        """Do the next thing about a child. A refused commit means that somebody else was first."""
        if not child.run:
            await self._submit(meta, child)
            return
        if children.to_cancel(meta, child):
            await self._cancel(LogName(meta.log.namespace, LogKind.RUN, child.run), _why(meta, child))
        done = children.forget if meta.final else children.marked
        await settle(self._line, done(self._ids(), meta, child))

    async def _submit(self, meta: RunMeta, child: MetaChild) -> None:
        """Submit a child, and note which run it is; where it was submitted before, it is that one."""
        asker, spawn = await self._spawned(meta.log, child)
        queue = Queue(meta.log.namespace, spawn.queue)
        log = LogName(queue.namespace, LogKind.RUN, new_run_id(self._line, queue))
        ids = runs.Ids(self._line.new_commit_id(), asker, self._line.new_epoch())
        params = children.child_run(meta.log, child, spawn)
        kin = runs.ChildOf(meta.log.name, child.slot, meta.by)
        keeping = runs.Keeping(meta.keep_ms)
        submit = runs.submit(ids, log, params, self._line.now_ms(), child=kin, keeping=keeping)
        result = await settle(self._line, submit)
        self._look(queue)
        run = log.name
        if not isinstance(result, Outcome):
            assert result.actual is not None, result  # the only guard is that the key names no run yet
            run = result.actual.partition(" ")[0]
        noted = await settle(self._line, children.noted(self._ids(), meta, child, run))
        if isinstance(noted, Outcome) and run != log.name:
            await self._tell_if_over(LogName(queue.namespace, LogKind.RUN, run))

    async def _spawned(self, log: LogName, child: MetaChild) -> tuple[str, Spawn]:
        """Return the entry that asks for a child, and who wrote it."""
        after, wanted = child.asked.after, (child.asked.attempt, child.asked.seq)
        while (page := await self._store.read(log, after, PAGE_ENTRIES)) is not None and page.entries:
            for entry in page.entries:
                record: Record = unpack_record(entry.packed)
                if record.kind == Kind.SPAWN and (record.attempt, record.seq) == wanted:
                    return record.src, read_control(Spawn, record.body)
            after = page.after.offset
        raise StoreError(f"{log.path} does not have the entry that asks for its child {child.slot}")

    async def _cancel(self, log: LogName, reason: str) -> None:
        """Ask a child to stop, whatever run it goes on as; one that is over, or was told before, is told nothing."""
        while True:
            meta = await read_last(self._line, log)
            if meta is None or meta.final or meta.cancelling:
                return
            commit = runs.cancel(self._ids(), meta, self._line.src, Cancel(reason=reason), None)
            if isinstance(await settle(self._line, commit), Outcome):
                return

    # Of a child

    async def _tell_if_over(self, log: LogName) -> None:
        """Tell the parent of a child that was submitted before; its own timer may be gone."""
        meta = await read_last(self._line, log)
        if meta is not None and meta.final:
            await self._tell(meta)

    async def _tell(self, meta: RunMeta) -> None:
        """Tell the parent of a child that is over, unless it was told."""
        log = LogName(meta.log.namespace, LogKind.RUN, meta.parent)
        while True:
            parent = await read_run(self._line, log)
            text = (await self._store.hash_get(keys.children(log), meta.slot))[0]
            if parent is None or text is None:
                return
            child = MetaChild.parse(meta.slot, text.decode())
            commit = children.told(self._ids(), parent, child, await self._ended(meta, child))
            if isinstance(await settle(self._line, commit), Outcome):
                if parent.put_off:
                    self._look(parent.place)
                return

    async def _ended(self, meta: RunMeta, child: MetaChild) -> ChildEnded:
        page = await self._store.read(meta.log, meta.head - 1, 1)
        if page is None or not page.entries:
            raise StoreError(f"{meta.log.path} does not have its last entry")
        result, error, reason = outcome_of(page.entries[0])
        return ChildEnded(
            index=child.index,
            digest=child.digest,
            run=meta.log.name,
            state=meta.state.value,
            offset=meta.head,
            result=result,
            error=error,
            reason=reason,
        )

    def _ids(self) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), self._line.src)


def _why(meta: RunMeta, child: MetaChild) -> str:
    """Say why a child is cancelled."""
    parent = f"its parent {meta.log.name}"
    if child.cancel is children.CancelPhase.WANTED:
        return f"{parent} cancelled it{': ' if child.reason else ''}{child.reason}"[:REASON_CHARS_MAX]
    if meta.final:
        return f"{parent} {'ended without it' if meta.state is RunState.SUCCEEDED else f'is {meta.state.value}'}"
    return f"{parent} was told to cancel"
