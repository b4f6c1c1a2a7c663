"""`fleetline hub`: the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

__all__ = ["app"]

app = typer.Typer(help="Run the coordinator.")


@app.callback()
def _group() -> None:
    """Run the coordinator."""


@app.command("start")
def start(
    data: options.Data = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="redis://, rediss:// or unix:// server; the embedded one without."),
    ] = None,
    listen: options.Listen = None,
    durability: Annotated[
        str | None,
        typer.Option("--durability", metavar="LEVEL", help="What an acknowledgement means: local (fsynced) or memory."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Processes that serve the address, a core each."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Certificate chain in PEM; read again when it changes."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key in PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option("--tls-client-ca", metavar="FILE", help="Let in only who shows a certificate of these."),
    ] = None,
    insecure_plaintext: options.Plaintext = False,
    as_json: options.Json = False,
) -> int:
    """Start a hub, say where it listens, and serve until SIGTERM or Ctrl-C."""
    from orchestrator.cli.serving import load_here, serve

    if durability is not None and durability.startswith("replicated"):
        raise CliError("--durability: replicated levels are not offered yet; take local (fsynced) or memory")
    served = {"listen": listen, "workers": workers, "insecure_plaintext": insecure_plaintext or None}
    tls = {"tls_cert": tls_cert, "tls_key": tls_key, "tls_client_ca": tls_client_ca}
    loaded = load_here({"data": data, "store": store, "durability": durability, **served, **tls})
    return serve(loaded.settings, Output(as_json))
