"""Runs a hub in this process until it is told to stop, and says how to reach it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cli.connect import check_log_level, check_store_flag
from orchestrator.cli.exits import Exit
from orchestrator.cli.output import Output
from orchestrator.hub import Hub, calm_collector
from orchestrator.process import loop_factory, told_to_stop
from orchestrator.settings import Loaded, Settings, data_dir, load
from orchestrator.store.datadir import DataDirectory
from orchestrator.telemetry import configure_logs
from protocol.address import is_loopback

__all__ = ["load_here", "serve"]

Beside = Callable[[Hub], AbstractAsyncContextManager[None]]
"""What else runs for as long as the hub does."""


def load_here(flags: dict[str, Any]) -> Loaded:
    """Read the settings of a hub that starts here: its data directory is `.fleetline` where none is named."""
    check_store_flag(flags.get("store"))
    loaded = load(flags)
    if loaded.origins["data"] == "default":
        return load({**flags, "data": data_dir(here=True)})
    return loaded


def serve(settings: Settings, out: Output, beside: Beside | None = None) -> Exit:
    """Serve until SIGTERM (exit code 0) or Ctrl-C (130), then drain and stop.

    Raises:
        DataDirectoryError: the data directory belongs to somebody else, or cannot be used.
        FleetlineError: whatever keeps the hub from starting.
    """
    configure_logs(check_log_level(settings.log_level, "log_level"))
    calm_collector()
    DataDirectory(settings.data).prepare()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(settings, out, beside or (lambda _hub: nullcontext())))


async def _serve(settings: Settings, out: Output, beside: Beside) -> Exit:
    told = told_to_stop()
    async with Hub(settings) as hub:
        _announce(settings, hub, out)
        async with beside(hub):
            number = await told
    return Exit.INTERRUPTED if number is signal.SIGINT else Exit.DONE


def _announce(settings: Settings, hub: Hub, out: Output) -> None:
    data = settings.data.absolute()
    store = "embedded" if settings.store is None else "external"
    if out.as_json:
        facts = {"url": hub.url, "data": str(data), "store": store, "durability": settings.durability.value}
        out.json({**facts, "workers": settings.workers, "pid": os.getpid()})
        return
    workers = f"{settings.workers} workers, " if settings.workers > 1 else ""
    out.line(
        f"hub listening at {hub.url} ({workers}{store} store, durability {settings.durability.value}, data in {data})"
    )
    near = "in this directory" if data == data_dir(here=True) else f"with FLEETLINE_DATA={data}"
    out.line(f"on this machine, {near}: fleetline run ls finds it by itself")
    host, _ = settings.address
    if is_loopback(host):
        port = urlsplit(hub.url).port
        out.line(
            f"only this machine can reach it; --listen 0.0.0.0:{port} with --tls-cert and --tls-key lets others in"
        )
        return
    found = urlsplit(hub.url)
    url = hub.url if not _is_wildcard(host) else f"{found.scheme}://ADDRESS-OF-THIS-MACHINE:{found.port}"
    out.line(f"from elsewhere: --hub {url}, and a token from `fleetline token issue NAME --data {data}`")


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
