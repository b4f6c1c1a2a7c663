"""Runs that are programs, against the real hub: what they say, how they end, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import Agent
from agent.client import Client
from agent.entry import Entry
from agent.errors import RunCancelled, RunDead, RunEnded, RunFailed
from agent.program import Graces, Program
from agent.runs import Run
from orchestrator.hub import Hub
from tests.support.programs import group_is_gone, python, shell
from tests.support.timing import deadline, eventually

SHORT = Graces(message_s=0.3, term_s=0.3, left_s=0.3)
PATIENT = Graces(message_s=60, term_s=60, left_s=60)


@asynccontextmanager
async def serving(
    hub: Hub, command: tuple[str, ...], *, plain: bool = False, graces: Graces = SHORT, slots: int = 1, retries: int = 0
) -> AsyncIterator[Client]:
    """Serve a program as the handler `it`; yield a client."""
    agent = Agent("programs", slots=slots)
    agent.program("it", Program(command, plain=plain, graces=graces), retries=retries)
    directory = hub.settings.data
    serving = asyncio.create_task(agent.serve(directory=directory))
    try:
        async with deadline(60), Client.connect(directory=directory) as client:
            yield client
    finally:
        agent.stop(0.0)
        await serving


async def until(run: Run, kind: str) -> Any:
    """Wait for an entry of a kind; return its body."""
    async with run.watch() as entries:
        async for entry in entries:
            if entry.kind == kind:
                return entry.body
    raise AssertionError(f"the run ended without {kind}")


async def entries_of(run: Run) -> list[Entry]:
    """Return all entries of a run, once it has ended."""
    return [entry async for entry in run.watch()]


def bodies(entries: list[Entry], kind: str) -> list[Any]:
    return [entry.body for entry in entries if entry.kind == kind]


def texts(entries: list[Entry], kind: str) -> list[str]:
    return [body["text"] for body in bodies(entries, kind)]


async def test_a_shell_script_needs_to_know_nothing_of_us(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_AGENT", "kept")
    script = shell(
        """
        read -r input
        echo "input $input"
        echo "attempt $FLEETLINE_ATTEMPT of $FLEETLINE_RUN for $FLEETLINE_HANDLER from $FLEETLINE_QUEUE"
        echo "$OF_THE_AGENT ${FLEETLINE_TOKEN-no token}"
        echo working >&2
        printf 'bytes \\xff\\n\\nlast, without an end'
        """
    )
    async with serving(hub, script, plain=True) as client:
        monkeypatch.setenv("FLEETLINE_TOKEN", (hub.settings.data / "local.token").read_text().strip())
        run = await client.submit("it", {"path": "a b"})
        assert await run.result() is None
        found = await entries_of(run)
        assert texts(found, "stdout") == [
            'input {"path":"a b"}',
            f"attempt 1 of {run.id} for it from default",
            "kept no token",
            r"bytes \xff",
            "",
            "last, without an end",
        ]
        assert texts(found, "stderr") == ["working"]
        assert not bodies(found, "stopped")


async def test_a_plain_program_s_exit_code_says_how_it_went(hub: Hub) -> None:
    async with serving(hub, shell('echo one >&2; echo "no such branch" >&2; exit 3'), plain=True, retries=1) as client:
        run = await client.submit("it")
        with pytest.raises(RunDead, match="bash ended with exit code 3; standard error ends with: no such") as dead:
            await run.result()
        assert dead.value.error is not None
        assert (dead.value.error["type"], dead.value.error["trace"]) == ("ProgramFailed", "one\nno such branch")
        assert len(bodies(await entries_of(run), "$errored")) == 2, "another try may help"


async def test_an_exit_without_a_result_is_failure_even_with_code_0(hub: Hub) -> None:
    async with serving(hub, shell("echo fine; echo hm >&2; exit 0")) as client:
        run = await client.submit("it")
        with pytest.raises(RunFailed, match=r"ended with exit code 0 without a result; .*standard error ends with: hm"):
            await run.result()
        assert texts(await entries_of(run), "stdout") == ["fine"]


async def test_a_program_speaks_json_lines(hub: Hub) -> None:
    program = python(
        """
        say(type="progress", current=1, total=2, message="half")
        print("a line", flush=True)
        print('{"level": "info"}', flush=True)
        say(type="event", kind="finding", body={"file": "a.py"}, cause=2)
        say(type="result", result=[start["type"], start["attempt"], start["handler"], start["queue"], start["input"]])
        """
    )
    async with serving(hub, program) as client:
        run = await client.submit("it", {"input": "ü"})
        assert await run.result() == ["start", 1, "it", "default", {"input": "ü"}]
        found = await entries_of(run)
        assert [e.kind for e in found[2:]] == ["group", "$progress", "stdout", "stdout", "finding", "$succeeded"]
        assert bodies(found, "$progress") == [{"current": 1.0, "total": 2.0, "message": "half"}]
        assert texts(found, "stdout") == ["a line", '{"level": "info"}']
        assert [(e.body, e.cause) for e in found if e.kind == "finding"] == [({"file": "a.py"}, 2)]


async def test_output_is_seen_while_the_program_runs(hub: Hub) -> None:
    async with serving(hub, shell("echo first; read -r _; sleep 600"), plain=True) as client:
        run = await client.submit("it")
        assert await until(run, "stdout") == {"text": "first"}
        assert (await run.get()).state == "running"
        await run.cancel(wait=True)


@pytest.mark.parametrize("retryable", [True, False])
async def test_an_error_is_the_run_s(hub: Hub, retryable: bool) -> None:
    program = python(f'say(type="error", message="gone", name="NoBranch", trace="at 7", retryable={retryable})')
    async with serving(hub, program, retries=1) as client:
        run = await client.submit("it")
        with pytest.raises(RunEnded, match="NoBranch: gone") as failed:
            await run.result()
        assert failed.value.error == {"type": "NoBranch", "message": "gone", "trace": "at 7"}
        assert len(bodies(await entries_of(run), "$errored")) == (2 if retryable else 1)


async def test_a_new_attempt_is_told_the_last_checkpoint(hub: Hub) -> None:
    program = python(
        """
        at = start["checkpoint"] or 0
        if at == 2:
            say(type="result", result=[start["attempt"], at])
        else:
            for place in (at + 0.5, at + 1):
                say(type="checkpoint", value=place)
            sys.exit("again")
        """
    )
    async with serving(hub, program, retries=2) as client:
        run = await client.submit("it", backoff=0.001)
        assert await run.result() == [3, 2]


BAD = [
    (
        'say(type="shout", question="may I?")',
        "is of type 'shout'; a program says event, progress, checkpoint, attach, ask, reply, submit, cancel_child",
    ),
    ('say(type="ask", name="May I?")', "a message of type 'ask' cannot be an entry"),
    ('say(type="ask", name="a", timeout=0)', "a message of type 'ask' cannot be an entry"),
    ('say(type="reply", id="a")', "no message 'a' was told"),
    ('say(type="checkpoint", state=1)', "is no message of type 'checkpoint': value: Field required"),
    ('say(type="checkpoint", value=2**70)', "a message of type 'checkpoint' cannot be an entry"),
    ('say(type="event")', "is no message of type 'event': kind: Field required"),
    ('say(type="event", kind="No Kind")', "'No Kind' is no kind for an entry"),
    ('say(type="event", kind="$cancel")', "is no kind for an entry"),
    ('say(type="event", kind="a", body=2**70)', "a message of type 'event' cannot be an entry"),
    ('say(type="event", kind="a", body="\\ud800")', "a message of type 'event' cannot be an entry"),
    ('say(type="event", kind="a", body="x" * 1_100_000)', "the hub takes 1048576"),
    ('say(type="progress", current=1, message="\\ud800")', "a message of type 'progress' cannot be an entry"),
    ('say(type="progress", current=1, message="x" * 1_100_000)', "the hub takes 1048576"),
    ('say(type="result", result=1); say(type="event", kind="a")', "came after its result, which is the last"),
]


@pytest.mark.parametrize(("line", "why"), BAD, ids=[line[:40] for line, _ in BAD])
async def test_what_cannot_be_taken_ends_the_run_and_says_why(hub: Hub, line: str, why: str) -> None:
    program = python(f"{line}\nsys.stdout.flush()\ntime.sleep(600)")
    async with serving(hub, program) as client:
        run = await client.submit("it")
        group = await until(run, "group")
        with pytest.raises(RunFailed) as failed:
            await run.result()
        assert why in str(failed.value)
        assert group_is_gone(group)
        assert bodies(await entries_of(run), "stopped")[0]["rung"] == "sigterm"


async def test_a_result_counts_with_exit_code_0_only(hub: Hub) -> None:
    async with serving(hub, python('say(type="result", result=1); sys.exit(4)')) as client:
        with pytest.raises(RunFailed, match="gave a result and then ended with exit code 4"):
            await (await client.submit("it")).result()


async def test_a_program_that_lingers_after_its_result_is_ended_and_has_succeeded(hub: Hub) -> None:
    async with serving(hub, python('say(type="result", result=1); time.sleep(600)')) as client:
        run = await client.submit("it")
        assert await run.result() == 1
        how = {"why": "finished", "rung": "sigterm", "signal": "SIGTERM"}
        assert bodies(await entries_of(run), "stopped") == [how]


async def test_the_end_of_its_input_tells_a_program_that_its_result_is_there(hub: Hub) -> None:
    async with serving(hub, python('say(type="result", result=1); sys.stdin.read()'), graces=PATIENT) as client:
        run = await client.submit("it")
        assert await run.result() == 1
        assert not bodies(await entries_of(run), "stopped")


async def cancelled(client: Client, ready: str = "ready") -> tuple[int, dict[str, Any]]:
    """Cancel a program when it is ready. Returns its group and how it was stopped."""
    run = await client.submit("it")
    group = await until(run, "group")
    await until(run, ready)
    assert await run.cancel(wait=True, reason="enough") == "cancelled"
    assert group_is_gone(group)
    with pytest.raises(RunCancelled, match="enough"):
        await run.result()
    [how] = bodies(await entries_of(run), "stopped")
    return group, how


async def test_a_cancelled_program_is_told_in_a_message_first(hub: Hub) -> None:
    program = python(
        """
        say(type="event", kind="ready")
        told = hear()
        assert told == {"type": "cancel", "reason": "enough"}, told
        """
    )
    async with serving(hub, program, graces=PATIENT) as client:
        _, how = await cancelled(client)
        assert how == {"why": "cancelled", "rung": "message", "exit": 0}


async def test_one_that_does_not_listen_gets_sigterm(hub: Hub) -> None:
    program = python('say(type="event", kind="ready"); time.sleep(600)')
    async with serving(hub, program, graces=Graces(message_s=0.2, term_s=60)) as client:
        _, how = await cancelled(client)
        assert how == {"why": "cancelled", "rung": "sigterm", "signal": "SIGTERM"}


async def test_one_that_ignores_sigterm_is_killed(hub: Hub) -> None:
    program = python('ignore_sigterm(); say(type="event", kind="ready"); time.sleep(600)')
    async with serving(hub, program) as client:
        _, how = await cancelled(client)
        assert how == {"why": "cancelled", "rung": "sigkill", "signal": "SIGKILL"}


async def test_a_grandchild_that_ignores_sigterm_and_holds_the_pipes_is_killed_too(hub: Hub) -> None:
    program = python("grandchild(STUBBORN); time.sleep(600)")
    async with serving(hub, program) as client:
        _, how = await cancelled(client, ready="stdout")
        assert how == {"why": "cancelled", "rung": "sigkill", "signal": "SIGTERM"}


async def test_a_plain_program_is_told_by_sigterm_and_may_clean_up(hub: Hub) -> None:
    script = shell("trap 'echo cleaning; exit 5' TERM; echo $$; while :; do sleep 0.05; done")
    async with serving(hub, script, plain=True, graces=PATIENT) as client:
        run = await client.submit("it")
        group = int((await until(run, "stdout"))["text"])
        assert await run.cancel(wait=True) == "cancelled"
        found = await entries_of(run)
        assert texts(found, "stdout")[1:] == ["cleaning"]
        assert bodies(found, "stopped") == [{"why": "cancelled", "rung": "sigterm", "exit": 5}]
        assert group_is_gone(group)


async def test_a_program_that_gives_its_result_although_cancelled_has_succeeded(hub: Hub) -> None:
    program = python('say(type="event", kind="ready"); say(type="result", result=hear()["reason"])')
    async with serving(hub, program, graces=PATIENT) as client:
        run = await client.submit("it")
        await until(run, "ready")
        await run.cancel(reason="enough")
        assert await run.result() == "enough"


async def test_what_a_program_leaves_behind_is_ended(hub: Hub) -> None:
    program = python("grandchild(STUBBORN); say(type='result', result=7)")
    async with serving(hub, program) as client:
        run = await client.submit("it")
        group = await until(run, "group")
        assert await run.result() == 7
        assert group_is_gone(group)
        [how] = bodies(await entries_of(run), "stopped")
        assert (how["rung"], how["exit"]) == ("sigkill", 0)


async def test_what_ends_by_itself_may_finish_what_it_says(hub: Hub) -> None:
    script = shell("(read -r _ < <(sleep 0.2); echo late) & echo early")
    async with serving(hub, script, plain=True, graces=PATIENT) as client:
        run = await client.submit("it")
        assert await run.result() is None
        found = await entries_of(run)
        assert texts(found, "stdout") == ["early", "late"]
        assert not bodies(found, "stopped")


async def test_a_process_that_left_the_group_and_holds_the_pipes_holds_no_run(hub: Hub, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = shell(f"setsid bash -c 'echo $$ > {pid}; echo outside; exec sleep 600' & while [ ! -s {pid} ]; do :; done")
    async with serving(hub, script, plain=True, graces=PATIENT) as client:
        run = await client.submit("it")
        try:
            assert await run.result() is None
        finally:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        assert set(texts(await entries_of(run), "stdout")) <= {"outside"}


async def test_a_line_of_5_mb_comes_in_parts(hub: Hub) -> None:
    script = shell("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo after; echo '{ no message'")
    async with serving(hub, script) as client:
        run = await client.submit("it")
        with pytest.raises(RunFailed, match="without a result"):
            await run.result()
        found = bodies(await entries_of(run), "stdout")
        assert found[-2:] == [{"text": "after"}, {"text": "{ no message"}]
        parts = found[:-2]
        assert "".join(part["text"] for part in parts) == "x" * 5_000_000
        assert [part["part"] for part in parts] == [*range(1, len(parts) + 1)]
        assert [part["more"] for part in parts] == [True] * (len(parts) - 1) + [False]


async def test_two_streams_that_flood_keep_their_orders(hub: Hub) -> None:
    async with serving(hub, shell("seq 1 20000 & seq 1 20000 >&2; wait"), plain=True, graces=PATIENT) as client:
        run = await client.submit("it")
        assert await run.result() is None
        found = await entries_of(run)
        assert texts(found, "stdout") == texts(found, "stderr") == [str(number) for number in range(1, 20001)]


async def test_an_input_that_is_not_read_holds_nothing(hub: Hub) -> None:
    async with serving(hub, shell("exit 0"), plain=True, graces=PATIENT) as client:
        assert await (await client.submit("it", "x" * 900_000)).result() is None
    async with serving(hub, shell("wc -c"), plain=True, graces=PATIENT) as client:
        run = await client.submit("it", "x" * 900_000)
        assert await run.result() is None
        assert texts(await entries_of(run), "stdout") == ["900003"]


async def test_as_many_programs_run_at_a_time_as_there_are_slots(hub: Hub, tmp_path: Path) -> None:
    script = shell(
        f"touch {tmp_path}/$FLEETLINE_RUN; while [ $(ls {tmp_path} | grep -c -- -) -lt 3 ]; do sleep 0.01; done"
    )
    async with serving(hub, script, plain=True, slots=3, graces=PATIENT) as client:
        runs = [await client.submit("it") for _ in range(3)]
        assert [await run.result() for run in runs] == [None] * 3


async def test_a_program_that_is_not_there_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for name, why in (("missing", "No such file"), ("text", "Permission denied")):
        async with serving(hub, (str(tmp_path / name),)) as client:
            with pytest.raises(RunFailed, match=f"ProgramNotStarted: .*{name} cannot be started: {why}"):
                await (await client.submit("it")).result()


async def test_a_drain_without_time_hands_the_run_back_and_leaves_nothing(hub: Hub) -> None:
    async with serving(hub, python("grandchild(STUBBORN); time.sleep(600)"), graces=PATIENT) as client:
        run = await client.submit("it")
        group = await until(run, "group")
        await until(run, "stdout")
    assert group_is_gone(group)
    async with serving(hub, python('say(type="result", result=2)')) as client:
        again = client.run(run.id)
        assert await again.result() == 2
        kinds = [entry.kind for entry in await entries_of(again)]
        assert kinds.count("$released") == 1
        assert "stopped" not in kinds


async def test_a_program_whose_time_is_up_is_ended_with_its_group(hub: Hub) -> None:
    async with serving(hub, python("ignore_sigterm(); grandchild(STUBBORN); time.sleep(600)")) as client:
        run = await client.submit("it", timeout=1)
        group = await until(run, "group")
        with pytest.raises(RunFailed):
            await run.result()
        await eventually(lambda: group_is_gone(group))
        assert bodies(await entries_of(run), "$timed_out")


async def test_programs_do_not_outlive_their_guard_and_the_next_run_has_a_new_one(hub: Hub) -> None:
    program = python("say(type='event', kind='guard', body=os.getppid()); grandchild(STUBBORN); time.sleep(600)")
    async with serving(hub, program, graces=PATIENT) as client:
        run = await client.submit("it")
        group, guard = await until(run, "group"), await until(run, "guard")
        await until(run, "stdout")
        os.kill(guard, signal.SIGKILL)
        with pytest.raises(RunFailed, match="was ended by SIGKILL without a result"):
            await run.result()
        await eventually(lambda: group_is_gone(group))
        again = await client.submit("it")
        assert await until(again, "guard") != guard
        await again.cancel()
