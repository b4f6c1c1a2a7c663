"""The `fleetline` command: nouns, then verbs. This module knows the table of nouns, and how a failure is told.

Each noun's module imports nothing heavy at its top, and a command makes the table of its own noun alone: to read the
signatures of all the others takes longer than most commands do.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import Any

import typer

from orchestrator.cli.errors import CliError, explained
from orchestrator.cli.exits import Exit
from orchestrator.cli.trusting import trusting

__all__ = ["execute", "table"]

NOUNS = ("dev", "hub", "agent", "run", "queue", "schedule", "top", "log", "topic", "replay", "token", "key", "doctor")
"""In the order of the help. Each is a module beside this one, with an `app` of verbs or one function of its name."""
_GROUP: dict[str, Any] = {"no_args_is_help": True}


def table(*nouns: str) -> typer.Typer:
    """Return the table of commands: of these nouns, or of all."""
    app = typer.Typer(
        name="fleetline",
        help="The durable control channel for fleets of agents.",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **_GROUP,
    )
    app.callback()(_root)
    for noun in nouns or NOUNS:
        module = import_module(f"orchestrator.cli.{noun}")
        if hasattr(module, "app"):
            for verb in module.app.registered_commands:
                verb.callback = trusting(verb.callback)
            app.add_typer(module.app, name=noun, **_GROUP)
        else:
            app.command(noun)(trusting(getattr(module, noun)))
    return app


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"fleetline {version('fleetline')}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The durable control channel for fleets of agents."""
    del version


def execute(arguments: list[str]) -> int:
    """Run one command and return its exit code. What is expected to fail is told on standard error; a bug is raised."""
    try:
        app = table(*(noun for noun in arguments[:1] if noun in NOUNS))
        return app(arguments, prog_name="fleetline", standalone_mode=False) or Exit.DONE
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except Exception as fault:
        known = _usage(fault) or explained(fault)
        if known is None:
            raise
        return _say(known)


def _say(error: CliError) -> Exit:
    if error.exit is not Exit.BROKEN_PIPE:
        with contextlib.suppress(OSError):  # nobody can be told
            sys.stderr.write(f"error: {error}\n")
    return error.exit


def _usage(fault: Exception) -> CliError | None:
    """Return what is wrong with the command line, and which help to read; None where the fault is another.

    Which class says it differs between releases of Typer, so it is known by what it can do.
    """
    told = getattr(fault, "format_message", None)
    if told is None:
        return None
    context = getattr(fault, "ctx", None)
    if type(fault).__name__ == "NoArgsIsHelpError":
        return CliError(f"say what to do; see `{context.command_path if context else 'fleetline'} --help`")
    see = f"; see `{context.command_path} --help`" if context is not None else ""
    return CliError(f"{told().rstrip('.')}{see}")
