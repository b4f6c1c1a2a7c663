"""How long runs are kept, and what is said of those that are not there any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from orchestrator.core.keeping import DEAD_KEPT_MS, kept_ms
from orchestrator.core.timers import family_timer
from orchestrator.forgetting import AT_ONCE_MAX
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, SortedAdd
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.errors import RequestError
from protocol.ids import LogKind, LogName
from protocol.requests import LogList, RunList
from protocol.run import RunState
from tests.support.ended import PARTITION, forgetting, line_to, over
from tests.support.lifecycle import KEEP_MS, Bench
from tests.support.permits import client_permit


@pytest.mark.parametrize("state", list(RunState))
def test_a_dead_letter_is_kept_for_long_and_nothing_is_kept_for_less_than_it_says(state: RunState) -> None:
    assert kept_ms(state, None) is None
    assert kept_ms(state, DEAD_KEPT_MS + 1) == DEAD_KEPT_MS + 1
    assert kept_ms(state, 1) == (DEAD_KEPT_MS if state is RunState.DEAD else 1)


async def test_a_run_says_for_how_long_it_is_kept() -> None:
    bench = Bench()
    await bench.store.open()
    await bench.submit()
    page = await bench.store.read(bench.log, 0, 1)
    assert page is not None
    assert read_control(Submitted, unpack_record(page.entries[0].packed).body).keep_ms == KEEP_MS


async def opened() -> tuple[MemoryServer, MemoryStore]:
    server = MemoryServer(lambda: 1_000)
    store = MemoryStore(server, "hub-a")
    await store.open()
    return server, store


async def test_a_run_that_goes_while_it_is_shown_or_listed_is_not_found_and_not_listed() -> None:
    _, store = await opened()
    line = line_to(store)
    gone, stays = await over(line, 1), await over(line, 2, keep_ms=None)
    reading = Reading(line, cast(Registry, SimpleNamespace()))
    read = store.read

    async def late(log: LogName, *args: int) -> object:
        if log == gone:
            await store.delete(log)
        return await read(log, *args)

    store.read = late  # type: ignore[method-assign, assignment]
    listed = await reading.runs("default", RunList(), client_permit())
    assert [info.run for info in listed.runs] == [stays.name]
    with pytest.raises(RequestError, match="nothing is left") as fault:
        await reading.run(gone)
    assert fault.value.code == "not_found"


async def test_a_log_that_goes_while_logs_are_listed_is_not_listed() -> None:
    _, store = await opened()
    line = line_to(store)
    gone, stays = await over(line, 1), await over(line, 2, keep_ms=None)
    read = store.meta

    async def late(log: LogName) -> dict[str, str] | None:
        if log == gone:
            await store.delete(log)
        return await read(log)

    store.meta = late  # type: ignore[method-assign]
    reading = Reading(line, cast(Registry, SimpleNamespace()))
    assert [info.log for info in await reading.logs("default", LogList(kind=LogKind.RUN), client_permit())] == [
        stays.path
    ]


async def test_what_is_noted_of_a_run_that_is_not_there_is_forgotten_too() -> None:
    _, store = await opened()
    line = line_to(store)
    note = SortedAdd(keys.ended(PARTITION), "default/10-1a206d53cb7-739cd2427878235e", 1)
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=(note,)))
    await forgetting(line)._round()
    assert await store.sorted_size(keys.ended(PARTITION)) == 0


async def test_a_run_that_cannot_be_read_does_not_keep_the_others() -> None:
    server, store = await opened()
    line = line_to(store)
    broken, gone = await over(line, 1), await over(line, 2)
    server.clock_ms = lambda: 2_000
    server.data.hashes[keys.meta(broken)]["state"] = b"asleep"
    await forgetting(line)._round()
    assert await store.meta(gone) is None
    assert await store.meta(broken) is not None


def _no_such_run(server: MemoryServer, number: int) -> str:
    return f"default/{PARTITION:02d}-1a206d53cb7-{number:016x}"


def _no_run_id(server: MemoryServer, number: int) -> str:
    return f"default/nonsense-{number}"


def _of_another_partition(server: MemoryServer, number: int) -> str:
    return f"default/{PARTITION + 1:02d}-1a206d53cb7-{number:016x}"


def _no_namespace(server: MemoryServer, number: int) -> str:
    return f"{PARTITION:02d}-1a206d53cb7-{number:016x}"


def _half_a_meta(server: MemoryServer, number: int) -> str:
    member = _no_such_run(server, number)
    server.data.hashes[keys.meta(LogName("default", LogKind.RUN, member.partition("/")[2]))] = {"state": b"failed"}
    return member


def _an_unknown_state(server: MemoryServer, number: int) -> str:
    member = _half_a_meta(server, number)
    server.data.hashes[keys.meta(LogName("default", LogKind.RUN, member.partition("/")[2]))]["state"] = b"asleep"
    return member


UNREADABLE = [_no_such_run, _no_run_id, _of_another_partition, _no_namespace, _half_a_meta, _an_unknown_state]


@pytest.mark.parametrize("unreadable", UNREADABLE)
async def test_many_that_cannot_be_read_keep_nothing_else_and_are_told_once(
    unreadable: Callable[[MemoryServer, int], str],
) -> None:
    server, store = await opened()
    line = line_to(store)
    gone = await over(line, 1)
    first = tuple(SortedAdd(keys.ended(PARTITION), unreadable(server, number), 1) for number in range(AT_ONCE_MAX * 2))
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=first))
    server.clock_ms = lambda: 2_000
    forgets = forgetting(line)
    with capture_logs() as logs:
        for _ in range(6):
            await forgets.look()
    assert await store.meta(gone) is None
    about = [each for each in logs if each["event"] in ("run_not_deleted", "note_dropped")]
    assert len(about) == (0 if unreadable is _no_such_run else len(first))


async def test_what_cannot_go_while_the_store_is_full_keeps_nothing_else() -> None:
    server, store = await opened()
    line = line_to(store)
    needed = [await over(line, number) for number in range(1, AT_ONCE_MAX + 1)]
    timers = tuple(family_timer(log, due=True) for log in needed)
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=timers))
    server.clock_ms = lambda: 1_500
    gone = await over(line, AT_ONCE_MAX + 1)
    server.clock_ms = lambda: 2_000

    async def full(commit: Commit) -> Outcome:
        raise StoreUnavailable("the store is full", full=True)

    line.commit = full  # type: ignore[method-assign]
    await forgetting(line).look()
    assert await store.meta(gone) is None
    assert await store.meta(needed[0]) is not None


async def test_whoever_follows_a_run_that_goes_is_told_at_once() -> None:
    server, store = await opened()
    line, looked = line_to(store), asyncio.Event()
    await over(line, 1)
    server.clock_ms = lambda: 2_000
    line.tails.look = lambda log: looked.set()  # type: ignore[method-assign]
    await forgetting(line)._round()
    assert looked.is_set()
