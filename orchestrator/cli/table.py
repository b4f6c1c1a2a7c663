"""The `fleetline` command: nouns, then verbs. This module knows the table of nouns, and how a failure is told.

Each noun's module imports nothing heavy at its top, so that the whole table costs next to nothing.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import typer

from orchestrator.cli import agent, dev, doctor, hub, log, queue, replay, run, schedule, token, top, topic
from orchestrator.cli.errors import CliError, explained
from orchestrator.cli.exits import Exit

__all__ = ["app", "execute"]

_GROUP: dict[str, Any] = {"no_args_is_help": True}

app = typer.Typer(
    name="fleetline",
    help="The durable control channel for fleets of agents.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_GROUP,
)
app.command("dev")(dev.dev)
app.add_typer(hub.app, name="hub", **_GROUP)
app.add_typer(agent.app, name="agent", **_GROUP)
app.add_typer(run.app, name="run", **_GROUP)
app.add_typer(queue.app, name="queue", **_GROUP)
app.add_typer(schedule.app, name="schedule", **_GROUP)
app.command("top")(top.top)
app.add_typer(log.app, name="log", **_GROUP)
app.add_typer(topic.app, name="topic", **_GROUP)
app.command("replay")(replay.replay)
app.add_typer(token.app, name="token", **_GROUP)
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"fleetline {version('fleetline')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The durable control channel for fleets of agents."""
    del version


def execute(arguments: list[str]) -> int:
    """Run one command and return its exit code. What is expected to fail is told on standard error; a bug is raised."""
    try:
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
