"""`fleetline run output` and `run fetch`: what a run wrote, as it is, and the files that it attached."""

from __future__ import annotations

import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import columns, options
from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit, exit_of_state
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from agent.results import Output as Piece
    from protocol.artifacts import Artifact
    from protocol.requests import RunInfo

__all__ = ["artifacts_json", "fetch", "output", "show_artifacts"]

COPY_BYTES = 256 * 1024


def output(
    run: options.Run,
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
    from orchestrator.cli.waiting import at_its_end

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
        return exit_of_state((await at_its_end(handle)).state) if follow else Exit.DONE

    return with_client(hub, token_file, use, follows=follow and sys.stderr.isatty())


def fetch(
    run: options.Run,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which file; without, they are listed.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to put it, or a directory; - is standard output."),
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Fetch a file that a run attached, verified by its size and SHA-256; without NAME, list them."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run

    run = parse_run(run)
    out = Output(as_json)
    if name is None and output is not None:
        raise CliError("--output: say which file is to go there; `fleetline run fetch RUN` lists them")

    async def use(client: Client) -> None:
        if name is None:
            _list(out, await client.run(run).artifacts())
        elif str(output) == "-":
            with tempfile.TemporaryDirectory() as directory:
                _copy(out, await client.run(run).fetch(name, directory))
        else:
            place = await client.run(run).fetch(name, output)
            out.note(f"wrote {place}")

    with_client(hub, token_file, use)


def artifacts_json(info: RunInfo) -> dict[str, list[dict[str, Any]]]:
    """Return what the object of a run says of its artifacts, where it has any."""
    return {"artifacts": [artifact.model_dump() for artifact in info.artifacts]} if info.artifacts else {}


def show_artifacts(info: RunInfo) -> dict[str, str]:
    """Return the same, for people."""
    listed = ", ".join(f"{artifact.name} ({artifact.size} bytes)" for artifact in info.artifacts)
    return {"artifacts": listed} if listed else {}


def _list(out: Output, artifacts: tuple[Artifact, ...]) -> None:
    if out.as_json:
        for artifact in artifacts:
            out.json(artifact.model_dump())
        return
    rows = ((each.name, each.size, each.attempt, each.sha256) for each in artifacts)
    out.rows(tuple(columns.ARTIFACTS), rows, cut=("SHA-256",))


def _copy(out: Output, place: Path) -> None:
    with place.open("rb") as file:
        while data := file.read(COPY_BYTES):
            out.raw(data)


def _print(out: Output, piece: Piece) -> None:
    if out.as_json:
        out.json(piece.entry.to_json())
    else:
        out.raw(piece.data, error=piece.stream == "stderr")
