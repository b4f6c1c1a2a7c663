"""Opens a connection for a command, with the hub and the credentials that the command line or the machine name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit

if TYPE_CHECKING:
    from agent.client import Client
    from agent.identity import Credentials

__all__ = [
    "check_hub",
    "check_log_level",
    "check_store_flag",
    "check_token_file",
    "enrol",
    "log_level",
    "with_client",
]

T = TypeVar("T")

LEVELS = ("debug", "info", "warning", "error", "critical")


def with_client(
    hub: str | None, token_file: Path | None, use: Callable[[Client], Awaitable[T]], *, follows: bool = False
) -> T:
    """Connect, let `use` do its work, and say goodbye.

    Args:
        hub: the hub's address, where it was given.
        token_file: the file that holds the token, where it was given.
        use: what to do with the client.
        follows: it goes on for long: say on standard error when the connection breaks.

    Raises:
        CliError: the address or the token file cannot be used.
        FleetlineError: what the client raises.
    """
    check_hub(hub)
    check_token_file(token_file)
    from orchestrator.telemetry import configure_logs

    configure_logs(log_level("warning" if follows else "critical"), render=_sentence)
    return asyncio.run(_connected(hub, token_file, use))


def _sentence(_logger: object, _level: str, event: MutableMapping[str, Any]) -> str:
    """Return what is said of an event to whoever follows something on a terminal."""
    match event["event"]:
        case "link_dropped":
            return f"the connection is lost ({event['reason']}); it is tried again until the hub answers"
        case "link_back":
            return "connected again"
        case what:
            beside = (f"{name}={value}" for name, value in event.items() if name not in ("event", "level", "timestamp"))
            return " ".join((str(what), *beside))


async def _connected(hub: str | None, token_file: Path | None, use: Callable[[Client], Awaitable[T]]) -> T:
    from agent.client import Client

    async with Client.connect(hub, token_file=token_file) as client:
        return await use(client)


def enrol(hub: str | None, credentials: Credentials) -> str:
    """Come with a key, and a join token if there is one. Returns what the hub has the key as: accepted or pending.

    Raises:
        CliError: the hub does not know the key.
        FleetlineError: what the client raises.
    """
    check_hub(hub)
    from orchestrator.telemetry import configure_logs

    configure_logs(log_level("critical"))
    return asyncio.run(_enrol(hub, credentials))


async def _enrol(hub: str | None, credentials: Credentials) -> str:
    from agent.client import Client
    from agent.identity import KeyPending
    from protocol.requests import KeyList, KeyListed

    after: str | None = None
    try:
        async with Client.connect(hub, credentials=credentials) as client:
            while True:  # one that may decide about keys is shown those of others too
                listed: KeyListed = await client.ask("key.list", KeyList(after=after))
                for key in listed.keys:
                    if (key.name, key.fingerprint) == (credentials.place, credentials.fingerprint):
                        return key.state
                if not listed.keys:
                    break
                after = listed.keys[-1].name
    except KeyPending:
        return "pending"
    raise CliError("this hub does not know the key: come with a join token of it, with --join-token-file")


def check_hub(hub: str | None) -> None:
    """Refuse what is not the address of a hub."""
    from urllib.parse import urlsplit

    for origin, text in (("--hub", hub), ("FLEETLINE_HUB", os.environ.get("FLEETLINE_HUB"))):
        if text is None:
            continue
        parts = urlsplit(text if "://" in text else f"ws://{text}")
        try:
            fits = parts.scheme in ("ws", "wss", "http", "https") and parts.hostname and parts.port != 0
            fits = fits and ("://" in text or parts.port is not None)
        except ValueError:
            fits = False
        if not fits:
            raise CliError(f"{origin}: {text!r} is not the address of a hub; it looks like ws://HOST:PORT or HOST:PORT")
        return


def log_level(default: str) -> str:
    """Return the level of log lines that `FLEETLINE_LOG_LEVEL` asks for, else the command's own.

    Raises:
        CliError: it is none.
    """
    return check_log_level(os.environ.get("FLEETLINE_LOG_LEVEL") or default, "FLEETLINE_LOG_LEVEL")


def check_log_level(level: str, origin: str) -> str:
    """Refuse what is no level of log lines."""
    if level.lower() not in LEVELS:
        raise CliError(f"{origin}: {level!r} is no level; it is one of {', '.join(LEVELS)}")
    return level.lower()


def check_store_flag(store: str | None) -> None:
    """Refuse a password on the command line."""
    from orchestrator.store.address import without_password

    if store is not None and without_password(store) != store:
        raise CliError(
            "--store: everybody on this machine sees a password that is on a command line: leave it out of the address "
            "(rediss://USER@HOST), and give it in FLEETLINE_STORE_PASSWORD or store_password_file"
        )


def check_token_file(token_file: Path | None) -> None:
    """Refuse a token file that holds no token."""
    if token_file is None:
        return
    try:
        token = token_file.read_text().strip()
    except PermissionError:
        raise CliError(
            f"--token-file: {token_file} may not be read by this user; run as its owner", Exit.FORBIDDEN
        ) from None
    except (OSError, UnicodeDecodeError) as fault:
        said = fault.strerror if isinstance(fault, OSError) else "it is not text"
        raise CliError(f"--token-file: {token_file} cannot be read: {said}; name the file that holds a token") from None
    if not token or len(token.split()) != 1:
        raise CliError(f"--token-file: {token_file} does not hold one token; `fleetline token issue` prints one")
