"""The process between the hub and its embedded store: starts the server, and ends it when no hub is left.

Run by path, by `orchestrator.store.embedded`, with the standard library alone, so that it starts fast and
stays small:

    python keeper.py <store directory> <grace in seconds> <server program> [its arguments...]

The first process takes the store's lock, splits off the keeper and ends; its exit code is 0 once the lock
is held. The keeper starts the server, which inherits the lock and alone holds it from then on: while it
lives, no second server can start on the same directory. Then, whatever is killed:

- The hub: the keeper finds `hub.lock` free. A hub that starts within the grace time adopts the server; the
  keeper goes on. Otherwise the keeper takes `hub.lock`, so that a hub that comes late waits, and ends the server.
- The keeper: the kernel ends the server with it (Linux; elsewhere the next hub adopts it). Its data is safe,
  every write having been fsynced, and the hub starts both again.
- The server: the keeper ends, the hub sees the lock free and starts both again.
- Hub and server: the keeper ends. Hub and keeper: the kernel ends the server. Nothing is left.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["EXIT_LOCKED", "main"]

EXIT_LOCKED = 3
"""Another server holds the store's lock."""

LOOK_EVERY_S = 1.0
STOP_S = 15.0
"""How long the server gets to end by itself, at most; with the grace time this stays under a minute."""

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Take the lock, leave the keeper behind, and return."""
    store, grace_s, *command = arguments
    os.umask(0o077)
    lock = os.open(Path(store) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return EXIT_LOCKED
    if os.fork() == 0:
        return _keep(Path(store), float(grace_s), command, lock)
    return 0


def _keep(store: Path, grace_s: float, command: list[str], lock: int) -> int:
    """Run the server until it ends, or until no hub has been there for the grace time."""
    # Opened before the server runs: a keeper that cannot look must not start anything.
    hub_lock = os.open(store / "hub.lock", os.O_RDWR | os.O_CREAT, 0o600)
    wake = _wake_on_child_exit()
    server = subprocess.Popen(
        command,
        cwd=store,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
        preexec_fn=_end_with_parent(),  # noqa: PLW1509  # this process has one thread
    )
    _write_record(store, server.pid, command)
    os.close(lock)
    hub_seen_s = time.monotonic()
    while server.poll() is None:
        if not _take(hub_lock):
            hub_seen_s = time.monotonic()
        elif time.monotonic() - hub_seen_s >= grace_s:
            _end(server, min(STOP_S, grace_s))
            break
        else:
            fcntl.flock(hub_lock, fcntl.LOCK_UN)
        _sleep(min(LOOK_EVERY_S, grace_s / 4), wake)
    return 0


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(server: subprocess.Popen[bytes], within_s: float) -> None:
    server.terminate()
    try:
        server.wait(within_s)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _write_record(store: Path, pid: int, command: list[str]) -> None:
    """Write down which server runs here, whole or not at all."""
    record = {"pid": pid, "socket": command[command.index("--unixsocket") + 1]}
    draft = store / "server.json.new"
    draft.write_text(json.dumps(record))
    draft.replace(store / "server.json")


def _end_with_parent() -> Callable[[], None] | None:
    """Return what a child does so that the kernel kills it when this process dies; None where it cannot."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arrange() -> None:
        if prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)

    return arrange


def _wake_on_child_exit() -> int:
    """Return a descriptor that becomes readable when a child ends."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    return readable


def _sleep(seconds: float, wake: int) -> None:
    if select.select([wake], [], [], seconds)[0]:
        os.read(wake, 1024)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
