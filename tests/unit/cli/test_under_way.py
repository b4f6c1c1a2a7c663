"""What is said of a run that somebody works on."""

from __future__ import annotations

import pytest

from orchestrator.cli.under_way import UnderWay
from protocol.control import Progress

GONE = "which is not connected: the run is its own until its lease is over"


@pytest.mark.parametrize(
    ("under_way", "words"),
    [
        (UnderWay("a", True, None), {}),
        (UnderWay("a", None, Progress(current=0.5)), {"progress": "0.5"}),
        (UnderWay("a", True, Progress(current=5, total=30, message="pages")), {"progress": "5 of 30, pages"}),
        (
            UnderWay("a", False, None),
            {"agent": "a, which is not connected: the run is its own until its lease is over"},
        ),
    ],
)
def test_how_far_it_is_and_whether_its_agent_is_there(under_way: UnderWay, words: dict[str, str]) -> None:
    assert under_way.words() == words


def test_the_object_has_both() -> None:
    said = UnderWay("a", None, Progress(current=5, total=30)).to_json()
    assert said == {"agent_connected": None, "progress": {"current": 5.0, "total": 30.0}}
