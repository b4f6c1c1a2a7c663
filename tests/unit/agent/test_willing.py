"""Offers that are looked at, loads that are measured, and the label of a version."""

from __future__ import annotations

import asyncio

import pytest

from agent import willing
from agent.errors import BadHandler
from agent.labels import with_version
from agent.willing import LoadMeter, Offer, accepts
from agent.worker import Agent
from protocol.codec import pack_value
from protocol.entry import Position
from protocol.errors import InvalidLabel
from protocol.frames import Assign, Recover

ASSIGN = Assign(
    run="r1",
    queue="q",
    handler="h",
    attempt=2,
    fence=7,
    input=pack_value({"gpu": True}),
    lease_ms=1_000,
    position=Position("e", 1, "0" * 16),
    recover=Recover.RESTART,
    time_left_ms=1_500,
)


async def test_an_offer_says_what_the_run_is() -> None:
    seen: list[Offer] = []

    def look(offer: Offer) -> bool:
        seen.append(offer)
        return True

    assert await accepts(look, ASSIGN)
    assert seen == [Offer("r1", "h", "q", 2, {"gpu": True}, 1.5)]


async def test_what_raises_or_says_nothing_has_refused() -> None:
    async def broken(_: Offer) -> bool:
        raise RuntimeError("no idea")

    assert not await accepts(broken, ASSIGN)
    assert not await accepts(lambda _: None, ASSIGN)


async def test_what_does_not_decide_has_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(willing, "ACCEPT_S", 0.01)

    async def dither(_: Offer) -> bool:
        await asyncio.Event().wait()
        return True

    assert not await accepts(dither, ASSIGN)


@pytest.mark.parametrize(("said", "told"), [(0.25, [0.25]), (7, [1.0]), (-1, [0.0]), (float("nan"), []), ("x", [])])
async def test_a_load_is_kept_within_its_bounds_and_nonsense_changes_nothing(said: object, told: list[float]) -> None:
    heard: list[float] = []
    await LoadMeter(lambda: said, heard.append).measure()
    assert heard == told


async def test_a_load_function_may_be_async() -> None:
    heard: list[float] = []

    async def half() -> float:
        return 0.5

    await LoadMeter(half, heard.append).measure()
    assert heard == [0.5]


def test_a_version_is_a_label_that_a_selector_can_ask_for() -> None:
    assert Agent("coder", {"gpu": "h200"}, version="2026.11.1").labels == {"gpu": "h200", "version": "2026.11.1"}
    assert Agent("coder", {"version": "2"}, version="2").labels == {"version": "2"}
    assert with_version({"version": "2"}, None) == {"version": "2"}
    for labels, version in (({"version": "1"}, "2"), ({}, ""), ({}, "two words"), ({}, "-1"), ({}, "a,b")):
        with pytest.raises(InvalidLabel, match="version"):
            with_version(labels, version)


def test_an_agent_has_one_function_of_each_kind() -> None:
    agent = Agent("coder")
    agent.accept(lambda _: True)
    agent.load(lambda: 0.0)
    with pytest.raises(BadHandler, match="accept"):
        agent.accept(lambda _: True)
    with pytest.raises(BadHandler, match="load"):
        agent.load(lambda: 0.0)
