"""`fleetline run watch`: runs as they go, as a view on a terminal, as lines, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from orchestrator.cli.exits import Exit

__all__ = ["RUNS_MAX", "watch"]

RUNS_MAX = 16
"""Runs that are watched at once."""


def watch(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.")],
    plain: Annotated[bool, typer.Option("--plain", help="Print entries as lines on a terminal too.")] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> int:
    """Show runs until they end: a live view on a terminal, else their entries, history and then live.

    The exit code is that of the run; of several, that of the first that did not succeed.
    """
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run
    from orchestrator.cli.screen import can_be_live
    from orchestrator.cli.watching import follow_all, live

    names = list(dict.fromkeys(parse_run(run) for run in runs))
    if len(names) > RUNS_MAX:
        raise CliError(f"RUN: at most {RUNS_MAX} runs are watched at once")
    out = Output(as_json)

    async def use(client: Client) -> Exit:
        handles = [client.run(name) for name in names]
        for handle in handles:
            await handle.get()  # an unknown run is refused, not waited for
        if not plain and can_be_live(out):
            return await live(handles)
        return await follow_all(out, handles)

    return with_client(hub, token_file, use, follows=True)
