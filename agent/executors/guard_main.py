"""The guard: a small process that starts an agent's programs, and outlives the agent just long enough to end them.

It is executed by its path, with the interpreter's standard library and nothing else. It has one thread, so that
forking is safe; it adopts orphans (on Linux), so that it knows when a group is empty; and it sees by the end of its
socket that the agent is gone, however that ended, and then kills every group that is left. A program is killed by
the kernel when its guard ends. A group that holds more memory than it may (Linux only) is killed.

    agent -> guard   {"do": "start", "id", "environment", "memory"} with three descriptors;
                     {"do": "signal", "id", "number"}
    guard -> agent   {"id", "started": pid} {"id", "failed": why} {"id", "over": bytes} {"id", "exited": code}
                     {"id", "gone": true}

One message a line. `code` is negative where a signal ended the program. `exited` is about the program itself,
`gone` about the last process of its group; `over` is what a group held that was killed for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["main"]

DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36
"""PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of Linux."""

LOOK_S = 0.05
"""How often a group whose program has ended is looked at: not every end of a process is told to us."""

LEAVE_S = 5.0
"""How long killed groups are waited for when the agent is gone."""

WEIGH_S, WEIGH_SHARE = 0.1, 0.05
"""How often groups with a limit are weighed; less often where that would take more than this share of the time."""

READ_BYTES = 64 * 1024
DESCRIPTORS_MAX = 48
PROCESSES = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class _Group:
    """A program and what it starts."""

    id: int
    process: subprocess.Popen[bytes]
    memory_max: int | None = None
    ended: bool = False

    def signal(self, number: int) -> bool:
        """Signal all of it. Returns whether anything of it is left."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # it has become somebody else's
            return True
        return True


class _Guard:
    """The programs of one agent, all of one command."""

    def __init__(self, agent: socket.socket, command: list[str]) -> None:
        self._agent = agent
        self._command = command
        self._prctl = _prctl()
        self._groups: dict[int, _Group] = {}
        self._held = b""
        self._descriptors: list[int] = []
        self._weigh_s = 0.0

    def run(self) -> None:
        """Serve until the agent is gone."""
        if self._prctl is not None:
            self._prctl(ADOPT_ORPHANS, 1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        told, tells = socket.socketpair()
        for end in (told, tells):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        with told, tells, selectors.DefaultSelector() as selector:
            selector.register(self._agent, selectors.EVENT_READ)
            selector.register(told, selectors.EVENT_READ)
            try:
                self._serve(selector, told)
            finally:  # children still die while we leave
                signal.set_wakeup_fd(-1)

    def _serve(self, selector: selectors.BaseSelector, told: socket.socket) -> None:
        there = True
        while there:
            ready = {key.fileobj for key, _ in selector.select(self._wait_s())}
            if told in ready:
                told.recv(READ_BYTES)
            there = self._listen() if self._agent in ready else True
            self._look()
            self._weigh()

    def leave(self) -> None:
        """The agent is gone, or we are broken: kill what is left, and see it die."""
        until = time.monotonic() + LEAVE_S
        for group in self._groups.values():
            group.signal(signal.SIGKILL)
        while self._groups and time.monotonic() < until:
            self._look()
            time.sleep(LOOK_S / 10)

    def _wait_s(self) -> float | None:
        """Return how long there is nothing to do, unless we are told something."""
        waits = [LOOK_S] if any(group.ended for group in self._groups.values()) else []
        if any(group.memory_max is not None for group in self._groups.values()):
            waits.append(max(0.0, self._weigh_s - time.monotonic()))
        return min(waits, default=None)

    def _weigh(self) -> None:
        """Kill the groups that hold more memory than they may."""
        limited = {group.process.pid: group for group in self._groups.values() if group.memory_max is not None}
        began_s = time.monotonic()
        if not limited or began_s < self._weigh_s:
            return
        for pgid, members in _members(set(limited)).items():
            group = limited[pgid]
            most = group.memory_max or 0
            if sum(members.values()) > most and (held := sum(map(_share, members, members.values()))) > most:
                group.memory_max = None
                group.signal(signal.SIGKILL)
                self._say({"id": group.id, "over": held})
        now_s = time.monotonic()
        self._weigh_s = now_s + max(WEIGH_S, (now_s - began_s) / WEIGH_SHARE)

    def _listen(self) -> bool:
        """Do what the agent says. Returns False where it is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._agent, READ_BYTES, DESCRIPTORS_MAX)
        except ConnectionError:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            if asked["do"] == "start":
                self._start(asked["id"], asked["environment"], asked["memory"])
            elif (group := self._groups.get(asked["id"])) is not None:
                group.signal(asked["number"])
        return bool(data)

    def _start(self, number: int, environment: dict[str, str], memory_max: int | None) -> None:
        pipes, self._descriptors = self._descriptors[:3], self._descriptors[3:]
        try:
            process = subprocess.Popen(
                self._command,
                stdin=pipes[0],
                stdout=pipes[1],
                stderr=pipes[2],
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=self._in_child(os.getpid()),  # noqa: PLW1509 - there is one thread
            )
        except (OSError, ValueError, subprocess.SubprocessError) as fault:
            self._say({"id": number, "failed": getattr(fault, "strerror", None) or str(fault)})
        else:
            self._groups[number] = _Group(number, process, memory_max)
            self._say({"id": number, "started": process.pid})
        finally:
            for pipe in pipes:
                os.close(pipe)

    def _in_child(self, guard: int) -> Callable[[], None]:
        """Return what a child does before it becomes the program."""

        def prepare() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if self._prctl is not None:
                self._prctl(DIE_WITH_PARENT, signal.SIGKILL)
                if os.getppid() != guard:  # it ended before it was asked for
                    os.kill(os.getpid(), signal.SIGKILL)

        return prepare

    def _look(self) -> None:
        """Reap what has ended, and say which programs and groups are gone."""
        codes = dict(_reaped())
        for group in tuple(self._groups.values()):
            code = codes.get(group.process.pid)
            if code is not None:
                group.ended = True
                group.process.returncode = code
                self._say({"id": group.id, "exited": code})
            if group.ended and not group.signal(0):
                del self._groups[group.id]
                self._say({"id": group.id, "gone": True})

    def _say(self, message: dict[str, object]) -> None:
        """Tell the agent. That it is gone is noticed where it is listened to."""
        try:
            self._agent.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return


def _members(groups: set[int]) -> dict[int, dict[int, int]]:
    """Return the processes of some groups, each with the bytes that it holds, shared ones too."""
    found: dict[int, dict[int, int]] = {}
    for process in PROCESSES.iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:  # it has ended just now
                continue
            if int(fields[2]) in groups:
                found.setdefault(int(fields[2]), {})[int(process.name)] = int(fields[21]) * PAGE_BYTES
    return found


def _share(pid: int, held: int) -> int:
    """Return the bytes that a process holds, of shared ones its share; `held` where nothing says."""
    try:
        lines = (PROCESSES / str(pid) / "smaps_rollup").read_bytes().splitlines()
    except OSError:
        return held
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:")), held)


def _reaped() -> list[tuple[int, int]]:
    """Return (pid, exit code) of every child that has ended, adopted ones too."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def _prctl() -> Callable[..., object] | None:
    """Return Linux's `prctl`; None elsewhere."""
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def main() -> None:
    """Guard the programs of one agent: arguments are the number of the socket's descriptor and the command."""
    descriptor, *command = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    with socket.socket(fileno=int(descriptor)) as agent:
        guard = _Guard(agent, command)
        try:
            guard.run()
        finally:
            guard.leave()


if __name__ == "__main__":
    main()
