"""Where the hub is, and with what token to come.

In rising order: the data directory that `fleetline dev` and `fleetline hub start` made (`FLEETLINE_DATA`, else
`.fleetline/` in the current directory or one above it, else `$XDG_STATE_HOME/fleetline`), the environment
(`FLEETLINE_HUB`, `FLEETLINE_TOKEN`), and arguments. The data directory's token goes to the data directory's hub only.

Files are read again before every connection, so that a hub which comes back elsewhere is found, and a token
that was renewed is used.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from agent.errors import HubNotFound
from agent.trust import SYSTEM, Trust, check_plaintext

if TYPE_CHECKING:
    from agent.identity import Credentials

__all__ = ["Endpoint", "TokenSource", "data_directories", "locator"]

TokenSource = str | SecretStr | Callable[[], str | SecretStr]
"""A token, or what returns the one to come with now. It is asked in the link's thread, and must be quick."""

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
HUB_FILE = "hub.json"
TOKEN_FILE = "local.token"  # noqa: S105 - the name of a file
DIRECTORY = ".fleetline"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A hub's address, what to come with (a token, or a key, or both), and which certificate will do.

    Attributes:
        lacks: where there is neither token nor key, what was looked for.
    """

    url: str
    token: SecretStr | None = None
    trust: Trust = SYSTEM
    credentials: Credentials | None = None
    lacks: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """Return what to begin TLS with, where the address asks for it.

        Raises:
            OSError: a file that it needs cannot be used.
        """
        return self.trust.context() if self.url.startswith("wss:") else None

    def headers(self) -> dict[str, str]:
        """Return the headers to connect with."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token.get_secret_value()}"}


def locator(
    hub: str | None = None,
    token: TokenSource | None = None,
    token_file: str | Path | None = None,
    *,
    directory: str | Path | None = None,
    ca_file: str | Path | None = None,
    credentials: Credentials | None = None,
) -> Callable[[], Endpoint]:
    """Return what finds the hub, each time it is called.

    Args:
        hub: its address, `ws://`, `wss://`, `http://` or `https://`, or `HOST:PORT`.
        token: the token itself, or a function that returns it, asked whenever one is needed.
        token_file: a file that holds it.
        directory: the data directory, where it is none of the usual places.
        ca_file: authorities that its certificate may be of, where the system's will not do.
        credentials: the key that the peer has, if any.

    The function returned raises `HubNotFound` where nothing says where the hub is, `PlaintextRefused` where the token
    could be read on the way.
    """
    places = data_directories() if directory is None else (Path(directory),)

    def locate() -> Endpoint:
        local = next((found for place in places if (found := _local_hub(place)) is not None), None)
        asked = hub or os.environ.get("FLEETLINE_HUB")
        if asked:
            url = _as_url(asked)
        elif local is not None:
            url = local.url
        else:
            raise HubNotFound(", ".join(str(place) for place in places))
        its = local if local is not None and local.url == url else None
        if its is None:
            check_plaintext(url)
        trust = Trust.here(ca_file, its.trust.pinned if its else None, noted=not asked)
        own = its.token if its else None
        given = _secret(token() if callable(token) else token)
        secret = given or _read_token(token_file) or _token_of_environment() or own
        lacks = "" if secret or credentials else _lacks(url, local)
        return Endpoint(url, secret, trust, credentials, lacks)

    return locate


def _lacks(url: str, local: Endpoint | None) -> str:
    """Return what was looked for, where neither a token nor a key was found."""
    lacks = "no token was named, FLEETLINE_TOKEN is not set, and no key was enrolled here"
    if local is None or local.token is None:
        return lacks
    return f"{lacks}; the token of the data directory is for {local.url} alone, and this is {url}"


def data_directories() -> tuple[Path, ...]:
    """Return the places of a data directory, nearest first."""
    named = os.environ.get("FLEETLINE_DATA")
    if named:
        return (Path(named),)
    here = Path.cwd()
    near = next((place / DIRECTORY for place in (here, *here.parents) if (place / DIRECTORY).is_dir()), None)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fleetline"
    return (near, state) if near is not None else (state,)


def _local_hub(place: Path) -> Endpoint | None:
    try:
        said = json.loads((place / HUB_FILE).read_text())
        url = _as_url(said["url"])
        trust = Trust(pinned=Path(said["certificate"])) if "certificate" in said else SYSTEM
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        return Endpoint(url, _read_token(place / TOKEN_FILE), trust)
    except OSError:  # somebody else's directory: the hub is there, its token is not ours
        return Endpoint(url, None, trust)


def _secret(token: str | SecretStr | None) -> SecretStr | None:
    return SecretStr(token) if isinstance(token, str) else token


def _read_token(path: str | Path | None) -> SecretStr | None:
    return None if path is None else SecretStr(Path(path).read_text().strip())


def _token_of_environment() -> SecretStr | None:
    token = os.environ.get("FLEETLINE_TOKEN")
    return SecretStr(token) if token else None


def _as_url(text: str) -> str:
    """Return a WebSocket address.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(text if "://" in text else f"ws://{text}")
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"{text!r} is not the address of a hub; it looks like ws://HOST:PORT")
    return urlunsplit((scheme, parts.netloc, parts.path or "/", parts.query, ""))
