"""What a server would hold, in dictionaries, and the commit over it.

The rules are those of `scripts/commit.lua`, check by check in the same order; the contract tests run both.
Nothing here waits or knows the time: `MemoryServer` in `orchestrator.store.memory` does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.store.base import Page, Wake
from orchestrator.store.commits import (
    Append,
    Appended,
    Below,
    Commit,
    Condition,
    Full,
    Guard,
    HashDelete,
    HashSet,
    HasToken,
    Op,
    Outcome,
    ProducerClaim,
    Refusal,
    Refused,
    Removal,
    SetAdd,
    SetPrune,
    SortedAdd,
    SortedPrune,
    SortedRemove,
    TakeToken,
)
from orchestrator.store.keys import LogKeys, log_keys
from orchestrator.store.producer import ProducerRecord, check_claim
from protocol.entry import Entry, Position, first_tag, next_tag

__all__ = ["COMMITS_KEPT_BYTES", "Data", "Stored"]

COMMITS_KEPT_BYTES = 512
"""How much of the ids of a log's last commits is kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry with its tag."""

    entry: Entry
    tag: str


@dataclass(slots=True)
class _Head:
    """Where a log ends, as its meta fields say."""

    epoch: str | None
    offset: int
    tag: str
    ts_ms: int
    commits: str

    def position(self, epoch: str) -> Position:
        name = self.epoch or epoch
        return Position(name, self.offset, self.tag or first_tag(name))


@dataclass(slots=True)
class Data:
    """Every key of a store, by type."""

    streams: dict[str, list[Stored]] = field(default_factory=dict)
    hashes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sorted_sets: dict[str, dict[str, int]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)
    expires_ms: dict[str, int] = field(default_factory=dict)

    # ── reading ──────────────────────────────────────────────────────────────

    def field(self, key: str, name: str) -> bytes | None:
        """Return a field of a hash."""
        return self.hashes.get(key, {}).get(name)

    def stored(self, key: str, offset: int) -> Stored | None:
        """Return the entry at an offset of a stream."""
        stream = self.streams.get(key, [])
        place = bisect_left(stream, offset, key=lambda stored: stored.entry.offset)
        return stream[place] if place < len(stream) and stream[place].entry.offset == offset else None

    def head(self, meta: str) -> _Head:
        """Return where a log ends; its epoch is None where it is not there."""
        fields = self.hashes.get(meta, {})
        if "epoch" not in fields:
            return _Head(None, 0, "", 0, " ")
        words = {name: value.decode() for name, value in fields.items() if name in _HEAD_FIELDS}
        return _Head(words["epoch"], int(words["head"]), words["tag"], int(words["ts"]), words.get("commit", " "))

    def tag(self, names: LogKeys, offset: int) -> str | None:
        """Return the tag at an offset; the place before the first entry that is kept has one too."""
        meta = self.hashes.get(names.meta, {})
        if "epoch" not in meta:
            return None
        if offset == int(meta["first"]) - 1:
            return meta["trim_tag"].decode() if "trim_tag" in meta else first_tag(meta["epoch"].decode())
        stored = self.stored(names.stream, offset)
        return None if stored is None else stored.tag

    def page(self, names: LogKeys, after: int, limit: int, bytes_max: int) -> Page | None:
        """Return a page of a log (see `Store.read`)."""
        head = self.head(names.meta)
        if head.epoch is None:
            return None
        if after >= head.offset:
            position = head.position(head.epoch)
            return Page(position, position, (), head.offset)
        start = max(after, int(self.hashes[names.meta]["first"]) - 1)
        tag = self.tag(names, start)
        assert tag is not None, f"{names.stream} has no entry {start}"
        before, size = Position(head.epoch, start, tag), 0
        entries: list[Entry] = []
        for offset in range(start + 1, min(head.offset, start + limit) + 1):
            stored = self.stored(names.stream, offset)
            assert stored is not None, f"{names.stream} has no entry {offset}"
            size += len(stored.entry.packed)
            if entries and size > bytes_max:
                break
            entries.append(stored.entry)
            tag = stored.tag
        return Page(before, Position(head.epoch, start + len(entries), tag), tuple(entries), head.offset)

    def ranked(self, key: str, score_max: int | None) -> list[tuple[str, int]]:
        """Return members of a sorted set in order, up to a score."""
        members = [
            (member, score)
            for member, score in self.sorted_sets.get(key, {}).items()
            if score_max is None or score <= score_max
        ]
        return sorted(members, key=lambda item: (item[1], item[0]))

    # ── committing ───────────────────────────────────────────────────────────

    def commit(self, commit: Commit, now_ms: int) -> tuple[Outcome | Refused, Wake | None]:
        """Do a commit, or refuse it; return what to answer and what to tell other hubs."""
        skips = self._check(commit, now_ms)
        if isinstance(skips, Refused):
            return skips, None
        if skips is None:
            return Outcome(tuple(self._repeated(append) for append in commit.appends), now_ms, repeated=True), None
        heads: dict[str, int] = {}
        appended = []
        for index, (append, skip) in enumerate(zip(commit.appends, skips, strict=True)):
            own = index == 0 and not _is_numbered(append)  # producers recognise their own retries
            done = self._append(append, skip, commit.id if own else None, now_ms, heads)
            appended.append(done)
        for op in commit.ops:
            self._apply(op, now_ms)
        wake = Wake(commit.partition, heads, commit.hints) if heads or commit.hints else None
        return Outcome(tuple(appended), now_ms), wake

    def _check(self, commit: Commit, now_ms: int) -> list[int] | Refused | None:
        """Return how many entries of each append to skip, a refusal, or None: all was done before."""
        if commit.appends:
            commits = self.head(log_keys(commit.appends[0].log).meta).commits
            if f" {commit.id} " in commits:
                return None
        skips = self._check_claims(commit, now_ms)
        if not isinstance(skips, list):
            return skips
        for index, guard in enumerate(commit.conditions):
            holds, actual = self._judge(guard, now_ms)
            if not holds:
                return Refused(Refusal.GUARD, guard=index, actual=actual)
        for index, append in enumerate(commit.appends):
            head = self.head(log_keys(append.log).meta).offset
            if append.expect is not None and append.expect != head:
                return Refused(Refusal.EXPECT, append=index, head=head)
        return skips

    def _check_claims(self, commit: Commit, now_ms: int) -> list[int] | Refused | None:
        skips = [0] * len(commit.appends)
        for index, append in enumerate(commit.appends):
            claim = append.producer
            if claim is None:
                continue
            record = self._record(log_keys(append.log), claim)
            skip = check_claim(record, claim, len(append.entries), now_ms)
            if isinstance(skip, Refusal):
                return Refused(skip, append=index, last=record.last if record is not None else None)
            skips[index] = skip
        numbered = [index for index, append in enumerate(commit.appends) if _is_numbered(append)]
        if numbered and all(skips[index] == len(commit.appends[index].entries) for index in numbered):
            return None
        return skips

    def _record(self, names: LogKeys, claim: ProducerClaim) -> ProducerRecord | None:
        value = self.field(names.producers, claim.producer)
        return None if value is None else ProducerRecord.decode(value)

    def _repeated(self, append: Append) -> Appended:
        names = log_keys(append.log)
        head = self.head(names.meta)
        record = None if append.producer is None else self._record(names, append.producer)
        position = head.position(append.epoch)
        last_seq, last_offset = (0, head.offset) if record is None else (record.last, record.last_offset)
        return Appended(position, position, head.ts_ms, len(append.entries), last_offset, last_seq)

    def _append(self, append: Append, skip: int, commit_id: str | None, now_ms: int, heads: dict[str, int]) -> Appended:
        names = log_keys(append.log)
        head = self.head(names.meta)
        made = head.epoch is None
        before = head.position(append.epoch)
        if made:
            head = _Head(append.epoch, 0, before.tag, now_ms, " ")
            self.sorted_sets.setdefault(names.listed_in, {})[append.log.name] = now_ms
        if skip < len(append.entries):
            head.ts_ms = max(head.ts_ms, now_ms)
            self._extend(names.stream, head, append.entries[skip:])
        if commit_id is not None:
            head.commits = _remembered(commit_id, head.commits)
        self._write_head(names.meta, head, made=made, remember=made or commit_id is not None)
        last_seq, last_offset = 0, head.offset
        if append.producer is not None:
            record = self._write_record(names, append.producer, skip, before.offset, now_ms)
            last_seq, last_offset = record.last, record.last_offset
        if made or head.offset > before.offset:
            heads[names.wake_name] = head.offset
        return Appended(before, head.position(append.epoch), head.ts_ms, skip, last_offset, last_seq)

    def _extend(self, stream: str, head: _Head, entries: tuple[bytes, ...]) -> None:
        log = self.streams.setdefault(stream, [])
        for packed in entries:
            head.offset += 1
            head.tag = next_tag(head.tag, head.offset, head.ts_ms, packed)
            log.append(Stored(Entry(head.offset, head.ts_ms, packed), head.tag))

    def _write_head(self, meta: str, head: _Head, *, made: bool, remember: bool) -> None:
        fields = self.hashes.setdefault(meta, {})
        fields |= {"head": b"%d" % head.offset, "tag": head.tag.encode(), "ts": b"%d" % head.ts_ms}
        if remember:
            fields["commit"] = head.commits.encode()
        if made:
            assert head.epoch is not None
            fields |= {"epoch": head.epoch.encode(), "first": b"1"}

    def _write_record(
        self, names: LogKeys, claim: ProducerClaim, skip: int, before: int, now_ms: int
    ) -> ProducerRecord:
        record = self._record(names, claim)
        assert record is not None
        added = claim.count - skip
        if added > 0:
            upto = claim.seq + claim.count - 1
            record = ProducerRecord(record.fence, upto, before + added, claim.seq, claim.digest, now_ms)
        else:
            record = ProducerRecord(record.fence, record.last, record.last_offset, record.first, record.digest, now_ms)
        self.hashes[names.producers][claim.producer] = record.encode().encode()
        return record

    def _apply(self, op: Op, now_ms: int) -> None:
        match op:
            case HashSet():
                self.put(op.key, op.fields)
                if op.ttl_ms is not None:
                    self.expires_ms[op.key] = now_ms + op.ttl_ms
            case HashDelete():
                self.put(op.key, dict.fromkeys(op.fields))
            case SortedAdd():
                self._add(op, now_ms)
            case SortedRemove():
                self.discard(op.key, op.member)
            case SetAdd():
                self.sets.setdefault(op.key, set()).add(op.member)
            case SetPrune():
                self._prune(op)
            case SortedPrune():
                if not self._there(op.unless):
                    self.discard(op.key, op.member)
            case TakeToken():
                self.put(op.key, {"next_us": str(self._full_at(op, now_ms) + op.every_us)})

    def _judge(self, guard: Condition, now_ms: int) -> tuple[bool, str | None]:
        """Return whether a guard holds, and what there is."""
        if isinstance(guard, HasToken):
            at_us = self._full_at(guard, now_ms)
            return at_us <= now_ms * 1000 + (guard.burst - 1) * guard.every_us, str(at_us)
        if isinstance(guard, Below | Full):
            size = len(self.hashes.get(guard.key, ()))
            return (size >= guard.limit) == isinstance(guard, Full), str(size)
        value = self.field(guard.key, guard.field)
        actual = None if value is None else value.decode(errors="replace")
        return actual == guard.expected, actual

    def _full_at(self, bucket: HasToken | TakeToken, now_ms: int) -> int:
        """Return when a token bucket would be full again, in µs: now at the earliest."""
        now_us, at_us = now_ms * 1000, int(self.field(bucket.key, "next_us") or 0)
        return now_us if at_us > now_us + bucket.burst * bucket.every_us else max(at_us, now_us)

    def _add(self, op: SortedAdd, now_ms: int) -> None:
        if op.given is not None and not self._there(op.given):
            return
        members = self.sorted_sets.setdefault(op.key, {})
        if not (op.absent and op.member in members):
            members[op.member] = op.score + now_ms if op.from_now else op.score

    def _prune(self, op: SetPrune) -> None:
        kept = self.sets.get(op.key)
        if kept is not None and not self._there(op.unless):
            kept.discard(op.member)
            if not kept:
                del self.sets[op.key]

    def _there(self, key: str) -> bool:
        return any(key in keyspace for keyspace in (self.streams, self.hashes, self.sorted_sets, self.sets))

    # ── changing single keys ─────────────────────────────────────────────────

    def put(self, key: str, fields: Mapping[str, str | bytes | None]) -> None:
        """Set fields of a hash; None deletes one. A hash without fields is not there."""
        held = self.hashes.setdefault(key, {})
        for name, value in fields.items():
            if value is None:
                held.pop(name, None)
            else:
                held[name] = value.encode() if isinstance(value, str) else value
        if not held:
            del self.hashes[key]
            self.expires_ms.pop(key, None)

    def drop(self, key: str) -> None:
        """Take a key away, whatever it holds."""
        self.expires_ms.pop(key, None)
        for keyspace in (self.streams, self.hashes, self.sorted_sets, self.sets):
            keyspace.pop(key, None)

    def trim(self, names: LogKeys, keep_from: int) -> Position | None:
        """Drop the entries of a log before an offset (see `Store.trim`)."""
        head = self.head(names.meta)
        if head.epoch is None:
            return None
        first = int(self.hashes[names.meta]["first"])
        keep_from = max(min(keep_from, head.offset), first)
        tag = self.tag(names, keep_from - 1)
        assert tag is not None, f"{names.stream} has no entry {keep_from - 1}"
        if keep_from > first:
            self.streams[names.stream] = [
                stored for stored in self.streams[names.stream] if stored.entry.offset >= keep_from
            ]
            self.put(names.meta, {"first": str(keep_from), "trim_tag": tag})
        return Position(head.epoch, keep_from - 1, tag)

    def delete(self, names: LogKeys, name: str, guards: Sequence[Guard], also: Sequence[Removal]) -> bool:
        """Drop a log with all its keys (see `Store.delete`)."""
        if any(self.field(guard.key, guard.field) != (guard.expected or "").encode() for guard in guards):
            return False
        existed = names.meta in self.hashes
        for key in (names.stream, names.meta, names.producers, names.acks):
            self.drop(key)
        self.discard(names.listed_in, name)
        for each in also:
            if isinstance(each, SortedRemove):
                self.discard(each.key, each.member)
            else:
                self.put(each.key, dict.fromkeys(each.fields))
        return existed

    def discard(self, key: str, member: str) -> None:
        """Take a member out of a sorted set."""
        members = self.sorted_sets.get(key, {})
        members.pop(member, None)
        if not members:
            self.sorted_sets.pop(key, None)


_HEAD_FIELDS = frozenset({"epoch", "head", "tag", "ts", "commit"})


def _is_numbered(append: Append) -> bool:
    return append.producer is not None and append.producer.count > 0


def _remembered(commit_id: str, commits: str) -> str:
    kept = f" {commit_id}{commits}"
    return kept if len(kept) <= COMMITS_KEPT_BYTES else kept[: kept.rindex(" ", 0, COMMITS_KEPT_BYTES) + 1]
