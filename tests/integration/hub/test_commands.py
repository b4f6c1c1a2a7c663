"""Every command in every state of a run, through a hub on stores of each kind: what it answers, and what is so then."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from protocol.codec import pack_value
from protocol.control import Errored, Kind, RunError, Succeeded
from protocol.conversation import Asked, QuestionKind, Suspended
from protocol.frames import Assign, HandlerSpec, Puback, Recover
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually

LONG_MS = 60_000
SHORT_MS = 20
YES = pack_value(True)
ERRORED = pack_value(Errored(error=RunError(type="ValueError", message="no")))
ASKED = pack_value(Asked(kind=QuestionKind.APPROVE, name="push", digest="d", payload=b"\xc0"))

COMMANDS: dict[str, dict[str, Any]] = {
    "cancel": {"reason": "enough"},
    "steer": {"body": pack_value("on")},
    "answer": {"answer": YES},
    "retry": {},
}

SUSPENDED = pack_value(Suspended(sleep_ms=LONG_MS))
HANDLERS = (HandlerSpec(name="h"), HandlerSpec(name="journaled", recover=Recover.JOURNAL))

WAITING = ("queued", "delayed", "retrying", "suspended")
WORKED_ON = ("running", "asking", "cancelling")
OVER = ("succeeded", "failed", "cancelled", "expired", "dead")
SHOWN = {"delayed": "queued", "retrying": "queued", "suspended": "queued", "asking": "running", "cancelling": "running"}
"""What a run's state is called where it has no name of its own."""

EXPECTED: dict[tuple[str, str], str] = {
    **{(state, "cancel"): "cancelled" for state in WAITING},
    **{(state, "cancel"): "running" for state in WORKED_ON},
    **{(state, "cancel"): state for state in OVER},
    **{(state, "steer"): SHOWN.get(state, state) for state in (*WAITING, *WORKED_ON)},
    **{(state, "steer"): "run_finished" for state in OVER},
    **{(state, "answer"): "not_found" for state in (*WAITING, "running", "cancelling")},
    ("asking", "answer"): "running",
    **{(state, "answer"): "run_finished" for state in OVER},
    **{(state, "retry"): "not_over" for state in (*WAITING, *WORKED_ON)},
    **{(state, "retry"): state for state in OVER},
}
"""The code that a command is refused with, or the state that the run is in afterwards."""


@dataclass
class Stage:
    """A client, an agent that works on what it is told to, and the runs of a test."""

    client: HubPeer
    worker: HubPeer
    numbers: itertools.count[int]

    async def submit(self, **params: Any) -> str:
        """Submit a run to a queue that the agent serves, or to another."""
        given = {"queue": "q", "handler": "h", "input": b"", "key": f"k-{next(self.numbers)}", **params}
        return str((await self.client.result("run.submit", **given))["run"])

    async def take(self, **params: Any) -> Assign:
        """Submit a run, and let the agent have it."""
        run = await self.submit(**params)
        return await self.worker.expect(Assign, lambda frame: frame.run == run)

    async def say(self, given: Assign, kind: str, body: bytes) -> str:
        """Let the attempt publish something as its first entry. Returns the run."""
        await self.worker.send(work_of(given, 1, kind, body, index=1 if kind == Kind.ASKED else None))
        await self.worker.expect(Puback, lambda frame: frame.log == f"run/{given.run}")
        return given.run

    async def shown(self, run: str) -> str:
        """Return what the hub says that a run's state is."""
        return str((await self.client.result("run.get", run=run))["state"])

    async def reach(self, state: str) -> str:
        """Bring a run into a state, and return it."""
        run: str = await getattr(self, f"_{state}")()

        async def there() -> bool:
            return await self.shown(run) == SHOWN.get(state, state)

        await eventually(there)
        return run

    async def _queued(self) -> str:
        return await self.submit(queue="elsewhere")

    async def _delayed(self) -> str:
        return await self.submit(delay_ms=LONG_MS)

    async def _retrying(self) -> str:
        given = await self.take(retries=1, backoff_ms=LONG_MS, backoff_max_ms=LONG_MS)
        return await self.say(given, Kind.ERRORED, ERRORED)

    async def _suspended(self) -> str:
        return await self.say(await self.take(handler="journaled"), Kind.SUSPENDED, SUSPENDED)

    async def _running(self) -> str:
        return (await self.take()).run

    async def _asking(self) -> str:
        return await self.say(await self.take(), Kind.ASKED, ASKED)

    async def _cancelling(self) -> str:
        return await self._cancel(await self._running())

    async def _succeeded(self) -> str:
        return await self.say(await self.take(), Kind.SUCCEEDED, pack_value(Succeeded(result=b"\xc0")))

    async def _failed(self) -> str:
        return await self.say(await self.take(), Kind.ERRORED, ERRORED)

    async def _cancelled(self) -> str:
        return await self._cancel(await self._queued())

    async def _expired(self) -> str:
        return await self.submit(queue="elsewhere", deadline_ms=SHORT_MS)

    async def _dead(self) -> str:
        given = await self.take(retries=1, backoff_ms=1, backoff_max_ms=1)
        await self.say(given, Kind.ERRORED, ERRORED)
        again = await self.worker.expect(Assign, lambda frame: frame.run == given.run)
        return await self.say(again, Kind.ERRORED, ERRORED)

    async def _cancel(self, run: str) -> str:
        await self.client.result("run.cancel", run=run)
        return run


async def walk(stage: Stage, state: str, command: str) -> str:
    """Return what a command makes of a run in a state: the code of its fault, or the state afterwards."""
    run = await stage.reach(state)
    answer = await stage.client.request(f"run.{command}", run=run, **COMMANDS[command])
    return answer.error.code if answer.error is not None else await stage.shown(run)


async def test_every_command_in_every_state(either: World) -> None:
    async with either.peer() as client, either.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent(slots=100).model_copy(update={"handlers": HANDLERS}))
        stage = Stage(client, worker, itertools.count(1))
        found = {
            (state, command): await walk(stage, state, command)
            for state in (*WAITING, *WORKED_ON, *OVER)
            for command in COMMANDS
        }
        assert found == EXPECTED
