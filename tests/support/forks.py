"""Starts `fleetline` commands as processes that are forked from one in which everything is imported already.

    done = run(["run", "ls"], cwd=here, environment=environment, within_s=40)      # to its end
    hub = start(["hub", "start"], cwd=here, environment=environment, output=log)   # a process

Each of them saves more than half a second of a core. What is about the start itself, or about signals at any time of
it, starts the command for good instead: `COMMAND`, as do the tests of what the pages show.
`FLEETLINE_TEST_FORKS=0` starts every one of them like that.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from tests.support.forking import MESSAGE_BYTES_MAX
from tests.support.timing import scaled

__all__ = ["CHECKOUT", "COMMAND", "Started", "run", "start"]

CHECKOUT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "orchestrator.cli.main")
FORKS = os.environ.get("FLEETLINE_TEST_FORKS", "1") != "0"
SERVER_START_S = 60.0


class Started(Protocol):
    """What `subprocess.Popen` and a forked process have in common."""

    @property
    def pid(self) -> int:
        """The process."""

    def poll(self) -> int | None:
        """Return its exit code, or minus the signal that ended it; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""

    def kill(self) -> None:
        """SIGKILL it."""


def start(
    words: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
    given: IO[bytes] | None = None,
    session: bool = True,
) -> Started:
    """Start a command, `words` of `fleetline`, without waiting for anything.

    Args:
        words: what comes after `fleetline`.
        cwd: the directory it runs in.
        environment: all of its environment.
        output: takes standard output.
        errors: takes standard error; `output` does, without.
        given: its standard input; empty without.
        session: give it a session of its own, so that its children can be found at the end.
    """
    errors = errors or output
    with Path(os.devnull).open("rb") as nothing:
        given = given or nothing
        if FORKS:
            return _Forked(words, cwd, environment, (given.fileno(), output.fileno(), errors.fileno()), session)
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=cwd,
            env=dict(environment),
            stdin=given,
            stdout=output,
            stderr=errors,
            start_new_session=session,
        )


def run(
    words: Sequence[str], *, cwd: Path, environment: Mapping[str, str], within_s: float, given: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        subprocess.TimeoutExpired: it took longer than the scaled limit; it is killed.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(given)
        stdin.seek(0)
        process = start(words, cwd=cwd, environment=environment, output=out, errors=err, given=stdin, session=False)
        try:
            code = process.wait(scaled(within_s))
        except BaseException:
            process.kill()
            process.wait()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([*COMMAND, *words], code, *texts)


class _Forked:
    """A process that the server forked."""

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        files: tuple[int, int, int],
        session: bool,
    ) -> None:
        asked = {"words": [*words], "cwd": str(cwd), "environment": dict(environment), "session": session}
        message = json.dumps(asked).encode()
        assert len(message) <= MESSAGE_BYTES_MAX
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(_server(), [message], [*files, theirs.fileno()])
        self._code: int | None = None
        self._told.settimeout(scaled(SERVER_START_S))
        self.pid = self._hear()

    def poll(self) -> int | None:
        if self._code is None:
            self._told.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                self._end()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._told.settimeout(None if timeout is None else max(timeout, 0.001))
            try:
                self._end()
            except TimeoutError:
                assert timeout is not None
                raise subprocess.TimeoutExpired(["fleetline"], timeout) from None
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def _end(self) -> None:
        self._code = self._hear()
        self._told.close()

    def _hear(self) -> int:
        said = self._told.recv(64)
        assert said, "the process that forks has ended"
        return int(said)


@functools.cache
def _server() -> socket.socket:
    """Start the process that forks, once for each process of the tests, with nothing of Fleetline's set."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking", str(theirs.fileno())],
            cwd=CHECKOUT,
            env={**environment, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
