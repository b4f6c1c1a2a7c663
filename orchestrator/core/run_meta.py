"""What the store keeps beside a run's log, so that a decision about it costs one read.

The log is what is true; these fields are written in the same commits as its entries, and the tests fold
logs and compare. A commit that was decided from them is guarded: they must still say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.store import keys
from orchestrator.store.base import ABSENT, Guard
from protocol.ids import LogName, partition_of
from protocol.run import FINAL, RunState

__all__ = ["RunMeta", "as_read"]


@dataclass(frozen=True, slots=True)
class RunMeta:
    """The meta fields of a run's log, typed.

    Attributes:
        retries: None until somebody has said a number.
        started: offset of the first `$claimed`, None before it.
        claimed_at: offset of the latest `$claimed`, 0 before the first.
    """

    log: LogName
    head: int
    state: RunState
    queue: str
    handler: str
    priority: int
    attempt: int
    fence: int
    agent: str
    instance: str
    session: str
    session_fence: int
    recover: str
    retries: int | None
    failures: int
    losses: int
    cancelling: bool
    started: int | None
    claimed_at: int

    @classmethod
    def parse(cls, log: LogName, fields: Mapping[str, str]) -> RunMeta:
        """Read the fields that `submit` and `claim` wrote."""
        return cls(
            log=log,
            head=int(fields["head"]),
            state=RunState(fields["state"]),
            queue=fields["queue"],
            handler=fields["handler"],
            priority=int(fields["priority"]),
            attempt=int(fields["attempt"]),
            fence=int(fields["fence"]),
            agent=fields.get("agent", ""),
            instance=fields.get("instance", ""),
            session=fields.get("session", ""),
            session_fence=int(fields.get("session_fence", "0")),
            recover=fields.get("recover", "restart"),
            retries=int(fields["retries"]) if "retries" in fields else None,
            failures=int(fields["failures"]),
            losses=int(fields["losses"]),
            cancelling="cancel" in fields,
            started=int(fields["started"]) if "started" in fields else None,
            claimed_at=int(fields.get("claimed_at", "0")),
        )

    def attempt_fields(self) -> dict[str, str]:
        """Return the fields that a claim writes, as `parse` reads them."""
        assert self.retries is not None, self
        assert self.started is not None, self
        return {
            "state": self.state.value,
            "attempt": str(self.attempt),
            "fence": str(self.fence),
            "agent": self.agent,
            "instance": self.instance,
            "session": self.session,
            "session_fence": str(self.session_fence),
            "recover": self.recover,
            "retries": str(self.retries),
            "started": str(self.started),
            "claimed_at": str(self.claimed_at),
        }

    def unchanged(self) -> tuple[Guard, ...]:
        """Return guards that hold while the run is in the state, the attempt and the session that were read."""
        return as_read(self.log, self.fence, self.state, self.session or ABSENT)

    def cancel_unchanged(self) -> Guard:
        """Return a guard that holds until a cancel is asked for, or where it was before this was read."""
        return Guard(keys.meta(self.log), "cancel", "1" if self.cancelling else ABSENT)

    @property
    def partition(self) -> int:
        """The partition that holds the run and its queue."""
        return partition_of(self.log)

    @property
    def final(self) -> bool:
        """Whether the run is over."""
        return self.state in FINAL


def as_read(log: LogName, fence: int, state: RunState, session: str | None) -> tuple[Guard, ...]:
    """Return guards that hold while a run's meta says this of its attempt."""
    key = keys.meta(log)
    return Guard(key, "fence", str(fence)), Guard(key, "state", state.value), Guard(key, "session", session)
