"""Addresses of hosts, as far as both ends look at them.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["is_loopback"]


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine: `localhost`, 127.0.0.0/8 and ::1."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
