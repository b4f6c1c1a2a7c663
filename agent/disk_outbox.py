"""The outbox on disk: what a publisher outside runs has promised to send.

One SQLite file in a state directory that one process may use at a time. A transaction that returned is on
disk (write-ahead log, fsync on every commit); many entries share one, which is where the speed comes from.
Numbers and the producer's name survive a restart, so the hub recognises what it has already.

Each entry may carry a `mark`: whatever tells its program where in its source the entry came from. The last
mark that was stored is kept after its entry is gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.errors import OutboxBusy, OutboxFailed

__all__ = ["DiskOutbox", "Row"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL,
                                    cause INTEGER, mark TEXT);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT);
"""
FILE = "outbox.sqlite3"
LOCK = "lock"
BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """One entry to store."""

    kind: str
    body: bytes
    cause: int | None = None
    mark: str | None = None


class DiskOutbox:
    """Entries on disk, by number. Used by one thread at a time.

    Attributes:
        producer: name of the producer, made up once.
        acked: the last number that is known to be in the log.
        last: the last number stored.
        bytes: of the bodies stored.
        last_mark: mark of the last entry that was stored with one.
        acked_mark: mark of the last entry, known to be in the log, that had one.
    """

    def __init__(self, directory: Path, log: str) -> None:
        """Open the outbox of a log, and lock its directory.

        Raises:
            OutboxBusy: another process has it.
            OutboxFailed: it cannot be read, or belongs to another log.
        """
        self.directory = directory
        self.producer = ""
        self.acked = self.last = self.bytes = 0
        self.last_mark: str | None = None
        self.acked_mark: str | None = None
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opening:
            opening.callback(os.close, _lock(directory))
            advice = "what it holds was not sent; if it is beyond repair, move it away and publish from the source"
            with self._or_failed("opened", advice):
                self._database = sqlite3.connect(directory / FILE, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
                opening.callback(self._database.close)
                self._prepare()
                self._load(log)
            self._held = opening.pop_all()

    def append(self, rows: Sequence[Row]) -> int:
        """Store entries, all or none, and forget those that are acknowledged. Returns the first one's number.

        Raises:
            OutboxFailed: the disk does not take them; nothing of it was stored.
        """
        first = self.last + 1
        marks = [row.mark for row in rows if row.mark is not None]
        numbered = [(first + place, row.kind, row.body, row.cause, row.mark) for place, row in enumerate(rows)]
        advice = f"these {len(rows)} entries are not kept; make room on the disk and publish them again"
        with self._or_failed("written", advice):
            with self._database as transaction:
                transaction.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", numbered)
                if marks:
                    self._put(last_mark=marks[-1])
                self._put(last=str(first + len(rows) - 1))
                forgotten = self._forget()
            self._forgot(forgotten)
        self.last += len(rows)
        self.last_mark = marks[-1] if marks else self.last_mark
        self.bytes += sum(len(row.body) for row in rows)
        return first

    def acknowledge(self, seq: int) -> None:
        """Note that everything up to `seq` is in the log; it is forgotten with the next transaction."""
        self.acked = max(self.acked, min(seq, self.last))

    def forget(self) -> None:
        """Forget what is acknowledged now.

        Raises:
            OutboxFailed: the disk does not take that.
        """
        with self._or_failed("written", "nothing is lost; make room on the disk"):
            with self._database:
                forgotten = self._forget()
            self._forgot(forgotten)

    def after(self, seq: int, limit: int) -> list[tuple[int, Row]]:
        """Return stored entries after a number, in order.

        Raises:
            OutboxFailed: they cannot be read.
        """
        with self._or_failed("read", "what it holds is not sent; look at the disk and open the publisher again"):
            found = self._database.execute(
                "SELECT seq, kind, body, cause, mark FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
            ).fetchall()
        return [(row[0], Row(*row[1:])) for row in found]

    def renew(self) -> None:
        """Go on as a new producer: what is stored and not acknowledged is numbered from 1 again.

        Raises:
            OutboxFailed: the disk does not take that; nothing was changed.
        """
        producer, last = _new_producer(), self.last - self.acked
        with self._or_failed("written", "nothing was changed; make room on the disk"):
            with self._database as transaction:
                forgotten = self._forget()
                transaction.execute("UPDATE entries SET seq = -seq")
                transaction.execute("UPDATE entries SET seq = -seq - ?", (self.acked,))
                self._put(last=str(last), acked="0", producer=producer)
            self._forgot(forgotten)
        self.acked, self.last, self.producer = 0, last, producer

    def close(self) -> None:
        """Let go of the file and the directory."""
        with self._held, suppress(OutboxFailed):  # what is not forgotten now is recognised by its number
            self.forget()

    @contextmanager
    def _or_failed(self, verb: str, advice: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as fault:
            raise OutboxFailed(f"the outbox in {self.directory} cannot be {verb} ({fault}); {advice}") from fault

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)

    def _load(self, log: str) -> None:
        kept = dict(self._database.execute("SELECT name, value FROM meta").fetchall())
        if kept.setdefault("log", log) != log:
            raise OutboxFailed(
                f"the outbox in {self.directory} belongs to {kept['log']}, not {log}; nothing was changed; "
                "give every publisher a state directory of its own"
            )
        self.producer = kept.setdefault("producer", _new_producer())
        self.acked = int(kept.get("acked", 0))
        self.last = int(kept.get("last", 0))
        self.last_mark = kept.get("last_mark")
        self.acked_mark = kept.get("acked_mark")
        (self.bytes,) = self._database.execute("SELECT coalesce(sum(length(body)), 0) FROM entries").fetchone()
        with self._database:
            self._put(log=log, producer=self.producer)

    def _put(self, **values: str) -> None:
        self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def _forget(self) -> tuple[int, str | None]:
        """Forget what is acknowledged, in the caller's transaction. Returns its bytes and its last mark."""
        done = (self.acked,)
        (size,) = self._database.execute(
            "SELECT coalesce(sum(length(body)), 0) FROM entries WHERE seq <= ?", done
        ).fetchone()
        marked = self._database.execute(
            "SELECT mark FROM entries WHERE seq <= ? AND mark IS NOT NULL ORDER BY seq DESC LIMIT 1", done
        ).fetchone()
        mark: str | None = self.acked_mark if marked is None else marked[0]
        self._database.execute("DELETE FROM entries WHERE seq <= ?", done)
        self._put(acked=str(self.acked))
        if mark is not None:
            self._put(acked_mark=mark)
        return size, mark

    def _forgot(self, forgotten: tuple[int, str | None]) -> None:
        """Take over what `_forget` returned, now that the transaction is on disk."""
        size, self.acked_mark = forgotten
        self.bytes -= size


def _new_producer() -> str:
    return f"d-{secrets.token_hex(8)}"


def _lock(directory: Path) -> int:
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "?"
        os.close(lock)
        raise OutboxBusy(str(directory), holder) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
