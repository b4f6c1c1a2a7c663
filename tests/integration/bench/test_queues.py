"""What the benchmarks of job queues say of what they measured, without the queues."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.bench.lib.environments import pinned
from scripts.bench.lib.recovery import FULL, Ledger, Recovered
from scripts.bench.lib.runs import Measured, percentile, targets
from scripts.bench.lib.systems import OURS, PEERS, settings_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", PEERS)
def test_environment_of_a_peer_is_pinned_and_its_program_imports_nothing_of_ours(name: str) -> None:
    pins = pinned(name)
    assert len(pins) >= 4
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in pins.values())
    program = (ROOT / "scripts" / "bench" / "lib" / "queues" / f"{name}_queue.py").read_text()
    compile(program, name, "exec")
    assert not re.search(r"^(from|import) (agent|orchestrator|protocol)", program, re.MULTILINE)


@pytest.mark.parametrize("fast", [True, False])
def test_settings_name_every_system_with_its_version(fast: bool) -> None:
    told = settings_of(PEERS, fast=fast)
    assert list(told) == [OURS, *PEERS]
    assert all(told[name].startswith(tuple(pinned(name).values())) for name in PEERS)


@pytest.mark.parametrize(("part", "value"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_percentile_is_the_value_that_so_many_do_not_exceed(part: int, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], part) == value


def test_ours_is_compared_with_the_best_of_each_round() -> None:
    ours = Measured(OURS, [300.0, 300.0, 300.0], [4.0, 4.0, 4.0], [8.0, 8.0, 8.0])
    one = Measured("one", [100.0, 50.0, 100.0], [2.0, 8.0, 8.0], [16.0, 16.0, 16.0])
    other = Measured("other", [50.0, 150.0, 60.0], [8.0, 1.0, 16.0], [32.0, 8.0, 32.0])
    assert [target.value for target in targets(ours, [one, other])] == [3.0, 2.0, 0.5]
    assert targets(ours, []) == ()


def test_ledger_tells_what_runs_and_what_was_done_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.path.write_text("start 1\nstart 2\nstart 3\ndone 1\nstart 2\ndone 2\ndone 2\n")
    started, done = ledger.read()
    assert (ledger.running, started[2], done) == (1, 2, {1: 1, 2: 2})


def test_recovery_is_right_when_every_run_was_done_once() -> None:
    assert Recovered("one", [1.0], [0], [0]).right
    assert not Recovered("one", [1.0], [0], [1]).right
    left = Recovered("one", [60.0], [3], [0])
    assert not left.right
    assert left.row(FULL).note.startswith("NOT DONE after 60 s, 3 missing")
