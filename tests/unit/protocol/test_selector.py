"""Label selectors: what they mean, how they are written, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidLabel, InvalidSelector
from protocol.selector import LABELS_MAX, Requirement, Selector, check_labels, parse_selector, selector_of

LABELS = {"gpu": "h200", "region": "us-east", "tier": "b"}

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,8}", fullmatch=True)
values = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,8}", fullmatch=True)
requirements = st.builds(
    Requirement, names, st.lists(values, unique=True, max_size=3).map(sorted).map(tuple), st.just(False)
) | st.builds(Requirement, names, st.tuples(values), st.just(True))


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
     "a in (b=c)", "a=" + "x" * 200, "a," * 300, "a\0=b", "tier@@a", "a:b=c", "a+b in (c)", "tier=@a"],
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
    for labels in ({"gpu": "two words"}, {"gpu": "h200,ssd"}):
        with pytest.raises(InvalidLabel, match="is not a value of the label 'gpu'"):
            selector_of(labels)


@given(names, values)
def test_a_selector_can_say_every_label_that_an_agent_can_have(name: str, value: str) -> None:
    labels = check_labels({name: value})
    for text in (selector_of(labels), f"{name} in ({value})", name):
        assert parse_selector(text).fits(labels)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"tier@@a": "x"}, "'tier@@a' is not a label: a label is 1 to 128 of A-Z a-z 0-9 . _ / -"),
        ({"": "x"}, "'' is not a label"),
        ({"ssd": ""}, "'' is not a value of the label 'ssd'"),
        ({"a": "é"}, "is not a value of the label 'a'"),
        ({"a": "x" * 129}, "is not a value of the label 'a'"),
        ({"a": 1}, "1 is not a value of the label 'a'"),
        ({f"l{number}": "x" for number in range(LABELS_MAX + 1)}, "65 labels; an agent has at most 64"),
    ],
)
def test_what_no_selector_could_ask_for_is_no_label(labels: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidLabel) as refused:
        check_labels(labels)
    assert says in str(refused.value)
