"""Programs for tests of agents that wrap one, and what is left of their groups."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

__all__ = ["SPEAKING", "group_is_gone", "has_ended", "python", "shell"]

SPEAKING = textwrap.dedent(
    """
    import json, os, signal, subprocess, sys, time

    def say(**message):
        print(json.dumps(message), flush=True)

    def hear():
        return json.loads(sys.stdin.readline())

    def ignore_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def grandchild(code):
        subprocess.Popen([sys.executable, "-c", code])

    STUBBORN = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('stubborn', flush=True); time.sleep(600)"
    )
    start = hear()
    say(type="event", kind="group", body=os.getpgid(0))
    """
)
"""What a program in Python begins with: it says its group."""


def python(code: str) -> tuple[str, ...]:
    """Return the command of a program in Python that speaks JSON lines."""
    return sys.executable, "-c", SPEAKING + textwrap.dedent(code)


def shell(code: str) -> tuple[str, ...]:
    """Return the command of a shell script."""
    return "bash", "-c", textwrap.dedent(code)


def group_is_gone(group: int) -> bool:
    """Return whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or dead and not reaped by whoever has to."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"
