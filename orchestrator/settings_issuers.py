"""What the settings say of other issuers of tokens: where their keys are, and what each is trusted for.

Specification: docs/protocol.md, section "Other issuers".
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = ["ALL", "Issuer", "Issuers", "is_address"]

ALL = "*"
OWN = "fleetline"


def is_address(where: str) -> bool:
    """Whether a key set is fetched, and not read from a file."""
    return "://" in where


def _check_where(where: str) -> str:
    if not is_address(where):
        if not where.startswith("/"):
            raise ValueError("is the whole path of a file, or an address that begins with https://")
        return where
    parts = urlsplit(where)
    if parts.username or parts.password or not parts.hostname:
        raise ValueError("is an address with a host and without a password in it")
    if parts.scheme == "http" and _is_loopback(parts.hostname):
        return where
    if parts.scheme != "https":
        raise ValueError("is an address that begins with https://; http:// is for this machine alone")
    return where


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Issuer(BaseModel):
    """What a deployment trusts an issuer for.

    Attributes:
        jwks: where its key set is: the path of a file, or an address.
        audience: what its tokens must be for.
        namespace: where they are good; `*` lets each say it (`ns`).
        scopes: what they permit at most, and where they do not say (`scopes`).
        agents: whom they may identify as, likewise (`agents`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    jwks: Annotated[str, AfterValidator(_check_where)]
    audience: Annotated[str, Field(min_length=1)]
    namespace: str = "default"
    scopes: tuple[str, ...] = ("viewer",)
    agents: tuple[str, ...] = ()


def _check_name(name: str) -> str:
    if not name or name == OWN or any(character.isspace() for character in name):
        raise ValueError(f"is what its tokens have as `iss`: a word without spaces, and not {OWN}")
    return name


Issuers = dict[Annotated[str, AfterValidator(_check_name)], Issuer]
