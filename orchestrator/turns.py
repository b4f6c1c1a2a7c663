"""Accepts connections, many in each turn of the event loop; uvloop's own server accepts one a turn.

What is not accepted waits in the system's queue, which is short: beyond its end a connection is dropped, and its peer
tries again after a second. So the queue is emptied as long as there is room for who is in it.

Where several processes share the queue, whoever is awake takes what comes, and with what it took it stays awake: of
connections that come together one process would take most, and it keeps them for good. So each then leaves the queue
to the others for a moment. One that is busy comes late to its next turn, and one that is frozen never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from socket import socket

import structlog

__all__ = ["Turns"]

TURN_CONNECTIONS_MAX = 128
SHARED_CONNECTIONS_MAX = 16
"""Likewise, of one process among several."""
PAUSE_S = 0.002
ROOM_PAUSE_S = 0.02
"""While there is no room."""
FAULT_PAUSE_S = 1.0
"""After a connection that could not be accepted for want of files, say; the others may have more."""

log_ = structlog.get_logger()


class Turns:
    """What one process accepts.

    Args:
        sockets: they listen.
        take: what is done with a connection, whose socket does not block.
        shared: other processes accept from the sockets too.
        full: whether there is no room for more now.
    """

    def __init__(
        self,
        sockets: Sequence[socket],
        take: Callable[[socket], object],
        *,
        shared: bool,
        full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._take = take
        self._full = full
        self._pause_s = PAUSE_S if shared else 0.0
        self._connections_max = SHARED_CONNECTIONS_MAX if shared else TURN_CONNECTIONS_MAX
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket, asyncio.TimerHandle | None] = {}
        for each in sockets:
            each.setblocking(False)
            self._begin(each)

    def close(self) -> None:
        """Accept nothing any more. The sockets stay open."""
        for each, pause in self._waiting.items():
            if pause is None:
                self._loop.remove_reader(each)
            else:
                pause.cancel()
        self._waiting.clear()

    def _begin(self, bound: socket) -> None:
        self._waiting[bound] = None
        self._loop.add_reader(bound, self._turn, bound)

    def _turn(self, bound: socket) -> None:
        pause_s = self._pause_s
        for _ in range(self._connections_max):
            if self._full():
                pause_s = ROOM_PAUSE_S
                break
            try:
                connection, _ = bound.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                break  # others were quicker, or whoever called has gone
            except OSError as fault:
                log_.error("accept_failed", reason=fault.strerror)
                pause_s = FAULT_PAUSE_S
                break
            connection.setblocking(False)
            self._take(connection)
        if not pause_s:
            return
        self._loop.remove_reader(bound)
        self._waiting[bound] = self._loop.call_later(pause_s, self._begin, bound)
