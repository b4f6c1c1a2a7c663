"""The process from which tests start `fleetline` commands: everything is imported in it, and it forks.

A command that is forked is a process like any other, with its own pid, session, directory, environment and files, and
is killed and waited for as one. It only lacks what an interpreter does until it has imported everything, which is most
of what a short command costs. `tests.support.forks` is the side of the tests, and says how to do without.

Over the control socket comes one message for each command: JSON with what to run, and four file descriptors: standard
input, output, error, and a socket on which the pid is told first and the exit code when it has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import locale
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["MESSAGE_BYTES_MAX"]

MESSAGE_BYTES_MAX = 128 * 1024
"""Of a message on the control socket; a command's words and environment have to fit."""

_PACKAGES = ("protocol", "agent", "orchestrator")
_SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)


def _preload() -> None:
    """Import all that a command may need, and complete the models."""
    for package in map(importlib.import_module, _PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    for name in ("rich.console", "rich.live", "rich.table", "rich.text"):
        importlib.import_module(name)
    for model in _models(importlib.import_module("protocol.frames").Part):
        model.model_rebuild()
    gc.freeze()
    assert threading.active_count() == 1, "a process with threads may not fork"


def _models(model: Any) -> Iterator[Any]:
    for below in model.__subclasses__():
        yield below
        yield from _models(below)


class _Server:
    """Forks until the tests have gone."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, socket.socket] = {}
        self._ended, ended = socket.socketpair()
        self._wakes = ended
        for one in (self._ended, ended):
            one.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(ended.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> list[str] | None:
        """Return the words of a command, in the process that is to run it; None in this process, at the end."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._ended:
                    self._reap()
                    continue
                message, files, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES_MAX, 4)
                if not message:
                    return None
                words = self._fork(json.loads(message), files)
                if words is not None:
                    return words

    def _fork(self, asked: dict[str, Any], files: list[int]) -> list[str] | None:
        *standard, told = files
        report = socket.socket(fileno=told)
        pid = os.fork()
        if pid == 0:
            report.close()
            self._forget()
            _become(asked, standard)
            return [str(word) for word in asked["words"]]
        for file in standard:
            os.close(file)
        self._running[pid] = report
        _tell(report, pid)
        return None

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ended.recv(4096):
                pass
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._running.pop(pid) as report:
                _tell(report, os.waitstatus_to_exitcode(status))

    def _forget(self) -> None:
        """Leave nothing of the server in a process that was forked from it."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for each in (self._control, self._ended, self._wakes, *self._running.values()):
            each.close()


def _tell(report: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked may be gone
        report.send(str(number).encode())


def _become(asked: dict[str, Any], standard: list[int]) -> None:
    """Take on the directory, environment and files of a command."""
    if asked["session"]:
        os.setsid()
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[0] = asked["cwd"]  # as `python -m` has it
    sys.argv = ["fleetline", *asked["words"]]
    _standard("stdin", io.BufferedReader(io.FileIO(0, closefd=False)), errors="strict")
    for descriptor, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        raw = io.FileIO(descriptor, "w", closefd=False)
        unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
        _standard(name, raw if unbuffered else io.BufferedWriter(raw), errors, write_through=unbuffered)


def _standard(name: str, file: Any, errors: str, *, write_through: bool = False) -> None:
    stream = io.TextIOWrapper(
        file, locale.getencoding(), errors, line_buffering=name == "stderr", write_through=write_through
    )
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> None:
    """Run a command and end the process as the interpreter would, but without taking everything apart one by one."""
    from orchestrator.cli.main import main

    try:
        main(words)
    except SystemExit as end:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        gc.collect()  # what was never awaited or closed is told of
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


if __name__ == "__main__":
    _preload()
    _words = _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if _words is not None:
        _run(_words)
