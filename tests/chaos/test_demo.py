"""The demo comes out right, and says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.timing import scaled

MAIN = Path(__file__).parents[2] / "scripts" / "lib" / "demo" / "main.py"
SUMMARY = re.compile(r"│ (?P<name>[a-z ]+?) +│ (?P<number>\d+) +│")


def test_the_demo_proves_what_it_claims() -> None:
    done = subprocess.run(
        [sys.executable, str(MAIN), "--runs", "40"],
        capture_output=True,
        text=True,
        timeout=scaled(150),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = {found["name"]: int(found["number"]) for found in SUMMARY.finditer(done.stdout)}
    assert summary["runs"] == 40
    assert summary["entries"] > 40 * 3
    assert {name: summary[name] for name in ("lost", "repeated", "differences")} == {
        "lost": 0,
        "repeated": 0,
        "differences": 0,
    }
    assert all(summary[name] >= 1 for name in ("hub kills", "agent kills", "cut connections", "resumes"))
    assert "resumed from the journal" in done.stdout
