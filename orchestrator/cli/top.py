"""`fleetline top`: agents and queues, live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["top"]


def top(
    every: Annotated[
        float, typer.Option("--every", min=0.5, max=3600, metavar="S", help="Seconds from one look to the next.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show agents and queues, until Ctrl-C: live on a terminal, else lines, the totals first."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.looking import live, print_looks
    from orchestrator.cli.screen import can_be_live

    out = Output(as_json)

    async def use(client: Client) -> None:
        if not once and can_be_live(out):
            await live(client, every)
        await print_looks(out, client, None if once else every)

    with_client(hub, token_file, use, follows=not once)
