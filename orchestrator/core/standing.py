"""What is said of an agent: that it is given no work, or that its process is to finish. Pure decisions.

It lies in the meta of the agent's own log and changes in one commit with the entry that says so, so that it outlives
sessions and hubs. Every change gets a number, `told`, that grows: a hub that hears of several in any order knows the
latest, and a session that opens meanwhile is refused and reads again.

A cordon is the agent's, whatever process has its id, until it is taken back. A drain is one process's: the next one
with that id is given work again.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.runs import Ids
from orchestrator.store import keys
from orchestrator.store.commits import Append, Commit, Guard, HashDelete, HashSet, Op
from protocol.control import Cordoned, Drained, Draining, Kind, pack_control
from protocol.frames import Part
from protocol.ids import LogName, partition_of

__all__ = ["DRAIN_FIELDS", "NOTHING_SAID", "TOLD_FIELD", "Standing", "cordon", "drain", "drained", "undrained"]

TOLD_FIELD = "told"
_CORDON = "cordon"
_DRAINING = "draining"
_DRAIN_UNTIL = "drain_until"
DRAIN_FIELDS = (_DRAINING, _DRAIN_UNTIL)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is said of an agent.

    Attributes:
        told: number of the last change, 0 where nothing was ever said.
        cordoned: it is given no work.
        draining: the process that is to finish, or "".
        drain_until_ms: by when, by the store's clock; None where it may take its time.
    """

    told: int = 0
    cordoned: bool = False
    draining: str = ""
    drain_until_ms: int | None = None

    @classmethod
    def parse(cls, meta: Mapping[str, str] | None) -> Standing:
        """Read it from the meta of the agent's log."""
        known = meta or {}
        until = known.get(_DRAIN_UNTIL)
        return cls(
            int(known.get(TOLD_FIELD, 0)), _CORDON in known, known.get(_DRAINING, ""), int(until) if until else None
        )

    def drains(self, instance: str) -> bool:
        """Whether this process of the agent is to finish."""
        return bool(self.draining) and self.draining == instance


NOTHING_SAID = Standing()


def cordon(ids: Ids, log: LogName, meta: Mapping[str, str], answer: Op, store_ms: int, *, cordoned: bool) -> Commit:
    """Propose that an agent is given no work, or that it is again. `answer` stores what whoever asked is told."""
    key = keys.meta(log)
    changed: Op = HashSet(key, {_CORDON: "1"}) if cordoned else HashDelete(key, (_CORDON,))
    kind = Kind.CORDONED if cordoned else Kind.UNCORDONED
    return _tell(ids, log, meta, kind, Cordoned(), (changed, answer), store_ms)


def drain(
    ids: Ids, log: LogName, meta: Mapping[str, str], answer: Op, store_ms: int, *, grace_ms: int | None
) -> Commit:
    """Propose that the process which has the agent's id finishes; of several times given, the last one counts."""
    key, instance = keys.meta(log), meta["instance"]
    fields = {_DRAINING: instance}
    forget: tuple[Op, ...] = (HashDelete(key, (_DRAIN_UNTIL,)),)
    if grace_ms is not None:
        fields[_DRAIN_UNTIL] = str(store_ms + grace_ms)
        forget = ()
    ops = (HashSet(key, fields), *forget, answer)
    return _tell(ids, log, meta, Kind.DRAINING, Draining(instance=instance, grace_ms=grace_ms), ops, store_ms)


def drained(src: str, instance: str) -> bytes:
    """Return the entry of a process that was told to finish, and has."""
    return pack_control(Kind.DRAINED, src, Drained(instance=instance))


def undrained(log: LogName) -> HashDelete:
    """Return what forgets a drain, once it is over."""
    return HashDelete(keys.meta(log), DRAIN_FIELDS)


def _tell(
    ids: Ids, log: LogName, meta: Mapping[str, str], kind: Kind, body: Part, ops: tuple[Op, ...], store_ms: int
) -> Commit:
    key, known = keys.meta(log), meta.get(TOLD_FIELD)
    told = max(int(known or 0) + 1, store_ms)
    return Commit(
        id=ids.commit,
        partition=partition_of(log),
        guards=(Guard(key, TOLD_FIELD, known), Guard(key, "instance", meta["instance"])),
        appends=(Append(log, (pack_control(kind, ids.src, body),), ids.epoch),),
        ops=(HashSet(key, {TOLD_FIELD: str(told)}), *ops),
    )
