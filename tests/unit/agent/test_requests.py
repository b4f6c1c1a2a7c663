"""Requests: asked again until they are answered."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from agent.errors import LinkClosed
from agent.requests import Asked, Requests
from protocol.errors import RequestError
from protocol.frames import Fault, Response
from protocol.limits import Limits
from protocol.requests import ProducerOpen, RunGet, RunWait


def ask(requests: Requests, op: str | None = "op1") -> Future[Any]:
    asked = Asked("producer.open", ProducerOpen(log="topic/x", producer="p"), op, Future())
    requests.ask(asked)
    return asked.answer


def test_an_unanswered_request_is_asked_again_with_its_op() -> None:
    requests = Requests()
    answer = ask(requests)
    (first,) = requests.take(0)
    requests.disconnected()
    (again,) = requests.take(0)
    assert (again.op, again.params) == (first.op, first.params) == ("op1", {"log": "topic/x", "producer": "p"})
    requests.on_response(Response(id=first.id, result={"fence": 1, "last": 0}), 0)
    assert not answer.done() or first.id == again.id
    requests.on_response(Response(id=again.id, result={"fence": 2, "last": 3}), 0)
    assert answer.result(0).fence == 2


def test_what_is_asked_again_keeps_its_order() -> None:
    requests = Requests()
    for number in range(3):
        ask(requests, f"op{number}")
    requests.take(0)
    ask(requests, "op3")
    requests.disconnected()
    assert [frame.op for frame in requests.take(0)] == ["op0", "op1", "op2", "op3"]


def test_no_more_are_open_than_the_hub_allows() -> None:
    requests = Requests()
    requests.announce(Limits(requests_max=2))
    for _ in range(3):
        ask(requests)
    first, _ = requests.take(0)
    assert requests.take(0) == []
    requests.on_response(Response(id=first.id, result={"fence": 1, "last": 0}), 0)
    assert len(requests.take(0)) == 1
    requests.disconnected()
    assert len(requests.take(0)) == 2


def test_those_that_wait_for_runs_take_no_room_from_the_others() -> None:
    requests = Requests()
    requests.announce(Limits(requests_max=2, waits_max=1))
    for _ in range(2):
        requests.ask(Asked("run.wait", RunWait(run="r", wait_ms=1), None, Future(), waits=True))
    waiting, *none = requests.take(0)
    assert (waiting.method, none) == ("run.wait", [])
    ask(requests)
    assert [frame.method for frame in requests.take(0)] == ["producer.open"]
    requests.on_response(Response(id=waiting.id, result={}), 0)
    assert [frame.method for frame in requests.take(0)] == ["run.wait"]
    requests.disconnected()
    assert [frame.method for frame in requests.take(0)] == ["producer.open", "run.wait"]


def test_a_refusal_carries_its_code_and_data() -> None:
    requests = Requests()
    answer = ask(requests)
    (frame,) = requests.take(0)
    requests.on_response(Response(id=frame.id, error=Fault(code="forbidden", message="no", data={"a": 1})), 0)
    with pytest.raises(RequestError) as refused:
        answer.result(0)
    assert (refused.value.code, refused.value.data) == ("forbidden", {"a": 1})


def test_what_the_hub_cannot_do_now_is_asked_again_when_it_says() -> None:
    requests = Requests()
    answer = ask(requests)
    (frame,) = requests.take(0)
    requests.on_response(Response(id=frame.id, error=Fault(code="unavailable", message="no", retry_ms=300)), 100)
    assert requests.take(200) == []
    assert requests.due_ms() == 400
    (again,) = requests.take(400)
    assert again.op == "op1"
    assert not answer.done()


def test_a_request_that_was_given_up_is_not_sent() -> None:
    requests = Requests()
    ask(requests).cancel()
    assert requests.take(0) == []


def test_an_answer_of_the_wrong_form_is_an_error_of_that_request() -> None:
    requests = Requests()
    asked = Asked("run.get", RunGet(run="x"), None, Future())
    requests.ask(asked)
    (frame,) = requests.take(0)
    requests.on_response(Response(id=frame.id, result={"run": 5}), 0)
    with pytest.raises(RequestError, match="same version"):
        asked.answer.result(0)


def test_closing_answers_everything() -> None:
    requests = Requests()
    sent = ask(requests)
    requests.take(0)
    waiting = ask(requests)
    requests.close(LinkClosed())
    for answer in (sent, waiting):
        with pytest.raises(LinkClosed):
            answer.result(0)
