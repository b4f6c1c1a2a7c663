"""The options of `token issue` that say what a token permits, and with which names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.errors import CliError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.auth.principal import Grant
    from orchestrator.cli.output import Output
    from orchestrator.core.patterns import Patterns

__all__ = ["Control", "Publish", "Read", "Serve", "Submit", "patterns_of", "scopes_of", "show", "write"]

Read = Annotated[
    list[str] | None,
    typer.Option("--read", metavar="P", help="What it reads: topic/NAME, agent/ID, queue/NAME with its runs, run/ID."),
]
Publish = Annotated[
    list[str] | None, typer.Option("--publish", metavar="P", help="What it publishes to: topic/NAME, agent/ID.")
]
Submit = Annotated[list[str] | None, typer.Option("--submit", metavar="P", help="Queues it submits to.")]
Serve = Annotated[list[str] | None, typer.Option("--serve", metavar="P", help="Queues an agent takes runs from.")]
Control = Annotated[
    list[str] | None,
    typer.Option(
        "--control", metavar="P", help="What it steers, cancels, answers, sets: queue/NAME, run/ID, agent/ID."
    ),
]


def scopes_of(words: list[str] | None, agents: frozenset[str]) -> frozenset[str]:
    """Return the scopes that somebody wrote, for a token with which these agents may be had.

    Raises:
        CliError: one is none, or agents are missing.
    """
    from orchestrator.core.permissions import Scope

    scopes = frozenset(words or ()) or frozenset({Scope.AGENT.value if agents else Scope.OPERATOR.value})
    known = [one.value for one in Scope]
    for word in sorted(scopes):
        if word not in known:
            raise CliError(f"--scope: {word!r} is no scope; it is one of {', '.join(known)}")
    if Scope.AGENT in scopes and not agents:
        raise CliError("--scope agent: say which agent ids the token may use with --agent ID, or --agent '*' for any")
    return scopes | frozenset({Scope.AGENT.value} if agents else ())


def patterns_of(**words: list[str] | None) -> Patterns:
    """Return the patterns that somebody wrote, by the names of their options.

    Raises:
        CliError: one is none.
    """
    from orchestrator.core.patterns import InvalidPattern, Patterns

    try:
        return Patterns.said(words)
    except InvalidPattern as fault:
        raise CliError(f"--{fault}") from fault


def write(file: Path, token: str) -> None:
    """Write a token to a file that only this user may read, whole or not at all.

    Raises:
        CliError: it cannot be written.
    """
    from orchestrator.files import replace_file

    try:
        replace_file(file, f"{token}\n".encode(), 0o600)
    except OSError as fault:
        raise CliError(f"--output: {file} cannot be written: {fault.strerror}; the token was given to nobody") from None


def show(out: Output, token: str, grant: Grant, expires_ms: int, lasts: str, file: Path | None = None) -> None:
    """Print a token, or in which file it is; a person is told beside it what it is for."""
    scopes, may = sorted(grant.scopes), grant.may.claim()
    if out.as_json:
        where = {"token": token} if file is None else {"file": str(file)}
        shown = {**where, "name": grant.name, "namespace": grant.namespace, "scopes": scopes}
        rest = ({"uses": grant.uses} if grant.uses else {}) | ({"may": may} if may else {})
        out.json(shown | {"agents": sorted(grant.agents), "expires_ms": expires_ms} | rest)
        return
    out.line(token if file is None else str(file))
    what = f"enrols {grant.uses} key{'s' if grant.uses > 1 else ''}, " if grant.uses else ""
    named = [f"{verb} {', '.join(patterns)}" for verb, patterns in may.items() if patterns]
    limited = f", limited to {'; '.join(named) or 'no name at all'}" if may else ""
    out.note(f"for {grant.name}, {what}scopes {', '.join(scopes)}{limited}, good for {lasts}; keep it like a password")
