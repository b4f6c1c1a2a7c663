"""A batch of commits as the arguments of `scripts/commit.lua`, and its reply as outcomes.

The script's header describes both. Whatever is hot here stays plain: lists and tuples that msgpack packs in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.store import keys
from orchestrator.store.base import PRODUCER_TTL_MS, Wake
from orchestrator.store.commits import (
    Append,
    Appended,
    Below,
    Commit,
    Condition,
    Full,
    HashDelete,
    HashSet,
    HasToken,
    Op,
    Outcome,
    Refusal,
    Refused,
    SetAdd,
    SetPrune,
    SortedAdd,
    SortedPrune,
    SortedRemove,
    TakeToken,
)
from protocol.codec import pack_script_arguments, unpack_script_reply
from protocol.entry import Position

__all__ = ["decode_outcomes", "decode_wake", "encode_batch"]

_REFUSALS = (
    Refusal.GUARD,
    Refusal.FENCED,
    Refusal.OUT_OF_ORDER,
    Refusal.CONFLICT,
    Refusal.PRODUCER_UNKNOWN,
    Refusal.EXPECT,
)
"""By the numbers that the script gives them, from 1."""


class _KeyTable(dict[str, int]):
    """Indices of keys, from 1, in the order in which they are first asked for."""

    def __missing__(self, key: str) -> int:
        index = self[key] = len(self) + 1
        return index


def encode_batch(commits: Sequence[Commit], hub: str, listens: bool, partition: int) -> tuple[list[bytes], bytes]:
    """Return the declared keys and the payload of one call; `listens`: the hub hears the wake channel itself."""
    table = _KeyTable()
    batch = [_encode_commit(commit, table) for commit in commits]
    payload = (hub, listens, keys.wake(partition), PRODUCER_TTL_MS, batch)
    packed = pack_script_arguments(payload)
    return [key.encode() for key in table], packed


def _encode_commit(commit: Commit, table: _KeyTable) -> tuple[object, ...]:
    return (
        commit.id,
        [_encode_guard(guard, table) for guard in commit.conditions],
        [_encode_append(append, table) for append in commit.appends],
        [_encode_op(op, table) for op in commit.ops],
        commit.hints,
    )


def _encode_guard(guard: Condition, table: _KeyTable) -> tuple[object, ...]:
    match guard:
        case Below():
            return table[guard.key], False, guard.limit
        case Full():
            return table[guard.key], False, guard.limit, True
        case HasToken():
            return table[guard.key], True, guard.every_us, guard.burst
    return table[guard.key], guard.field, False if guard.expected is None else guard.expected


def _encode_append(append: Append, table: _KeyTable) -> tuple[object, ...]:
    names = keys.log_keys(append.log)
    claim = append.producer
    return (
        table[names.stream],
        table[names.meta],
        table[names.producers],
        table[names.listed_in],
        append.log.name,
        names.wake_name,
        append.epoch,
        False if append.expect is None else append.expect,
        False if claim is None else (claim.producer, claim.fence, claim.seq, claim.count, claim.digest),
        append.entries,
    )


def _encode_op(op: Op, table: _KeyTable) -> tuple[object, ...]:
    match op:
        case HashSet():
            flat = [item for pair in op.fields.items() for item in pair]
            return (1, table[op.key], False if op.ttl_ms is None else op.ttl_ms, flat)
        case HashDelete():
            return (2, table[op.key], op.fields)
        case SortedAdd():
            given = False if op.given is None else table[op.given]
            return (3, table[op.key], op.member, op.score, op.from_now, op.absent, given)
        case SortedRemove():
            return (4, table[op.key], op.member)
        case SetAdd():
            return (5, table[op.key], op.member)
        case SetPrune():
            return (6, table[op.key], op.member, table[op.unless])
        case SortedPrune():
            return (7, table[op.key], op.member, table[op.unless])
        case TakeToken():
            return (8, table[op.key], op.every_us, op.burst)


def decode_outcomes(reply: bytes) -> list[Outcome | Refused]:
    """Return what the script answered, one for each commit of the batch."""
    now_ms, outcomes = unpack_script_reply(reply, text=True)
    return [_decode_outcome(outcome, now_ms) for outcome in outcomes]


def _decode_outcome(outcome: list[Any], now_ms: int) -> Outcome | Refused:
    status = outcome[0]
    if status != 2:
        return Outcome(tuple(map(_decode_appended, outcome[1:])), now_ms, status == 1)
    _, reason, append, guard, actual, last, head = outcome
    return Refused(
        _REFUSALS[reason - 1],
        append,
        guard,
        None if actual is False else actual,
        None if last is False else last,
        None if head is False else head,
    )


def _decode_appended(values: list[Any]) -> Appended:
    epoch, before, tag_before, after, tag_after, *rest = values
    return Appended(Position(epoch, before, tag_before), Position(epoch, after, tag_after), *rest)


def decode_wake(partition: int, message: bytes) -> tuple[str, Wake]:
    """Return the hub that sent a wake hint, and the hint."""
    hub, flat, hints = unpack_script_reply(message, text=True)
    return hub, Wake(partition, dict(zip(flat[::2], flat[1::2], strict=True)), tuple(hints))
