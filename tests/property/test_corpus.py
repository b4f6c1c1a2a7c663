"""The inputs that fuzzing has found worth keeping: none of them is too much for the codec, a session, or a hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.support.fuzzing import CORPUS, TARGETS, read_corpus, seeds


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_kept_breaks_nothing(target: str) -> None:
    inputs = read_corpus(target)
    assert inputs, f"there is no {CORPUS / target}.txt"
    for data in (*inputs, *seeds(target)):
        TARGETS[target](data)
