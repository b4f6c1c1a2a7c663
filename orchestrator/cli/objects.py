"""The JSON objects that commands print, beside those of entries and runs, which the agent package makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol.entry import Entry as StoredEntry
from protocol.requests import AgentInfo, LogInfo

if TYPE_CHECKING:
    from agent.entry import Entry
    from agent.errors import Reset

__all__ = ["agent_json", "log_json", "reset_json", "stored"]


def stored(entry: Entry) -> StoredEntry:
    """Return an entry that was read as it is stored."""
    return StoredEntry(entry.offset, entry.ts_ms, entry.packed)


def log_json(info: LogInfo) -> dict[str, Any]:
    """Return the object of a log: its head, and the first offset that is kept."""
    return {
        "log": info.log,
        "epoch": info.head.epoch,
        "head": info.head.offset,
        "tag": info.head.tag,
        "first": info.first,
        "ts_ms": info.ts_ms,
    }


def agent_json(info: AgentInfo) -> dict[str, Any]:
    """Return the object of an agent as it last announced itself."""
    return {
        **info.model_dump(mode="json"),
        "handlers": [handler.model_dump(mode="json") for handler in info.handlers],
    }


def reset_json(reset: Reset) -> dict[str, Any]:
    """Return the object that stands where a log could not be continued."""
    return {
        "log": reset.log,
        "reset": reset.reason.value,
        "lost": {"from": reset.first, "to": reset.last, "exact": reset.exact},
        "epoch": reset.epoch,
        "offset": reset.offset,
    }
