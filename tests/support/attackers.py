"""What tests of attacks have in common: an attempt that somebody works on, what is to be had, and how it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from protocol.artifacts import CHUNK, CHUNK_BYTES
from protocol.codec import pack_value
from protocol.frames import Assign, Nack, Part, Puback, Publish
from protocol.ids import LogName
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, submit, work_of
from tests.support.hub_world import World

__all__ = ["Scene", "code_of", "held_in", "nack_of", "scene"]


@dataclass(frozen=True)
class Scene:
    """A client, an agent `a1` that works on a run, and something in a log of each kind."""

    client: HubPeer
    worker: HubPeer
    given: Assign

    @property
    def run(self) -> LogName:
        return LogName.parse(f"run/{self.given.run}")

    def named(self, text: str) -> str:
        """Return a text with the run's id where it says RUN."""
        return text.replace("RUN", self.given.run)


@asynccontextmanager
async def scene(world: World) -> AsyncIterator[Scene]:
    """Set the scene."""
    async with world.peer() as client, world.peer(world.issue("agent", agents=("a1",), name="a1")) as worker:
        await client.identify(identify("ada"))
        await worker.identify(agent())
        for topic in ("topic/mine", "topic/other"):
            await client.publish(topic, await client.publisher(topic), 1, b"secret")
        await submit(client)
        given = await worker.expect(Assign)
        place = {"run": given.run, "attempt": given.attempt, "fence": given.fence, "number": 1}
        opened = await worker.result("artifact.open", **place, name="f", size=CHUNK_BYTES + 7)
        chunk = ((CHUNK, pack_value(b"secret".ljust(CHUNK_BYTES)), None, None),)
        await worker.send(
            Publish(log=opened["log"], producer=f"attempt/{given.attempt}", seq=1, fence=given.fence, entries=chunk)
        )
        await worker.expect(Puback)
        await worker.send(work_of(given, 1, body=pack_value("secret")))
        await worker.expect(Puback)
        yield Scene(client, worker, given)


async def code_of(peer: HubPeer, method: str, **params: Any) -> str | None:
    """Return the code of the error that a request is answered with, if any."""
    response = await peer.request(method, **params)
    return None if response.error is None else response.error.code


async def nack_of(peer: HubPeer, frame: Part) -> str:
    """Send something that is refused with a `nack`; return its code."""
    await peer.send(frame)
    return (await peer.expect(Nack)).code


async def held_in(world: World, log: str) -> bytes:
    """Return everything that is in a log."""
    page = await world.store.read(LogName.parse(log), 0, 1000)
    return b"".join(entry.packed for entry in page.entries) if page else b""
