"""`fleetline run output`: what a run wrote, as it is."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.exits import Exit, exit_of_state
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from agent.results import Output as Piece

__all__ = ["output"]

RUN = typer.Argument(metavar="RUN", help="Id of a run.")


def output(
    run: Annotated[str, RUN],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run ends; the exit code is that of the run.")
    ] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> int:
    """Print what a run wrote: its standard output and error each as such, of all its attempts."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run

    run = parse_run(run)
    out = Output(as_json)

    async def use(client: Client) -> Exit:
        handle, attempt = client.run(run), 0
        await handle.get()  # an unknown run is refused, not waited for
        async with aclosing(handle.output(follow=follow)) as pieces:
            async for piece in pieces:
                if attempt not in (0, piece.attempt) and not as_json:
                    out.note(f"-- attempt {piece.attempt} --")
                attempt = piece.attempt
                _print(out, piece)
        return exit_of_state((await handle.get()).state) if follow else Exit.DONE

    return with_client(hub, token_file, use, follows=follow)


def _print(out: Output, piece: Piece) -> None:
    if out.as_json:
        out.json(piece.entry.to_json())
    else:
        out.raw(piece.data, error=piece.stream == "stderr")
