"""The name of every key, in one place.

All keys of a partition share one hash tag, so that a script over any of them is legal in a cluster.

Specification: docs/protocol.md, section "Partitions"; the layout is described in docs/store.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from protocol.ids import PARTITIONS, LogKind, LogName, partition_of

__all__ = [
    "AGENTS",
    "CONFIG",
    "HUBS",
    "LAYOUT_VERSION",
    "PERMANENT",
    "PREFIX",
    "LogKeys",
    "acks",
    "active",
    "bound",
    "buckets",
    "children",
    "dead",
    "ended",
    "freed",
    "held",
    "idempotency",
    "identities",
    "joins",
    "keyed",
    "later",
    "leases",
    "letters",
    "log_index",
    "log_keys",
    "made",
    "meta",
    "ops",
    "parked",
    "parked_keys",
    "partition_prefix",
    "producers",
    "queue",
    "queue_terms",
    "queues",
    "revoked",
    "schedule",
    "schedules",
    "stream",
    "timers",
    "tokens",
    "wake",
]

PREFIX = "fl"
AGENTS = f"{PREFIX}:agents"
"""HASH `namespace/agent` -> what is known of an agent, JSON. Permanent."""
HUBS = f"{PREFIX}:hubs"
"""ZSET hub id -> when it counts as gone, in ms. Permanent."""
CONFIG = f"{PREFIX}:config"
"""HASH of what must never change in a deployment: the layout's version and the number of partitions."""

LAYOUT_VERSION = 3
"""Version of everything that this module names. Written into `CONFIG` once, checked at every start."""

PERMANENT = (
    AGENTS,
    HUBS,
    CONFIG,
    f"{PREFIX}:{{p??}}:log:*",
    f"{PREFIX}:{{p??}}:meta:*",
    f"{PREFIX}:{{p??}}:producers:*",
    f"{PREFIX}:{{p??}}:acks:*",
    f"{PREFIX}:{{p??}}:logs:*",
    f"{PREFIX}:{{p??}}:keys:*",
    f"{PREFIX}:{{p??}}:queue:*",
    f"{PREFIX}:{{p??}}:buckets:*",
    f"{PREFIX}:{{p??}}:later:*",
    f"{PREFIX}:{{p??}}:active:*",
    f"{PREFIX}:{{p??}}:keyed:*",
    f"{PREFIX}:{{p??}}:parked:*",
    f"{PREFIX}:{{p??}}:parked_keys:*",
    f"{PREFIX}:{{p??}}:freed:*",
    f"{PREFIX}:{{p??}}:tokens:*",
    f"{PREFIX}:{{p??}}:dead:*",
    f"{PREFIX}:{{p??}}:queues:*",
    f"{PREFIX}:{{p??}}:terms:*",
    f"{PREFIX}:{{p??}}:held:*",
    f"{PREFIX}:{{p??}}:children:*",
    f"{PREFIX}:{{p??}}:schedules:*",
    f"{PREFIX}:{{p??}}:schedule:*",
    f"{PREFIX}:{{p??}}:identities:*",
    f"{PREFIX}:{{p??}}:bound:*",
    f"{PREFIX}:{{p??}}:leases",
    f"{PREFIX}:{{p??}}:timers",
    f"{PREFIX}:{{p??}}:ended",
    f"{PREFIX}:{{p??}}:revoked",
)
"""Patterns (as of `fnmatch`) of the keys that never expire. Every other key has a time to live."""


_PREFIXES = tuple(f"{PREFIX}:{{p{partition:02d}}}:" for partition in range(PARTITIONS))


@lru_cache(maxsize=16_384)
def _key(partition: int, *parts: str) -> str:
    """Return the name of a key. Most are asked for again and again: those of queues, of agents, of whole partitions."""
    return _PREFIXES[partition] + ":".join(parts)


def partition_prefix(partition: int) -> str:
    """What every key of a partition begins with."""
    return _PREFIXES[partition]


def stream(log: LogName) -> str:
    """STREAM of a log: entries in blocks, as `scripts/blocks.lua` describes."""
    return log_keys(log).stream


def meta(log: LogName) -> str:
    """HASH of a log: epoch, head, tag, ts, first, trim_tag, commit; for a run also its state."""
    return log_keys(log).meta


def producers(log: LogName) -> str:
    """HASH `principal/producer` -> owner fence, last seq and what is needed to recognise a retry."""
    return log_keys(log).producers


def acks(log: LogName) -> str:
    """HASH `principal/name` of a durable subscription -> the position that it acknowledged: `offset epoch tag`."""
    return log_keys(log).acks


def log_index(partition: int, namespace: str, kind: LogKind) -> str:
    """ZSET of the names of the partition's logs of one kind, by the time they were made, in ms."""
    return _key(partition, "logs", namespace, kind.value)


def ops(partition: int, namespace: str, day: int) -> str:
    """HASH `principal/log/op` -> the packed result of a request that changed that log on this day; it lives two."""
    return _key(partition, "ops", namespace, str(day))


def idempotency(partition: int, namespace: str, queue_name: str) -> str:
    """HASH key of a submit -> run id and digest of its input."""
    return _key(partition, "keys", namespace, queue_name)


def queue(partition: int, namespace: str, queue_name: str, bucket: str) -> str:
    """ZSET of the runs of a queue that wait, one for each bucket: each priority, submitter, handler and selector."""
    return _key(partition, "queue", namespace, queue_name, bucket)


def buckets(partition: int, namespace: str, queue_name: str) -> str:
    """ZSET of the buckets that a queue has runs in, by priority, then by when each was last served, or came, in ms."""
    return _key(partition, "buckets", namespace, queue_name)


def later(partition: int, namespace: str, queue_name: str) -> str:
    """ZSET of the runs of a queue that come to it later, by when, in ms."""
    return _key(partition, "later", namespace, queue_name)


def active(partition: int, namespace: str, queue_name: str) -> str:
    """HASH run -> fence of the runs of a queue that agents work on."""
    return _key(partition, "active", namespace, queue_name)


def keyed(partition: int, namespace: str, queue_name: str, key: str) -> str:
    """HASH run -> fence of the runs of a queue with one concurrency key that agents work on."""
    return _key(partition, "keyed", namespace, queue_name, key)


def parked(partition: int, namespace: str, queue_name: str, key: str) -> str:
    """ZSET of the runs of a queue that wait until fewer runs with their concurrency key are worked on."""
    return _key(partition, "parked", namespace, queue_name, key)


def parked_keys(partition: int, namespace: str, queue_name: str) -> str:
    """SET of the concurrency keys that runs of a queue are parked for."""
    return _key(partition, "parked_keys", namespace, queue_name)


def freed(partition: int, namespace: str, queue_name: str) -> str:
    """ZSET of the concurrency keys whose parked runs may be brought back, by since when, in ms; "" is all of them."""
    return _key(partition, "freed", namespace, queue_name)


def tokens(partition: int, namespace: str, queue_name: str) -> str:
    """HASH with the field `next_us`: when the token bucket of a queue's rate would be full again, in µs."""
    return _key(partition, "tokens", namespace, queue_name)


def dead(partition: int, namespace: str, queue_name: str) -> str:
    """ZSET of the runs of a queue that ended as dead and were not submitted again, by when, in ms."""
    return _key(partition, "dead", namespace, queue_name)


def queues(partition: int, namespace: str) -> str:
    """SET of the queues of this partition that have had runs or terms."""
    return _key(partition, "queues", namespace)


def queue_terms(partition: int, namespace: str, queue_name: str) -> str:
    """HASH of what is said of a queue: paused, limit, key_limit, rate, and the commit that said so last."""
    return _key(partition, "terms", namespace, queue_name)


def leases(partition: int) -> str:
    """ZSET `namespace/run` -> when its lease ends, in ms."""
    return _key(partition, "leases")


def timers(partition: int) -> str:
    """ZSET `namespace/run`, `namespace/family/run` or `namespace/schedule/name` -> when it is due, in ms."""
    return _key(partition, "timers")


def ended(partition: int) -> str:
    """ZSET `namespace/run` of the runs that are over -> when each is deleted, in ms."""
    return _key(partition, "ended")


def revoked(partition: int) -> str:
    """HASH `namespace/subject/id` -> that a token, a name, an agent or a key is revoked; all lie in one partition."""
    return _key(partition, "revoked")


def schedules(partition: int, namespace: str) -> str:
    """HASH name -> id of the schedules of a namespace, all of which lie in one partition."""
    return _key(partition, "schedules", namespace)


def schedule(partition: int, namespace: str, name: str) -> str:
    """HASH of a schedule: its terms, when it is due next, what it made last."""
    return _key(partition, "schedule", namespace, name)


def identities(partition: int, namespace: str) -> str:
    """HASH `agent/ID` or `client/NAME` -> what is known of its key, JSON: of a namespace, all in one partition."""
    return _key(partition, "identities", namespace)


def bound(partition: int, namespace: str) -> str:
    """HASH with the field `version`: the commit that last bound a name of a namespace to a key."""
    return _key(partition, "bound", namespace)


def joins(partition: int, namespace: str, token_id: str) -> str:
    """HASH `agent/ID FINGERPRINT` -> when, in ms: the keys that a join token was used for. It lives as the token."""
    return _key(partition, "joins", namespace, token_id)


def held(partition: int, namespace: str, agent: str) -> str:
    """HASH run -> fence of the attempts of this partition that an agent holds."""
    return _key(partition, "held", namespace, agent)


def children(log: LogName) -> str:
    """HASH `index.digest` -> what is known of a child, of the children of a run that have not ended."""
    return _key(partition_of(log), "children", log.namespace, log.name)


def made(partition: int, thing: str, account: str) -> str:
    """HASH with the field `next_us`: when what a principal, `namespace/name`, made counts no more. It lives so long."""
    return _key(partition, "made", thing, account)


def wake(partition: int) -> str:
    """The sharded channel on which commits are hinted at. Hints only; nothing relies on one."""
    return _key(partition, "wake")


def letters(hub: str) -> str:
    """The sharded channel of what other hubs say to one hub. Nothing is kept of it."""
    return f"{PREFIX}:hub:{hub}"


class LogKeys(NamedTuple):
    """Every key that lives and dies with one log, the index that lists it, and its name on the wake channel."""

    stream: str
    meta: str
    producers: str
    acks: str
    listed_in: str
    wake_name: str


@lru_cache(maxsize=16_384)
def log_keys(log: LogName) -> LogKeys:
    """Return the keys of a log; what is asked for again and again is made once."""
    partition, namespace, path = partition_of(log), log.namespace, log.path
    prefix, rest = _PREFIXES[partition], f"{namespace}:{path}"  # not by `_key`: what it keeps is asked for more often
    return LogKeys(
        f"{prefix}log:{rest}",
        f"{prefix}meta:{rest}",
        f"{prefix}producers:{rest}",
        f"{prefix}acks:{rest}",
        log_index(partition, namespace, log.kind),
        f"{namespace}/{path}",
    )
