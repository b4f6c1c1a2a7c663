"""What `run show` says of a run that is worked on: how far it is, and whether its agent is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol.errors import RequestError

if TYPE_CHECKING:
    from agent.client import Client
    from protocol.control import Progress
    from protocol.requests import RunInfo

__all__ = ["UnderWay", "look"]

LOOKED_BACK = 256
"""Entries at the end of the log in which the latest progress is looked for."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What is known of a run that is worked on.

    Attributes:
        agent: who works on it.
        connected: whether that agent is; None where this session may not know.
        progress: the latest of this attempt.
    """

    agent: str
    connected: bool | None
    progress: Progress | None

    def words(self) -> dict[str, str]:
        """Return names and values that show it."""
        shown = {}
        if self.connected is False:
            shown["agent"] = f"{self.agent}, which is not connected: the run is its own until its lease is over"
        if self.progress is not None:
            of = "" if self.progress.total is None else f" of {self.progress.total:g}"
            message = f", {self.progress.message}" if self.progress.message else ""
            shown["progress"] = f"{self.progress.current:g}{of}{message}"
        return shown

    def to_json(self) -> dict[str, Any]:
        """Return what the object of the run has besides."""
        progress = None if self.progress is None else self.progress.model_dump(exclude_none=True)
        return {"agent_connected": self.connected, "progress": progress}


async def look(client: Client, info: RunInfo) -> UnderWay | None:
    """Look after a run; None where nobody works on it."""
    from protocol.codec import unpack_record
    from protocol.control import Kind, Progress, read_control

    if info.state != "running" or info.agent is None:
        return None
    progress = None
    async for entry in client.read(f"run/{info.run}", max(0, info.head - LOOKED_BACK), info.head):
        if entry.kind == Kind.CLAIMED:
            progress = None  # what an earlier attempt said of itself
        elif entry.kind == Kind.PROGRESS:
            progress = read_control(Progress, unpack_record(entry.packed).body)
    try:
        connected = (await client.agent(info.agent)).connected
    except RequestError:
        connected = None
    return UnderWay(info.agent, connected, progress)
