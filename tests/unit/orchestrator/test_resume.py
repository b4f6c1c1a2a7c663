"""Where delivery goes on: every position against every state of a log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.resume import (
    PROBES_MAX,
    LogState,
    NeedsTag,
    Probing,
    ResetTo,
    Resumed,
    Search,
    resume,
    start_at,
)
from protocol.entry import Position, first_tag, next_tag
from protocol.frames import ResetReason, Start
from protocol.limits import KEPT_TAGS_MAX

EPOCH = "0123456789abcdef"


class History:
    """The tags of a log, offset by offset."""

    def __init__(self, *parts: tuple[str, int]) -> None:
        """Make a history of parts: so many entries of each sort."""
        self.tags = [first_tag(EPOCH)]
        for sort, count in parts:
            for _ in range(count):
                self.tags.append(next_tag(self.tags[-1], len(self.tags), 0, sort.encode()))

    @property
    def head(self) -> int:
        return len(self.tags) - 1

    def at(self, offset: int) -> Position:
        return Position(EPOCH, offset, self.tags[offset])

    def state(self, first: int = 1) -> LogState:
        return LogState(EPOCH, self.head, self.tags[-1], first, self.tags[first - 1], ts_ms=0)


def test_a_position_in_the_history_is_resumed() -> None:
    log = History(("a", 10))
    for offset in range(11):
        decision = resume(log.state(), log.at(offset), log.tags[offset])
        assert decision == Resumed(log.at(offset))


def test_the_head_and_the_cut_need_no_tag_from_the_store() -> None:
    log = History(("a", 10))
    assert resume(log.state(first=4), log.at(10)) == Resumed(log.at(10))
    assert resume(log.state(first=4), log.at(3)) == Resumed(log.at(3))
    assert resume(log.state(first=4), log.at(5)) == NeedsTag(5)


def test_a_position_before_the_cut_loses_the_range_up_to_it() -> None:
    log = History(("a", 10))
    decision = resume(log.state(first=8), log.at(2))
    assert isinstance(decision, ResetTo)
    assert (decision.reason, decision.lost.from_, decision.lost.to, decision.lost.exact) == (
        ResetReason.TRIMMED,
        3,
        7,
        True,
    )
    assert decision.at == log.at(7)


def test_a_position_of_another_epoch_is_unknown() -> None:
    decision = resume(History(("a", 10)).state(), Position("f" * 16, 4, first_tag("x")))
    assert isinstance(decision, ResetTo)
    assert (decision.reason, decision.lost.to, decision.at.offset) == (ResetReason.UNKNOWN, 4, 0)


def test_a_position_past_the_head_or_with_another_tag_is_searched_for() -> None:
    log, theirs = History(("a", 10)), History(("a", 5), ("b", 20))
    assert resume(log.state(), theirs.at(25)) == Probing(theirs.at(25))
    assert resume(log.state(), theirs.at(10)) == Probing(theirs.at(10))
    assert resume(log.state(), theirs.at(7), log.tags[7]) == Probing(theirs.at(7))


def search(log: History, first: int, theirs: History, held_from: int = 0) -> tuple[ResetTo, int]:
    """Search as hub and peer do; the peer holds tags from an offset on."""
    found = Search(log.state(first), theirs.at(theirs.head))
    rounds = 0
    while found.result is None:
        rounds += 1
        assert 0 < len(found.asked) <= PROBES_MAX
        assert len(set(found.asked)) == len(found.asked)
        ours = [log.tags[offset] if first - 1 <= offset <= log.head else None for offset in found.asked]
        found.answer([theirs.tags[offset] if offset >= held_from else None for offset in found.asked], ours)
    return found.result, rounds


@given(st.integers(0, 3000), st.integers(1, 1000), st.integers(0, 1000))
def test_a_search_finds_the_last_common_offset(common: int, lost: int, others: int) -> None:
    log, theirs = History(("a", common), ("b", others)), History(("a", common), ("c", lost))
    result, rounds = search(log, 1, theirs)
    assert rounds <= 2
    assert (result.at, result.lost.from_, result.lost.to, result.lost.exact) == (
        log.at(common),
        common + 1,
        common + lost,
        True,
    )


@given(st.integers(0, 600), st.integers(1, 600), st.integers(0, 600), st.integers(0, 1200), st.integers(1, 1200))
def test_a_search_never_restarts_after_what_parted(
    common: int, lost: int, others: int, held_from: int, first: int
) -> None:
    log, theirs = History(("a", common), ("b", others)), History(("a", common), ("c", lost))
    first = min(first, log.head + 1)
    result, _ = search(log, first, theirs, min(held_from, theirs.head))
    assert result.at.offset <= max(common, first - 1)
    assert result.at == log.at(result.at.offset)
    assert result.lost.from_ <= common + 1
    assert result.lost.to == theirs.head or result.lost.to == result.lost.from_ - 1
    if result.lost.exact:
        assert result.lost.from_ == common + 1


def test_a_peer_that_holds_too_little_gets_everything_that_is_kept() -> None:
    log, theirs = History(("a", 10), ("b", 5000)), History(("a", 10), ("c", 5000))
    result, _ = search(log, 1, theirs, held_from=theirs.head - KEPT_TAGS_MAX)
    assert (result.at.offset, result.lost.from_, result.lost.exact) == (0, 1, False)


def test_named_starts_are_the_ends_of_what_is_kept() -> None:
    log = History(("a", 10))
    assert start_at(log.state(first=4), Start.EARLIEST) == log.at(3)
    assert start_at(log.state(first=4), Start.LATEST) == log.at(10)


def test_a_log_without_entries_has_its_origin() -> None:
    state = LogState.parse({"epoch": EPOCH, "head": "0", "tag": first_tag(EPOCH), "first": "1"})
    assert state.cut == state.end == Position(EPOCH, 0, first_tag(EPOCH))
