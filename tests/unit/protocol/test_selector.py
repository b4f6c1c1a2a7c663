"""Label selectors: what they mean, how they are written, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidSelector
from protocol.selector import Requirement, Selector, parse_selector, selector_of

LABELS = {"gpu": "h200", "region": "us-east", "tier": "b"}

words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,8}", fullmatch=True)
requirements = st.builds(
    Requirement, words, st.lists(words, unique=True, max_size=3).map(sorted).map(tuple), st.just(False)
) | st.builds(Requirement, words, st.tuples(words), st.just(True))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True), ("  ", True), ("gpu", True), ("ssd", False), ("gpu=h200", True), ("gpu = h100", False),
        ("region!=us-east", False), ("region!=eu", True), ("ssd!=yes", True), ("tier in (a, b)", True),
        ("tier in (a,c)", False), ("ssd in (yes)", False), ("gpu=h200, tier in (a,b), region != eu", True),
        ("gpu=h200,ssd", False),
    ],
)  # fmt: skip
def test_a_selector_asks_for_labels(text: str, fits: bool) -> None:
    assert parse_selector(text).fits(LABELS) is fits


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" b = 2 ,a=1", "a=1,b=2"), ("a in (y, x ,y)", "a in (x,y)"), ("a in (x)", "a=x"), ("z,a!=1,a!=1", "a!=1,z"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_asks_for_the_same_is_the_same_text(text: str, canonical: str) -> None:
    assert str(parse_selector(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["=", "a=", "=b", "a==b", "a=b=c", "a in", "a in ()", "a in (b", "a in b", "a,,b", ",", "a b", "é=1", "a=(b)",
     "a in (b=c)", "a=" + "x" * 200, "a," * 300, "a\0=b"],
)  # fmt: skip
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(InvalidSelector):
        parse_selector(text)


@given(st.lists(requirements, max_size=5))
def test_the_canonical_form_reads_as_what_it_was_made_from(asked: list[Requirement]) -> None:
    selector = Selector(tuple(sorted(set(asked))))
    assert parse_selector(str(selector)) == selector


def test_a_mapping_asks_for_all_of_its_labels() -> None:
    assert selector_of({"tier": "a", "gpu": "h200"}) == "gpu=h200,tier=a"
    with pytest.raises(InvalidSelector, match="is not understood"):
        selector_of({"gpu": "two words"})
