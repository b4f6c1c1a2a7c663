"""Runs an agent: as this process, or beside a hub in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent import Agent
from agent.labels import VERSION_LABEL, with_version
from agent.program import Program
from orchestrator.cli.connect import check_hub, check_token_file, log_level
from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from orchestrator.cli.loader import load_app
from orchestrator.cli.output import Output
from orchestrator.telemetry import configure_logs

if TYPE_CHECKING:
    from orchestrator.hub import Hub

__all__ = ["AgentFlags", "agent_beside", "run_agent", "run_program"]

DRAIN_S = 30.0
"""How long runs may take to finish after the first signal; the second one does not wait."""
DRAIN_BESIDE_S = 5.0


@dataclass(frozen=True, slots=True)
class AgentFlags:
    """What the command line says about an agent; None leaves it as the program has it."""

    agent_id: str | None = None
    queues: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    slots: int | None = None
    hub: str | None = None
    token_file: Path | None = None
    version: str | None = None
    processes: int | None = None
    join_token_file: Path | None = None
    state_dir: Path | None = None

    def apply(self, agent: Agent) -> None:
        """Change the agent accordingly.

        Raises:
            InvalidLabel: with its own, the labels are too many.
        """
        agent.name = self.agent_id or agent.name
        agent.queues = self.queues or agent.queues
        known = agent.labels if self.version is None else {**agent.labels, VERSION_LABEL: self.version}
        agent.labels = with_version({**known, **(self.labels or {})}, self.version)
        agent.slots = self.slots or agent.slots
        if self.processes is not None:
            agent.processes = self.processes


def run_agent(app: str, flags: AgentFlags) -> Exit:
    """Serve until SIGTERM (exit code 0) or Ctrl-C (130), then drain.

    Raises:
        CliError: APP or an option cannot be used.
        LinkEnded: the hub ended the session for good.
    """
    _prepare(flags)
    return _run(_load_useful(app), flags)


def run_program(handler: str, program: Program, flags: AgentFlags, *, retries: int, timeout: float | None) -> Exit:
    """Serve runs that are a program, as `run_agent` does those of an APP.

    Raises:
        CliError: the program or an option cannot be used.
        LinkEnded: the hub ended the session for good.
    """
    _prepare(flags)
    if shutil.which(program.name) is None:
        raise CliError(
            f"COMMAND: there is no program {program.name!r} that this user may execute, here or on PATH; "
            "write ./NAME for one in this directory, and chmod +x it"
        )
    agent = Agent(handler)
    agent.program(handler, program, retries=retries, timeout=timeout)
    return _run(agent, flags)


def _prepare(flags: AgentFlags) -> None:
    check_hub(flags.hub)
    check_token_file(flags.token_file)
    if flags.join_token_file is not None and flags.token_file is not None:
        raise CliError("--join-token-file, --token-file: an agent comes with a key or with a token; name one")
    configure_logs(log_level("info"))


def _run(agent: Agent, flags: AgentFlags) -> Exit:
    flags.apply(agent)
    return asyncio.run(_serve(agent, flags))


def _load_useful(app: str) -> Agent:
    """Load an agent that has something to do."""
    agent = load_app(app)
    if not agent.handlers and not agent.message_kinds:
        raise CliError(
            f"APP {app}: the agent {agent.name} has no handlers, so no run could ever be given to it; "
            'put @agent.handler("NAME") before a function, or @agent.on_message("KIND")'
        )
    return agent


def _say_serving(agent: Agent) -> None:
    handlers = ", ".join(handler.name for handler in agent.handlers)
    serves = f"{handlers} from {', '.join(agent.queues)}, {agent.slots} at a time"
    messages = f"messages of kind {', '.join(agent.message_kinds)}"
    what = " and ".join(part for part, there in ((serves, handlers), (messages, agent.message_kinds)) if there)
    Output().note(f"agent {agent.name} serves {what}")


async def _serve(agent: Agent, flags: AgentFlags) -> Exit:
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        agent.stop(0.0 if received else DRAIN_S)
        received.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await agent.serve(
        flags.hub,
        token_file=flags.token_file,
        join_token_file=flags.join_token_file,
        state_dir=flags.state_dir,
        on_ready=lambda: _say_serving(agent),
    )
    return Exit.INTERRUPTED if received[:1] == [signal.SIGINT] else Exit.DONE


def agent_beside(app: str) -> Callable[[Hub], AbstractAsyncContextManager[None]]:
    """Return what runs the agent APP for as long as a hub does.

    It has a thread and an event loop of its own, so that a handler that blocks its loop does not block the hub.

    Raises:
        CliError: APP cannot be used.
    """
    agent = _load_useful(app)

    @contextlib.asynccontextmanager
    async def beside(hub: Hub) -> AsyncIterator[None]:
        thread = _Thread(agent, hub)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(thread.run), name="agent")
            try:
                yield
            finally:
                thread.stop()

    return beside


class _Thread:
    """An agent with an event loop in another thread."""

    def __init__(self, agent: Agent, hub: Hub) -> None:
        self._agent = agent
        self._url = hub.url
        self._token_file = hub.settings.data / "local.token"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    def run(self) -> None:
        """Serve until stopped."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._stopped:
            await self._agent.serve(self._url, token_file=self._token_file, on_ready=lambda: _say_serving(self._agent))

    def stop(self) -> None:
        """Let the agent drain. May be called from any thread."""
        self._stopped = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                self._loop.call_soon_threadsafe(self._agent.stop, DRAIN_BESIDE_S)
