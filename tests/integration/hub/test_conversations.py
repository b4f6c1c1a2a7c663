"""What raw peers may say to runs, and what the hub answers them."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.codec import pack_value
from protocol.control import Kind
from protocol.conversation import STEER_BYTES_MAX, QuestionKind
from protocol.frames import Assign, Fault, Nack, Puback, Publish, Query, Reply, Request, Response
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, submit, work_of
from tests.support.hub_world import World

YES = pack_value(True)


def asks(given: Assign, index: int | None, digest: str = "d", seq: int = 1) -> Publish:
    asked = {"kind": QuestionKind.APPROVE.value, "name": "push", "digest": digest, "payload": b"\xc0"}
    body = pack_value({**asked, "timeout_ms": 60_000})
    return Publish(
        log=f"run/{given.run}",
        producer=f"attempt/{given.attempt}",
        seq=seq,
        fence=given.fence,
        entries=((Kind.ASKED, body, index, None),),
    )


async def code(peer: HubPeer, method: str, **params: Any) -> str:
    answer = await peer.request(method, **params)
    assert answer.error is not None, answer.result
    return answer.error.code


async def test_only_clients_that_may_change_runs_talk_to_them(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = (await submit(client)).name
        await worker.send(asks(await worker.expect(Assign), 1))
        await worker.expect(Puback)
        assert await code(worker, "run.answer", run=run, answer=YES) == "forbidden", "with every scope, yet an agent"
        for scopes, hello in ((("agent",), agent("a2")), (("viewer",), identify("v"))):
            async with calm.peer(calm.issue(*scopes, agents=("a2",))) as peer:
                await peer.identify(hello)
                assert await code(peer, "run.answer", run=run, answer=YES) == "forbidden"
                assert await code(peer, "run.steer", run=run, body=YES) == "forbidden"
        assert (await client.result("run.get", run=run))["asking"] == 1
        assert (await client.result("run.answer", run=run, answer=YES))["question"] == 1


async def test_what_is_asked_twice_is_said_once(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        run = await submit(client)
        answers = []
        for number in (1001, 1002):
            await client.send(Request(id=number, method="run.steer", params={"run": run.name, "body": YES}, op="same"))
            answers.append(await client.expect(Response, lambda frame, number=number: frame.id == number))  # type: ignore[misc]
        assert answers[0].result == answers[1].result
        assert await calm.kinds(run) == ["$submitted", "$steer"]


@pytest.mark.parametrize("index", [None, 0])
async def test_a_question_without_an_index_is_refused(calm: World, index: int | None) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await submit(client)
        await worker.send(asks(await worker.expect(Assign), index))
        assert (await worker.expect(Nack)).code == "invalid_entry"


@pytest.mark.parametrize("digest", ["", "a b", "ä", "d" * 65])
async def test_a_question_whose_digest_is_none_is_refused(calm: World, digest: str) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await submit(client)
        await worker.send(asks(await worker.expect(Assign), 1, digest))
        assert (await worker.expect(Nack)).code == "invalid_entry"


async def test_an_answer_to_a_question_is_none_to_the_one_that_took_its_place(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = (await submit(client)).name
        given = await worker.expect(Assign)
        for seq, digest in enumerate(("first", "second"), start=1):
            await worker.send(asks(given, 1, digest, seq))
            await worker.expect(Puback)
        for named in ({"question": 1, "digest": "fi"}, {"digest": "first"}, {"question": 1, "digest": "second-one"}):
            assert await code(client, "run.answer", run=run, answer=YES, **named) == "not_found"
        assert (await client.result("run.answer", run=run, answer=YES, question=1, digest="sec"))["question"] == 1


async def test_an_agent_that_has_not_begun_may_be_asked_again(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = await submit(client)
        given = await worker.expect(Assign)
        assert given.run == run.name
        for ended, said in ((False, "no_reply"), (True, "not_running")):
            await client.send(Request(id=900 + ended, method="run.query", params={"run": run.name, "name": "status"}))
            asked = await worker.expect(Query)
            if ended:
                await worker.send(work_of(given, 1, Kind.SUCCEEDED, pack_value({"result": YES})))
                await worker.expect(Puback)
            await worker.send(Reply(id=asked.id, error=Fault(code="not_running", message="no such attempt")))
            answer = await client.expect(Response)
            assert answer.error is not None
            assert answer.error.code == said


async def test_what_cannot_be_said_is_refused(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        run = (await submit(client)).name
        assert await code(client, "run.steer", run=run, body=bytes(STEER_BYTES_MAX + 1)) == "entry_too_large"
        assert await code(client, "run.steer", run=run[:-1] + "z", body=YES) in ("invalid_params", "not_found")
        assert await code(client, "run.answer", run=run, answer=YES) == "not_found"
        await client.result("run.cancel", run=run)
        assert await code(client, "run.steer", run=run, body=YES) == "run_finished"
        assert await code(client, "run.answer", run=run, answer=YES) == "run_finished"


async def test_a_claim_tells_where_the_conversation_begins(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        run = await submit(client)
        await client.result("run.steer", run=run.name, body=YES)
        await worker.identify(agent())
        assert (await worker.expect(Assign)).talk_from == 2
        assert (await client.result("run.get", run=run.name))["talk_from"] == 2
