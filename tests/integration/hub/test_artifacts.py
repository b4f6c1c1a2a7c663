"""What the hub takes of artifacts from raw peers, on the twin and on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.artifacts import artifact_logs
from orchestrator.core.run_meta import RunMeta
from protocol.artifacts import CHUNK, CHUNK_BYTES, Attached
from protocol.codec import pack_value
from protocol.control import Kind, Succeeded
from protocol.frames import Assign, Nack, Puback, Publish
from protocol.ids import LogKind, LogName
from protocol.limits import Limits
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, submit
from tests.support.hub_world import World

SIZE = CHUNK_BYTES + 10
SHA256 = "ab" * 32


def opening(given: Assign, number: int = 1, **other: Any) -> dict[str, Any]:
    asked = {"run": given.run, "attempt": given.attempt, "fence": given.fence, "number": number}
    return {**asked, "name": "a.bin", "size": SIZE, **other}


def chunks(given: Assign, seq: int, *bodies: bytes, number: int = 1, fence: int | None = None) -> Publish:
    return Publish(
        log=f"artifact/{given.run}.{given.attempt}.{number}",
        producer=f"attempt/{given.attempt}",
        seq=seq,
        fence=given.fence if fence is None else fence,
        entries=tuple((CHUNK, pack_value(body), None, None) for body in bodies),
    )


def says(given: Assign, seq: int, kind: Kind, body: Any) -> Publish:
    entries = ((kind.value, pack_value(body), None, None),)
    producer = f"attempt/{given.attempt}"
    return Publish(log=f"run/{given.run}", producer=producer, seq=seq, fence=given.fence, entries=entries)


def attached(given: Assign, number: int = 1, **other: Any) -> Attached:
    log = f"artifact/{given.run}.{given.attempt}.{number}"
    return Attached(**{"name": "a.bin", "log": log, "size": SIZE, "sha256": SHA256, **other})


async def nacked(peer: HubPeer, frame: Publish) -> str:
    await peer.send(frame)
    return (await peer.expect(Nack, lambda nack: nack.log == frame.log)).code


async def taken(peer: HubPeer, frame: Publish) -> None:
    await peer.send(frame)
    await peer.expect(Puback, lambda puback: puback.log == frame.log)


async def code(peer: HubPeer, **params: Any) -> str:
    answer = await peer.request("artifact.open", op=False, **params)
    assert answer.error is not None, answer.result
    return answer.error.code


async def test_an_artifact_is_there_when_all_its_chunks_are_and_the_run_says_so(either: World) -> None:
    async with either.peer() as client, either.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = await submit(client)
        given = await worker.expect(Assign)
        opened = await worker.result("artifact.open", **opening(given))
        assert opened == {"log": f"artifact/{run.name}.1.1", "last": 0}
        await taken(worker, chunks(given, 1, bytes(CHUNK_BYTES)))
        assert await worker.result("artifact.open", **opening(given)) == {**opened, "last": 1}, "and it goes on"
        assert await nacked(worker, says(given, 1, Kind.ATTACHED, attached(given))) == "invalid_entry"
        assert not (await client.result("run.get", run=run.name))["artifacts"]
        for wrong in (bytes(11), bytes(9), b""):
            assert await nacked(worker, chunks(given, 2, wrong)) == "invalid_entry"
        assert await nacked(worker, chunks(given, 2, bytes(10), b"x")) == "invalid_entry"
        await taken(worker, chunks(given, 2, bytes(10)))
        for other in ({"size": SIZE + 1}, {"name": "b.bin"}, {"log": f"artifact/{run.name}.1.2"}):
            assert await nacked(worker, says(given, 1, Kind.ATTACHED, attached(given, **other))) == "invalid_entry"
        await taken(worker, says(given, 1, Kind.ATTACHED, attached(given)))
        [artifact] = (await client.result("run.get", run=run.name))["artifacts"]
        assert artifact == {**attached(given).model_dump(), "attempt": 1}
        page = await client.result("log.read", log=opened["log"])
        assert page["head"] == 2
        await taken(worker, says(given, 2, Kind.SUCCEEDED, Succeeded(result=b"\xc0")))
        assert await nacked(worker, chunks(given, 3, b"x")) == "invalid_entry"


async def test_only_the_session_that_has_the_attempt_writes(either: World) -> None:
    async with either.peer() as client, either.peer() as worker, either.peer() as other:
        await client.identify(identify())
        await worker.identify(agent())
        await submit(client)
        given = await worker.expect(Assign)
        await worker.result("artifact.open", **opening(given))
        await other.identify(agent("a2", queue="elsewhere"))
        assert await code(other, **opening(given, 2)) == "fenced"
        assert await nacked(other, chunks(given, 1, bytes(CHUNK_BYTES))) == "superseded"
        assert await code(client, **opening(given, 2)) in ("forbidden", "fenced")
        assert await code(worker, **opening(given, 2, fence=given.fence + 1)) == "fenced"
        assert await code(worker, **opening(given, 2, run=f"{given.run[:-1]}z")) == "invalid_params"
        assert await nacked(worker, chunks(given, 1, bytes(CHUNK_BYTES), fence=given.fence + 1)) == "fenced"
        assert await nacked(worker, chunks(given, 1, bytes(CHUNK_BYTES), number=2)) == "not_found"
        async with either.peer() as again:
            await again.identify(agent().model_copy(update={"instance": "i2"}))
            taken_up = await again.expect(Assign)
            assert taken_up.attempt == 2
            assert await nacked(again, chunks(given, 1, bytes(CHUNK_BYTES))) == "fenced"
            await again.result("artifact.open", **opening(taken_up))
            run = LogName("default", LogKind.RUN, given.run)
            meta = RunMeta.parse(run, await either.hub.services.line.store.meta(run) or {})
            assert [log.path for log in artifact_logs(meta)] == [f"artifact/{given.run}.2.1"], "the first is gone"
            first = LogName("default", LogKind.ARTIFACT, f"{given.run}.1.1")
            assert await either.hub.services.line.store.meta(first) is None


async def test_names_and_limits(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits=Limits(artifact_bytes_max=100, run_artifacts_bytes_max=150))
    async with world.peer() as client, world.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await submit(client)
        given = await worker.expect(Assign)
        for name in ("", ".", "..", "a/b", "a\\b", "a\nb", "x" * 256):
            assert await code(worker, **opening(given, name=name, size=1)) == "invalid_params"
        assert await code(worker, **opening(given, size=101)) == "limit_reached"
        await worker.result("artifact.open", **opening(given, size=100))
        assert await code(worker, **opening(given, 2, size=51)) == "limit_reached"
        assert await code(worker, **opening(given, size=99)) == "invalid_params"
        await worker.result("artifact.open", **opening(given, 2, size=50, name="ß 2"))


@pytest.mark.parametrize("log", ["artifact/x", "artifact/70-00000000001-0000000000000001.1.1"])
async def test_what_is_no_artifact_is_not_found(calm: World, log: str) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await submit(client)
        given = await worker.expect(Assign)
        frame = chunks(given, 1, b"x").model_copy(update={"log": log})
        assert await nacked(worker, frame) == "not_found"
        answer = await client.request("producer.open", log=f"artifact/{given.run}.1.1", producer="p")
        assert answer.error is not None
        assert answer.error.code == "forbidden"
