"""What the command line says about the certificates of hubs: two options that every command has which talks to one.

They are told to the rest of the process, and to what it starts, by the environment, where they can be said as well.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["trusting"]

_PANEL = "Connection"
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        help="Authorities, in PEM, of the hub's certificate. Else FLEETLINE_CA_FILE, else the system's.",
        rich_help_panel=_PANEL,
    ),
]
InsecurePlaintext = Annotated[
    bool,
    typer.Option(
        "--insecure-plaintext",
        help="Send the token to another machine in the clear, over ws://. Else FLEETLINE_INSECURE_PLAINTEXT.",
        rich_help_panel=_PANEL,
    ),
]
_OPTIONS = {"ca_file": (CaFile, None), "insecure_plaintext": (InsecurePlaintext, False)}


def trusting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with these options, where it has a hub to talk to."""
    signature = inspect.signature(command, eval_str=True)
    if "hub" not in signature.parameters or "ca_file" in signature.parameters:
        return command

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        ca_file, insecure_plaintext = given.pop("ca_file"), given.pop("insecure_plaintext")
        if ca_file is not None:
            _check_ca_file(ca_file)
            os.environ["FLEETLINE_CA_FILE"] = str(ca_file.absolute())
        if insecure_plaintext:
            os.environ["FLEETLINE_INSECURE_PLAINTEXT"] = "1"
        return command(**given)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    whole = signature.replace(parameters=[*signature.parameters.values(), *more])
    run.__signature__ = whole  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in whole.parameters.items()}
    return run


def _check_ca_file(ca_file: Path) -> None:
    import ssl

    from orchestrator.cli.errors import CliError

    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as fault:
        said = fault.strerror if not isinstance(fault, ssl.SSLError) else "it holds no certificates in PEM"
        raise CliError(f"--ca-file: {ca_file} cannot be used: {said}") from None
