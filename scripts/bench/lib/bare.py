"""A bare `websockets` server for comparison: it accepts connections, and reads them until they end.

As lean as the library goes: no compression, no pings of its own, uvloop as in the hub. Started with a port, it shares
that with the one that has it already.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from protocol.version import SUBPROTOCOL

__all__: list[str] = []

BACKLOG = 4096


async def _read(connection: ServerConnection) -> None:
    async for _ in connection:
        pass


async def _main() -> None:
    """Listen, say where, and go on until standard input ends."""
    hung_up = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), hung_up.set)
    async with serve(
        _read,
        "127.0.0.1",
        int(sys.argv[1]) if len(sys.argv) > 1 else 0,
        reuse_port=True,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        ping_interval=None,
        backlog=BACKLOG,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        sys.stdout.write(f'{{"url": "ws://127.0.0.1:{port}"}}\n')
        sys.stdout.flush()
        await hung_up.wait()


if __name__ == "__main__":
    uvloop.run(_main())
