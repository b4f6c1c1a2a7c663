"""Which agent is given a run, and which refused it lately: pure decisions, over what one hub knows.

The least loaded agent is the one of which the largest part is free: the part of its slots that is, times the part of
the machine that is by its own word. So a full one of either kind is last, and one that says nothing is judged by its
slots alone.

A run that an agent looked at and refused goes back to its queue at once, for others. That agent is not given it
again for a while that doubles with each refusal; else the two would go round and round. This is a hub's own memory: an
agent that comes to another hub is asked afresh.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REFUSALS_MAX", "REFUSED_CAP_MS", "REFUSED_FIRST_MS", "Refusals", "free_part"]

REFUSED_FIRST_MS = 1_000
REFUSED_CAP_MS = 300_000
REFUSALS_MAX = 256
"""Runs of one agent that are remembered; past that the one whose time is over first is forgotten."""
FORGOTTEN_AFTER_MS = 2 * REFUSED_CAP_MS
"""After the last refusal's time: then the agent is asked as if it had never refused."""


def free_part(used: int, slots: int, load: float) -> float:
    """Return how much of an agent is free, from 0 to 1: 0 where it is given nothing."""
    return max(0.0, 1 - used / slots) * max(0.0, 1 - load) if slots > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Refusal:
    times: int
    until_ms: int


class Refusals:
    """What agents of one hub refused lately, by agent and run. Times are a clock's that never steps."""

    def __init__(self) -> None:
        self._by_agent: dict[tuple[str, str], dict[str, _Refusal]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_agent)

    def note(self, agent: tuple[str, str], run: str, now_ms: int) -> int:
        """Note that an agent refused a run. Returns for how long, in ms, it is not given it again."""
        if agent not in self._by_agent:
            self._forget(now_ms)
        runs = self._by_agent.setdefault(agent, {})
        before = runs.get(run)
        times = 1 if before is None or now_ms > before.until_ms + FORGOTTEN_AFTER_MS else before.times + 1
        wait_ms = min(REFUSED_CAP_MS, REFUSED_FIRST_MS << min(times - 1, 32))
        runs[run] = _Refusal(times, now_ms + wait_ms)
        if len(runs) > REFUSALS_MAX:
            del runs[min(runs, key=lambda each: runs[each].until_ms)]
        return wait_ms

    def holds(self, agent: tuple[str, str], run: str, now_ms: int) -> bool:
        """Whether this agent is not to be given this run now."""
        refusal = self._by_agent.get(agent, {}).get(run)
        return refusal is not None and now_ms < refusal.until_ms

    def count(self, agent: tuple[str, str], now_ms: int) -> int:
        """Return how many runs this agent is not to be given now."""
        return sum(now_ms < refusal.until_ms for refusal in self._by_agent.get(agent, {}).values())

    def _forget(self, now_ms: int) -> None:
        """Forget agents that have long not refused anything."""
        for agent, runs in tuple(self._by_agent.items()):
            if all(now_ms > refusal.until_ms + FORGOTTEN_AFTER_MS for refusal in runs.values()):
                del self._by_agent[agent]
