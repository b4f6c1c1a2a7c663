"""Runs that a hub has at hand since it has just submitted them."""

from __future__ import annotations

import pytest

from orchestrator import newborn as module
from orchestrator.core import run_meta, runs
from orchestrator.newborn import NEWBORN_BYTES_MAX, NEWBORN_S, Known, Newborn
from protocol.ids import LogKind, LogName, make_run_id
from protocol.requests import RunSubmit


def known(number: int, packed: bytes = b"") -> Known:
    log = LogName("default", LogKind.RUN, make_run_id(1, number, b"12345678"))
    asked = RunSubmit(queue="q", handler="h", input=packed, key="k")
    return Known(run_meta.newborn(log, runs.submitted(asked, 1), "client:c"), packed)


def test_a_run_is_at_hand_once() -> None:
    newborn = Newborn()
    newborn.keep(known(1))
    assert newborn.take(known(1).meta.log) == known(1)
    assert newborn.take(known(1).meta.log) is None


def test_a_run_is_at_hand_for_a_while() -> None:
    newborn = Newborn()
    newborn.age(NEWBORN_S)
    newborn.keep(known(1))
    newborn.age(2 * NEWBORN_S)
    newborn.keep(known(2))
    newborn.age(3 * NEWBORN_S - 1)
    assert len(newborn) == 2
    newborn.age(3 * NEWBORN_S)
    assert newborn.take(known(1).meta.log) is None
    assert newborn.take(known(2).meta.log) == known(2)


def test_neither_many_runs_nor_large_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWBORN_MAX", 2)
    newborn = Newborn()
    newborn.keep(known(1, b"x" * (NEWBORN_BYTES_MAX + 1)))
    assert len(newborn) == 0
    for number in range(3):
        newborn.keep(known(number))
    assert [newborn.take(known(number).meta.log) is not None for number in range(3)] == [True, True, False]
