"""`fleetline dev`: everything on one machine, at once."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.output import Output

__all__ = ["dev"]


def dev(
    app: Annotated[
        str | None, typer.Argument(metavar="APP", help="MODULE:ATTRIBUTE that names an Agent to run beside the hub.")
    ] = None,
    data: options.Data = None,
    listen: options.Listen = None,
    insecure_plaintext: options.Plaintext = False,
    as_json: options.Json = False,
) -> int:
    """Start a hub with an embedded store, and the agent APP if it is given. Keys are made on first use."""
    from orchestrator.cli.serving import load_here, serve

    beside = None
    if app is not None:
        from orchestrator.cli.agents import agent_beside

        beside = agent_beside(app)
    flags = {"data": data, "listen": listen, "workers": 1, "insecure_plaintext": insecure_plaintext or None}
    return serve(load_here(flags).settings, Output(as_json), beside)
