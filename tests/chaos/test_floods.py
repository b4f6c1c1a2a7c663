"""5,000 connections that never say who they are: the hub stays small, and an agent comes in within a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count

import pytest

from tests.support.fleet import Fleet
from tests.support.hub_peer import connected
from tests.support.hub_work import agent
from tests.support.timing import scaled

FLOOD = 5_000
WITHIN_S = 1.0
SOME = 20
"""How often an agent comes while the connections stand, and once they are gone."""
PLACES = (("127.0.0.1", 0), ("127.0.0.3", 0))
"""Where from: the address of the flood, and another one."""


@pytest.mark.parametrize(("words", "growth_max_mib"), [("nothing", 24), ("half", 96), ("upgrade", 96)])
async def test_5000_connections_that_never_identify_themselves(words: str, growth_max_mib: int) -> None:
    async with Fleet() as fleet:
        hub, numbers = await fleet.hub(), count()
        took_s: dict[str, list[float]] = {}
        before_kib, most_kib = hub.resident_kib, [0]

        async def come(when: str, more: Callable[[], bool]) -> None:
            """Let agents open sessions, one after the other, as long as there is a call for more."""
            while more():
                began_s = time.monotonic()
                number = next(numbers)
                async with connected(hub.url, hub.token, local_addr=PLACES[number % 2]) as peer:
                    await peer.identify(agent(f"a{number}"))
                    took_s.setdefault(when, []).append(time.monotonic() - began_s)
                most_kib.append(hub.resident_kib)

        def some() -> Callable[[], bool]:
            calls = iter(range(SOME))
            return lambda: next(calls, None) is not None

        command = [sys.executable, "-m", "tests.support.flooder", str(hub.port), str(FLOOD), words]
        flood = fleet.program("flood", command)
        flood.spawn()
        await come("while they come", lambda: "all" not in flood.output())
        await come("while they stand", some())
        await flood.kill()
        await come("afterwards", some())
        worst = {when: max(each) for when, each in took_s.items()}
        grown_mib = (max(most_kib) - before_kib) // 1024
        print(f"{words}: the hub grew by {grown_mib} MiB; sessions took {worst} s at most")
        assert max(worst.values()) < scaled(WITHIN_S), worst
        assert grown_mib < growth_max_mib
