"""What the README and the guide show is what happens: their files, commands and programs, beside one hub.

A code block is marked in its first line: `file=NAME` is written to the directory that everything happens in,
`serve` runs as long as the others need it, `run` runs to its end, with exit code 0.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.timing import eventually_sync, scaled

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "docs/guide.md", "docs/deploy.md", "docs/coming-from.md")
BLOCK = re.compile(r"^```(?P<language>\w+)(?P<marks>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
AGENTS = ("reviewer", "worker", "releases", "counting", "shell", "tally", "library", "shop")


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


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if "run" in block.marks]
SERVE = [block for block in BLOCKS if "serve" in block.marks]


def environment() -> dict[str, str]:
    """Return an environment with this checkout's `fleetline`, a free port for its hub, and nothing else of ours set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "FLEETLINE_LISTEN": "127.0.0.1:0"}


def run(command: str, folder: Path) -> str:
    """Run a command to its end; return what it prints."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a directory with the pages' files, in which what serves is running."""
    folder = tmp_path_factory.mktemp("pages")
    for block in BLOCKS:
        for mark in block.marks:
            if mark.startswith("file="):
                (folder / mark.removeprefix("file=")).write_text(block.code)
    output = folder / "output.txt"
    processes: list[subprocess.Popen[bytes]] = []
    with output.open("w") as file:
        try:
            for block in SERVE:
                command = ["bash", "-c", f"exec {block.commands}"]
                processes.append(subprocess.Popen(command, cwd=folder, env=environment(), stdout=file, stderr=file))
                eventually_sync(lambda: "hub listening" in output.read_text(), 30)
            eventually_sync(lambda: all(f"agent {name} serves " in output.read_text() for name in AGENTS), 60)
            listed = run("fleetline agent ls --json", folder)
            assert all(f'"{name}"' in listed for name in AGENTS), listed
            yield folder
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=scaled(30))


def test_the_pages_have_what_is_run() -> None:
    assert [len([block for block in RUN if block.page == page]) for page in PAGES[:2]] == [2, 12]
    assert len(SERVE) == len(AGENTS)


@pytest.mark.parametrize("block", [block for block in RUN if block.page != PAGES[0]], ids=str)
def test_a_block_runs(block: Block, folder: Path) -> None:
    if block.language == "console":
        run(block.commands, folder)
    else:
        program = folder / f"program{block.line}.py"
        program.write_text(block.code)
        run(f"{sys.executable} {program}", folder)


def test_the_readme_shows_what_its_agent_does(folder: Path) -> None:
    commands, program = (block for block in RUN if block.page == PAGES[0])
    shown = run(commands.commands, folder)
    assert "finding" in shown
    assert "succeeded" in shown
    (folder / "program.py").write_text(program.code)
    shown = run(f"{sys.executable} program.py", folder)
    assert "finding" in shown
    assert "{'files': 2}" in shown


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)]*)\)", text)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, link
