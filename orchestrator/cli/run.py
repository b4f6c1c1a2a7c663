"""`fleetline run`: submit runs, list them, look at them, watch, talk to, cancel and retry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import columns, options, results, talking, watch
from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit, exit_of_state
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from agent.runs import Run
    from agent.submission import SubmitOptions
    from protocol.requests import RunInfo

__all__ = ["app"]

app = typer.Typer(help="Submit runs, list them, look at them, watch, talk to, cancel and retry them.")

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired", "dead")
WIDE_COLUMNS = 120
"""A terminal this wide has room for everything about a run."""

FOLLOW = "Print entries as they come, until the run ends."
WAIT = "Print the result when the run ends."


@app.command("submit")
def submit(
    handler: Annotated[str, typer.Argument(metavar="HANDLER", help="Name of the handler.")],
    input_: Annotated[str | None, typer.Argument(metavar="INPUT", help="JSON, @FILE, or - for standard input.")] = None,
    queue: options.Queue = "default",
    key: Annotated[str | None, typer.Option("--key", metavar="K", help="The same key gives the same run.")] = None,
    priority: options.Priority = 0,
    where: options.Where = None,
    delay: Annotated[
        str | None,
        typer.Option("--delay", metavar="S", help="Not before so many seconds from now; also 90s, 15m, 12h."),
    ] = None,
    deadline: options.Deadline = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="S", help="How long it is kept after its end; else as the hub has it."),
    ] = None,
    concurrency_key: Annotated[
        str | None,
        typer.Option("--concurrency-key", metavar="C", help="What `queue limit --per-key` counts it under."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help=FOLLOW)] = False,
    wait: Annotated[bool, typer.Option("--wait", help=WAIT)] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> int:
    """Put a run on a queue, and print its id. With --follow or --wait the exit code is that of the run."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_input, parse_name, parse_span_s, parse_where

    _one_of(follow, wait)
    if key is not None and not 1 <= len(key) <= 512:
        raise CliError("--key: a key is 1 to 512 characters")
    if concurrency_key is not None and not 1 <= len(concurrency_key) <= 128:
        raise CliError("--concurrency-key: a key is 1 to 128 characters")
    parse_name(handler, "HANDLER")
    parse_name(queue, "--queue")
    value = parse_input(input_)
    asked: SubmitOptions = {
        "queue": queue,
        "key": key,
        "priority": priority,
        "where": parse_where(where or [], "--where"),
        "delay": parse_span_s(delay, "--delay", or_none=True),
        "deadline": parse_span_s(deadline, "--deadline"),
        "timeout": parse_span_s(timeout, "--timeout"),
        "retries": retries,
        "keep": parse_span_s(keep, "--keep"),
        "concurrency_key": concurrency_key,
    }
    out = Output(as_json)

    async def use(client: Client) -> Exit:
        run = await client.submit(handler, value, **asked)
        if not run.created:
            out.note(f"the key {key!r} had made this run before; nothing was added")
        return await _submitted(out, run, follow=follow, wait=wait)

    return with_client(hub, token_file, use, follows=follow or wait)


@app.command("retry")
def retry(
    run: options.Run,
    follow: Annotated[bool, typer.Option("--follow", help=FOLLOW)] = False,
    wait: Annotated[bool, typer.Option("--wait", help=WAIT)] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> int:
    """Do a run that is over again, as a new run, and print its id."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run

    _one_of(follow, wait)
    run = parse_run(run)
    out = Output(as_json)

    async def use(client: Client) -> Exit:
        return await _submitted(out, await client.run(run).retry(), follow=follow, wait=wait)

    return with_client(hub, token_file, use, follows=follow or wait)


@app.command("ls", epilog=columns.epilog(columns.RUNS))
def ls(
    state: Annotated[str | None, typer.Option("--state", metavar="S", help=f"One of {', '.join(STATES)}.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="Q", help="Of this queue only.")] = None,
    parent: Annotated[str | None, typer.Option("--parent", metavar="RUN", help="Children of this run only.")] = None,
    limit: options.Limit = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="RUN", help="Only those that come after this one in the list.")
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List runs, newest first. Lists carry no results: `run show` has them."""
    from agent.runs import run_object
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name, parse_run

    parent, after = (None if run is None else parse_run(run) for run in (parent, after))
    if state is not None and state not in STATES:
        raise CliError(f"--state: {state!r} is no state of a run; it is one of {', '.join(STATES)}")
    if queue is not None:
        parse_name(queue, "--queue")
    out = Output(as_json)

    async def use(client: Client) -> tuple[RunInfo, ...]:
        return await client.runs(limit, state=state, queue=queue, parent=parent, after=after)

    runs = with_client(hub, token_file, use)
    if as_json:
        for run in runs:
            out.json({name: value for name, value in run_object(run).items() if name != "result"})
        return
    _table(out, runs)


def _table(out: Output, runs: tuple[RunInfo, ...]) -> None:
    """Print runs: on a terminal that is too narrow for all of it, without queue and date."""
    import time

    from orchestrator.cli.text import age, clock

    if out.terminal and out.width < WIDE_COLUMNS:
        now_ms = int(time.time() * 1000)
        narrow = ("RUN", "STATE", "HANDLER", "AGENT", "ATT", "AGE")
        cells = [(r.run, r.state, r.handler, r.agent, r.attempt, age(now_ms - r.submitted_ms)) for r in runs]
        out.rows(narrow, cells, cut=("HANDLER", "AGENT"))
        return
    rows = ((r.run, r.state, r.handler, r.queue, r.attempt, r.agent, clock(r.submitted_ms)) for r in runs)
    out.rows(tuple(columns.RUNS), rows, cut=("HANDLER", "QUEUE", "AGENT"))


@app.command("show")
def show(
    run: options.Run,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show one run."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run

    run = parse_run(run)

    async def use(client: Client) -> None:
        await _print(Output(as_json), client.run(run), client)

    with_client(hub, token_file, use)


@app.command("cancel")
def cancel(
    run: options.Run,
    reason: Annotated[str | None, typer.Option("--reason", help="Told to the handler, and kept in the log.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended.")] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Ask a run to stop, and print its state."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run

    run = parse_run(run)
    if reason is not None and len(reason) > 1024:
        raise CliError("--reason: at most 1024 characters")
    out = Output(as_json)

    async def use(client: Client) -> None:
        state = await client.run(run).cancel(wait=wait, reason=reason)
        if as_json:
            await _print(out, client.run(run))
            return
        out.line(state)
        if state == "running":
            out.note("its handler was told; `fleetline run watch` shows when it has stopped")

    with_client(hub, token_file, use)


app.command("watch")(watch.watch)
app.command("output")(results.output)
app.command("fetch", epilog=columns.epilog(columns.ARTIFACTS))(results.fetch)
app.command("steer")(talking.steer)
app.command("answer")(talking.answer)
app.command("query")(talking.query)


def _one_of(follow: bool, wait: bool) -> None:
    if follow and wait:
        raise CliError("--follow and --wait exclude each other: --follow prints entries, --wait the result")


async def _submitted(out: Output, run: Run, *, follow: bool, wait: bool) -> Exit:
    """Print the id of a run that was put on its queue, or what becomes of it."""
    from orchestrator.cli.waiting import left_behind
    from orchestrator.cli.watching import follow as follow_run

    if follow or wait:
        out.note(f"run {run.id}")
        with left_behind(out, run):
            return await (follow_run(out, run) if follow else _wait(out, run))
    if out.as_json:
        await _print(out, run)
    else:
        out.line(run.id)
    return Exit.DONE


async def _wait(out: Output, run: Run) -> Exit:
    """Wait for the end; print the result, or say on standard error why there is none."""
    from agent.errors import RunEnded
    from orchestrator.cli.waiting import told_why_it_waits
    from protocol.readable import json_line, readable

    try:
        async with told_why_it_waits(out, run):
            await run.result()
    except RunEnded as ended:
        out.note(f"error: {ended}")
    run = await run.last()
    info = await run.get()
    if out.as_json:
        await _print(out, run)
    elif info.result is not None:
        out.line(json_line(readable(info.result)))
    return exit_of_state(info.state)


async def _print(out: Output, run: Run, client: Client | None = None) -> None:
    """Print a run; with a client, also what it was told and asked, how far it is, and whether its agent is there."""
    from agent.runs import run_object
    from orchestrator.cli.text import clock
    from orchestrator.cli.under_way import look
    from protocol.readable import json_line

    info = await run.get()
    shown = run_object(info)
    under_way = await look(client, info) if client is not None else None
    talk = await run.talk() if client is not None and info.talk_from is not None else None
    if out.as_json:
        shown |= results.artifacts_json(info)
        if talk is not None:
            shown |= talking.talk_json(talk)
        if under_way is not None:
            shown |= under_way.to_json()
        out.json(shown)
        return
    for name in ("submitted", "started", "finished"):
        shown[name] = clock(shown.pop(f"{name}_ms"))
    shown["result"] = "" if info.result is None else json_line(shown["result"])
    family = {name.replace("_", " "): shown.pop(name) for name in ("parent", "continues", "continued_as")}
    error = shown.pop("error")
    shown["error"] = "" if error is None else f"{error.get('type')}: {error.get('message')}"
    if under_way is not None:
        shown |= under_way.words()
    terms = {"where": info.where, "concurrency key": info.concurrency_key}
    shown |= {name: said for name, said in terms.items() if said}
    times = {"not before": info.not_before_ms, "deadline": info.deadline_ms, "kept until": info.kept_until_ms}
    shown |= {name: clock(at_ms) for name, at_ms in times.items() if at_ms}
    shown |= {name: run_id for name, run_id in {"retry of": info.retry_of, **family}.items() if run_id}
    if info.cancelling and talk is None:
        shown["cancel"] = "asked for"
    if info.reason:
        shown["waits because" if info.state == "queued" else "reason"] = info.reason
    shown |= results.show_artifacts(info)
    if talk is not None:
        shown |= talking.show_talk(talk)
    out.pairs(shown)
