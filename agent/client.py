"""The client: submit runs, watch and cancel them, read and write logs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from agent.connecting import Connecting
from agent.discovery import TokenSource, locator
from agent.entry import Entry
from agent.errors import Reset
from agent.feed import check_kind, check_offset, too_large
from agent.identity import own_credentials
from agent.links import Links
from agent.logs import ensure_logging
from agent.offers import Offers
from agent.publisher import DiskPublisher, Publisher, open_publisher
from agent.queueing import QueueMethods
from agent.reading import Reader, read_log, start_of
from agent.runs import WAIT_MS, Run
from agent.scheduling import ScheduleMethods
from agent.submission import SubmitOptions, span_ms, submission
from agent.threads import in_loop
from agent.tokening import TokenMethods
from protocol.codec import pack_value
from protocol.entry import Position
from protocol.frames import Identify, Part, Role, Start
from protocol.ids import LogName
from protocol.requests import (
    METHODS,
    AgentChange,
    AgentDrain,
    AgentGet,
    AgentInfo,
    AgentList,
    AgentSend,
    AgentStanding,
    LogGet,
    LogInfo,
    LogList,
    ProducerOpen,
    RunInfo,
    RunList,
    RunListed,
    RunSubmit,
    RunSubmitted,
)
from protocol.requests_agents import LIST_MAX
from protocol.version import VERSION

if TYPE_CHECKING:
    from agent.identity import Credentials

__all__ = ["CONNECT_TIMEOUT_S", "Client", "topic_log"]

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0


def topic_log(topic: str) -> str:
    """Return the log of a topic, given `NAME` or `topic/NAME`. Raises `InvalidName`."""
    return LogName.parse(topic if "/" in topic else f"topic/{topic}").path


class Client(ScheduleMethods, QueueMethods, TokenMethods):
    """A connection to the hub that is kept open: it reconnects and resumes by itself.

    Make one with `Client.connect()`, as `async with Client.connect() as client` or `await Client.connect()`.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self._offers: dict[str, Offers] = {}
        self._closed = False

    @classmethod
    def connect(
        cls,
        hub: str | None = None,
        *,
        token: TokenSource | None = None,
        token_file: str | Path | None = None,
        directory: str | Path | None = None,
        ca_file: str | Path | None = None,
        credentials: Credentials | None = None,
        name: str | None = None,
        timeout: float | None = CONNECT_TIMEOUT_S,
    ) -> Connecting:
        """Connect to the hub.

        Args:
            hub: its address; without, it is found as `agent.discovery` says.
            token: the token to come with, or a function that returns it, or
            token_file: the file that holds it.
            directory: a data directory to find hub and token in.
            ca_file: authorities that the hub's certificate may be of, where the system's will not do.
            credentials: the key to come with, see `agent.identity.find_credentials`; without, and without a token,
                this user's own, where `fleetline key enrol` has made one.
            name: what this client is called in logs of the hub; made up without.
            timeout: how long the first connection may take, in seconds; None waits for ever. Later
                reconnects are tried for ever in any case.

        Raises:
            HubUnreachable: no hub answered in time, or (`HubNotFound`) nothing says where it is.
            NotAuthenticated, NotPermitted: the token is no good.
            IdentityUnusable: this user's key cannot be read, or others can read it.
        """
        ensure_logging()
        identity = Identify(
            version=VERSION,
            role=Role.CLIENT,
            id=name or f"client-{secrets.token_hex(4)}",
            instance=secrets.token_hex(8),
        )
        key = credentials or own_credentials(token=token is not None or token_file is not None)
        locate = locator(hub, token, token_file, directory=directory, ca_file=ca_file, credentials=key)
        return Connecting(cls, identity, locate, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye. What was published and not acknowledged is given up."""
        if not self._closed:
            await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Do as `close` does, for programs without a loop."""
        if self._closed:
            return
        self._closed = True
        self.links.close("the client is done")
        wait((self.links.main.ended,), CLOSE_TIMEOUT_S)
        self.links.thread.stop()

    async def ask(self, method: str, params: Part) -> Any:
        """Ask the hub. The same question is asked again after a reconnect, until it is answered.

        Raises:
            RequestError: it was refused.
            LinkEnded: the hub ended the session for good.
        """
        op = secrets.token_hex(8) if METHODS[method].needs_op else None
        return await in_loop(self.links.main.request(method, params, op))

    # Runs

    async def submit(
        self,
        handler: str,
        input: Any = None,
        **options: Unpack[SubmitOptions],
    ) -> Run:
        """Put a run on a queue. It is there when this returns, and stays.

        Args:
            handler: name of the handler.
            input: what it is applied to: anything msgpack can hold.
            options: queue, key, priority, times and more: see `SubmitOptions`.

        Raises:
            RequestError: `key_conflict` where the key names a run with another input, for one.
            ValueError: an option has no such value.
        """
        return await self._submit(submission(handler, self._pack(input, f"run {handler}"), **options))

    async def execute(self, handler: str, input: Any = None, **options: Unpack[SubmitOptions]) -> Any:
        """Submit a run, wait until it is over, and return what its handler returned: `submit` and `Run.result` in one.

        It takes what `submit` takes, and is quicker than the two after one another.

        Raises:
            RunFailed, RunCancelled, RunExpired, RunDead: it ended without a result.
            RequestError, ValueError: as `submit`.
        """
        params = submission(handler, self._pack(input, f"run {handler}"), **options)
        run = await self._submit(params.model_copy(update={"wait_ms": WAIT_MS}))
        return await run.result()

    def run(self, run_id: str) -> Run:
        """Return a handle on a run that exists."""
        LogName.parse(f"run/{run_id}")
        return Run(self, run_id)

    async def runs(
        self,
        limit: int = 100,
        *,
        state: str | None = None,
        queue: str | None = None,
        parent: str | None = None,
        after: str | None = None,
    ) -> tuple[RunInfo, ...]:
        """Return up to `limit` runs, newest first, from behind the run `after` on; with `parent`, children of that run.

        All runs are looked through until there are so many, a page at a time.
        """
        found: list[RunInfo] = []
        while len(found) < limit:
            most = min(limit - len(found), LIST_MAX)
            asked = RunList(limit=most, state=state, queue=queue, parent=parent, after=after)
            page: RunListed = await self.ask("run.list", asked)
            found += page.runs
            after = page.next
            if after is None:
                break
        return tuple(found)

    # Logs

    def subscribe(
        self,
        log: str,
        from_: Start | str | Position | Entry = Start.EARLIEST,
        *,
        durable: str | None = None,
        kinds: Sequence[str] | None = None,
        auto_ack: bool = True,
        on_reset: Callable[[Reset], None] | None = None,
    ) -> Reader:
        """Follow a log: its history from a place, then what comes. It resumes by itself.

        Args:
            log: `topic/NAME`, `run/ID` or `agent/ID`.
            from_: "earliest", "latest", "acked" (where `durable` left off), or a position or entry to go on after.
            durable: a name under which the hub keeps what was acknowledged.
            kinds: leave out entries of other kinds.
            auto_ack: an entry counts as handled when the next one is asked for; else call `entry.ack()`.
            on_reset: called where history was lost, instead of raising `HistoryReset`.
        """
        path = LogName.parse(log).path
        return Reader(
            self.links, path, start_of(from_), kinds=kinds, durable=durable, auto_ack=auto_ack, on_reset=on_reset
        )

    def read(self, log: str, after: int = 0, upto: int | None = None) -> AsyncIterator[Entry]:
        """Return the entries of a log as it is now, after an offset, each verified.

        Raises (when iterated):
            RequestError: there is no such log.
            HistoryReset: entries after `after` are not kept any more.
        """
        return read_log(self.links.main, LogName.parse(log).path, after, upto)

    async def log(self, log: str) -> LogInfo:
        """Return what is known of a log."""
        info: LogInfo = await self.ask("log.get", LogGet(log=LogName.parse(log).path))
        return info

    async def logs(self, kind: str | None = None, limit: int = 100) -> tuple[LogInfo, ...]:
        """Return logs, newest first; `kind` is agent, run or topic."""
        logs: tuple[LogInfo, ...] = (await self.ask("log.list", LogList(kind=kind, limit=limit))).logs
        return logs

    async def publish(
        self, topic: str, kind: str, body: Any = None, *, expect: int | None = None, cause: int | None = None
    ) -> int:
        """Append an entry to a topic. Returns its offset once it is as durable as the hub says it must be.

        Args:
            topic: its name.
            kind: of the entry.
            body: anything msgpack can hold.
            expect: the offset that the topic's head must have; `ExpectFailed` says what it has.
            cause: the offset of the entry that this one answers.

        Many publishes at a time share frames; for a stream of entries use `publisher`, which is faster.
        """
        log = topic_log(topic)
        check_kind(kind)
        check_offset("cause", cause)
        check_offset("expect", expect)
        packed = self._pack(body, log)
        while True:
            offers = self._offers_of(log)
            offset = offers.offer(kind, packed, cause, expect)
            if offset is not None:
                return await in_loop(offset)
            await in_loop(self.links.main.peer.outbox.room(len(packed)))

    async def publisher(
        self, topic: str, state_dir: str | Path | None = None, *, after_loss: bool = False
    ) -> Publisher | DiskPublisher:
        """Return a publisher: many entries to one topic, acknowledged in bulk.

        Args:
            topic: its name.
            state_dir: where the outbox is kept on disk, so that what was published is sent even when this
                process is killed; in memory without.
            after_loss: go on with a new producer where the store lost acknowledged entries of the old one.

        Raises:
            OutboxBusy: another process has the state directory.
            PublisherLost: see `after_loss`.
        """
        return await open_publisher(self, topic_log(topic), state_dir, after_loss=after_loss)

    # Agents

    async def agents(self, limit: int = LIST_MAX, after: str | None = None) -> tuple[AgentInfo, ...]:
        """Return up to `limit` (1000 at most) of the agents that were ever seen, by name, from behind `after` on."""
        agents: tuple[AgentInfo, ...] = (await self.ask("agent.list", AgentList(limit=limit, after=after))).agents
        return agents

    async def agent(self, agent_id: str) -> AgentInfo:
        """Return one agent."""
        info: AgentInfo = await self.ask("agent.get", AgentGet(agent=agent_id))
        return info

    async def send(self, agent_id: str, kind: str, body: Any = None) -> int:
        """Put a message into an agent's log; it is given it when it is connected. Returns the offset."""
        params = AgentSend(agent=agent_id, kind=kind, body=self._pack(body, f"agent/{agent_id}"))
        return int((await self.ask("agent.send", params)).offset)

    async def cordon(self, agent_id: str) -> AgentStanding:
        """Let an agent be given no more work until `uncordon`, whatever process has its id; what runs goes on."""
        standing: AgentStanding = await self.ask("agent.cordon", AgentChange(agent=agent_id))
        return standing

    async def uncordon(self, agent_id: str) -> AgentStanding:
        """Let an agent be given work again."""
        standing: AgentStanding = await self.ask("agent.uncordon", AgentChange(agent=agent_id))
        return standing

    async def drain(self, agent_id: str, grace: float | None = None) -> AgentStanding:
        """Let the process of an agent take nothing more, finish what it works on, and end.

        Args:
            agent_id: the agent.
            grace: how many seconds what it works on may take; what is not done then is handed back. Any time without.
        """
        params = AgentDrain(agent=agent_id, grace_ms=span_ms("grace", grace))
        standing: AgentStanding = await self.ask("agent.drain", params)
        return standing

    async def _submit(self, params: RunSubmit) -> Run:
        answer: RunSubmitted = await self.ask("run.submit", params)
        return Run(self, answer.run, created=answer.created, last=answer.end)

    def _pack(self, value: Any, log: str) -> bytes:
        """Pack a value. Raises `PublishRefused` where it is larger than the hub takes."""
        packed = pack_value(value)
        most = self.links.main.peer.limits.body_bytes_max
        if len(packed) > most:
            raise too_large(log, len(packed), most)
        return packed

    def _offers_of(self, log: str) -> Offers:
        offers = self._offers.get(log)
        if offers is None or (offers.dead is not None and not self.links.main.ended.done()):
            outbox = self.links.main.peer.outbox
            offers = self._offers[log] = Offers(outbox, log, f"p-{secrets.token_hex(8)}")
            outbox.add(offers)
            self._open(offers)
        return offers

    def _open(self, offers: Offers) -> None:
        """Open the producer; what is offered meanwhile waits."""
        main = self.links.main
        asked = main.request("producer.open", ProducerOpen(log=offers.log, producer=offers.producer), offers.producer)
        main.peer.outbox.opens(offers, asked)
