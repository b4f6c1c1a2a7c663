"""Commits that must be known to have happened or not, whatever the connection to the store does."""

from __future__ import annotations

import asyncio

from orchestrator.line import Line
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, Refused

__all__ = ["settle"]

TRIES_MAX = 20
WAIT_S = 0.25


async def settle(line: Line, commit: Commit) -> Outcome | Refused:
    """Do a commit; where its reply was lost, send it again until one comes.

    A refusal after a lost reply may be the commit's own doing (it happened, and others followed it), so
    the caller of a commit that is refused reads what it was about before it concludes anything.

    Raises:
        StoreUnavailable: the store did not answer for about five seconds.
    """
    for _ in range(TRIES_MAX - 1):
        try:
            return await line.commit(commit)
        except StoreUnavailable as fault:
            if fault.full:
                raise
            await asyncio.sleep(WAIT_S)
    return await line.commit(commit)
