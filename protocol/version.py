"""What two programs must agree on before anything else.

Specification: docs/protocol.md, sections "Transport" and "Sessions".
"""

from __future__ import annotations

__all__ = ["SUBPROTOCOL", "VERSION"]

SUBPROTOCOL = "fleetline.v1"
"""The WebSocket subprotocol that both sides ask for."""

VERSION = 1
"""The version of the protocol that this program speaks: a hub offers it in `hello`, a peer takes it in `identify`."""
