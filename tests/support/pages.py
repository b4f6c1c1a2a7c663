"""The pages of documentation as programs: their code blocks, and what it takes to run them.

A code block is marked in its first line: `file=NAME` is written to the directory that everything happens in,
`serve` runs as long as the others need it, `run` runs to its end, with exit code 0.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.timing import scaled

__all__ = ["ROOT", "Block", "blocks_of", "environment", "run"]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?P<language>\w+)(?P<marks>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    code: str

    def __str__(self) -> str:
        return f"{Path(self.page).name}:{self.line}"

    @property
    def commands(self) -> str:
        """The commands of a console, as a script."""
        return "\n".join(line.removeprefix("$ ") for line in self.code.splitlines() if line.startswith("$ "))


def blocks_of(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], tuple(found["marks"].split()), found["code"])


def environment(home: Path | None = None) -> dict[str, str]:
    """Return an environment with this checkout's `fleetline`, a free port for its hub, and nothing else of ours set.

    With `home`, what a user keeps is there.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {} if home is None else {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    return {**kept, **own, "PATH": path, "FLEETLINE_LISTEN": "127.0.0.1:0"}


def run(command: str, folder: Path, *, code: int = 0, home: Path | None = None) -> str:
    """Run a command to its end, which has this exit code; return what it prints."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
