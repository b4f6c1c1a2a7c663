"""`fleetline doctor`: what is in force, what is wrong, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.exits import Exit
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from orchestrator.cli.checks import Check
    from orchestrator.settings import Loaded

__all__ = ["doctor"]


def doctor(
    data: options.Data = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="Server to look at, instead of the embedded one.")
    ] = None,
    durability: Annotated[
        str | None, typer.Option("--durability", metavar="LEVEL", help="What it must be able to give: memory or local.")
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Check the store's settings, clocks, limits and keys, and print the settings in force with their origins.

    Run it where the hub runs. Exit code 1 means that something is wrong.
    """
    import asyncio

    from orchestrator.cli.checks import Verdict
    from orchestrator.cli.connect import check_store_flag
    from orchestrator.settings import load
    from orchestrator.telemetry import configure_logs

    configure_logs("error")
    check_store_flag(store)
    loaded = load({"data": data, "store": store, "durability": durability})
    checks = asyncio.run(_look(loaded))
    out = Output(as_json)
    wrong = sum(check.verdict is Verdict.WRONG for check in checks)
    if any((check.about, check.name) == ("hub", "listen") for check in checks):
        out.note("a hub runs from this data directory; the settings listed are what a hub started now would have")
    if as_json:
        for check in checks:
            out.json(check.to_json())
    else:
        rows = ((f"{c.about}: {c.name}", c.value, c.verdict.value, c.note) for c in checks)
        out.rows(("WHAT", "FOUND", "VERDICT", "ORIGIN, OR WHAT TO DO"), rows)
    out.note(_summary(loaded.settings.data, wrong, len(checks)))
    return Exit.FAILED if wrong else Exit.DONE


def _summary(data: Path, wrong: int, checks: int) -> str:
    if wrong:
        return f"{wrong} of {checks} checks found something wrong"
    if not data.is_dir():
        return f"nothing was checked of {data}: there is no such directory"
    return "nothing is wrong"


async def _look(loaded: Loaded) -> list[Check]:
    from orchestrator.cli import checks

    settings = loaded.settings
    return [
        *checks.check_settings(loaded),
        *checks.check_data(settings.data),
        *checks.check_tls(settings),
        *await checks.check_store(settings),
        *checks.check_limits(settings),
        *await checks.check_hub(settings),
    ]
