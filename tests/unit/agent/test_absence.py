"""What is said of a hub that is away: once that it is, and once that it is back."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.absence import READY_FAILURES_MAX, Absence
from protocol.backoff import backoff_ms
from protocol.frames import Identify, Ready, Role
from protocol.version import VERSION

READY = Ready(session="s", fence=1, resumed=False, principal="p", namespace="default", scopes=())


def new_absence(role: Role) -> Absence:
    return Absence(Identify(version=VERSION, role=role, id="a", instance="i"))


def failures(absence: Absence, count: int) -> list[str]:
    with capture_logs() as logs:
        for _ in range(count):
            absence.failed("refused", "ws://x", 0.5)
    return [entry["log_level"] for entry in logs]


def events(absence: Absence) -> list[tuple[str, str]]:
    with capture_logs() as logs:
        absence.over(READY)
    return [(entry["event"], entry["log_level"]) for entry in logs]


def test_an_agent_warns_once_while_the_hub_is_away_and_once_that_it_is_back() -> None:
    absence = new_absence(Role.AGENT)
    assert failures(absence, 3) == ["warning", "debug", "debug"]
    assert events(absence) == [("link_back", "warning")]
    assert events(absence) == [("link_ready", "debug")]
    assert failures(absence, 2) == ["warning", "debug"]


def test_a_client_whose_first_connection_fails_leaves_it_to_the_error() -> None:
    absence = new_absence(Role.CLIENT)
    assert failures(absence, 2) == ["debug", "debug"]
    assert events(absence) == [("link_ready", "debug")]
    assert failures(absence, 2) == ["warning", "debug"]


def test_the_reason_is_there_until_a_session_is_open() -> None:
    absence = new_absence(Role.CLIENT)
    assert absence.reason == "not tried yet"
    absence.failed("refused", "ws://x", 0.5)
    assert absence.reason == "refused"
    absence.over(READY)
    assert absence.reason == ""


@pytest.mark.parametrize(("useful", "count"), [(False, READY_FAILURES_MAX + 1), (True, 1)])
def test_a_hub_that_was_there_is_tried_again_sooner_than_one_that_is_gone(useful: bool, count: int) -> None:
    absence = new_absence(Role.AGENT)
    waits = [absence.failed("refused", "ws://x", 0.5) for _ in range(9)]
    assert waits == [backoff_ms(failure, 0.5) for failure in range(1, 10)]
    absence.over(READY)
    if useful:
        absence.useful()
    assert absence.failed("refused", "ws://x", 0.5) == backoff_ms(count, 0.5)
