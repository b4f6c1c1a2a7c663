"""What the README shows is what happens: its files, commands and code, in an empty directory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.timing import eventually_sync, scaled

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(found["language"], found["file"], found["code"]) for found in BLOCK.finditer(README)]
COMMANDS = [
    line.removeprefix("$ ").partition("#")[0].strip()
    for language, _, code in BLOCKS
    if language == "console"
    for line in code.splitlines()
    if line.startswith("$ fleetline ")
]
BACKGROUND = [command.removesuffix("&").strip() for command in COMMANDS if command.endswith("&")]
FOREGROUND = [command for command in COMMANDS if not command.endswith("&")]


def environment() -> dict[str, str]:
    """Return an environment in which `fleetline` is the one of this checkout, and nothing else is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(command: str, folder: Path) -> str:
    """Run a command to its end; return what it prints."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory with the README's files, in which its background commands run."""
    for _, file, code in BLOCKS:
        if file:
            (tmp_path / file).write_text(code)
    with (tmp_path / "output.txt").open("w") as output:
        processes = [
            subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=tmp_path, env=environment(), stderr=output)
            for command in BACKGROUND
        ]
        try:
            eventually_sync(lambda: '"reviewer"' in run("fleetline agent ls --json || true", tmp_path), 30)
            yield tmp_path
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(timeout=scaled(30))


def test_the_commands_of_the_readme_run_one_after_the_other(folder: Path) -> None:
    assert len(FOREGROUND) >= 3
    shown = {command: run(command, folder) for command in FOREGROUND}
    followed = next(text for command, text in shown.items() if "--follow" in command)
    assert "finding" in followed
    assert "succeeded" in run("fleetline run ls", folder)


def test_the_program_of_the_readme_runs(folder: Path) -> None:
    program = next(code for language, file, code in BLOCKS if language == "python" and not file)
    (folder / "program.py").write_text(f"{program}\n\nimport asyncio\n\nasyncio.run(main())\n")
    shown = run(f"{sys.executable} program.py", folder)
    assert "finding" in shown
    assert "{'files': 2}" in shown


def test_what_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
