"""Models are completed at their first use: by one thread, while others wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from protocol.frames.part import Part, UInt

THREADS = 8


class Inner(Part):
    number: UInt


class Outer(Part):
    inner: Inner
    name: str = "none"


class Unused(Part):
    inner: Inner


def test_many_threads_may_use_a_new_model_at_once() -> None:
    barrier = threading.Barrier(THREADS)

    def use(number: int) -> Outer:
        barrier.wait()
        return Outer.model_validate({"inner": {"number": number}})

    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(use, range(THREADS)))
    assert [type(one) for one in made] == [Outer] * THREADS
    assert [one.inner for one in made] == [Inner(number=number) for number in range(THREADS)]


def test_a_model_that_nobody_used_costs_nothing_yet() -> None:
    assert not Unused.__pydantic_complete__
    assert Unused(inner=Inner(number=7)).inner.number == 7
    assert Unused.__pydantic_complete__
