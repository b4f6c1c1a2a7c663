"""Environments of the peers: each with the exact versions of a file of its own, since they do not agree on them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from scripts.bench.lib.child import ChildFailed
from scripts.bench.lib.report import say

__all__ = ["ROOT", "environment", "pinned"]

ROOT = Path(__file__).parents[3]
PINS = ROOT / "scripts" / "bench" / "pins"
PLACE = ROOT / ".venv-bench"
INSTALL_S = 300.0


def pinned(name: str) -> dict[str, str]:
    """Return the packages of a peer's environment, each with its version."""
    lines = (line.strip() for line in (PINS / f"{name}.txt").read_text().splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {package: version for package, _, version in pairs}


def environment(name: str, place: Path = PLACE) -> Path:
    """Return the Python of a peer's environment; it is made first where it is missing, or of other versions.

    Raises:
        ChildFailed: its packages could not be installed.
    """
    folder, pins = place / name, PINS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / ".stamp"
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing {name} and what it needs into {folder}")
    venv.create(folder, clear=True, with_pip=True)
    command = [str(python), "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "-r", str(pins)], check=False, timeout=INSTALL_S)
    if done.returncode:
        raise ChildFailed(f"could not install {name}; the Python package index must be reachable")
    stamp.write_text(wanted)
    return python
