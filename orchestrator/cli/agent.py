"""`fleetline agent`: start agents, list them, look at them, send them messages, and take them out of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import columns, options
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agent.client import Client
    from orchestrator.cli.agents import AgentFlags
    from protocol.requests import AgentInfo, AgentStanding

__all__ = ["app"]

app = typer.Typer(help="Start agents, list them, look at them, send them messages, cordon and drain them.")
AGENT = typer.Argument(metavar="AGENT", help="Id of an agent.")
Queues = Annotated[list[str] | None, typer.Option("--queue", metavar="Q", help="Queue to serve; repeatable.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="K=V", help="A label, for `run submit --where`; repeatable.")
]
Slots = Annotated[int | None, typer.Option("--slots", min=1, metavar="N", help="Runs at a time.")]
Version = Annotated[
    str | None, typer.Option("--version", metavar="V", help="Version of its code: a label called version.")
]
GRACE_S = "10"
"""As `agent.program.Graces` has it, which help is not to load."""


@app.command("start")
def start(
    app_: Annotated[str, typer.Argument(metavar="APP", help="MODULE:ATTRIBUTE that names an Agent.")],
    agent_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of this process; the agent's name without.")
    ] = None,
    queue: Queues = None,
    label: Labels = None,
    slots: Slots = None,
    version: Version = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=0, metavar="N", help="Child processes that are started ahead.")
    ] = None,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
    join_token_file: options.JoinTokenFile = None,
    state_dir: options.StateDir = None,
) -> int:
    """Start an agent, and serve until SIGTERM or Ctrl-C. It reconnects for as long as it lives."""
    from dataclasses import replace

    from orchestrator.cli.agents import run_agent

    flags = _flags(agent_id, queue, label, slots, hub, token_file, version)
    return run_agent(app_, replace(flags, processes=processes, join_token_file=join_token_file, state_dir=state_dir))


@app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="The program and its arguments, after a --.")
    ],
    agent_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of this process; NAME without.")
    ] = None,
    queue: Queues = None,
    label: Labels = None,
    slots: Slots = None,
    version: Version = None,
    handler: Annotated[
        str | None, typer.Option("--handler", metavar="NAME", help="What runs name it by; the program's name without.")
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, metavar="N", help="How often a failed attempt is tried again.")
    ] = 0,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="S", help="What one attempt may take.")] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="The program speaks no JSON lines: its input is read, exit code 0 is success."),
    ] = False,
    message_grace: Annotated[
        str, typer.Option("--message-grace", metavar="S", help="Time from the message to stop to SIGTERM.")
    ] = GRACE_S,
    term_grace: Annotated[
        str, typer.Option("--term-grace", metavar="S", help="Time from SIGTERM to SIGKILL.")
    ] = GRACE_S,
    memory: Annotated[
        int | None, typer.Option("--memory", min=1, metavar="MIB", help="What a run's processes may hold together.")
    ] = None,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
    join_token_file: options.JoinTokenFile = None,
    state_dir: options.StateDir = None,
) -> int:
    """Start an agent whose runs are a program, and serve until SIGTERM or Ctrl-C."""
    from dataclasses import replace

    from agent.program import Graces, Program
    from orchestrator.cli.agents import run_program
    from orchestrator.cli.inputs import parse_name, parse_span_s, program_name

    flags = _flags(agent_id, queue, label, slots, hub, token_file, version)
    flags = replace(flags, join_token_file=join_token_file, state_dir=state_dir)
    name = program_name(command[0]) if handler is None else parse_name(handler, "--handler")
    message_s, term_s = parse_span_s(message_grace, "--message-grace"), parse_span_s(term_grace, "--term-grace")
    assert message_s is not None
    assert term_s is not None
    graces = Graces(message_s=message_s, term_s=term_s)
    program = Program(tuple(command), plain=plain, graces=graces, memory_mib=memory)
    return run_program(name, program, flags, retries=retries, timeout=parse_span_s(timeout, "--timeout"))


def _flags(
    agent_id: str | None,
    queue: list[str] | None,
    label: list[str] | None,
    slots: int | None,
    hub: str | None,
    token_file: Path | None,
    version: str | None,
) -> AgentFlags:
    from orchestrator.cli.agents import AgentFlags
    from orchestrator.cli.inputs import parse_labels, parse_name

    if agent_id is not None:
        parse_name(agent_id, "--id")
    queues = tuple(parse_name(one, "--queue") for one in queue or ())
    labels = parse_labels(label or [], "--label")
    return AgentFlags(agent_id, queues or None, labels or None, slots, hub, token_file, version)


@app.command("ls", epilog=columns.epilog(columns.AGENTS))
def ls(
    limit: options.Limit = 1000,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="AGENT", help="From behind this one on, be it there or not."),
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List the agents that were ever seen, by name."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name
    from orchestrator.cli.objects import agent_json
    from orchestrator.cli.text import clock

    name = None if after is None else parse_name(after, "--after")
    out = Output(as_json)

    async def use(client: Client) -> tuple[AgentInfo, ...]:
        return await client.agents(limit, name)

    agents = with_client(hub, token_file, use)
    if as_json:
        for info in agents:
            out.json(agent_json(info))
        return
    rows = (
        (a.agent, _presence(a), clock(a.since_ms), ",".join(a.queues), a.slots, _load(a), _version(a), _labels(a))
        for a in agents
    )
    out.rows(tuple(columns.AGENTS), rows)


@app.command("show")
def show(
    agent: Annotated[str, AGENT],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show one agent, with the runs that it holds."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name
    from orchestrator.cli.objects import agent_json
    from orchestrator.cli.text import clock

    name = parse_name(agent, "AGENT")
    out = Output(as_json)

    async def use(client: Client) -> AgentInfo:
        return await client.agent(name)

    info = with_client(hub, token_file, use)
    if as_json:
        out.json(agent_json(info))
        return
    out.pairs(
        {
            "agent": info.agent,
            "state": _presence(info),
            "since": clock(info.since_ms),
            "hub": info.hub,
            "session": info.session,
            "instance": info.instance,
            "queues": ", ".join(info.queues),
            "handlers": ", ".join(handler.name for handler in info.handlers),
            "slots": info.slots,
            "load": _load(info),
            "version": _version(info),
            "labels": _labels(info),
            "runs": ", ".join(info.runs),
        }
    )


@app.command("send")
def send(
    agent: Annotated[str, AGENT],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of the message: what its handler is called.")],
    body: Annotated[str | None, typer.Argument(metavar="BODY", help="JSON, @FILE, or - for standard input.")] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Put a message into an agent's log, and print its offset. The agent is given it when it is connected."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_input, parse_kind, parse_name
    from protocol.errors import RequestError

    name = parse_name(agent, "AGENT")
    parse_kind(kind)
    value = parse_input(body, "BODY")
    out = Output(as_json)

    async def use(client: Client) -> int:
        try:
            await client.agent(name)
        except RequestError as fault:
            if fault.code == "not_found":
                out.note(f"no agent {name!r} was ever seen; the message waits in its log until one comes")
            elif fault.code != "forbidden":  # who may send need not be one who may look
                raise
        return await client.send(name, kind, value)

    offset = with_client(hub, token_file, use)
    if as_json:
        out.json({"log": f"agent/{name}", "offset": offset})
    else:
        out.line(str(offset))


@app.command("cordon")
def cordon(
    agent: Annotated[str, AGENT],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let an agent be given no more work, whatever process has its id, until it is uncordoned."""
    _change(agent, as_json, hub, token_file, lambda client, name: client.cordon(name))


@app.command("uncordon")
def uncordon(
    agent: Annotated[str, AGENT],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let an agent be given work again."""
    _change(agent, as_json, hub, token_file, lambda client, name: client.uncordon(name))


@app.command("drain")
def drain(
    agent: Annotated[str, AGENT],
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="S", help="Time for what it works on; then that is handed back. Any without."),
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let an agent's process take nothing more, finish what it works on, and end. The next one is given work again."""
    from orchestrator.cli.inputs import parse_span_s

    grace_s = parse_span_s(grace, "--grace")
    _change(agent, as_json, hub, token_file, lambda client, name: client.drain(name, grace_s))


def _change(
    agent: str,
    as_json: bool,
    hub: str | None,
    token_file: Path | None,
    change: Callable[[Client, str], Awaitable[AgentStanding]],
) -> None:
    """Say something of an agent, and print what is said of it now."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name

    name = parse_name(agent, "AGENT")
    out = Output(as_json)

    async def use(client: Client) -> AgentStanding:
        return await change(client, name)

    standing = with_client(hub, token_file, use)
    if as_json:
        out.json({"agent": name, **standing.model_dump()})
    else:
        out.line(_said(standing) or "may be given work")


def _said(standing: AgentStanding | AgentInfo) -> str:
    words = {"cordoned": standing.cordoned, "draining": standing.draining}
    return ",".join(word for word, is_so in words.items() if is_so)


def _presence(info: AgentInfo) -> str:
    return ",".join(filter(None, ("connected" if info.connected else "away", _said(info))))


def _load(info: AgentInfo) -> str | None:
    return None if info.load is None else f"{info.load:.0%}"


def _version(info: AgentInfo) -> str | None:
    return info.labels.get("version")


def _labels(info: AgentInfo) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(info.labels.items()) if key != "version")
