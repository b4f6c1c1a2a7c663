"""Finds the agent that APP names: `module:attribute`, looked up from the current directory."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from orchestrator.cli.errors import CliError

if TYPE_CHECKING:
    from agent import Agent

__all__ = ["OURS", "load_app"]

OURS = frozenset({"agent", "protocol", "orchestrator"})
"""Our packages. A module of the same name cannot be told from them."""


def load_app(app: str) -> Agent:
    """Import APP and return its agent.

    Raises:
        CliError: it cannot be found, does not import, or is no agent; the message says which.
    """
    from agent import Agent

    module_name, attribute = _split(app)
    module = _import(module_name, app)
    try:
        found = getattr(module, attribute)
    except AttributeError:
        agents = [name for name, value in vars(module).items() if isinstance(value, Agent)]
        hint = f"it has the agent {module_name}:{agents[0]}" if agents else "it has no Agent at all"
        raise CliError(f"APP {app}: {module_name} ({module.__file__}) has no {attribute!r}; {hint}") from None
    if not isinstance(found, Agent):
        raise CliError(f"APP {app}: {attribute} is of type {type(found).__name__}, not an Agent")
    return found


def _split(app: str) -> tuple[str, str]:
    module, colon, attribute = app.partition(":")
    package = module.partition(".")[0]
    if package in OURS:
        raise CliError(
            f"APP {app}: a module called {package!r} would shadow Fleetline's own package of that name, and one of the "
            f"two would be the wrong one everywhere; rename yours, say to my_{package}"
        )
    if module.endswith(".py") or "/" in module:
        stem = module.removesuffix(".py").strip("./").replace("/", ".")
        raise CliError(f"APP {app}: APP is MODULE:ATTRIBUTE, not a path; write {stem}:{attribute or 'agent'}")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise CliError(f"APP {app}: APP is MODULE:ATTRIBUTE, as in `worker:agent` for `agent` in worker.py")
    return module, attribute


def _import(name: str, app: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109  # sys.path holds text
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as fault:
        if fault.name is not None and (name == fault.name or name.startswith(f"{fault.name}.")):
            raise CliError(
                f"APP {app}: there is no module {fault.name!r} in {here} or among the installed packages; "
                "run this where the module is"
            ) from None
        raise _failed(app, name, fault) from fault
    except SystemExit as fault:
        raise CliError(
            f"APP {app}: importing {name} ended with exit code {fault.code}; put what runs the program under "
            'if __name__ == "__main__":'
        ) from fault
    except Exception as fault:  # somebody else's module may raise anything
        raise _failed(app, name, fault) from fault


def _is_ours(file: Path) -> bool:
    packages = Path(__file__).parents[2]
    return any(file.is_relative_to(packages / package) for package in OURS)


def _is_installed(file: Path) -> bool:
    paths = sysconfig.get_paths()
    return any(file.is_relative_to(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _failed(app: str, name: str, fault: Exception) -> CliError:
    """Say in one line where an import failed: the innermost place in the user's own code, else in a library's."""
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if "importlib" not in frame.filename]
    libraries = [frame for frame in frames if not _is_ours(Path(frame.filename))]
    mine = [frame for frame in libraries if not _is_installed(Path(frame.filename))] or libraries
    where = f" at {mine[-1].filename}:{mine[-1].lineno}" if mine else ""
    if isinstance(fault, SyntaxError):
        where = f" at {fault.filename}:{fault.lineno}"
    said = f"{type(fault).__name__}: {fault.args[0] if fault.args else ''}"
    return CliError(f"APP {app}: {name} does not import: {said}{where}")
