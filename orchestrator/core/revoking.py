"""What was taken back before its time: tokens, names, agents and their keys. Pure decisions.

A mark says that something is not good any more. All marks of a deployment lie in one hash, with a word that every
change of them sets anew: whoever has the word has them all. A mark is there until the time after which it matters no
more, when a revoked token has expired, say; without such a time it stays until it is lifted.

    token    one token, by its id
    name     every token of a name that was issued up to a time; later ones are good
    agent    an agent's id, whatever token or key it comes with
    key      one key of an agent

Specification: docs/protocol.md, section "Revocation"; docs/decisions/0021-revocation-and-keys.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from zlib import crc32

from orchestrator.auth.principal import Principal
from orchestrator.store import keys
from orchestrator.store.commits import Below, Commit, Guard, HashDelete, HashSet
from protocol.ids import PARTITIONS

__all__ = [
    "FORGOTTEN_AT_ONCE_MAX",
    "HINT",
    "MARKS_KEY",
    "MARKS_MAX",
    "MARKS_PARTITION",
    "NAMESPACE_MARKS_MAX",
    "VERSION_FIELD",
    "Mark",
    "Marks",
    "Subject",
    "Target",
    "forget",
    "lift",
    "over",
    "revoke",
    "wider",
]

MARKS_PARTITION = crc32(b"revoked") % PARTITIONS
MARKS_KEY = keys.revoked(MARKS_PARTITION)
VERSION_FIELD = "version"
"""The field that every change sets to the id of its commit. No mark is called so: theirs have slashes."""
HINT = "revoked"
"""The word that tells other hubs of a change."""
MARKS_MAX = 16_384
NAMESPACE_MARKS_MAX = 4_096
"""Of one namespace, as far as the hub knows that is asked: nobody takes the room of all others."""
FORGOTTEN_AT_ONCE_MAX = 64
KEPT_PAST_MS = 3_600_000
"""How long a mark is kept after its time: a hub's clock may be behind, and a session may have its time of grace."""
_NONE = "-"


class Subject(StrEnum):
    """What a mark can be about."""

    TOKEN = "token"  # noqa: S105 - a word for tokens
    NAME = "name"
    AGENT = "agent"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Target:
    """What is revoked: a token by its id, a name, an agent by its id, or a key by its fingerprint."""

    namespace: str
    subject: Subject
    id: str

    @property
    def field(self) -> str:
        """The field of its mark."""
        return f"{self.namespace}/{self.subject.value}/{self.id}"

    @classmethod
    def parse(cls, field: str) -> Target:
        """Read a field's name.

        Raises:
            ValueError: it is of no mark that this hub knows.
        """
        namespace, subject, name = field.split("/", 2)
        return cls(namespace, Subject(subject), name)


@dataclass(frozen=True, slots=True)
class Mark:
    """That something was revoked.

    Attributes:
        since_ms: when, by the store's clock.
        until_ms: from when on it does not matter; None where it matters until it is lifted.
        by: the principal who did it.
    """

    target: Target
    since_ms: int
    until_ms: int | None
    by: str

    @property
    def value(self) -> str:
        """What the field of the mark holds."""
        return f"{self.since_ms} {_NONE if self.until_ms is None else self.until_ms} {self.by}"

    @classmethod
    def parse(cls, field: str, value: bytes) -> Mark:
        """Read a mark.

        Raises:
            ValueError: it is none that this hub can read.
        """
        since, until, by = value.decode().split(" ", 2)
        return cls(Target.parse(field), int(since), None if until == _NONE else int(until), by)


class Marks:
    """All marks that there are, as a hub knows them.

    Attributes:
        version: of what was read; a change makes another.
        unreadable: fields that this hub cannot read: they were written by a later release.
    """

    def __init__(self, fields: Mapping[str, bytes] | None = None) -> None:
        self.version: bytes | None = None
        self.unreadable: list[str] = []
        self._marks: dict[Target, Mark] = {}
        for field, value in (fields or {}).items():
            if field == VERSION_FIELD:
                self.version = value
                continue
            try:
                mark = Mark.parse(field, value)
            except ValueError:
                self.unreadable.append(field)
            else:
                self._marks[mark.target] = mark

    def __len__(self) -> int:
        return len(self._marks)

    def of(self, namespace: str) -> list[Mark]:
        """Return those of a namespace, latest first."""
        found = [mark for target, mark in self._marks.items() if target.namespace == namespace]
        return sorted(found, key=lambda mark: (-mark.since_ms, mark.target.field))

    def count(self, namespace: str) -> int:
        """Return how many of them are of a namespace."""
        return sum(target.namespace == namespace for target in self._marks)

    def put(self, mark: Mark) -> None:
        """Take a mark that this hub has just committed."""
        self._marks[mark.target] = mark

    def drop(self, target: Target) -> None:
        """Forget a mark that this hub has just lifted."""
        self._marks.pop(target, None)

    def get(self, target: Target) -> Mark | None:
        """Return the mark of something; None where it is not revoked."""
        return self._marks.get(target)

    def over(self, now_ms: int) -> list[Mark]:
        """Return marks whose time is over, as many as are forgotten at once."""
        found = (mark for mark in self._marks.values() if over(mark, now_ms))
        return [mark for mark, _ in zip(found, range(FORGOTTEN_AT_ONCE_MAX), strict=False)]

    def why_token(self, namespace: str, token_id: str, name: str, issued_s: int) -> str | None:
        """Return why a token is not good any more, in words for its owner; None where it is."""
        if self._marks:
            mark = self._marks.get(Target(namespace, Subject.TOKEN, token_id))
            if mark is not None:
                return f"the token was revoked at {_time(mark.since_ms)}; get a new one"
            mark = self._marks.get(Target(namespace, Subject.NAME, name))
            if mark is not None and issued_s * 1000 <= mark.since_ms:
                return f"all tokens of {name!r} issued until {_time(mark.since_ms)} were revoked; get a new one"
        return None

    def why(self, bearer: Principal, agent: str | None = None, key: str | None = None) -> str | None:
        """Return why whoever has a token, and comes as an agent with a key, gets no session; None where he does."""
        if not self._marks:
            return None
        why = self.why_token(bearer.namespace, bearer.id, bearer.name, bearer.issued_s)
        if why is not None:
            return why
        mark = self._marks.get(Target(bearer.namespace, Subject.AGENT, agent)) if agent is not None else None
        if mark is not None:
            return f"the agent {agent!r} was revoked at {_time(mark.since_ms)}; ask whoever runs this hub"
        mark = self._marks.get(Target(bearer.namespace, Subject.KEY, key)) if key is not None else None
        if mark is not None:
            return f"this key of the agent was revoked at {_time(mark.since_ms)}; enrol with a new one"
        return None


def over(mark: Mark, now_ms: int) -> bool:
    """Whether a mark matters no more, on whichever hub."""
    return mark.until_ms is not None and mark.until_ms + KEPT_PAST_MS <= now_ms


def wider(mark: Mark, known: Mark | None) -> Mark:
    """Return what a new mark and the one that is there say together: nothing that is revoked becomes good by it."""
    if known is None:
        return mark
    until_ms = None if mark.until_ms is None or known.until_ms is None else max(mark.until_ms, known.until_ms)
    return replace(mark, since_ms=max(mark.since_ms, known.since_ms), until_ms=until_ms)


def revoke(commit_id: str, mark: Mark, known: bytes | None) -> Commit:
    """Propose a mark in the place of what its field holds; refused by the second condition where there are too many."""
    field = mark.target.field
    return Commit(
        id=commit_id,
        partition=MARKS_PARTITION,
        guards=(Guard(MARKS_KEY, field, known.decode() if known is not None else None),),
        below=(Below(MARKS_KEY, MARKS_MAX + 1),) if known is None else (),
        ops=(HashSet(MARKS_KEY, {field: mark.value, VERSION_FIELD: commit_id}),),
        hints=(HINT,),
    )


def lift(commit_id: str, target: Target) -> Commit:
    """Propose that something is good again."""
    return _without(commit_id, (), (target,))


def forget(commit_id: str, marks: Iterable[Mark]) -> Commit:
    """Propose to drop marks whose time is over, unless one was renewed meanwhile."""
    gone = tuple(marks)
    guards = tuple(Guard(MARKS_KEY, mark.target.field, mark.value) for mark in gone)
    return _without(commit_id, guards, tuple(mark.target for mark in gone))


def _without(commit_id: str, guards: tuple[Guard, ...], targets: tuple[Target, ...]) -> Commit:
    return Commit(
        id=commit_id,
        partition=MARKS_PARTITION,
        guards=guards,
        ops=(
            HashDelete(MARKS_KEY, tuple(target.field for target in targets)),
            HashSet(MARKS_KEY, {VERSION_FIELD: commit_id}),
        ),
        hints=(HINT,),
    )


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
