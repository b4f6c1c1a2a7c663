"""What a command that follows something says of its connection."""

from __future__ import annotations

import pytest
import structlog

from orchestrator.cli import connect
from orchestrator.telemetry import configure_logs


def test_a_lost_connection_is_told_in_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning", render=connect._sentence)
    log = structlog.get_logger("fleetline.link")
    log.warning("link_dropped", peer="client-1", url="ws://x", reason="it went away", retry_ms=20)
    log.warning("link_back", peer="client-1", session="s", resumed=True)
    log.warning("another_thing", number=3)
    assert capsys.readouterr().err.splitlines() == [
        "the connection is lost (it went away); it is tried again until the hub answers",
        "connected again",
        "another_thing number=3",
    ]
