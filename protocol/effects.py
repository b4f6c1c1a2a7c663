"""What the pure parts ask their shells to do."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.codes import CloseCode
from protocol.frames import Frame

__all__ = ["Deliver", "Fail", "SendHeartbeat"]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand this frame to whoever decides: it is well formed and allowed now."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Nothing was sent for an interval: send a heartbeat, with what it is to carry."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End the connection with this code; as the hub, say why in an `error` frame first."""

    code: CloseCode
    message: str
