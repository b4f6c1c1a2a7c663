"""Lists of runs that are longer than a page, or than what one request looks through."""

from __future__ import annotations

from itertools import chain

import pytest

from orchestrator import reading
from protocol.frames import Role
from protocol.ids import LogKind, LogName
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_world import World

RUNS = 12


async def submit(peer: HubPeer, number: int, queue: str = "q") -> str:
    """Submit a run, and return its id."""
    done = await peer.result("run.submit", queue=queue, handler="h", input=b"", key=f"{queue}-{number}")
    return str(done["run"])


async def pages(peer: HubPeer, **asked: object) -> list[list[str]]:
    """Return the ids of the runs of all pages."""
    found: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        listed = await peer.result("run.list", op=False, **asked, **after)
        found.append([run["run"] for run in listed["runs"]])
        if "next" not in listed:
            return found
        after = {"after": listed["next"]}


async def test_all_runs_are_listed_a_page_at_a_time(either: World) -> None:
    async with either.peer() as peer:
        await peer.identify(identify())
        runs = [await submit(peer, number) for number in range(RUNS)]
        (whole,) = await pages(peer)
        assert sorted(whole) == sorted(runs)
        for limit in (1, 5, RUNS):
            assert list(chain(*await pages(peer, limit=limit))) == whole
        await either.hub.services.line.store.delete(LogName("default", LogKind.RUN, whole[3]))
        left = (await peer.result("run.list", op=False, after=whole[3]))["runs"]
        assert {run["run"] for run in left} <= set(whole) - {whole[3]}, "its id says where it stood, to some ms"
        assert {whole[-1]} <= {run["run"] for run in left}
        wrong = await peer.request("run.list", op=False, after="nobody")
        assert wrong.error is not None
        assert wrong.error.code == "invalid_params"


async def test_a_filtered_list_goes_on_past_what_one_request_looks_through(
    either: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SCAN_MAX", 5)
    async with either.peer() as peer:
        await peer.identify(identify())
        oldest = await submit(peer, 0, queue="rare")
        for number in range(RUNS):
            await submit(peer, number)
        found = await pages(peer, queue="rare")
        assert (found[:2], found[2]) == ([[], []], [oldest])


async def test_who_may_not_read_a_run_is_not_told_to_go_on_after_it(
    either: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SCAN_MAX", 5)
    token = either.issue("viewer", name="eve", may={"read": ["queue/rare"]})
    async with either.peer() as owner, either.peer(token) as eve:
        await owner.identify(identify())
        await eve.identify(identify("eve", Role.CLIENT))
        await submit(owner, 0, queue="rare")
        for number in range(5):
            await submit(owner, number)
        assert await pages(eve) == [[]]
        seen = await submit(owner, 9, queue="rare")
        assert (await pages(eve, limit=1))[0] == [seen]
