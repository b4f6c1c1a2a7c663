"""Where the store is, with what opens it: the whole address, put together where it is used and shown nowhere.

The password comes from the environment, a file or the address itself. Only the client of the server, and the other
workers of a hub on their standard input, are told it.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from orchestrator.store.base import StoreMisconfigured

__all__ = ["Address", "Named", "address_of", "without_password"]


class Address(str):
    """A store's address. Its repr hides it, so that it reaches no log line and no traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Address({without_password(self)!r})"


class Named(Protocol):
    """What settings say of the store."""

    @property
    def store(self) -> str | None:
        """Its address."""

    @property
    def store_password(self) -> SecretStr | None:
        """Its password."""

    @property
    def store_password_file(self) -> Path | None:
        """The file that holds it."""

    @property
    def store_ca_file(self) -> Path | None:
        """Authorities of its certificate."""


def address_of(named: Named) -> Address | None:
    """Return the whole address; None for the embedded store.

    Raises:
        StoreMisconfigured: the password's file cannot be read, or others can read it.
    """
    if named.store is None:
        return None
    parts = urlsplit(named.store)
    netloc, query = parts.netloc, parts.query
    password = _password(named)
    if password is not None:
        user, _, host = netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}:{quote(password, safe='')}@{host}"
    if named.store_ca_file is not None:
        query = "&".join(filter(None, (query, urlencode({"ssl_ca_certs": named.store_ca_file}))))
    # Of an address without a host the standard library would leave out the slashes.
    rest = urlunsplit(("", "", parts.path, query, ""))
    return Address(f"{parts.scheme}://{netloc}{rest}")


def without_password(address: str) -> str:
    """Return an address that may be shown."""
    head, _, rest = address.rpartition("@")
    scheme, _, who = head.partition("://")
    user, colon, _ = who.partition(":")
    shown = f"{scheme}://{user}:...@{rest}" if colon else address
    place, question, query = shown.partition("?")
    kept = [word for word in query.split("&") if not word.lower().startswith("password=")]
    return place + (question + "&".join(kept) if any(kept) else "")


def _password(named: Named) -> str | None:
    if named.store_password is not None:
        return named.store_password.get_secret_value()
    path = named.store_password_file
    if path is None:
        return None
    try:
        mode, password = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except (OSError, UnicodeDecodeError) as fault:
        said = fault.strerror if isinstance(fault, OSError) else "it is not text"
        raise StoreMisconfigured(f"store_password_file {path} cannot be read: {said}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreMisconfigured(f"store_password_file {path} can be read by others (mode {mode:04o}): chmod 600 it")
    if not password:
        raise StoreMisconfigured(f"store_password_file {path} is empty; it holds the password of the store's user")
    return password
