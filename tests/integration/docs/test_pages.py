"""What the README and the guide show is what happens: their files, commands and programs, beside one hub."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import ROOT, Block, blocks_of, environment, run
from tests.support.timing import eventually_sync, scaled

PAGES = ("README.md", "docs/guide.md", "docs/deploy.md", "docs/coming-from.md")
LINKING = (*PAGES, "docs/security.md")
AGENTS = ("reviewer", "worker", "releases", "counting", "shell", "tally", "library", "shop")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if "run" in block.marks]
SERVE = [block for block in BLOCKS if "serve" in block.marks]


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


@pytest.mark.parametrize("page", LINKING)
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
