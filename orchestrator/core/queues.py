"""What is said of a queue, and what claims must heed: pure.

A queue is there as soon as a run or a setting names it. Its terms lie beside its runs, in the same partition, so that
a claim can be guarded on them: once a pause is committed, nothing is claimed, and a limit holds over all hubs.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from orchestrator.store import keys
from orchestrator.store.commits import (
    ABSENT,
    Below,
    Commit,
    Full,
    Guard,
    HashDelete,
    HashSet,
    HasToken,
    Op,
    SetAdd,
    SortedAdd,
    TakeToken,
)
from protocol.ids import queue_partition
from protocol.requests import AgentInfo, QueueSet, Rate
from protocol.selector import parse_selector

__all__ = ["EVERY_KEY", "NO_TERMS", "Queue", "Terms", "queue_of", "set_terms", "who_takes", "why_held"]

_HINT = "queue:"
_PAUSED = "paused"
_LIMIT = "limit"
_KEY_LIMIT = "key_limit"
_RATE = "rate"
_SAID = "said"

EVERY_KEY = ""
"""Stands for all concurrency keys of a queue, where its terms changed; no run can have it."""


class _Names(NamedTuple):
    namespace: str
    name: str


class Queue(_Names):
    """A queue, by its names; what is the same for each of its runs is worked out once (see `queue_of`)."""

    @cached_property
    def partition(self) -> int:
        """The partition that holds the queue and its runs."""
        return queue_partition(self.namespace, self.name)

    @cached_property
    def hint(self) -> str:
        """The word that tells hubs that it may have work."""
        return f"{_HINT}{self.namespace}/{self.name}"

    @classmethod
    def hinted(cls, word: str) -> Queue | None:
        """Return the queue that a word is the hint of, or None."""
        namespace, slash, name = word.removeprefix(_HINT).partition("/")
        return cls(namespace, name) if slash and word.startswith(_HINT) else None

    @cached_property
    def terms(self) -> str:
        """The key of its terms."""
        return keys.queue_terms(self.partition, self.namespace, self.name)

    @cached_property
    def buckets(self) -> str:
        """The key of the buckets that runs wait in."""
        return keys.buckets(self.partition, self.namespace, self.name)

    def waiting(self, bucket: str) -> str:
        """The key of its runs that wait in a bucket."""
        return keys.queue(self.partition, self.namespace, self.name, bucket)

    @cached_property
    def later(self) -> str:
        """The key of its runs that come to it later."""
        return keys.later(self.partition, self.namespace, self.name)

    @cached_property
    def active(self) -> str:
        """The key of its runs that agents work on."""
        return keys.active(self.partition, self.namespace, self.name)

    def keyed(self, key: str) -> str:
        """The key of its runs with a concurrency key that agents work on."""
        return keys.keyed(self.partition, self.namespace, self.name, key)

    def parked(self, key: str) -> str:
        """The key of its runs that wait until fewer with their concurrency key are worked on."""
        return keys.parked(self.partition, self.namespace, self.name, key)

    @cached_property
    def parked_keys(self) -> str:
        """The key of the concurrency keys that runs of it are parked for."""
        return keys.parked_keys(self.partition, self.namespace, self.name)

    @cached_property
    def freed(self) -> str:
        """The key of the concurrency keys whose parked runs may be brought back."""
        return keys.freed(self.partition, self.namespace, self.name)

    @cached_property
    def tokens(self) -> str:
        """The key of the tokens that its rate has left."""
        return keys.tokens(self.partition, self.namespace, self.name)

    @cached_property
    def dead(self) -> str:
        """The key of its dead letters."""
        return keys.dead(self.partition, self.namespace, self.name)

    def enter(self, run: str, fence: int, key: str) -> tuple[Op, ...]:
        """Note that an agent works on a run of it, which has this concurrency key, or none."""
        held = {run: str(fence)}
        return HashSet(self.active, held), *((HashSet(self.keyed(key), held),) if key else ())

    def leave(self, run: str, key: str) -> tuple[Op, ...]:
        """Note that no agent works on a run of it any more; what is parked for its key may come back."""
        left = HashDelete(self.active, (run,))
        if not key:
            return (left,)
        freed = SortedAdd(self.freed, key, 0, from_now=True, given=self.parked(key))
        return left, HashDelete(self.keyed(key), (run,)), freed


@lru_cache(maxsize=4096)
def queue_of(namespace: str, name: str) -> Queue:
    """Return a queue, the same object for as long as it is asked for often."""
    return Queue(namespace, name)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is said of a queue.

    Attributes:
        paused: nothing is claimed; what runs goes on.
        limit: how many of its runs may be worked on at once, over all agents; None for any number.
        key_limit: how many of those with the same concurrency key may; None for any number.
        rate: how fast its runs may be claimed; None for as fast as agents take them.
        keyed: runs may be parked for their concurrency keys, since these are limited, or were.
        said: the commit that said so last; None where nothing ever was.
    """

    paused: bool = False
    limit: int | None = None
    key_limit: int | None = None
    rate: Rate | None = None
    keyed: bool = False
    said: str | None = None

    @classmethod
    def parse(cls, fields: Mapping[str, bytes]) -> Terms:
        """Read them as they are stored."""
        rate = fields.get(_RATE)
        return cls(
            paused=_PAUSED in fields,
            limit=int(fields[_LIMIT]) if _LIMIT in fields else None,
            key_limit=int(fields.get(_KEY_LIMIT, 0)) or None,
            keyed=_KEY_LIMIT in fields,
            rate=None if rate is None else _read_rate(rate),
            said=fields[_SAID].decode() if _SAID in fields else None,
        )

    def unchanged(self, queue: Queue) -> Guard:
        """Return a guard that holds until something else is said of the queue."""
        return Guard(queue.terms, _SAID, ABSENT if self.said is None else self.said)

    def room(self, queue: Queue, key: str) -> tuple[Below | HasToken, ...]:
        """Return what must be so for another run of the queue to be claimed, with this concurrency key or none."""
        return (
            *(() if self.limit is None else (Below(queue.active, self.limit),)),
            *(() if self.key_limit is None or not key else (Below(queue.keyed(key), self.key_limit),)),
            *(() if self.rate is None else (HasToken(queue.tokens, self.rate.every_us, self.rate.burst),)),
        )

    def spent(self, queue: Queue) -> tuple[Op, ...]:
        """Return what a claim uses up."""
        return () if self.rate is None else (TakeToken(queue.tokens, self.rate.every_us, self.rate.burst),)

    def key_full(self, queue: Queue, key: str) -> Full:
        """Return what must be so while no other run with this concurrency key may be claimed."""
        assert self.key_limit is not None, self
        return Full(queue.keyed(key), self.key_limit)

    def tokens(self, next_us: int | None, now_ms: int) -> int:
        """Return how many runs may be claimed at once now; `next_us` is what the queue's `tokens` say."""
        assert self.rate is not None, self
        burst, every_us, now_us = self.rate.burst, self.rate.every_us, now_ms * 1000
        spent_us = max(0, (next_us or 0) - now_us)
        return burst if spent_us > burst * every_us else burst - -(-spent_us // every_us)

    def token_in_ms(self, next_us: int | None, now_ms: int) -> int:
        """Return in how many ms, at least 1, there is a token, where there is none now."""
        assert self.rate is not None, self
        wait_us = (next_us or 0) - (self.rate.burst - 1) * self.rate.every_us - now_ms * 1000
        return max(1, -(-wait_us // 1000))


NO_TERMS = Terms()
"""Those of a queue of which nothing was ever said."""


def why_held(terms: Terms, active: int, next_us: int | None, now_ms: int) -> str | None:
    """Return why nothing of a queue is claimed now, whoever could take it; None where something may be."""
    if terms.paused:
        return "its queue is paused"
    if terms.limit is not None and active >= terms.limit:
        return f"as many runs of its queue are worked on as may be at once: {terms.limit}"
    if terms.rate is not None and terms.tokens(next_us, now_ms) <= 0:
        return f"its queue's rate lets the next one start in {terms.token_in_ms(next_us, now_ms)} ms"
    return None


def set_terms(commit_id: str, queue: Queue, asked: QueueSet) -> Commit:
    """Propose what is said of a queue from now on; hubs are told, since it may have work again.

    What is None stays as it is, whoever else says something of it meanwhile; a limit of 0 is none. Runs that are parked
    for their concurrency keys are looked at again, and a rate begins with all its tokens.
    """
    said: dict[str, str | None] = {_SAID: commit_id}
    if asked.paused is not None:
        said[_PAUSED] = "1" if asked.paused else None
    if asked.limit is not None:
        said[_LIMIT] = str(asked.limit) if asked.limit else None
    if asked.key_limit is not None:
        said[_KEY_LIMIT] = str(asked.key_limit)  # also where it is 0: what is parked is to be found
    ops: tuple[Op, ...] = ()
    if asked.key_limit is not None:
        ops = (SortedAdd(queue.freed, EVERY_KEY, 0, from_now=True, given=queue.parked_keys),)
    if asked.rate is not None:
        said[_RATE] = _write_rate(asked.rate) if asked.rate.starts else None
        ops = (*ops, HashDelete(queue.tokens, ("next_us",)))
    kept = {name: value for name, value in said.items() if value is not None}
    gone = tuple(name for name, value in said.items() if value is None)
    return Commit(
        id=commit_id,
        partition=queue.partition,
        ops=(
            SetAdd(keys.queues(queue.partition, queue.namespace), queue.name),
            HashSet(queue.terms, kept),
            *((HashDelete(queue.terms, gone),) if gone else ()),
            *ops,
        ),
        hints=(queue.hint,),
    )


def _write_rate(rate: Rate) -> str:
    return f"{rate.starts} {rate.per_ms} {rate.burst}"


def _read_rate(stored: bytes) -> Rate:
    starts, per_ms, burst = map(int, stored.split())
    return Rate(starts=starts, per_ms=per_ms, burst=burst)


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
