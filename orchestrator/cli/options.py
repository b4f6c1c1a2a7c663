"""Options that several commands share: spelled, explained and read from the environment in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "Hub", "Json", "Limit", "Listen", "TokenFile"]

_CONNECTION = "Connection"

Hub = Annotated[
    str | None,
    typer.Option(
        "--hub",
        metavar="URL",
        help="Address of the hub, ws://HOST:PORT. Else FLEETLINE_HUB, else the data directory's hub.",
        rich_help_panel=_CONNECTION,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File that holds the token. Else FLEETLINE_TOKEN, else the data directory's token.",
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
