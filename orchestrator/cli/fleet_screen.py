"""What `fleetline top` shows: one look at the fleet, made of what the hub answered, and its picture. Both are pure.

However large the fleet, a look has at most `AGENTS_MAX` agents and `QUEUES_MAX` queues, and says how many more
there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent.labels import VERSION_LABEL
from orchestrator.cli.text import age, clean
from orchestrator.replay.timeline import seconds
from protocol.requests_agents import LIST_MAX
from protocol.run import FINAL, RunState

if TYPE_CHECKING:
    from protocol.requests import AgentInfo, QueueInfo, RunInfo

__all__ = [
    "AGENTS_MAX",
    "QUEUES_MAX",
    "RUNS_MAX",
    "AgentRow",
    "Look",
    "QueueRow",
    "Totals",
    "busiest",
    "draw_look",
    "lines",
]

AGENTS_MAX = 50
QUEUES_MAX = 50
RUNS_MAX = 200
"""The newest runs, from which rates and ages are told."""
MINUTE_MS = 60_000
STALE_MS = 10_000
"""A look as old as this says so: the hub does not answer."""
STATIC_LINES = 8
"""Lines that are neither an agent's nor a queue's: totals, headers, rules, and how many more there are."""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent. `runs` are those that it holds, which is how many of its slots are in use."""

    agent: str
    state: str
    slots: int
    load: float | None
    version: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue. `oldest_ms` is how long the oldest waits of those among the newest runs; None where none is."""

    queue: str
    paused: bool
    waiting: int
    later: int
    active: int
    limit: int | None
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class Totals:
    """The fleet in one line.

    Attributes:
        agents: that were ever seen; with `more_agents` there are others.
        ended: runs that ended within the last minute.
        at_least: the newest runs do not reach back a minute, so that `ended` may be more.
    """

    connected: int
    agents: int
    more_agents: bool
    slots: int
    queues: int
    waiting: int
    later: int
    active: int
    ended: int
    at_least: bool


@dataclass(frozen=True, slots=True)
class Look:
    """The fleet at one time."""

    ts_ms: int
    agents: tuple[AgentRow, ...]
    queues: tuple[QueueRow, ...]
    totals: Totals

    @classmethod
    def of(
        cls,
        now_ms: int,
        agents: Sequence[AgentInfo],
        queues: Sequence[QueueInfo],
        runs: Sequence[RunInfo],
        held: Mapping[str, tuple[str, ...]],
    ) -> Look:
        """Make a look.

        Args:
            now_ms: the time.
            agents: as they were listed.
            queues: as they were listed.
            runs: the newest ones, newest first.
            held: the runs that the `busiest` agents hold.
        """
        oldest = _oldest(now_ms, runs)
        crowded = sorted(queues, key=lambda queue: (-queue.waiting - queue.active, queue.queue))
        return cls(
            now_ms,
            tuple(_agent_row(agent, held.get(agent.agent, ())) for agent in busiest(agents)),
            tuple(_queue_row(queue, oldest.get(queue.queue)) for queue in crowded[:QUEUES_MAX]),
            _totals(now_ms, agents, queues, runs),
        )

    def json(self) -> dict[str, Any]:
        """Return the object that is printed where JSON is."""
        return asdict(self)


def busiest(agents: Iterable[AgentInfo]) -> list[AgentInfo]:
    """Return the agents that are shown: those that are there before those that are away, then by load."""
    return sorted(agents, key=lambda agent: (not agent.connected, -(agent.load or 0.0), agent.agent))[:AGENTS_MAX]


def _agent_row(agent: AgentInfo, runs: tuple[str, ...]) -> AgentRow:
    words = ["connected" if agent.connected else "away"]
    words += [word for word, is_so in (("cordoned", agent.cordoned), ("draining", agent.draining)) if is_so]
    version = agent.labels.get(VERSION_LABEL, "")
    return AgentRow(agent.agent, " ".join(words), agent.slots, agent.load, version, runs if agent.connected else ())


def _queue_row(queue: QueueInfo, oldest_ms: int | None) -> QueueRow:
    oldest_ms = oldest_ms if queue.waiting else None
    return QueueRow(
        queue.queue, queue.paused, queue.waiting, queue.later, queue.active, queue.limit, oldest_ms=oldest_ms
    )


def _oldest(now_ms: int, runs: Sequence[RunInfo]) -> dict[str, int]:
    """Return for each queue how long the oldest of its runs waits; runs that are to come later do not wait yet."""
    oldest: dict[str, int] = {}
    for run in runs:
        since_ms = max(run.submitted_ms, run.not_before_ms or 0)
        if run.state == RunState.QUEUED and since_ms <= now_ms:
            oldest[run.queue] = max(oldest.get(run.queue, 0), now_ms - since_ms)
    return oldest


def _totals(now_ms: int, agents: Sequence[AgentInfo], queues: Sequence[QueueInfo], runs: Sequence[RunInfo]) -> Totals:
    since_ms = now_ms - MINUTE_MS
    there = [agent for agent in agents if agent.connected]
    return Totals(
        connected=len(there),
        agents=len(agents),
        more_agents=len(agents) >= LIST_MAX,
        slots=sum(agent.slots for agent in there),
        queues=len(queues),
        waiting=sum(queue.waiting for queue in queues),
        later=sum(queue.later for queue in queues),
        active=sum(queue.active for queue in queues),
        ended=sum(run.state in FINAL and (run.finished_ms or 0) >= since_ms for run in runs),
        at_least=len(runs) >= RUNS_MAX and runs[-1].submitted_ms >= since_ms,
    )


def totals_line(totals: Totals) -> str:
    """Return the totals in words."""
    agents = f"{totals.agents}{'+' if totals.more_agents else ''}"
    ended = f"{totals.ended}{'+' if totals.at_least else ''}"
    return (
        f"{totals.connected} of {agents} agents connected, {totals.active} of {totals.slots} slots in use; "
        f"{totals.queues} queues, {totals.waiting} waiting, {totals.later} later; {ended} runs a minute"
    )


def agent_cells(row: AgentRow) -> tuple[str, ...]:
    """Return what the columns show of an agent."""
    load = "" if row.load is None else f"{row.load:.0%}"
    more = f" and {len(row.runs) - 1} more" if len(row.runs) > 1 else ""
    runs = f"{row.runs[0]}{more}" if row.runs else ""
    return tuple(map(clean, (row.agent, row.state, f"{len(row.runs)}/{row.slots}", load, row.version, runs)))


def queue_cells(row: QueueRow) -> tuple[str, ...]:
    """Return what the columns show of a queue."""
    oldest = "" if row.oldest_ms is None else seconds(row.oldest_ms)
    limit = "" if row.limit is None else str(row.limit)
    state = "paused" if row.paused else "open"
    return (clean(row.queue), state, str(row.waiting), str(row.later), str(row.active), limit, oldest)


AGENT_COLUMNS = ("AGENT", "STATE", "SLOTS", "LOAD", "VERSION", "RUNS")
QUEUE_COLUMNS = ("QUEUE", "STATE", "WAITING", "LATER", "ACTIVE", "LIMIT", "OLDEST")


def lines(look: Look) -> list[str]:
    """Return a look as lines with tabs between their cells, each beginning with what it is about."""
    agents = ["\t".join(("agent", *agent_cells(row))) for row in look.agents]
    queues = ["\t".join(("queue", *queue_cells(row))) for row in look.queues]
    return [f"total\t{totals_line(look.totals)}", *queues, *agents]


def draw_look(look: Look, now_ms: int, height: int) -> Group:
    """Return the picture of a look, in at most `height` lines: of queues up to half of them, the rest of agents."""
    room = max(2, height - STATIC_LINES)
    queues = look.queues[: max(1, room // 2)]
    agents = look.agents[: max(1, room - len(queues))]
    return Group(
        _first_line(look, now_ms),
        _table(QUEUE_COLUMNS, map(queue_cells, queues)),
        *_more(look.totals.queues - len(queues), "queues"),
        _table(AGENT_COLUMNS, map(agent_cells, agents)),
        *_more(look.totals.agents - len(agents), "agents", or_more=look.totals.more_agents),
    )


def _first_line(look: Look, now_ms: int) -> Text:
    old_ms = now_ms - look.ts_ms
    text = Text(no_wrap=True, overflow="ellipsis")
    if old_ms >= STALE_MS:
        text.append(f"as of {age(old_ms)}: ", "bold red")
    return text.append(totals_line(look.totals), "bold")


def _more(count: int, what: str, *, or_more: bool = False) -> list[Text]:
    return [Text(f"and {count}{'+' if or_more else ''} more {what}", "dim")] if count > 0 else []


def _table(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
