"""Connections that never say who they are: a process that opens many at once, and holds them.

    python -m tests.support.flooder PORT COUNT WORDS

WORDS is what each says: nothing, half (a request) or upgrade (a whole one, and no more). It prints `all` once it has
tried them all, and lives until it is killed; what the hub cuts off is not opened again.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys

__all__ = ["WORDS"]

WORDS = {
    "nothing": b"",
    "half": b"GET / HT",
    "upgrade": (
        b"GET / HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: fleetline.v1\r\n\r\n"
    ),
}
AT_ONCE = 100


def flood(port: int, count: int, words: bytes) -> None:
    """Open them, and hold them."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    waiting, opened, spoken = selectors.DefaultSelector(), 0, 0
    while True:
        for _ in range(min(AT_ONCE, count - opened)):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.register(one, selectors.EVENT_WRITE)
            opened += 1
        for key, _ in waiting.select(None if opened == count else 0):
            spoken += _go_on(waiting, key, words)
        if spoken == count:
            print("all", flush=True)
            spoken += 1


def _go_on(waiting: selectors.BaseSelector, key: selectors.SelectorKey, words: bytes) -> bool:
    """Speak, or hear; return whether this was its turn to speak."""
    one = key.fileobj
    assert isinstance(one, socket.socket)
    speaks = key.events == selectors.EVENT_WRITE
    try:
        if speaks:
            one.send(words)
            waiting.modify(one, selectors.EVENT_READ)
        elif not one.recv(65536):
            raise ConnectionError
    except OSError:
        waiting.unregister(one)
        one.close()
    return speaks


if __name__ == "__main__":
    flood(int(sys.argv[1]), int(sys.argv[2]), WORDS[sys.argv[3]])
