"""Requests that cannot be answered as asked are answered all the same, on that request alone."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.artifacts import Artifacts
from orchestrator.auth.revocation import Revocations
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.methods import Methods
from orchestrator.peers import Peer, Peers
from orchestrator.querying import Querying
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.schedules import Schedules
from orchestrator.store.base import Page, StoreError
from orchestrator.store.memory import MemoryServer
from orchestrator.waiting import Waiting
from protocol.frames import Request, Response, Role
from protocol.ids import LogName
from protocol.limits import DEFAULT_LIMITS
from tests.support.permits import client_permit
from tests.unit.orchestrator.parts import NOW_MS, line_to, making_for


@pytest.fixture
async def line() -> Line:
    return await line_to(MemoryServer(lambda: NOW_MS))


async def asked(line: Line, method: str, op: str | None = None, **params: object) -> Response:
    """Return what an operator is answered."""
    registry = Registry(line)
    dispatch = Dispatch(line, Peers(1_000), 1_000)
    schedules = Schedules(line, dispatch.look)
    reading = Reading(line, registry)
    querying = Querying(line, reading, registry, Peers(1_000), asyncio.ensure_future)
    artifacts = Artifacts(line, DEFAULT_LIMITS)
    waiting = Waiting(line, reading)
    others = (querying, artifacts, waiting, Revocations(line), making_for(line))
    methods = Methods(line, reading, registry, schedules, dispatch, *others, 1_000)
    peer = Peer("default", "client:c", Role.CLIENT, "c", "i1", "s1", 0, client_permit(), lambda _: None)
    return await methods.call(peer, Request(id=1, method=method, op=op, params=params))


async def test_an_op_that_was_used_for_another_request_is_refused(line: Line) -> None:
    assert (await asked(line, "agent.send", "op-0", agent="b", kind="note", body=b"")).error is None  # tells the time
    opened = await asked(line, "producer.open", "op-1", log="agent/a", producer="p")
    assert opened.error is None
    refused = await asked(line, "agent.send", "op-1", agent="a", kind="note", body=b"")
    assert refused.error is not None
    assert (refused.error.code, "op-1" in refused.error.message) == ("invalid_params", True)


async def test_a_log_that_cannot_be_read_is_said_to_be_on_the_request_for_it(line: Line) -> None:
    async def read(log: LogName, after: int, limit: int, bytes_max: int = 0) -> Page | None:
        raise StoreError("FLHOLE the log has no entry 7")

    line.store.read = read  # type: ignore[method-assign]
    answer = await asked(line, "log.read", log="topic/a")
    assert answer.error is not None
    assert answer.error.code == "internal"
