"""`fleetline topic`: publish to topics and watch them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["app"]

app = typer.Typer(help="Publish to topics and watch them.")
TOPIC = typer.Argument(metavar="TOPIC", help="Name of a topic.")


@app.command("publish")
def publish(
    topic: Annotated[str, TOPIC],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of the entry: a word of yours.")],
    body: Annotated[str | None, typer.Argument(metavar="BODY", help="JSON, @FILE, or - for standard input.")] = None,
    expect: Annotated[
        int | None, typer.Option("--expect", min=0, metavar="OFFSET", help="Only if this is the last offset now.")
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Append an entry to a topic, and print its offset once it is durable."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_input, parse_kind, parse_name

    name = parse_name(topic.removeprefix("topic/"), "TOPIC")
    parse_kind(kind)
    value = parse_input(body, "BODY")
    out = Output(as_json)

    async def use(client: Client) -> int:
        return await client.publish(name, kind, value, expect=expect)

    offset = with_client(hub, token_file, use)
    if as_json:
        out.json({"log": f"topic/{name}", "offset": offset})
    else:
        out.line(str(offset))


@app.command("watch")
def watch(
    topic: Annotated[str, TOPIC],
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="Begin with the last N.")] = 10,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Print a topic's last entries, and then what comes, until interrupted."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name
    from orchestrator.cli.log import follow_log

    name = parse_name(topic.removeprefix("topic/"), "TOPIC")
    out = Output(as_json)

    async def use(client: Client) -> None:
        await follow_log(out, client, f"topic/{name}", lines)

    with_client(hub, token_file, use, follows=True)
