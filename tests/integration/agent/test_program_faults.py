"""Runs that are programs, against a hub that does as it is told: no room, fenced, cut off."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent import Agent
from agent.client import Client
from agent.executors import guard_main
from agent.program import Graces, Program
from protocol import frames as f
from protocol.codec import unpack_record, unpack_value
from protocol.control import Kind
from protocol.limits import Limits
from tests.support.fake_hub import FakeHub
from tests.support.programs import group_is_gone, python, shell
from tests.support.timing import deadline, eventually, scaled

SHORT = Graces(message_s=0.3, term_s=0.3, left_s=0.3)
PIPES_BYTES_MAX = 4 * 64 * 1024
"""What stands between a program and the window: its pipe, what is read of it, and its own buffer."""


@asynccontextmanager
async def running(fake: FakeHub, command: tuple[str, ...], *, plain: bool = False) -> AsyncIterator[str]:
    """Serve a program, and assign one run to it; yield the run."""
    agent = Agent("programs")
    agent.program("it", Program(command, plain=plain, graces=SHORT))
    serving = asyncio.create_task(agent.serve(fake.url))
    try:
        async with deadline(40), Client.connect(fake.url) as client:
            await eventually(lambda: any(w.identify and w.identify.role is f.Role.AGENT for w in fake.wires))
            run = await client.submit("it")
            await fake.assign(run.id)
            yield run.id
    finally:
        agent.stop(0.0)
        await serving


def said(fake: FakeHub, run: str, kind: str) -> list[Any]:
    """Return the bodies of all entries of a kind."""
    records = [unpack_record(entry.packed) for entry in fake.log(f"run/{run}").entries]
    return [unpack_value(record.body) for record in records if record.kind == kind]


async def beats(fake: FakeHub, count: int) -> None:
    """Let some heartbeats of the agent go by."""
    before = len(fake.heard)
    await eventually(lambda: sum(isinstance(frame, f.Heartbeat) for frame in fake.heard[before:]) >= count)


async def test_while_the_window_is_full_the_program_waits(fake: FakeHub, tmp_path: Path) -> None:
    fake.limits = Limits(publish_entries_max=64)
    fake.mute_pubacks = True
    count = tmp_path / "count"
    line_bytes, lines = 1000, 4000
    script = shell(
        f"""
        line=$(head -c {line_bytes - 1} /dev/zero | tr '\\0' x)
        for number in $(seq {lines}); do echo "$line"; echo $number > {count}; done
        """
    )
    async with running(fake, script, plain=True) as run:
        await eventually(lambda: len(said(fake, run, "stdout")) == 64)
        await beats(fake, 8)
        assert int(count.read_text()) * line_bytes <= 64 * line_bytes + PIPES_BYTES_MAX < lines * line_bytes
        assert len(said(fake, run, "stdout")) == 64
        fake.mute_pubacks = False
        fake.cut()
        await eventually(lambda: bool(said(fake, run, Kind.SUCCEEDED)), 30.0)
        assert len(said(fake, run, "stdout")) == lines


async def test_parts_of_a_line_are_no_larger_than_what_the_hub_takes(fake: FakeHub) -> None:
    fake.limits = Limits(body_bytes_max=500)
    async with running(fake, shell("head -c 10000 /dev/zero | tr '\\0' '\\377'"), plain=True) as run:
        await eventually(lambda: bool(said(fake, run, Kind.SUCCEEDED)))
        assert "".join(body["text"] for body in said(fake, run, "stdout")) == r"\xff" * 10000


async def test_a_fenced_program_is_ended_with_its_group_and_nothing_more_is_said(fake: FakeHub) -> None:
    async with running(fake, python("ignore_sigterm(); grandchild(STUBBORN); time.sleep(600)")) as run:
        await eventually(lambda: bool(said(fake, run, "stdout")))
        [group] = said(fake, run, "group")
        before = len(fake.log(f"run/{run}").entries)
        fake.verdicts = lambda claim: f.Verdict.FENCED
        fake.cut()
        await eventually(lambda: group_is_gone(group))
        await beats(fake, 2)
        assert len(fake.log(f"run/{run}").entries) == before


async def test_a_program_goes_on_while_the_agent_is_cut_off(fake: FakeHub) -> None:
    program = python("say(type='event', kind='ready'); hear(); say(type='result', result='heard')")
    async with running(fake, program) as run:
        await eventually(lambda: bool(said(fake, run, "ready")))
        fake.cut()
        await beats(fake, 1)
        await fake.append(f"run/{run}", Kind.CANCEL, {"reason": "enough"}, src="client:c")
        await eventually(lambda: bool(said(fake, run, Kind.SUCCEEDED)))


def test_a_guard_whose_agent_is_gone_ends_its_programs_without_a_word() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open("r+b") as null:
        start = {"do": "start", "id": 1, "environment": {}, "memory": None}
        words = [sys.executable, "-I", "-S", guard_main.__file__, str(theirs.fileno()), "sleep", "60"]
        with subprocess.Popen(words, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE) as guard:
            theirs.close()
            socket.send_fds(ours, [json.dumps(start).encode() + b"\n"], [null.fileno()] * 3)
            assert b"started" in ours.recv(4096)
            ours.close()
            _, said = guard.communicate(timeout=scaled(10))
    assert (guard.returncode, said) == (0, b"")
