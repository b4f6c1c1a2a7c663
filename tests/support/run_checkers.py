"""The promise about runs, as checks over raw run logs. See `tests.support.checkers`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from protocol.control import CONTROL, Claimed, Kind, Writer, read_control
from protocol.entry import Entry, Record
from protocol.family import ChildEnded, ChildRun, Spawn
from protocol.requests import RunInfo
from protocol.run import FINAL, BrokenLog, RunView, fold
from tests.support.checkers import Dump, Rule, Violation, check_log

__all__ = ["check_children", "check_fences", "check_fold", "check_journal", "check_run", "check_terminal"]

TERMINAL = frozenset(kind for kind, control in CONTROL.items() if control.terminal)
_HUBS = frozenset(kind for kind, control in CONTROL.items() if control.writer is Writer.HUB) | {Kind.CANCELLED}
_ENDS_ATTEMPT = TERMINAL | {Kind.LOST, Kind.RELEASED, Kind.SUSPENDED, Kind.ERRORED}


def check_run(dump: Dump, info: RunInfo | None = None, meta: Mapping[str, str] | None = None) -> list[Violation]:
    """Check everything that holds for any run that is over."""
    return [
        *check_log(dump),
        *check_terminal(dump),
        *check_fences(dump),
        *check_children(dump),
        *check_fold(dump, info, meta),
    ]


def check_terminal(dump: Dump, *, finished: bool = True) -> list[Violation]:
    """A run has exactly one terminal entry; nothing comes after it. One that is not over has none."""
    ends = [entry.offset for entry, record in dump.records() if record.kind in TERMINAL]
    if len(ends) != int(finished):
        return [Violation(Rule.TERMINAL, dump.log, f"there are {len(ends)} terminal entries: {ends[:5]}")]
    if ends and ends[0] != dump.entries[-1].offset:
        message = f"{dump.entries[-1].offset - ends[0]} entries come after the terminal one"
        return [Violation(Rule.TERMINAL, dump.log, message, ends[0])]
    return []


def check_fences(dump: Dump) -> list[Violation]:
    """Entries of a fenced attempt are refused: whatever an attempt wrote lies between its claim and its end.

    Attempts are numbered 1, 2, 3, ..., fences only grow, one attempt holds the run at a time, and the entries
    of each carry the numbers 1, 2, 3, ... without a gap.
    """
    holders = _Holders(dump.log)
    for entry, record in dump.records():
        holders.take(entry, record)
    return holders.found


class _Holders:
    """Who may write, entry after entry."""

    def __init__(self, log: str) -> None:
        self.log = log
        self.found: list[Violation] = []
        self.attempt = self.fence = 0
        self.holder: str | None = None
        self._seqs: defaultdict[int, int] = defaultdict(int)

    def take(self, entry: Entry, record: Record) -> None:
        """Look at one entry."""
        if record.kind == Kind.CLAIMED:
            self._claim(entry, read_control(Claimed, record.body))
            return
        if record.attempt is not None:
            self._written(entry, record)
        elif record.kind not in _HUBS:
            self._wrong(f"{record.kind} was written outside any attempt", entry)
        if record.kind in _ENDS_ATTEMPT:
            self.holder = None

    def _claim(self, entry: Entry, claim: Claimed) -> None:
        if self.holder is not None:
            self._wrong(f"attempt {claim.attempt} was claimed while {self.holder} held attempt {self.attempt}", entry)
        if claim.attempt != self.attempt + 1:
            self._wrong(f"attempt {claim.attempt} follows attempt {self.attempt}", entry)
        if claim.fence <= self.fence:
            self._wrong(f"fence {claim.fence} follows {self.fence}", entry)
        self.attempt, self.fence, self.holder = claim.attempt, claim.fence, f"agent:{claim.agent}"

    def _written(self, entry: Entry, record: Record) -> None:
        assert record.attempt is not None
        if self.holder is None or record.attempt != self.attempt:
            now = f"attempt {self.attempt} holds it" if self.holder else "nobody holds it"
            self._wrong(f"{record.kind} is of attempt {record.attempt}, while {now}", entry)
        elif record.src != self.holder:
            self._wrong(f"{record.kind} is of {record.src}; {self.holder} holds the run", entry)
        self._seqs[record.attempt] += 1
        if record.seq != self._seqs[record.attempt]:
            self._wrong(f"seq {record.seq} of attempt {record.attempt}, {self._seqs[record.attempt]} was due", entry)
            self._seqs[record.attempt] = record.seq or 0

    def _wrong(self, message: str, entry: Entry) -> None:
        self.found.append(Violation(Rule.FENCED, self.log, message, entry.offset))


def check_journal(dump: Dump, *, dense: bool = True) -> list[Violation]:
    """With `recover="journal"` no operation is lost or repeated, all attempts counted.

    Args:
        dump: the run's log.
        dense: every operation of the handler leaves an entry, so that the indices have no gaps either.
    """
    found = []
    last: int | None = None
    for entry, record in dump.records():
        if record.index is None:
            continue
        if record.kind == Kind.ERRORED:  # the call at its index is made again, and what came after it is forgotten
            last = record.index - 1
            continue
        if last is not None and record.index <= last:
            found.append(Violation(Rule.JOURNAL, dump.log, f"index {record.index} again, after {last}", entry.offset))
        elif dense and last is not None and record.index != last + 1:
            found.append(Violation(Rule.JOURNAL, dump.log, f"index {record.index} after {last}", entry.offset))
        last = record.index
    return found


def check_children(dump: Dump) -> list[Violation]:
    """Each child that was asked for is told of once when it is submitted, and once when it has ended.

    An attempt may ask for the same child again once it has ended.
    """
    steps = {Kind.SPAWN: 0, Kind.CHILD: 1, Kind.CHILD_ENDED: 2}
    reached: dict[tuple[int, str], int] = {}
    found = []
    for entry, record in dump.records():
        step = steps.get(Kind(record.kind)) if record.kind in steps else None
        if step is None:
            continue
        body = read_control(CONTROL[record.kind].body, record.body)
        assert isinstance(body, Spawn | ChildRun | ChildEnded)
        child = (record.index or 0 if isinstance(body, Spawn) else body.index), body.digest
        if step == 0:
            again = child not in reached or reached[child] == 2
            reached[child] = 0 if again else reached[child]
        elif reached.get(child, -1) != step - 1:
            message = f"{record.kind} of child {child[0]} is out of its order, or comes twice"
            found.append(Violation(Rule.CHILDREN, dump.log, message, entry.offset))
        else:
            reached[child] = step
    return found


def check_fold(dump: Dump, info: RunInfo | None = None, meta: Mapping[str, str] | None = None) -> list[Violation]:
    """A run's state is a fold of its log and nothing else: what a hub shows and what the store keeps agree with it."""
    try:
        view = fold(RunView(), dump.entries)
    except BrokenLog as fault:
        return [Violation(Rule.FOLD, dump.log, f"the log does not fold: {fault}")]
    shown = _of_info(view, info) if info is not None else {}
    kept = _of_meta(view, meta) if meta is not None else {}
    return [
        Violation(Rule.FOLD, dump.log, f"{name} is {live!r}, the log folds to {folded!r}")
        for name, (live, folded) in {**shown, **kept}.items()
        if live != folded
    ]


def _of_info(view: RunView, info: RunInfo) -> dict[str, tuple[object, object]]:
    pairs: dict[str, tuple[object, object]] = {
        "state": (info.state, view.state),
        "queue": (info.queue, view.queue),
        "handler": (info.handler, view.handler),
        "attempt": (info.attempt, view.attempt),
        "head": (info.head, view.head),
        "submitted_ms": (info.submitted_ms, view.submitted_ms),
        "started_ms": (info.started_ms, view.started_ms),
        "finished_ms": (info.finished_ms, view.finished_ms),
        "result": (info.result, view.result),
        "continued_as": (info.continued_as, view.continued_as),
        "cancelling": (info.cancelling, view.cancelling and view.state not in FINAL),
    }
    if view.agent is not None:
        pairs["agent"] = (info.agent, view.agent)
    return pairs


def _of_meta(view: RunView, meta: Mapping[str, str]) -> dict[str, tuple[object, object]]:
    pairs: dict[str, tuple[object, object]] = {
        "meta state": (meta.get("state"), view.state),
        "meta head": (meta.get("head"), str(view.head)),
        "meta attempt": (meta.get("attempt"), str(view.attempt)),
        "meta fence": (meta.get("fence"), str(view.fence)),
        "meta failures": (meta.get("failures"), str(view.failures)),
        "meta losses": (meta.get("losses"), str(view.losses)),
        "meta cancel": ("cancel" in meta, view.cancelling),
    }
    if view.agent is not None:
        pairs["meta agent"] = (meta.get("agent"), view.agent)
    return pairs
