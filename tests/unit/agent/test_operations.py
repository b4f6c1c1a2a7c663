"""Errors as they go into a log, whatever a handler raises."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.operations import MESSAGE_CHARS_MAX, TRACE_CHARS_MAX, Begun, describe_error, failed_call_index
from agent.program import program_error
from protocol.codec import pack_value, unpack_value
from protocol.control import Errored


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it cannot be said")


@dataclass(frozen=True)
class Frozen(Exception):
    why: str


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("file na\udcffme"), r"file na\udcffme"),
        (Unspeakable(), "<exception str() failed>"),
        (ValueError("x" * 100_000), "x" * MESSAGE_CHARS_MAX),
    ],
)
def test_whatever_a_handler_raises_goes_into_the_log(error: Exception, message: str) -> None:
    described = describe_error(error)
    assert described.message == message
    assert len(described.trace or "") <= TRACE_CHARS_MAX
    assert unpack_value(pack_value(Errored(error=described)))["error"]["message"] == message


def test_what_a_program_says_of_its_failure_is_cut_and_goes_into_the_log_whatever_it_is() -> None:
    error = program_error("Bad\ud800", "y" * 3_000_000, "z\ud800" * 1_000_000).error
    assert len(pack_value(Errored(error=error))) < 100_000
    assert error.type == r"Bad\ud800"


def test_an_exception_that_cannot_be_changed_still_tells_its_call() -> None:
    error = Frozen("because")
    assert Begun("fetch", 3, "d", None).failed(error, 3)
    assert failed_call_index(error) == 3
