"""The data directory of a hub: whose it is, that only one hub uses it, and where things lie in it.

    <data>/lock             held by the hub that uses the directory; its content is that hub's pid
    <data>/store/           mode 0700: the embedded server's own directory
        hub.lock            held by the hub too; the keeper looks at it to see whether a hub is alive
        lock                held by the server process itself, so the kernel frees it when the server ends
        server.json         the running server: its pid and its socket
        server.log          what the server and its keeper print
        socket              the server's socket, where this path is short enough
        appendonlydir/      the server's append-only file

The locks are flock's: they end with the process that holds them, however it ends. There are two for the
hub because the keeper takes `hub.lock` for a moment to look at it, which must not make a hub that starts
just then believe that the directory is in use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.base import StoreError

__all__ = [
    "SOCKET_PATH_BYTES_MAX",
    "DataDirectory",
    "DataDirectoryError",
    "DataDirectoryInUse",
    "FileLock",
    "ServerRecord",
]

SOCKET_PATH_BYTES_MAX = 103
"""What every system takes for a Unix socket's path: 107 on Linux, 103 on macOS."""

RUNTIME_PREFIX = "fleetline-"
RECORD_BYTES_MAX = 64 * 1024


class DataDirectoryError(StoreError):
    """The data directory cannot be used. The message says why and what to do."""


class DataDirectoryInUse(DataDirectoryError):
    """Another hub uses the data directory.

    Attributes:
        pid: the other hub's process, as it wrote it down; None where it did not.
    """

    def __init__(self, message: str, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class FileLock:
    """An exclusive lock on a file, which the kernel frees when this process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether this object has it now."""
        if self._fd is not None:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def free(self) -> bool:
        """Return whether nobody holds the lock; it is taken for an instant to find out."""
        if self._fd is not None:
            return False
        if not self.acquire():
            return False
        self.release()
        return True

    def write(self, text: str) -> None:
        """Replace the content of the locked file."""
        assert self._fd is not None, "only the holder writes"
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def release(self) -> None:
        """Give the lock back; harmless where it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """What the keeper wrote down about the server that it started.

    Attributes:
        pid: the server's process.
        socket: path of its Unix socket.
    """

    pid: int
    socket: Path


class DataDirectory:
    """A hub's data directory.

    Call `prepare`, then `claim`; `release` gives it back. Reading where things lie needs neither.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.store = self.root / "store"
        self.log = self.store / "server.log"
        self.hub_lock = FileLock(self.store / "hub.lock")
        self.server_lock = FileLock(self.store / "lock")
        self._lock = FileLock(self.root / "lock")
        self._record = self.store / "server.json"
        self._socket = self.store / "socket"

    @property
    def claimed(self) -> bool:
        """Whether this process has the directory."""
        return self._lock.held

    def prepare(self) -> None:
        """Make the directory where it is missing, and make sure that it is ours and can be written.

        Raises:
            DataDirectoryError: it cannot be used; the message says why.
        """
        with self._explained(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner(self.root)
        with self._explained(self.store):
            self.store.mkdir(mode=0o700, exist_ok=True)
        self._check_owner(self.store)
        with self._explained(self.store):
            self.store.chmod(0o700)
            probe, name = tempfile.mkstemp(dir=self.store, prefix="probe-")
            os.close(probe)
            Path(name).unlink()

    def claim(self) -> None:
        """Take the directory for this process.

        Raises:
            DataDirectoryInUse: another hub has it.
            DataDirectoryError: it cannot be locked.
        """
        with self._explained(self.root / "lock"):
            mine = self._lock.acquire()
        if not mine:
            raise self._in_use()
        self._lock.write(f"{os.getpid()}\n")

    def release(self) -> None:
        """Give the directory back to whoever comes next."""
        self.hub_lock.release()
        self._lock.release()

    def socket_path(self) -> Path:
        """Return where the server's socket belongs, in a directory that only we can enter.

        That is the store's own directory where the path is short enough, and otherwise a directory made
        for it under the system's temporary ones. The same path is returned for as long as the data
        directory remembers it, so that an address once given out stays right.

        Raises:
            DataDirectoryError: no place has a path that is short enough.
        """
        if len(os.fsencode(self._socket)) <= SOCKET_PATH_BYTES_MAX:
            return self._socket
        remembered = self.store / "socket.path"
        with contextlib.suppress(FileNotFoundError):
            path = Path(remembered.read_text().strip())
            if _private_directory(path.parent):
                return path
        path = self._make_runtime_directory() / "socket"
        remembered.write_text(f"{path}\n")
        return path

    def record(self) -> ServerRecord | None:
        """Return what is written down about the server, or None where nothing (readable) is."""
        try:
            with self._record.open("rb") as file:
                raw = json.loads(file.read(RECORD_BYTES_MAX))
            return ServerRecord(int(raw["pid"]), Path(str(raw["socket"])))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def forget_server(self) -> None:
        """Remove what a server that has ended left behind beside its data."""
        record = self.record()
        self._record.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
        if record is not None and record.socket.parent.name.startswith(RUNTIME_PREFIX):
            record.socket.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                record.socket.parent.rmdir()
            (self.store / "socket.path").unlink(missing_ok=True)

    def log_tail(self, bytes_max: int = 600) -> str:
        """Return the last lines that the server printed."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
                return file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    def _make_runtime_directory(self) -> Path:
        bases = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108  # made private below
        for base in filter(None, bases):
            if len(os.fsencode(base)) + len(f"/{RUNTIME_PREFIX}12345678/socket") > SOCKET_PATH_BYTES_MAX:
                continue
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=base))
        raise DataDirectoryError(
            f"{self.root} is too long a path for the store's socket (at most {SOCKET_PATH_BYTES_MAX} bytes), and no "
            "temporary directory can be written; choose a shorter one with --data, or set TMPDIR"
        )

    def _check_owner(self, path: Path) -> None:
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise DataDirectoryError(
                f"{path} belongs to {_user(owner)}, and this is {_user(os.geteuid())}; run as its owner, or choose "
                "another directory with --data"
            )

    def _in_use(self) -> DataDirectoryInUse:
        text = (self.root / "lock").read_text(errors="replace").strip()
        pid = int(text) if text.isdigit() else None
        who = f"another hub (pid {pid})" if pid is not None else "another hub"
        stop = f"stop that one (kill {pid})" if pid is not None else "stop that one"
        return DataDirectoryInUse(f"{self.root} is in use by {who}; {stop}, or choose another with --data", pid)

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """Turn the system's refusals into errors that say what to do."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space" if full else "make it writable for this user"
            raise DataDirectoryError(
                f"cannot use {path} as the data directory: {error.strerror}; {remedy}, or choose another with --data"
            ) from error


def _private_directory(path: Path) -> bool:
    """Return whether this is a directory that nobody else can enter; it is made where it is gone."""
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
