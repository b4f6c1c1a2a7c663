"""What the store keeps beside a run's log, so that a decision about it costs one read.

The log is what is true; these fields are written in the same commits as its entries, and the tests fold
logs and compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.ids import LogName, partition_of
from protocol.run import FINAL, RunState

__all__ = ["RunMeta"]


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

    @property
    def partition(self) -> int:
        """The partition that holds the run and its queue."""
        return partition_of(self.log)

    @property
    def final(self) -> bool:
        """Whether the run is over."""
        return self.state in FINAL
