"""How many connections a hub takes: each is an open file, and the hub needs some itself."""

from __future__ import annotations

import resource

from orchestrator.settings import Settings

__all__ = ["FILES_RESERVED", "Room"]

FILES_RESERVED = 256
"""Descriptors that a hub needs for itself, beside one for each connection."""


class Room:
    """The room for connections, as settings and the system have it.

    Attributes:
        sockets_max: connections of any kind at once, those that are about to close among them.
        strangers_max: those among them that have not said who they are, `address_strangers_max` from one address.
    """

    __slots__ = ("address_strangers_max", "sockets_max", "strangers_max")

    def __init__(self, settings: Settings) -> None:
        self.sockets_max = settings.connections_max + settings.limits.unidentified_max
        self.strangers_max = settings.limits.unidentified_max
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY:
            self.sockets_max = min(self.sockets_max, max(files - FILES_RESERVED, files // 2))
            self.strangers_max = min(self.strangers_max, self.sockets_max // 2)
        self.address_strangers_max = min(self.strangers_max, settings.limits.unidentified_per_address_max)
