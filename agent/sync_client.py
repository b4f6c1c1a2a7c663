"""The client for scripts and notebooks: the same methods, blocking.

It runs `Client` on the link's own loop, so any thread may use it, and nobody needs a loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from agent.client import CONNECT_TIMEOUT_S, Client
from agent.discovery import TokenSource
from agent.entry import Entry
from agent.errors import LinkClosed, Reset
from agent.publisher import DiskPublisher, Publisher, Receipt
from agent.reading import Reader
from agent.results import Output
from agent.runs import Run
from agent.submission import SubmitOptions
from agent.sync_queueing import SyncQueueMethods
from agent.sync_scheduling import SyncScheduleMethods
from agent.sync_tokening import SyncTokenMethods
from agent.threads import LoopThread
from protocol.artifacts import Artifact
from protocol.conversation import QUERY_MS
from protocol.entry import Position
from protocol.frames import Start
from protocol.requests import AgentInfo, AgentStanding, LogInfo, RunInfo
from protocol.requests_agents import LIST_MAX
from protocol.talk import Message, Talk

__all__ = ["SyncClient", "SyncPublisher", "SyncReader", "SyncRun"]

T = TypeVar("T")

READ_AHEAD = 256
"""Entries fetched from the loop at a time."""


class _Portal:
    """Runs coroutines on the client's loop, and waits for them."""

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future: Future[T] = self.thread.start(work)
        except RuntimeError:
            raise LinkClosed from None
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


class _Closing(ABC):
    """What is left with `with`, or with `close`."""

    @abstractmethod
    def close(self) -> None:
        """Be done with it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncReader(_Closing, Iterator[Entry]):
    """The blocking twin of `agent.reading.Reader`. Leave it with `with` or `close`."""

    def __init__(self, portal: _Portal, reader: Reader) -> None:
        self._portal = portal
        self._reader = reader

    def __next__(self) -> Entry:
        try:
            return self._portal(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Follow the log no more."""
        self._reader.close()

    def caught_up(self) -> int:
        """Wait until all that was there has been received. Returns the head at that moment."""
        return self._portal(self._reader.caught_up())

    async def _next(self) -> Entry:
        return await self._reader.__anext__()


class SyncRun:
    """The blocking twin of `agent.runs.Run`."""

    def __init__(self, portal: _Portal, run: Run) -> None:
        self._portal = portal
        self._run = run

    @property
    def id(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def created(self) -> bool:
        """False where the key of the submit had made it before."""
        return self._run.created

    @property
    def log(self) -> str:
        """The run's log."""
        return self._run.log

    def watch(
        self, after: Entry | Position | None = None, *, on_reset: Callable[[Reset], None] | None = None
    ) -> SyncReader:
        """Return the run's entries up to its terminal one. See `Run.watch`."""
        return SyncReader(self._portal, self._run.watch(after, on_reset=on_reset))

    def output(self, *, follow: bool = False) -> Iterator[Output]:
        """Return what the run wrote. See `Run.output`."""
        pieces = self._run.output(follow=follow)

        async def some() -> Output | None:
            return await anext(pieces, None)

        try:
            while (piece := self._portal(some())) is not None:
                yield piece
        finally:
            self._portal(pieces.aclose())

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return the files that the run attached, by name."""
        return self._portal(self._run.artifacts())

    def fetch(self, name: str, path: str | PathLike[str] | None = None) -> Path:
        """Fetch a file that the run attached, and verify it. See `Run.fetch`."""
        return self._portal(self._run.fetch(name, path))

    def get(self) -> RunInfo:
        """Return the run as it is now."""
        return self._portal(self._run.get())

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result. See `Run.result`."""
        return self._portal(self._run.result(timeout))

    def last(self) -> SyncRun:
        """Return the run that this one went on as in the end. See `Run.last`."""
        return SyncRun(self._portal, self._portal(self._run.last()))

    def retry(self) -> SyncRun:
        """Do again what the run was to do, as a new run. See `Run.retry`."""
        return SyncRun(self._portal, self._portal(self._run.retry()))

    def cancel(self, wait: bool = False, reason: str | None = None) -> str:
        """Ask the run to stop. See `Run.cancel`."""
        return self._portal(self._run.cancel(wait, reason))

    def steer(self, message: Any, wait: bool = False) -> Message:
        """Say something to the run's handler. See `Run.steer`."""
        return self._portal(self._run.steer(message, wait))

    def answer(self, value: Any, question: int | None = None, *, digest: str | None = None) -> int:
        """Answer a question of the run. See `Run.answer`."""
        return self._portal(self._run.answer(value, question, digest=digest))

    def query(self, name: str, args: Any = None, *, timeout: float = QUERY_MS / 1000) -> Any:
        """Ask the run's handler something while it works. See `Run.query`."""
        return self._portal(self._run.query(name, args, timeout=timeout))

    def talk(self) -> Talk:
        """Return what the run was told and asked. See `Run.talk`."""
        return self._portal(self._run.talk())


class SyncPublisher(_Closing):
    """The blocking twin of `agent.publisher.Publisher` and `DiskPublisher`."""

    def __init__(self, portal: _Portal, publisher: Publisher | DiskPublisher) -> None:
        self._portal = portal
        self._publisher = publisher

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        self.close()

    @property
    def acknowledged(self) -> int:
        """Number of the last entry that is in the log."""
        return self._publisher.acknowledged

    @property
    def last_mark(self) -> str | None:
        """Mark of the last entry on disk; None without a state directory."""
        return self._publisher.last_mark if isinstance(self._publisher, DiskPublisher) else None

    def publish(self, kind: str, value: Any = None, *, mark: str | None = None, cause: int | None = None) -> Receipt:
        """Accept an entry. See `DiskPublisher.publish`; `mark` needs a state directory."""
        if isinstance(self._publisher, DiskPublisher):
            return self._portal(self._publisher.publish(kind, value, mark=mark, cause=cause))
        if mark is not None:
            raise ValueError("a mark is kept with its entry on disk: give the publisher a state directory")
        return self._portal(self._publisher.publish(kind, value, cause=cause))

    def flush(self) -> None:
        """Wait until everything that was accepted is acknowledged."""
        self._portal(self._publisher.flush())

    def close(self) -> None:
        """Give up what is not acknowledged; what is on disk stays there."""
        self._portal(self._publisher.aclose())


class SyncClient(SyncScheduleMethods, SyncQueueMethods, SyncTokenMethods, _Closing):
    """The blocking twin of `Client`. Make one with `SyncClient.connect()`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._portal = _Portal(client.links.thread)

    @property
    def _twin(self) -> Client:
        return self._client

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._portal(work)

    @classmethod
    def connect(
        cls,
        hub: str | None = None,
        *,
        token: TokenSource | None = None,
        token_file: str | Path | None = None,
        directory: str | Path | None = None,
        ca_file: str | Path | None = None,
        name: str | None = None,
        timeout: float | None = CONNECT_TIMEOUT_S,
    ) -> Self:
        """Connect to the hub. See `Client.connect`."""
        connecting = Client.connect(
            hub,
            token=token,
            token_file=token_file,
            directory=directory,
            ca_file=ca_file,
            name=name,
            timeout=timeout,
        )
        return cls(connecting.blocking())

    def close(self) -> None:
        """Say goodbye."""
        self._client.close_blocking()

    def submit(
        self,
        handler: str,
        input: Any = None,
        **options: Unpack[SubmitOptions],
    ) -> SyncRun:
        """Put a run on a queue. See `Client.submit`."""
        work = self._client.submit(handler, input, **options)
        return SyncRun(self._portal, self._portal(work))

    def execute(self, handler: str, input: Any = None, **options: Unpack[SubmitOptions]) -> Any:
        """Submit a run, and return what its handler returned. See `Client.execute`."""
        return self._portal(self._client.execute(handler, input, **options))

    def run(self, run_id: str) -> SyncRun:
        """Return a handle on a run that exists."""
        return SyncRun(self._portal, self._client.run(run_id))

    def runs(
        self,
        limit: int = 100,
        *,
        state: str | None = None,
        queue: str | None = None,
        parent: str | None = None,
        after: str | None = None,
    ) -> tuple[RunInfo, ...]:
        """Return runs, newest first. See `Client.runs`."""
        return self._portal(self._client.runs(limit, state=state, queue=queue, parent=parent, after=after))

    def subscribe(
        self,
        log: str,
        from_: Start | str | Position | Entry = Start.EARLIEST,
        *,
        durable: str | None = None,
        kinds: Sequence[str] | None = None,
        auto_ack: bool = True,
        on_reset: Callable[[Reset], None] | None = None,
    ) -> SyncReader:
        """Follow a log. See `Client.subscribe`."""
        reader = self._client.subscribe(log, from_, durable=durable, kinds=kinds, auto_ack=auto_ack, on_reset=on_reset)
        return SyncReader(self._portal, reader)

    def read(self, log: str, after: int = 0, upto: int | None = None) -> Iterator[Entry]:
        """Return the entries of a log as it is now. See `Client.read`."""
        entries = self._client.read(log, after, upto)

        async def some() -> list[Entry]:
            found: list[Entry] = []
            async for entry in entries:
                found.append(entry)
                if len(found) == READ_AHEAD:
                    break
            return found

        while found := self._portal(some()):
            yield from found

    def log(self, log: str) -> LogInfo:
        """Return what is known of a log."""
        return self._portal(self._client.log(log))

    def logs(self, kind: str | None = None, limit: int = 100) -> tuple[LogInfo, ...]:
        """Return logs, newest first."""
        return self._portal(self._client.logs(kind, limit))

    def publish(
        self, topic: str, kind: str, body: Any = None, *, expect: int | None = None, cause: int | None = None
    ) -> int:
        """Append an entry to a topic. See `Client.publish`."""
        return self._portal(self._client.publish(topic, kind, body, expect=expect, cause=cause))

    def publisher(self, topic: str, state_dir: str | Path | None = None, *, after_loss: bool = False) -> SyncPublisher:
        """Return a publisher. See `Client.publisher`."""
        work = self._client.publisher(topic, state_dir, after_loss=after_loss)
        return SyncPublisher(self._portal, self._portal(work))

    def agents(self, limit: int = LIST_MAX, after: str | None = None) -> tuple[AgentInfo, ...]:
        """Return the agents that were ever seen, by name. See `Client.agents`."""
        return self._portal(self._client.agents(limit, after))

    def agent(self, agent_id: str) -> AgentInfo:
        """Return one agent."""
        return self._portal(self._client.agent(agent_id))

    def send(self, agent_id: str, kind: str, body: Any = None) -> int:
        """Put a message into an agent's log. See `Client.send`."""
        return self._portal(self._client.send(agent_id, kind, body))

    def cordon(self, agent_id: str) -> AgentStanding:
        """Let an agent be given no more work. See `Client.cordon`."""
        return self._portal(self._client.cordon(agent_id))

    def uncordon(self, agent_id: str) -> AgentStanding:
        """Let an agent be given work again."""
        return self._portal(self._client.uncordon(agent_id))

    def drain(self, agent_id: str, grace: float | None = None) -> AgentStanding:
        """Let the process of an agent finish and end. See `Client.drain`."""
        return self._portal(self._client.drain(agent_id, grace))
