"""APP: every way to get it wrong has one precise answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import Agent
from orchestrator.cli.errors import CliError
from orchestrator.cli.loader import load_app

FINE = "from agent import Agent\nagent = Agent('tester')\nother = 3\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        if name.startswith("fl_app"):
            del sys.modules[name]


def test_an_agent_is_found_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "fl_app_fine.py").write_text(FINE)
    assert isinstance(load_app("fl_app_fine:agent"), Agent)


def test_an_agent_is_found_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "fl_app_package").mkdir()
    (tmp_path / "fl_app_package" / "worker.py").write_text(FINE)
    assert isinstance(load_app("fl_app_package.worker:agent"), Agent)


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("agent:agent", "a module called 'agent' would shadow Fleetline's own package"),
        ("protocol.worker:agent", "a module called 'protocol' would shadow"),
        ("orchestrator:x", "rename yours, say to my_orchestrator"),
        ("fl_app_x.py:agent", "not a path; write fl_app_x:agent"),
        ("sub/fl_app_x.py", "write sub.fl_app_x:agent"),
        ("fl_app_x", "APP is MODULE:ATTRIBUTE, as in `worker:agent`"),
        ("fl_app_x:", "APP is MODULE:ATTRIBUTE"),
        (":agent", "APP is MODULE:ATTRIBUTE"),
        ("fl_app_x:a.b", "APP is MODULE:ATTRIBUTE"),
        ("fl_app_nowhere:agent", "there is no module 'fl_app_nowhere' in "),
    ],
)
def test_an_app_that_cannot_be_is_refused(app: str, says: str) -> None:
    with pytest.raises(CliError) as caught:
        load_app(app)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"APP {app}: ")


@pytest.mark.parametrize(
    ("source", "attribute", "says"),
    [
        (FINE, "missing", "has no 'missing'; it has the agent fl_app_bad:agent"),
        ("x = 1\n", "agent", "it has no Agent at all"),
        (FINE, "other", "other is of type int, not an Agent"),
        ("\n\n1 / 0\n", "agent", "does not import: ZeroDivisionError: division by zero at "),
        ("\ndef broken(:\n", "agent", "does not import: SyntaxError: "),
        ("import fl_app_dependency\n", "agent", "ModuleNotFoundError: No module named 'fl_app_dependency' at "),
        ("import sys\nsys.exit(3)\n", "agent", "importing fl_app_bad ended with exit code 3"),
    ],
)
def test_a_module_that_will_not_do_is_explained(tmp_path: Path, source: str, attribute: str, says: str) -> None:
    (tmp_path / "fl_app_bad.py").write_text(source)
    with pytest.raises(CliError) as caught:
        load_app(f"fl_app_bad:{attribute}")
    assert says in str(caught.value)


def test_the_line_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "fl_app_bad.py").write_text("\n\n1 / 0\n")
    with pytest.raises(CliError, match=r"fl_app_bad\.py:3$"):
        load_app("fl_app_bad:agent")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("agent.handler('Bad')(len)", "'Bad' is not a name"),
        ("agent.handler('h', recover='hope')(print)", "recover is 'hope'; it is one of restart, journal"),
        ("agent.handler('h', isolation='cloud')(print)", "isolation is 'cloud'; it is one of inline, thread, process"),
        ("agent.handler('h')(lambda: None)", "takes no context"),
        ("agent.on_message('$x')(print)", "messages of kind '$x'"),
        ("Agent('Worker')", "'Worker' is not a name"),
    ],
)
def test_a_mistake_about_the_agent_is_found_where_it_was_made(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "fl_app_bad.py").write_text(f"{FINE}\n{line}\n")
    with pytest.raises(CliError) as caught:
        load_app("fl_app_bad:agent")
    assert says in str(caught.value)
    assert str(caught.value).endswith("fl_app_bad.py:5")
