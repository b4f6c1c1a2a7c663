"""Whose address a connection has: its own, or the one that a trusted proxy says.

A proxy writes down who spoke to it, behind what was written down before. So the list is read from its end, as long
as it was a trusted proxy that spoke; what stands before the first other one, that one may have made up.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["Networks", "crowd_of", "is_trusted", "networks", "peer_address"]

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

HOPS_MAX = 16
"""Proxies behind one another that are looked through."""
SITE_BITS = 64
"""Of an IPv6 address: whoever has one has the whole site."""
ADDRESSES_KEPT_MAX = 4_096
"""Each is looked at several times while a connection begins, and comes back."""
_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^;,\s]+)', re.IGNORECASE)


def networks(texts: Sequence[str]) -> Networks:
    """Return networks, each written as an address or as `ADDRESS/BITS`.

    Raises:
        ValueError: one is none.
    """
    return tuple(ip_network(text, strict=False) for text in texts)


def peer_address(direct: str, forwarded: Sequence[str], forwarded_for: Sequence[str], trusted: Networks) -> str:
    """Return the address of the peer.

    Args:
        direct: the other end of the connection.
        forwarded: values of the header `Forwarded` (RFC 7239).
        forwarded_for: values of the header `X-Forwarded-For`.
        trusted: networks of proxies that are believed. Nobody else's headers are looked at.
    """
    near = _parse(direct)
    if near is None or not (forwarded or forwarded_for) or not _in(near, trusted):
        return direct
    said = {str(_walk(near, _listed(forwarded_for), trusted)) if forwarded_for else None}
    said.add(str(_walk(near, _standard(forwarded), trusted)) if forwarded else None)
    said.discard(None)
    # A proxy writes one of the two, and may pass on the other as the peer made it up.
    return said.pop() or direct if len(said) == 1 else str(near)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether an address is that of a proxy that is believed."""
    parsed = _parse(address)
    return parsed is not None and _in(parsed, trusted)


def crowd_of(address: str) -> str:
    """Return what an address counts for: itself, or the site of an IPv6 address."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed) >> SITE_BITS << SITE_BITS, SITE_BITS)))
    return address if parsed is None else str(parsed)


def _walk(near: Address, hops: Iterator[str], trusted: Networks) -> Address:
    """Go back from hop to hop, as far as it is a trusted proxy that says where it came from."""
    for _, hop in zip(range(HOPS_MAX), hops, strict=False):
        if not _in(near, trusted):
            break
        before = _parse(hop)
        if before is None:
            break
        near = before
    return near


def _listed(values: Sequence[str]) -> Iterator[str]:
    for value in reversed(values):
        yield from reversed([each.strip() for each in value.split(",")])


def _standard(values: Sequence[str]) -> Iterator[str]:
    for element in _listed(values):
        found = _FORWARDED_FOR.search(element)
        yield found[1].strip('"') if found else ""


@lru_cache(maxsize=ADDRESSES_KEPT_MAX)
def _parse(text: str) -> Address | None:
    """Return an address, which may have a port; one of IPv4 in IPv6 is that of IPv4."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _in(address: Address, trusted: Networks) -> bool:
    return any(address.version == network.version and address in network for network in trusted)
