"""Handlers that are programs: what the hub is told of them, and those that cannot be."""

from __future__ import annotations

import pytest

from agent import Agent
from agent.errors import BadHandler
from agent.program import Graces, Program
from protocol.frames import HandlerSpec, Recover

TRUE = Program(("true",))


def test_a_program_is_announced_as_any_handler_is() -> None:
    agent = Agent("a")
    agent.program("it", TRUE, retries=2, timeout=1.5)
    agent.program("plain", Program(("true",), plain=True))
    handler, plain = agent.handlers
    assert handler.spec == HandlerSpec(name="it", recover=Recover.CHECKPOINT, retries=2, timeout_ms=1500)
    assert plain.spec == HandlerSpec(name="plain", recover=Recover.RESTART)
    assert handler.bind({"input": 3}) == {}, "its input is handed over as it is"


@pytest.mark.parametrize(
    ("name", "program", "terms", "says"),
    [
        ("It", TRUE, {}, "handler 'It': "),
        ("it", Program(()), {}, "has no program"),
        ("it", Program(("",)), {}, "has no program"),
        ("it", Program(("true", "a\0b")), {}, "has a zero byte in it"),
        ("it", TRUE, {"retries": -1}, "retries is -1; it counts further tries, from 0"),
        ("it", TRUE, {"timeout": 0}, "timeout"),
        ("it", Program(("true",), graces=Graces(term_s=-1)), {}, "its grace times are (10.0, -1, 2.0)"),
        ("it", Program(("true",), graces=Graces(message_s=float("nan"))), {}, "its grace times are (nan, 10.0, 2.0)"),
        ("taken", TRUE, {}, "agent a has a handler 'taken' already"),
    ],
)
def test_a_program_that_cannot_be_a_handler_is_refused(
    name: str, program: Program, terms: dict[str, int], says: str
) -> None:
    agent = Agent("a")
    agent.program("taken", TRUE)
    with pytest.raises(BadHandler) as refused:
        agent.program(name, program, **terms)
    assert says in str(refused.value)
