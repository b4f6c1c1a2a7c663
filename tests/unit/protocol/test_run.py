"""The fold of a run: every (state, control kind), and what the view says afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest

from protocol.artifacts import Attached
from protocol.codec import pack_record, pack_value
from protocol.control import (
    CONTROL,
    AttemptLost,
    Call,
    Cancel,
    Cancelled,
    Checkpoint,
    Claimed,
    Dead,
    Errored,
    Expired,
    Failed,
    Kind,
    Marker,
    MarkerOp,
    Progress,
    Released,
    Retry,
    RunError,
    Submitted,
    Succeeded,
    TimedOut,
)
from protocol.conversation import Answered, Asked, QuestionKind, Received, Steer, Steered, SteerStatus, Suspended
from protocol.entry import Entry
from protocol.errors import FleetlineError
from protocol.family import ChildCancel, ChildEnded, ChildRun, Continue, Continued, Spawn
from protocol.frames import Part, Recover
from protocol.ids import LogKind
from protocol.run import FINAL, TRANSITIONS, BrokenLog, RunState, RunView, apply, fold

ERROR = RunError(type="ValueError", message="no")
LATER = RunError(type="KeyError", message="later")


def claimed(attempt: int) -> Claimed:
    return Claimed(
        attempt=attempt,
        fence=attempt * 100,
        agent=f"builder-{attempt}",
        instance="i1",
        lease_ms=1000,
        recover=Recover.RESTART,
        retries=2,
    )


BODIES: dict[Kind, Part] = {
    Kind.SUBMITTED: Submitted(queue="coding", handler="review", input=pack_value({"repo": "."})),
    Kind.CLAIMED: claimed(1),
    Kind.LOST: AttemptLost(attempt=1, reason="its lease ran out", losses=1),
    Kind.RELEASED: Released(attempt=1, reason="drain"),
    Kind.SUSPENDED: Suspended(sleep_ms=500),
    Kind.PROGRESS: Progress(current=1.0, total=2.0),
    Kind.CALL: Call(name="fetch", digest="d", result=pack_value(1)),
    Kind.MARKER: Marker(op=MarkerOp.NOW, value=pack_value(1_700_000_000_000)),
    Kind.CHECKPOINT: Checkpoint(value=pack_value({"file": 7})),
    Kind.ERRORED: Errored(error=ERROR),
    Kind.TIMED_OUT: TimedOut(attempt=1, timeout_ms=1_000),
    Kind.RETRY: Retry(failures=1, after_ms=100),
    Kind.CANCEL: Cancel(reason="not needed"),
    Kind.STEER: Steer(id="m1", body=pack_value("faster")),
    Kind.RECEIVED: Received(id="m1"),
    Kind.STEERED: Steered(id="m1", status=SteerStatus.APPLIED, value=pack_value("ok")),
    Kind.ASKED: Asked(kind=QuestionKind.APPROVE, name="push", digest="d", payload=pack_value(None), timeout_ms=500),
    Kind.ANSWERED: Answered(index=0, digest="d", answer=pack_value(True), by="client:ops"),
    Kind.SPAWN: Spawn(queue="coding", handler="part", input=pack_value(1), digest="d"),
    Kind.CHILD: ChildRun(index=0, digest="d", run="r1", queue="coding", handler="part"),
    Kind.CHILD_CANCEL: ChildCancel(index=0, digest="d"),
    Kind.CHILD_ENDED: ChildEnded(index=0, digest="d", run="r1", state="succeeded", offset=3, result=pack_value(2)),
    Kind.CONTINUE: Continue(input=pack_value(3)),
    Kind.CONTINUED: Continued(run="r2"),
    Kind.ATTACHED: Attached(name="a.txt", log="artifact/r.1.1", size=1, sha256="0" * 64),
    Kind.SUCCEEDED: Succeeded(result=pack_value(7)),
    Kind.FAILED: Failed(error=ERROR),
    Kind.CANCELLED: Cancelled(),
    Kind.EXPIRED: Expired(reason="too late"),
    Kind.DEAD: Dead(reason="lost too often"),
}
RUN_KINDS = [kind for kind in Kind if CONTROL[kind].log is LogKind.RUN]
STATES: list[RunState | None] = [None, *RunState]


def entry(offset: int, kind: str, body: Part | bytes | None = None, *, attempt: int | None = None) -> Entry:
    if body is None:
        body = BODIES[Kind(kind)]
    packed = body if isinstance(body, bytes) else pack_value(body)
    return Entry(offset, 1000 + offset, pack_record(kind, "hub:one", packed, attempt=attempt))


def log(*kinds: str | tuple[str, Part]) -> tuple[Entry, ...]:
    rows = (kind if isinstance(kind, tuple) else (kind, None) for kind in kinds)
    return tuple(entry(offset, kind, body) for offset, (kind, body) in enumerate(rows, 1))


def view_of(*kinds: str | tuple[str, Part]) -> RunView:
    return fold(RunView(), log(*kinds))


def test_every_control_kind_of_a_run_has_a_body_here() -> None:
    assert set(RUN_KINDS) == set(BODIES)


@pytest.mark.parametrize(("state", "kind"), list(product(STATES, Kind)), ids=str)
def test_an_entry_moves_the_state_as_the_table_says_or_breaks_the_log(state: RunState | None, kind: Kind) -> None:
    before = RunView(state=state, head=4, attempt=1)
    after = TRANSITIONS.get((state, kind))
    if after is None:
        body = BODIES.get(kind, Cancel())
        with pytest.raises(BrokenLog):
            apply(before, entry(5, kind, body))
    else:
        view = apply(before, entry(5, kind))
        assert view.state is after
        assert view.head == 5
        assert (view.finished_ms is not None) is (after in FINAL)


def test_nothing_follows_the_end() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in FINAL]
    for state in FINAL:
        with pytest.raises(BrokenLog):
            apply(RunView(state=state, head=4, attempt=1), entry(5, "said", b"", attempt=1))


def test_terminal_kinds_are_those_that_lead_to_the_end() -> None:
    leading = {kind for (_, kind), after in TRANSITIONS.items() if after in FINAL}
    assert leading == {kind for kind in RUN_KINDS if CONTROL[kind].terminal}


def test_every_state_can_be_reached() -> None:
    assert set(TRANSITIONS.values()) == set(RunState)


def test_a_run_that_succeeds() -> None:
    view = view_of("$submitted", "$claimed", "$progress", "$succeeded")
    assert (view.state, view.queue, view.handler) == (RunState.SUCCEEDED, "coding", "review")
    assert (view.attempt, view.fence, view.agent) == (1, 100, None)
    assert (view.submitted_ms, view.started_ms, view.finished_ms) == (1001, 1002, 1004)
    assert view.input == pack_value({"repo": "."})
    assert view.result == pack_value(7)
    assert view.progress == BODIES[Kind.PROGRESS]
    assert view.error is None


def test_a_run_names_its_agent_while_it_runs() -> None:
    assert view_of("$submitted", "$claimed").agent == "builder-1"
    assert view_of("$submitted", "$claimed", "$lost").agent is None


def test_a_failed_attempt_is_counted_and_its_error_kept_until_one_succeeds() -> None:
    until: tuple[str | tuple[str, Part], ...] = ("$submitted", "$claimed", "$errored", "$retry")
    view = view_of(*until)
    assert (view.state, view.failures, view.error) == (RunState.QUEUED, 1, ERROR)
    view = view_of(*until, ("$claimed", claimed(2)), "$succeeded")
    assert (view.attempt, view.started_ms, view.error, view.failures) == (2, 1002, None, 1)


def test_the_last_error_is_what_a_failed_run_failed_with() -> None:
    view = view_of("$submitted", "$claimed", "$errored", ("$failed", Failed(error=LATER)))
    assert (view.state, view.error, view.failures) == (RunState.FAILED, LATER, 1)


def test_a_dead_run_keeps_the_error_that_it_had() -> None:
    assert view_of("$submitted", "$claimed", "$errored", "$dead").error == ERROR
    assert view_of("$submitted", "$claimed", "$errored", ("$dead", Dead(reason="r", error=LATER))).error == LATER
    assert view_of("$submitted", "$claimed", "$lost", "$dead").error is None


def test_losses_are_counted_and_releases_are_not() -> None:
    again = AttemptLost(attempt=2, reason="gone", losses=2)
    view = view_of("$submitted", "$claimed", "$lost", ("$claimed", claimed(2)), ("$lost", again))
    assert (view.losses, view.failures, view.state) == (2, 0, RunState.QUEUED)
    view = view_of("$submitted", "$claimed", "$released")
    assert (view.losses, view.failures, view.state) == (0, 0, RunState.QUEUED)


def test_a_cancel_is_pending_until_the_attempt_ends() -> None:
    view = view_of("$submitted", "$claimed", "$cancel")
    assert (view.state, view.cancelling) == (RunState.RUNNING, True)
    assert view_of("$submitted", "$claimed", "$cancel", "$lost", "$cancelled").state is RunState.CANCELLED
    assert view_of("$submitted", "$claimed", "$cancel", "$succeeded").state is RunState.SUCCEEDED
    assert view_of("$submitted", "$cancel", "$cancelled").state is RunState.CANCELLED


def test_entries_of_the_handler_belong_to_the_attempt_that_runs() -> None:
    running = view_of("$submitted", "$claimed", "$lost", ("$claimed", claimed(2)))
    assert apply(running, entry(5, "finding", b"", attempt=2)).head == 5
    for attempt in (None, 1, 3):
        with pytest.raises(BrokenLog, match="does not run"):
            apply(running, entry(5, "finding", b"", attempt=attempt))
    with pytest.raises(BrokenLog, match="does not run"):
        apply(view_of("$submitted"), entry(2, "finding", b"", attempt=0))


@pytest.mark.parametrize("offset", [0, 1, 2, 4])
def test_an_offset_that_is_not_the_next_breaks_the_log(offset: int) -> None:
    with pytest.raises(BrokenLog, match="offset"):
        apply(view_of("$submitted", "$claimed"), entry(offset, "$progress"))


def broken_entries() -> Iterable[Entry]:
    yield Entry(3, 0, b"")
    yield Entry(3, 0, b"\xc1")
    yield Entry(3, 0, pack_value([1, 2]))
    yield entry(3, "$shout", Cancel())
    yield entry(3, "$progress", b"")
    yield entry(3, "$progress", b"\xc1")
    yield entry(3, "$progress", pack_value({"current": "half"}))
    yield entry(3, "$progress", b"\x91" * 900 + b"\xc0")
    yield entry(3, "$errored", pack_value({"error": {"type": 1}}))


@pytest.mark.parametrize("broken", list(broken_entries()), ids=repr)
def test_a_malformed_entry_breaks_the_log_and_says_where(broken: Entry) -> None:
    with pytest.raises(BrokenLog, match="3") as raised:
        apply(view_of("$submitted", "$claimed"), broken)
    assert isinstance(raised.value, FleetlineError)


def test_a_fold_goes_on_from_any_view() -> None:
    entries = log("$submitted", "$claimed", "$errored", "$retry", ("$claimed", claimed(2)), "$succeeded")
    for cut in range(len(entries) + 1):
        assert fold(fold(RunView(), entries[:cut]), entries[cut:]) == fold(RunView(), entries)
