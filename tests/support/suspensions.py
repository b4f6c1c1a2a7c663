"""Runs whose handlers are put away, as the hub proposes it, on any store: what brings them back, in every order."""

from __future__ import annotations

from itertools import permutations

from orchestrator.core import attempts, children, questions, runs
from orchestrator.core.children import Asked, MetaChild
from orchestrator.core.meta_questions import MetaQuestion
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from protocol.codec import pack_value
from protocol.control import Cancel
from protocol.conversation import Suspended
from protocol.family import ChildEnded
from protocol.run import RunState
from tests.support.lifecycle import SLEEP_MS, reach
from tests.support.talks import Talks

__all__ = ["CHILD", "ORDERS", "RACES", "Away", "walk_order", "walk_race"]

ALL = ("one", "two", "slept", "child")
CHILD = MetaChild(3, "d", Asked(1, 1, 1), "work", "review", abandon=False, run="07-0190f3a2b1c-00112233aabbccdd")
ORDERS = tuple(permutations(ALL))
"""What a handler that gathers two questions, a sleep and a child may be brought back by, in every order."""


WAITS = Suspended(sleep_ms=SLEEP_MS, questions=(1, 2), children=(CHILD.slot,))


class Away(Talks):
    """A run whose handler is put away."""

    async def away(self, asked: Suspended, *indices: int) -> None:
        """Bring the run to where it asked some questions, and its handler was put away."""
        await reach(self, "running")
        for index in indices:
            assert isinstance(await self.asks(index, timeout_ms=None), Outcome)
        record = HashSet(keys.children(self.log), {CHILD.slot: CHILD.encode()})
        assert isinstance(await self.store.commit(Commit(self.ids().commit, self.partition, ops=(record,))), Outcome)
        assert isinstance(await self.suspend(asked), Outcome)

    async def numbered(self, index: int) -> MetaQuestion:
        """Return a question as the meta has it."""
        return next(each for each in (await self.meta()).questions if each.index == index)

    async def answers(self, index: int) -> Commit:
        """Propose the answer to a question."""
        meta, question = await self.meta(), await self.numbered(index)
        return questions.answer(self.ids(), meta, question, pack_value(True), "client:ops", None)

    async def child_ended(self) -> Commit:
        """Propose that the child has ended."""
        ended = ChildEnded(index=3, digest="d", run=CHILD.run, state="succeeded", offset=3)
        return children.told(self.ids(), await self.meta(), CHILD, ended)

    async def slept(self) -> Commit:
        """Propose that the sleep is over."""
        return attempts.on_due(self.ids(), await self.meta(), 0.5, self.now_ms + SLEEP_MS)

    async def is_back(self) -> bool:
        """Whether the run is on its queue."""
        meta = await self.meta()
        return meta.state is RunState.QUEUED and not meta.put_off


async def propose(bench: Away, what: str) -> Commit:
    """Propose one of the things that `walk_order` has come."""
    if what == "child":
        return await bench.child_ended()
    return await (bench.slept() if what == "slept" else bench.answers(1 if what == "one" else 2))


async def walk_order(bench: Away, order: tuple[str, ...]) -> None:
    """Let all that a run waits for come, one after the other: with the last it is back, for a new attempt."""
    await bench.away(WAITS, 1, 2)
    for what in order:
        assert not await bench.is_back()
        assert isinstance(await bench.do(await propose(bench, what)), Outcome)
    assert await bench.is_back()
    assert isinstance(await bench.claim(), Outcome)
    meta = await bench.meta()
    assert (meta.attempt, meta.losses, meta.failures) == (2, 0, 0)
    await bench.check_talk()


RACES = tuple(permutations((*ALL, "cancel", "message"), 2))
"""What may come to a run that is put away at the same instant, decided from what was read at the same time."""


async def walk_race(bench: Away, first: str, second: str) -> None:
    """Let two things come at once: whatever becomes of the second is right of the run as the first has left it."""
    await bench.away(WAITS, 1, 2)

    async def proposal(what: str) -> Commit:
        if what == "cancel":
            return runs.cancel(bench.ids(), await bench.meta(), "hub:hub-1", Cancel(), None)
        return await (bench.steering("m1") if what == "message" else propose(bench, what))

    one, other = await proposal(first), await proposal(second)
    assert isinstance(await bench.do(one), Outcome)
    if isinstance(await bench.do(other), Refused) and first != "cancel":
        assert isinstance(await bench.do(await proposal(second)), Outcome)
    if "cancel" in (first, second):
        assert (await bench.meta()).state is RunState.CANCELLED
        return
    for what in ALL:
        if what not in (first, second):
            assert not await bench.is_back()
            await bench.do(await propose(bench, what))
    assert await bench.is_back()
    await bench.check_talk()
