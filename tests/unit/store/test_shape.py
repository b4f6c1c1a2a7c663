"""Commits that no store takes."""

from __future__ import annotations

import pytest

from orchestrator.store import keys
from orchestrator.store.commits import COMMIT_BYTES_MAX, COMMIT_ENTRIES_MAX, Commit, Guard, SortedAdd
from orchestrator.store.shape import LONE_COMMIT_FACTOR, check_commit
from protocol.ids import partition_of
from tests.support.commits import append, claim, commit, topic

LOG = topic()
P = partition_of(LOG)


def test_what_fits_is_counted() -> None:
    assert check_commit(commit(append(LOG, b"12", b"345"), guards=(Guard(keys.meta(LOG), "state", None),))) == (2, 5)
    assert check_commit(commit(partition=3, ops=(SortedAdd(keys.leases(3), "r", 1),))) == (0, 0)


@pytest.mark.parametrize(
    ("proposed", "says"),
    [
        (commit(append(LOG, b"x"), commit_id="a b"), "commit id"),
        (commit(append(LOG, b"x"), commit_id="x" * 65), "commit id"),
        (commit(append(LOG, b"x"), partition=(P + 1) % 64), "belong to partition"),
        (commit(append(LOG, b"x"), append(LOG, b"y")), "twice"),
        (commit(append(LOG, *[b""] * (COMMIT_ENTRIES_MAX * LONE_COMMIT_FACTOR + 1))), "too large"),
        (commit(append(LOG, b"x" * (COMMIT_BYTES_MAX * LONE_COMMIT_FACTOR + 1))), "too large"),
        (commit(append(LOG), guards=(Guard(keys.leases((P + 1) % 64), "a", None),)), "no key of partition"),
        (commit(append(LOG), ops=(SortedAdd(keys.HUBS, "h", 1),)), "no key of partition"),
        (commit(append(LOG, b"x", producer=claim(1, 2))), "does not fit"),
        (commit(append(LOG, b"x", producer=claim(0, 1))), "does not fit"),
        (commit(append(LOG, b"x", producer=claim(1, 1, digest="a b"))), "space"),
    ],
)
def test_what_does_not_fit_says_why(proposed: Commit, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_commit(proposed)
