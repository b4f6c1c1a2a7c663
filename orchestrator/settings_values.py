"""What single settings may be, and how they are written where one word stands for several.

Each function returns the value, or raises `ValueError` with what would do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.core.addresses import networks

__all__ = ["check_listen", "check_networks", "check_origins", "check_store", "resolve", "split_words"]

STORE_SCHEMES = ("redis://", "rediss://", "unix://")


def check_listen(listen: str) -> str:
    """Hold a value to HOST:PORT."""
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 2**16):
        raise ValueError("is HOST:PORT, say 127.0.0.1:7420 or [::1]:7420")
    return listen


def check_store(store: str | None) -> str | None:
    """Hold a value to the address of a store."""
    if store is not None and not store.startswith(STORE_SCHEMES):
        raise ValueError(f"is an address that begins with one of {', '.join(STORE_SCHEMES)}")
    try:
        _ = store and urlsplit(store).port
    except ValueError:  # which would say what stands there, maybe the password
        raise ValueError("is no address: write %2F for / in its password, or use store_password_file") from None
    return store


def resolve(path: Path | None) -> Path | None:
    """Return a path that is the same from every directory."""
    return None if path is None else path.expanduser().absolute()


def split_words(value: Any) -> Any:
    """Take `a, b` for a list of two."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Hold each to what a browser sends as the origin of a page."""
    return tuple(map(_origin, origins))


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if not (parts.scheme and parts.hostname) or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no origin; one looks like https://console.example.org or http://localhost:8000")
    return f"{parts.scheme}://{parts.netloc}".lower()


def check_networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Hold each to a network."""
    try:
        return tuple(map(str, networks(texts)))
    except ValueError as fault:
        raise ValueError(f"{fault}; write 10.0.0.0/8 or 2001:db8::/32, a single address as it is") from None
