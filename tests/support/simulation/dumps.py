"""Raw logs, straight from the server's data: no code of a store or a hub is asked."""

from __future__ import annotations

from orchestrator.store.keys import log_keys
from orchestrator.store.memory_data import Data
from protocol.entry import Entry, Position, origin
from protocol.ids import LogName
from tests.support.checkers import Dump

__all__ = ["dump_of", "entries_of", "log_paths", "meta_of"]

_META = ":meta:default:"


def log_paths(data: Data) -> list[str]:
    """Return all logs, as they are written on the wire, in order."""
    return sorted(key.partition(_META)[2] for key in data.hashes if _META in key)


def meta_of(data: Data, path: str) -> dict[str, str]:
    """Return what is kept beside a log; empty where there is none."""
    fields = data.hashes.get(log_keys(LogName.parse(path)).meta, {})
    return {name: value.decode() for name, value in fields.items()}


def entries_of(data: Data, path: str) -> list[Entry]:
    """Return the entries of a log that are kept."""
    return [stored.entry for stored in data.streams.get(log_keys(LogName.parse(path)).stream, [])]


def dump_of(data: Data, path: str, trimmed: dict[int, Entry]) -> Dump:
    """Return a log from its first entry, with those that were trimmed put back."""
    meta, entries = meta_of(data, path), entries_of(data, path)
    first = int(meta["first"])
    before = [trimmed[offset] for offset in range(1, first)]
    end = Position(meta["epoch"], int(meta["head"]), meta["tag"])
    return Dump(path, origin(meta["epoch"]), end, tuple(before + entries))
