"""Options and arguments that several commands share: spelled, explained and read from the environment in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Data",
    "Deadline",
    "Hub",
    "JoinTokenFile",
    "Json",
    "Limit",
    "Listen",
    "Plaintext",
    "Priority",
    "Queue",
    "Retries",
    "Run",
    "StateDir",
    "Timeout",
    "TokenFile",
    "Where",
]

_CONNECTION = "Connection"

Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run.")]
Hub = Annotated[
    str | None,
    typer.Option(
        "--hub",
        metavar="URL",
        help="Address of the hub, wss:// or ws://HOST:PORT. Else FLEETLINE_HUB, else the data directory's hub.",
        rich_help_panel=_CONNECTION,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File that holds the token. Else FLEETLINE_TOKEN, else your key (`key enrol`), else the data directory's.",
        rich_help_panel=_CONNECTION,
    ),
]
JoinTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--join-token-file",
        metavar="FILE",
        help="File that holds a join token, which enrols a key; then it may go. Else FLEETLINE_JOIN_TOKEN.",
        rich_help_panel=_CONNECTION,
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Where the key is. Else FLEETLINE_STATE_DIR, else $XDG_STATE_HOME/fleetline, a directory for each.",
        rich_help_panel=_CONNECTION,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Data directory. Else FLEETLINE_DATA, else .fleetline here, else $XDG_STATE_HOME/fleetline.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, on standard output.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="List at most this many.")]
Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Address to listen on; port 0 takes a free one."),
]
Plaintext = Annotated[
    bool,
    typer.Option(
        "--insecure-plaintext", help="Speak plain WebSocket though others reach --listen: tokens can be read."
    ),
]

# What a run is submitted with, by `run submit` and by each schedule.
Queue = Annotated[str, typer.Option("--queue", metavar="Q", help="Queue that agents take it from.")]
Priority = Annotated[
    int, typer.Option("--priority", min=0, max=9, metavar="N", help="0 to 9; higher ones are taken first.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="K=V", help="Labels of agents that may take it; also K!=V, 'K in (A,B)', K."),
]
Deadline = Annotated[
    str | None, typer.Option("--deadline", metavar="S", help="A run expires when it has not ended by then.")
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="S", help="What one attempt may take; else the handler's.")
]
Retries = Annotated[
    int | None, typer.Option("--retries", min=0, metavar="N", help="Tries after a failed one; else the handler's.")
]
