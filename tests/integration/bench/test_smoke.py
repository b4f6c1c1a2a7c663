"""Each benchmark runs with tiny counts, so that none of them rots. Their figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.timing import scaled

ROOT = Path(__file__).parents[3]
RUN_S = 80.0

FIGURES = {
    "ingest": 5,
    "idle": 3,
    "resume": 20,
    "runs": 3,
    "recovery": 1,
}
"""How many figures each prints."""

ALONE = ("runs", "recovery")
"""These would first install what they compare with."""


def run(name: str, out: Path) -> dict[str, Any]:
    """Run a benchmark and return what it wrote."""
    arguments = ("--peers", "none") if name in ALONE else ()
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.bench.lib.{name}", "--smoke", "--out", str(out), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scaled(RUN_S),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob(f"{name}-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_benchmark_runs_and_writes_what_it_measured(name: str, tmp_path: Path) -> None:
    report = run(name, tmp_path)
    assert report["benchmark"] == name
    assert report["rounds"] == 1
    assert len(report["figures"]) == FIGURES[name]
    assert all(len(figure["values"]) == 1 for figure in report["figures"])
    assert report["targets"] or name == "runs"  # which asks for nothing but what others do
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["packages"]["websockets"]


@pytest.mark.parametrize("name", FIGURES)
def test_benchmark_has_a_script(name: str) -> None:
    script = ROOT / "scripts" / "bench" / name
    assert script.stat().st_mode & 0o111
    assert f"scripts.bench.lib.{name} " in script.read_text()
