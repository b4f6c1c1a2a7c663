"""A run, as whoever submitted it holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.endings import run_ended
from agent.entry import Entry, decode_body
from agent.errors import HistoryReset, RequestError, Reset, RunEnded
from agent.reading import Reader, start_of
from agent.results import Output, fetch, output_in
from protocol.artifacts import Artifact
from protocol.codec import pack_value, unpack_record, unpack_value
from protocol.codes import ErrorCode
from protocol.control import CONTROL, Kind
from protocol.conversation import QUERY_MS, RunAnswer, RunQuery, RunSteer
from protocol.entry import Entry as StoredEntry
from protocol.entry import Position
from protocol.frames import Start
from protocol.readable import readable
from protocol.requests import RunCancel, RunGet, RunInfo, RunRetry, RunWait, RunWaited
from protocol.run import FINAL, RunState
from protocol.talk import Message, Talk, talk_after

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["TERMINAL_KINDS", "WAIT_MS", "Run", "run_object"]

TERMINAL_KINDS = frozenset(kind for kind, control in CONTROL.items() if control.terminal)
"""The kinds of entries that end a run."""

SAYING_KINDS = TERMINAL_KINDS | {Kind.STEERED}
"""The kinds of entries after which nothing more becomes of a message."""


WAIT_MS = 60_000
"""How long a hub is asked to wait for a run to end, before it is asked again."""

QUERY_SLACK_S = 5.0
"""How long the hub may take to say that nobody replied to a query in time."""


@dataclass(frozen=True, slots=True)
class _End:
    """What a run came to: a result, or another run that it goes on as."""

    result: Any
    goes_on_as: str | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run, and the one that it goes on as."""

    run: Run
    goes_on_as: str | None


_At = TypeVar("_At", _End, _Seen)


class Run:
    """A run: watch it, wait for its result, tell it something, answer what it asks, cancel it.

    Attributes:
        id: the run's id, which is also the name of its log, `run/<id>`.
        created: False where the key of the submit had made it before.
    """

    def __init__(self, client: Client, run_id: str, *, created: bool = False, last: StoredEntry | None = None) -> None:
        """Make a handle; `last` is the entry that ended the run, where it is known."""
        self.id = run_id
        self.created = created
        self._client = client
        self._last = last

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    @property
    def log(self) -> str:
        """The run's log."""
        return f"run/{self.id}"

    def watch(
        self, after: Entry | Position | None = None, *, on_reset: Callable[[Reset], None] | None = None
    ) -> Reader:
        """Return the run's entries, history and then live, up to its terminal entry.

        Where it goes on as another run, that one's follow; `entry.log` says whose an entry is.

        Args:
            after: an entry or position to go on after; from the beginning without.
            on_reset: called where history was lost, instead of raising `HistoryReset`.
        """
        start = start_of(Start.EARLIEST if after is None else after)
        return RunReader(self._client.links, self.log, start, on_reset=on_reset, last_kinds=TERMINAL_KINDS)

    async def output(self, *, follow: bool = False) -> AsyncGenerator[Output]:
        """Yield what the run wrote, of all its attempts: what there is, or with `follow` up to the run's end.

        Raises:
            HistoryReset: some of it is lost.
        """
        async with aclosing(self._entries(follow)) as entries:
            async for entry in entries:
                piece = output_in(entry)
                if piece is not None:
                    yield piece

    async def artifacts(self) -> tuple[Artifact, ...]:
        """Return the files that the run attached, by name."""
        return (await self.get()).artifacts

    async def fetch(self, name: str, path: str | PathLike[str] | None = None) -> Path:
        """Fetch a file that the run attached, and verify it. Returns where it is.

        Args:
            name: what it was attached as.
            path: where to put it, or a directory; without, the current one. What is there is replaced, at the end.

        Raises:
            RequestError: `not_found`.
            ArtifactBroken: it is not what was attached.
        """
        found = {artifact.name: artifact for artifact in await self.artifacts()}
        if name not in found:
            names = ", ".join(repr(one) for one in found) or "none"
            raise RequestError(ErrorCode.NOT_FOUND, f"run {self.id} has no artifact {name!r:.160}; it has {names:.400}")
        return await fetch(self._client.links.main, found[name], Path() if path is None else Path(path))

    async def get(self) -> RunInfo:
        """Return the run as it is now."""
        info: RunInfo = await self._client.ask("run.get", RunGet(run=self.id))
        return info

    async def result(self, timeout: float | None = None) -> Any:
        """Wait until the run is over, and return what its handler returned.

        Raises:
            RunFailed, RunCancelled, RunExpired, RunDead: it ended without a result.
            TimeoutError: it was not over within `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            return (await self._go_along(Run._end)).result

    async def last(self) -> Run:
        """Return the run that this one went on as, and that one, up to the one that did not: this one, mostly."""

        async def look(run: Run) -> _Seen:
            return _Seen(run, (await run.get()).continued_as)

        return (await self._go_along(look)).run

    async def _go_along(self, look: Callable[[Run], Awaitable[_At]]) -> _At:
        """Look at this run and at those that it goes on as. Returns what was seen of the last one.

        One in between may be deleted after it was named. Those beside it name each other by then, so it is begun anew.
        """
        run, gone = self, self.id
        while True:
            try:
                seen = await look(run)
            except RequestError as fault:
                if fault.code != ErrorCode.NOT_FOUND or run.id in (self.id, gone):
                    raise
                run, gone = Run(self._client, self.id), run.id  # as it is: its log names the next one as it was
                continue
            if seen.goes_on_as is None:
                return seen
            run = Run(self._client, seen.goes_on_as)

    async def _end(self) -> _End:
        """Wait until the run is over, and return what it came to. Raises as `result` does."""
        while self._last is None:
            waited: RunWaited = await self._client.ask("run.wait", RunWait(run=self.id, wait_ms=WAIT_MS))
            self._last = waited.end
        return _outcome(self.id, self._last)

    async def retry(self) -> Run:
        """Do again what the run was to do, as a new run; this one must be over.

        Raises:
            RequestError: `not_over` where it may still end by itself.
        """
        answer = await self._client.ask("run.retry", RunRetry(run=self.id))
        return Run(self._client, answer.run, created=answer.created)

    async def cancel(self, wait: bool = False, reason: str | None = None) -> str:
        """Ask the run, or the one that it went on as, to stop. Returns its state after the command.

        Args:
            wait: return when it has stopped.
            reason: kept in the log, and told to the handler.
        """
        answer = await self._client.ask("run.cancel", RunCancel(run=self.id, reason=reason))
        if not wait or answer.state in FINAL:
            return str(answer.state)
        with suppress(RunEnded):
            await self.result()
        return (await (await self.last()).get()).state

    async def steer(self, message: Any, wait: bool = False) -> Message:
        """Say something to the run's handler. It stands in the log when this returns, and is given to the handler.

        Args:
            message: anything msgpack can hold.
            wait: return when the handler said what it did with it, or the run has ended.

        Returns:
            The message, with its `state`: issued, or with `wait` what became of it. `value` is the packed reply.

        Raises:
            RequestError: `run_finished` where there is nobody to steer any more.
        """
        body = pack_value(message)
        if not wait:
            return await self._steer(body)
        reader = Reader(self._client.links, self.log, Start.LATEST, kinds=sorted(SAYING_KINDS))
        try:
            await reader.caught_up()
            sent = await self._steer(body)
            async for entry in _through_resets(reader):
                said = entry.body if isinstance(entry.body, dict) else {}
                if entry.kind in TERMINAL_KINDS or (entry.kind == Kind.STEERED and said.get("id") == sent.id):
                    break
            return (await self.talk()).messages.get(sent.id, sent)
        finally:
            reader.close()

    async def answer(self, value: Any, question: int | None = None, *, digest: str | None = None) -> int:
        """Answer a question of the run: the first answer is the answer. Returns the question's index.

        Args:
            value: the answer; True or False to a question for approval.
            question: the index of the question; without, the only one that waits.
            digest: of the question that is meant, or how it begins. A new attempt may ask something else at the same
                index: that is not answered then.

        Raises:
            RequestError: `already_answered`, `not_found`, `run_finished`, or `invalid_params` where several wait.
        """
        params = RunAnswer(run=self.id, answer=pack_value(value), question=question, digest=digest)
        return int((await self._client.ask("run.answer", params)).question)

    async def query(self, name: str, args: Any = None, *, timeout: float = QUERY_MS / 1000) -> Any:
        """Ask the run's handler something while it works, and return its reply. Nothing of it is recorded.

        Args:
            name: what the handler calls it, see `RunContext.on_query`.
            args: what it is given; anything msgpack can hold. Without, nothing.
            timeout: how long the reply may take, in seconds, up to 60.

        Raises:
            RequestError: `not_running`, `no_such_query`, `query_failed`; `no_reply` where trying again can help.
            TimeoutError: no hub answered.
        """
        packed = None if args is None else pack_value(args)
        params = RunQuery(run=self.id, name=name, args=packed, timeout_ms=max(1, round(timeout * 1000)))
        async with asyncio.timeout(timeout + QUERY_SLACK_S):
            return unpack_value((await self._client.ask("run.query", params)).value)

    async def talk(self) -> Talk:
        """Return what the run was told and asked, its children, and what became of all that."""
        info, talk = await self.get(), Talk()
        if info.talk_from is None:
            return talk
        async for entry in self._client.read(self.log, info.talk_from - 1):
            talk = talk_after(talk, StoredEntry(entry.offset, entry.ts_ms, entry.packed))
        return talk

    async def _steer(self, body: bytes) -> Message:
        answer = await self._client.ask("run.steer", RunSteer(run=self.id, body=body))
        return Message(answer.id, body)

    async def _entries(self, follow: bool) -> AsyncGenerator[Entry]:
        if follow:
            async with self.watch() as watched:
                async for entry in watched:
                    yield entry
        else:
            async for entry in self._client.read(self.log):
                yield entry


class RunReader(Reader):
    """The entries of a run; where it goes on as another run, those of that one follow."""

    _rest: Reader | None = None

    async def __anext__(self) -> Entry:
        rest = self._rest
        entry = await (super().__anext__() if rest is None else rest.__anext__())
        if entry.kind == Kind.CONTINUED and isinstance(entry.body, dict):
            self._rest = self.beside(f"run/{entry.body['run']}")
        return entry

    def close(self) -> None:
        """See `Reader.close`."""
        super().close()
        if self._rest is not None:
            self._rest.close()


async def _through_resets(reader: Reader) -> Any:
    """Yield entries whatever became of the history before them: only the last one counts here."""
    while True:
        try:
            async for entry in reader:
                yield entry
            return
        except HistoryReset:
            continue


def _outcome(run: str, last: StoredEntry) -> _End:
    """Return what a run came to by its last entry. Raises as `Run.result` does."""
    record = unpack_record(last.packed)
    body = decode_body(record.kind, record.body)
    if record.kind == Kind.CONTINUED:
        return _End(None, body.get("run"))
    state = record.kind.removeprefix("$")
    if state == RunState.SUCCEEDED:
        return _End(body.get("result"), None)
    raise run_ended(run, state, last.offset, body.get("error"), body.get("reason"))


def run_object(info: RunInfo) -> dict[str, Any]:
    """Return the run object that is printed wherever JSON is."""
    return {
        "run": info.run,
        "state": info.state,
        "handler": info.handler,
        "queue": info.queue,
        "attempt": info.attempt,
        "agent": info.agent,
        "submitted_ms": info.submitted_ms,
        "started_ms": info.started_ms,
        "finished_ms": info.finished_ms,
        "result": None if info.result is None else readable(info.result),
        "error": info.error,
        "parent": info.parent,
        "continues": info.continues,
        "continued_as": info.continued_as,
    }
