"""`fleetline replay`: what happened in a run, from the hub or from an exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["replay"]


def replay(
    run_or_file: Annotated[
        str, typer.Argument(metavar="RUN_OR_FILE", help="A run, another log, an exported file, or -.")
    ],
    until: Annotated[int | None, typer.Option("--until", min=1, metavar="OFFSET", help="Stop at this offset.")] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Print the timeline of a run: every entry, with attempts, kills and resumes. Verifies what it reads."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.replaying import Recorder, replay_file, replay_log
    from orchestrator.cli.source import faults_named, named

    source = named(run_or_file)
    recorder = Recorder(Output(as_json), until)
    log = source.log

    async def use(client: Client) -> None:
        assert log is not None
        await replay_log(recorder, client, log)

    with faults_named(source.title):
        if log is None:
            replay_file(recorder, source)
        else:
            with_client(hub, token_file, use)
