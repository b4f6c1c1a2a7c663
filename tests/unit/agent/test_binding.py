"""From input to arguments."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from agent.binding import Binder, pack_result
from agent.errors import BadHandler, BadInput
from agent.handlers import Handler


class Spec(BaseModel):
    path: str
    depth: int = 1


async def by_name(ctx: Any, repo: str, depth: int = 3) -> None: ...


def two(ctx: Any, repo: str, depth: int) -> None: ...


def one(ctx: Any, n: int) -> None: ...


def single(ctx: Any, spec: Spec) -> None: ...


def bare(ctx: Any) -> None: ...


def untyped(ctx, what): ...  # type: ignore[no-untyped-def]


def many(ctx: Any, *paths: str) -> None: ...


def none() -> None: ...


def test_a_dict_names_the_parameters_and_values_are_validated() -> None:
    assert Binder(by_name).bind({"repo": ".", "depth": "4"}) == {"repo": ".", "depth": 4}
    assert Binder(by_name).bind({"repo": "."}) == {"repo": "."}


def test_anything_else_is_the_single_parameter() -> None:
    assert Binder(single).bind({"path": "x"}) == {"spec": Spec(path="x")}
    assert Binder(by_name).bind("here") == {"repo": "here"}
    assert Binder(untyped).bind([1, 2]) == {"what": [1, 2]}
    assert Binder(bare).bind(None) == {}


def test_every_fault_is_named() -> None:
    with pytest.raises(BadInput) as bad:
        Binder(by_name).bind({"depth": "deep"})
    assert "the parameter repo is missing" in str(bad.value)
    assert "the handler was not called" in str(bad.value)
    with pytest.raises(BadInput, match=r"there is no parameter rep \(it takes repo, depth\); the parameter repo is"):
        Binder(two).bind({"rep": "."})
    with pytest.raises(BadInput, match="handler one: there is no parameter m, so all of it was taken as n; n: Input"):
        Binder(one).bind({"m": 1})
    with pytest.raises(BadInput, match="handler one: no input was given, and the parameter n is missing; the handler"):
        Binder(one).bind(None)
    with pytest.raises(BadInput, match=r"an input of type int names no parameters \(it takes repo, depth\)"):
        Binder(two).bind(7)
    assert "depth: Input should be a valid integer" in str(bad.value)


@pytest.mark.parametrize(("handler", "given"), [(bare, {"a": 1}), (bare, 5)])
def test_an_input_for_a_handler_that_takes_none_is_refused(handler: Any, given: Any) -> None:
    with pytest.raises(BadInput):
        Binder(handler).bind(given)


@pytest.mark.parametrize("handler", [many, none])
def test_a_signature_that_no_input_can_fill_is_refused_when_it_is_registered(handler: Any) -> None:
    with pytest.raises(BadHandler):
        Binder(handler)


def test_a_handler_for_a_child_process_must_be_where_that_can_find_it() -> None:
    def nested(ctx: Any) -> None: ...

    with pytest.raises(BadHandler, match="top of its module"):
        Handler.make(nested, "h", isolation="process")


@pytest.mark.parametrize(
    ("name", "recover", "retries", "isolation"),
    [("Bad Name", "restart", 0, "inline"), ("h", "hope", 0, "inline"), ("h", "restart", -1, "inline"),
     ("h", "restart", 0, "cloud")],
)  # fmt: skip
def test_a_handler_that_cannot_be_is_refused(name: str, recover: str, retries: int, isolation: str) -> None:
    with pytest.raises(BadHandler, match=r"handler"):
        Handler.make(bare, name, recover=recover, retries=retries, isolation=isolation)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e15])
def test_a_timeout_is_a_time_with_an_end(seconds: float) -> None:
    with pytest.raises(BadHandler, match=r"(?s)handler 'h': .*timeout"):
        Handler.make(bare, "h", timeout=seconds)


def test_a_result_that_cannot_be_packed_is_named() -> None:
    with pytest.raises(TypeError, match="the handler returned a value of type set, which cannot be packed"):
        pack_result({1, 2})
