"""How long runs are kept, and what is said of those that are not there any more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.core.keeping import DEAD_KEPT_MS, kept_ms
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.store import keys
from orchestrator.store.commits import Commit, SortedAdd
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.errors import RequestError
from protocol.ids import LogKind, LogName
from protocol.requests import LogList, RunList
from protocol.run import RunState
from tests.support.ended import PARTITION, forgetting, line_to, over
from tests.support.lifecycle import KEEP_MS, Bench


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
    assert [info.run for info in await reading.runs("default", RunList())] == [stays.name]
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
    assert [info.log for info in await reading.logs("default", LogList(kind=LogKind.RUN))] == [stays.path]


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


async def test_whoever_follows_a_run_that_goes_is_told_at_once() -> None:
    server, store = await opened()
    line, looked = line_to(store), asyncio.Event()
    await over(line, 1)
    server.clock_ms = lambda: 2_000
    line.tails.look = lambda log: looked.set()  # type: ignore[method-assign]
    await forgetting(line)._round()
    assert looked.is_set()
