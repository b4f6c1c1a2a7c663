"""docs/guide.md and docs/deploy.md say what the command does: commands, options, exit codes, settings and errors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import agent
from agent import errors
from agent.executors import program_lines
from agent.operations import SLEEP_S_MAX
from orchestrator.cli import columns
from orchestrator.cli.exits import Exit
from orchestrator.cli.table import table
from orchestrator.settings import Settings
from protocol.selector import LABELS_MAX

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/guide.md", "docs/deploy.md", "docs/coming-from.md")
}
SAID_OTHERWISE = {"data": "see above", "store": "embedded", "limits": "see the protocol", "issuers": "none"}


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading of the guide."""
    found = re.search(rf"^#+ {heading}\n.*?(^\|.*?)\n\n", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, heading
    lines = found[1].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its name, `fleetline NOUN VERB`."""
    waiting = [("fleetline", typer.main.get_command(table()))]
    for name, command in waiting:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            waiting.extend((f"{name} {verb}", below) for verb, below in inner.items())


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


def shown() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of everything that the pages tell to type."""
    for page, text in PAGES.items():
        for line in re.findall(r"^\$ (?:\w+=\$\()?(fleetline .*?)\)?$", text, re.MULTILINE):
            yield page, re.split(r" (?:\|\||#|&)", line)[0]
        for line in re.findall(r"`(fleetline [a-z].*?)`", text):
            yield page, line


def test_every_command_is_in_the_table_with_options_that_it_has() -> None:
    documented = {re.split(r" [\[A-Z]", row[0])[0]: row[2] for row in rows("Commands")}
    there = dict(commands())
    assert set(documented) == set(there)
    for name, options in documented.items():
        assert set(re.findall(r"--[a-z-]+", options)) <= options_of(there[name]), name


@pytest.mark.parametrize(("page", "line"), sorted(set(shown())))
def test_a_command_line_has_a_command_and_options_that_exist(page: str, line: str) -> None:
    there = dict(commands())
    words = shlex.split(line.partition(" -- ")[0])
    name = next((" ".join(words[:count]) for count in (3, 2) if " ".join(words[:count]) in there), None)
    assert name is not None, f"{page}: {line}"
    used = {word for word in words if word.startswith("--")}
    assert used <= options_of(there[name]), f"{page}: {line}"


def test_exit_codes() -> None:
    assert [int(row[0]) for row in rows("Exit codes")] == [int(code) for code in Exit]


def test_columns_of_lists() -> None:
    lists = {
        "run ls": columns.RUNS,
        "queue ls": columns.QUEUES,
        "queue dead": columns.DEAD,
        "run fetch": columns.ARTIFACTS,
        "agent ls": columns.AGENTS,
        "schedule ls": columns.SCHEDULES,
        "log ls": columns.LOGS,
        "token revoked": columns.REVOKED,
    }
    assert [tuple(row) for row in rows("Lists")] == [
        (name if at == 0 else "", column, said.replace("`", ""))
        for name, said_of in lists.items()
        for at, (column, said) in enumerate(said_of.items())
    ]


def test_messages_of_programs() -> None:
    documented, message = {}, ""
    for word, field, kind, _ in rows("Programs"):
        message = word or message
        if field:
            documented[message, field] = "optional" not in kind
    models: dict[str, type[BaseModel]] = {
        "event": program_lines.Event,
        "progress": program_lines.Progress,
        "checkpoint": program_lines.Mark,
        "attach": program_lines.Attach,
        "ask": program_lines.Ask,
        "reply": program_lines.Reply,
        "submit": program_lines.Submit,
        "cancel_child": program_lines.CancelChild,
        "result": program_lines.Result,
        "continue": program_lines.Continue,
        "error": program_lines.Failure,
    }
    assert documented == {
        (word, name): field.is_required()
        for word, model in models.items()
        for name, field in model.model_fields.items()
        if name != "type"
    }


def test_numbers_in_the_text() -> None:
    assert f"| 0 to {SLEEP_S_MAX:.0f}, ten years" in GUIDE
    assert "`--priority` is 0 to 9" in GUIDE
    assert f"An agent has {LABELS_MAX} labels at most" in GUIDE


def test_settings() -> None:
    documented = {name: (default, said) for name, default, said in rows("Settings")}
    expected = {}
    for name, field in Settings.model_fields.items():
        value = field.default.value if isinstance(field.default, Enum) else field.default
        shown = "none" if value in (None, ()) else str(value).lower() if isinstance(value, bool) else str(value)
        expected[name] = (SAID_OTHERWISE.get(name, shown), field.description)
    assert documented == expected


def test_errors() -> None:
    """The table has every error that a program can meet, and no other."""
    public = {name for name in agent.__all__ if issubclass(getattr(errors, name, object), errors.FleetlineError)}
    assert public - {"FleetlineError"} == {row[0] for row in rows("Errors")}
