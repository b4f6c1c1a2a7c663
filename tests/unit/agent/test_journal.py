"""The journal: what is served, what is done again, and what is no repetition."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.errors import NonDeterminism
from agent.journal import Journal, digest_arguments
from protocol.codec import pack_record, pack_value
from protocol.control import Call, Errored, Kind, RunError
from protocol.entry import Entry


def entry(kind: str, body: bytes, index: int | None) -> Entry:
    return Entry(1, 1, pack_record(kind, "agent:a", body, attempt=1, seq=1, index=index))


def call(name: str, *args: object, result: object = None, error: str | None = None) -> bytes:
    failed = RunError(type="ValueError", message=error) if error else None
    packed = None if error else pack_value(result)
    return pack_value(Call(name=name, digest=digest_arguments(args, {}), result=packed, error=failed))


def journal(*entries: Entry) -> Journal:
    made = Journal()
    for one in entries:
        made.record(one)
    return made


def test_a_recorded_emit_is_recognised_and_a_new_one_is_not() -> None:
    kept = journal(entry("found", pack_value(1), 1))
    assert kept.emitted(kept.next_index(), "found", pack_value(1))
    assert not kept.emitted(kept.next_index(), "found", pack_value(2))
    kept.returned()


def test_a_recorded_call_is_served() -> None:
    kept = journal(entry(Kind.CALL, call("git.diff", "repo", result="+x"), 1))
    served = kept.called(kept.next_index(), "git.diff", digest_arguments(("repo",), {}))
    assert served is not None
    assert served.result == pack_value("+x")
    assert kept.called(kept.next_index(), "git.diff", digest_arguments(("repo",), {})) is None


@pytest.mark.parametrize(
    ("recorded", "does", "expected", "actual"),
    [
        (entry("a", pack_value(1), 1), ("emit", "b"), "emit 'a'", "emit 'b'"),
        (entry("a", pack_value(1), 1), ("emit", "a"), "emit 'a'", "emit 'a' with another value"),
        (entry("a", pack_value(1), 1), ("call", "c"), "emit 'a'", "call 'c'"),
        (entry(Kind.CALL, call("c", 1), 1), ("call", "d"), "call 'c'", "call 'd'"),
        (entry(Kind.CALL, call("c", 1), 1), ("call", "c"), "call 'c'", "call 'c' with other arguments"),
        (entry(Kind.CALL, call("c", 1), 1), ("emit", "a"), "call 'c'", "emit 'a'"),
    ],
)
def test_another_operation_than_the_recorded_one_names_both_and_the_source(
    recorded: Entry, does: tuple[str, str], expected: str, actual: str
) -> None:
    kept = journal(recorded)
    index, digest = kept.next_index(), digest_arguments((2,), {})
    again: dict[str, Callable[[], object]] = {
        "emit": lambda: kept.emitted(index, does[1], pack_value(2)),
        "call": lambda: kept.called(index, does[1], digest),
    }
    with pytest.raises(NonDeterminism) as diverged:
        again[does[0]]()
    error = diverged.value
    assert (error.index, error.expected, error.actual) == (1, expected, actual)
    assert "test_journal.py:" in error.source


def test_a_handler_that_swallows_its_divergence_gets_it_again() -> None:
    kept = journal(entry("a", pack_value(1), 1))
    with pytest.raises(NonDeterminism):
        kept.emitted(kept.next_index(), "b", b"")
    with pytest.raises(NonDeterminism):
        kept.next_index()
    with pytest.raises(NonDeterminism):
        kept.returned()


def test_a_return_before_the_end_of_the_journal_is_a_divergence() -> None:
    kept = journal(entry("a", pack_value(1), 1), entry("a", pack_value(1), 2))
    assert kept.emitted(kept.next_index(), "a", pack_value(1))
    with pytest.raises(NonDeterminism, match="operation 2 was emit 'a' and is now the handler's return"):
        kept.returned()


def test_a_call_whose_failure_ended_its_attempt_is_made_again_and_what_came_after_is_forgotten() -> None:
    errored = pack_value(Errored(error=RunError(type="ValueError", message="x")))
    kept = journal(
        entry("a", pack_value(1), 1),
        entry(Kind.CALL, call("c", error="x"), 2),
        entry("cleanup", pack_value(1), 3),
        entry(Kind.ERRORED, errored, 2),
    )
    assert kept.emitted(kept.next_index(), "a", pack_value(1))
    assert kept.called(kept.next_index(), "c", digest_arguments((), {})) is None
    assert not kept.emitted(kept.next_index(), "other", b"")


def test_calls_at_the_same_time_may_leave_a_gap() -> None:
    kept = journal(entry(Kind.CALL, call("fast"), 2))
    assert kept.called(kept.next_index(), "slow", digest_arguments((), {})) is None
    assert kept.called(kept.next_index(), "fast", digest_arguments((), {})) is not None


def test_arguments_that_cannot_be_packed_count_by_their_type() -> None:
    class Connection:
        pass

    assert digest_arguments((Connection(), 1), {}) == digest_arguments((Connection(), 1), {})
    assert digest_arguments((Connection(), 1), {}) != digest_arguments((Connection(), 2), {})
