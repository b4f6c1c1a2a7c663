"""Who has been accepted waits: the silent for as long as they may be, those who have spoken for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from itertools import pairwise
from socket import AF_UNIX, SO_LINGER, SOCK_STREAM, SOL_SOCKET, create_connection, create_server, socket, socketpair

import pytest

from orchestrator import doorstep
from orchestrator.core.crowd import Crowd
from orchestrator.doorstep import TURN_CALLERS_MAX, Caller, Doorstep
from tests.support.timing import eventually

SILENCE_S = 60.0
DUE_MAX = 100


class Door:
    """A doorstep, who stands on it, and who was let in."""

    def __init__(self, stack: ExitStack, silence_s: float) -> None:
        self.crowd = Crowd(1_000, 1_000)
        self.begun: list[Caller] = []
        self.step = Doorstep(self.begun.append, silence_s, DUE_MAX)
        self._stack = stack

    def come(self, crowd: str, words: bytes = b"") -> socket:
        """Come from somewhere, and say this; return the caller's end."""
        there, here = (self._stack.enter_context(end) for end in socketpair(AF_UNIX, SOCK_STREAM))
        return self.stand(here, there, crowd, words)

    def stand(self, here: socket, there: socket, crowd: str, words: bytes = b"") -> socket:
        here.setblocking(False)
        guest = self.crowd.enter(crowd, lambda: self.step.drop(here))
        assert guest is not None
        self.step.wait(here, crowd, guest)
        there.sendall(words)
        return there


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
async def door(stack: ExitStack) -> AsyncIterator[Door]:
    made = Door(stack, SILENCE_S)
    yield made
    made.step.clear()
    assert (len(made.step), len(made.crowd)) == (0, 0)


async def test_who_says_nothing_waits_and_who_speaks_is_begun(door: Door) -> None:
    silent, speaks = door.come("a"), door.come("a", b"GET")
    await eventually(lambda: door.begun)
    (caller,) = door.begun
    assert caller.connection.recv(10) == b"GET", "nothing of it was read"
    assert 0 < caller.left_s <= SILENCE_S
    assert (len(door.step), len(door.crowd)) == (1, 1), "who is begun is counted by who begins"
    silent.send(b"x")
    await eventually(lambda: len(door.begun) == 2)
    assert speaks.send(b"more") == 4


async def test_addresses_take_turns(door: Door) -> None:
    """One that comes behind many of another address does not wait for them."""
    for _ in range(3 * TURN_CALLERS_MAX):
        door.come("a", b"x")
    door.come("b", b"x")
    await eventually(lambda: len(door.begun) == 3 * TURN_CALLERS_MAX + 1)
    assert [caller.crowd for caller in door.begun].index("b") <= 1


async def test_of_one_address_the_last_and_the_first_take_turns(door: Door) -> None:
    for number in range(6):
        door.come("a", b"%d" % number)
    await eventually(lambda: len(door.begun) == 6)
    assert [caller.connection.recv(1) for caller in door.begun] == [b"5", b"0", b"4", b"1", b"3", b"2"]


async def test_not_all_are_begun_in_one_turn_and_many_due_are_full(door: Door) -> None:
    for _ in range(DUE_MAX + TURN_CALLERS_MAX):
        door.come("a", b"x")
    full = []

    async def look() -> bool:
        full.append(door.step.full)
        return len(door.begun) == DUE_MAX + TURN_CALLERS_MAX

    steps = []
    while not await look():
        steps.append(len(door.begun))
        await asyncio.sleep(0)
    assert {after - before for before, after in pairwise(steps)} <= {0, TURN_CALLERS_MAX}
    assert any(full)
    assert not door.step.full


async def test_who_makes_room_is_cut_off(stack: ExitStack, door: Door) -> None:
    door.crowd = Crowd(2, 1)
    first, second = door.come("a"), door.come("a")
    assert first.recv(1) == b""
    second.send(b"x")
    await eventually(lambda: door.begun)


async def test_who_has_gone_is_not_begun(stack: ExitStack, door: Door) -> None:
    door.come("a").close()
    server = stack.enter_context(create_server(("127.0.0.1", 0)))
    there = create_connection(server.getsockname())
    here, _ = server.accept()
    door.stand(stack.enter_context(here), there, "b")
    there.setsockopt(SOL_SOCKET, SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    there.close()
    await eventually(lambda: len(door.step) == 0)
    assert (door.begun, len(door.crowd)) == ([], 0)


async def test_who_is_silent_for_too_long_is_cut_off(stack: ExitStack) -> None:
    door = Door(stack, 0.05)
    waits = door.come("a")
    await eventually(lambda: len(door.step) == 0)
    assert waits.recv(1) == b""
    late = door.come("a")
    await eventually(lambda: len(door.crowd) == 0)
    assert late.recv(1) == b""


async def test_of_many_that_are_silent_for_too_long_none_is_left(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorstep, "TURN_SWEPT_MAX", 2)
    door = Door(stack, 0.05)
    for _ in range(7):
        door.come("a")
    await eventually(lambda: len(door.step) == 0)
    assert len(door.crowd) == 0


async def test_clearing_cuts_off_all(stack: ExitStack) -> None:
    door = Door(stack, SILENCE_S)
    silent, spoke = door.come("a"), door.come("a", b"x")
    door.step._heard([*door.step._silent][1])
    assert len(door.step) == 2
    door.step.clear()
    assert silent.recv(1) == b""
    with pytest.raises(ConnectionError):
        assert spoke.recv(1)  # what it said was not read
    await asyncio.sleep(0)
    assert door.begun == []
