"""What is said of a queue, and what claims must heed: pure.

A queue is there as soon as a run or a setting names it. Its terms lie beside its runs, in the same partition, so that
a claim can be guarded on them: once a pause is committed, nothing is claimed, and a limit holds over all hubs.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Below, Commit, Guard, HashDelete, HashSet, SetAdd
from protocol.ids import queue_partition
from protocol.requests import AgentInfo
from protocol.selector import parse_selector

__all__ = ["Queue", "Terms", "set_terms", "who_takes"]

_HINT = "queue:"
_PAUSED = "paused"
_LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, by its names; `partition` is where it and its runs lie."""

    namespace: str
    name: str

    @property
    def partition(self) -> int:
        """The partition that holds the queue and its runs."""
        return queue_partition(self.namespace, self.name)

    @property
    def hint(self) -> str:
        """The word that tells hubs that it may have work."""
        return f"{_HINT}{self.namespace}/{self.name}"

    @classmethod
    def hinted(cls, word: str) -> Queue | None:
        """Return the queue that a word is the hint of, or None."""
        namespace, slash, name = word.removeprefix(_HINT).partition("/")
        return cls(namespace, name) if slash and word.startswith(_HINT) else None

    @property
    def terms(self) -> str:
        """The key of its terms."""
        return keys.queue_terms(self.partition, self.namespace, self.name)

    @property
    def buckets(self) -> str:
        """The key of the buckets that runs wait in."""
        return keys.buckets(self.partition, self.namespace, self.name)

    def waiting(self, bucket: str) -> str:
        """The key of its runs that wait in a bucket."""
        return keys.queue(self.partition, self.namespace, self.name, bucket)

    @property
    def later(self) -> str:
        """The key of its runs that come to it later."""
        return keys.later(self.partition, self.namespace, self.name)

    @property
    def active(self) -> str:
        """The key of its runs that agents work on."""
        return keys.active(self.partition, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is said of a queue.

    Attributes:
        paused: nothing is claimed; what runs goes on.
        limit: how many of its runs may be worked on at once, over all agents; None for any number.
    """

    paused: bool = False
    limit: int | None = None

    @classmethod
    def parse(cls, fields: Mapping[str, bytes]) -> Terms:
        """Read them as they are stored."""
        return cls(_PAUSED in fields, int(fields[_LIMIT]) if _LIMIT in fields else None)

    def guards(self, queue: Queue) -> tuple[Guard, ...]:
        """Return guards that hold while runs of the queue may be claimed, and its limit is what was read."""
        limit = ABSENT if self.limit is None else str(self.limit)
        return Guard(queue.terms, _PAUSED, ABSENT), Guard(queue.terms, _LIMIT, limit)

    def below(self, queue: Queue) -> tuple[Below, ...]:
        """Return what is not full while another run of the queue may be claimed."""
        return () if self.limit is None else (Below(queue.active, self.limit),)


def set_terms(commit_id: str, queue: Queue, paused: bool | None, limit: int | None) -> Commit:
    """Propose what is said of a queue from now on; hubs are told, since it may have work again.

    What is None stays as it is, whoever else says something of it meanwhile; a limit of 0 is none.
    """
    said: dict[str, str | None] = {}
    if paused is not None:
        said[_PAUSED] = "1" if paused else None
    if limit is not None:
        said[_LIMIT] = str(limit) if limit else None
    kept = {name: value for name, value in said.items() if value is not None}
    gone = tuple(name for name, value in said.items() if value is None)
    return Commit(
        id=commit_id,
        partition=queue.partition,
        ops=(
            SetAdd(keys.queues(queue.partition, queue.namespace), queue.name),
            *((HashSet(queue.terms, kept),) if kept else ()),
            *((HashDelete(queue.terms, gone),) if gone else ()),
        ),
        hints=(queue.hint,),
    )


def who_takes(agents: Sequence[AgentInfo], queue: str, handler: str, where: str) -> Sequence[AgentInfo] | str:
    """Return which of these agents would take such a run as they are, or say why none ever would."""
    serving = [agent for agent in agents if agent.connected and queue in agent.queues]
    if not serving:
        return f"no connected agent serves the queue {queue!r}"
    able = [agent for agent in serving if any(spec.name == handler for spec in agent.handlers)]
    if not able:
        return f"no connected agent on the queue {queue!r} has the handler {handler!r}"
    fit = [agent for agent in able if parse_selector(where).fits(agent.labels)]
    return fit or f"no connected agent that has the handler {handler!r} has the labels {where}"
