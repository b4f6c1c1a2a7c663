"""What a link says of itself while the hub is away: once that it is, and once that it is back."""

from __future__ import annotations

from structlog.testing import capture_logs

from agent.discovery import Endpoint
from agent.link import Link
from agent.peer import Identity
from agent.threads import LoopThread, resolve
from protocol.frames import Role


def new_link(role: Role) -> Link:
    return Link(Identity(role=role, id="a", instance="i"), lambda: Endpoint("ws://x"), LoopThread("test-link"))


def failures(link: Link, count: int) -> list[str]:
    with capture_logs() as logs:
        for _ in range(count):
            link._after_failure("refused")
    return [entry["log_level"] for entry in logs]


def test_an_agent_warns_once_while_the_hub_is_away() -> None:
    link = new_link(Role.AGENT)
    try:
        assert failures(link, 3) == ["warning", "debug", "debug"]
    finally:
        link.thread.stop()


def test_a_client_whose_first_connection_fails_leaves_it_to_the_error() -> None:
    link = new_link(Role.CLIENT)
    try:
        assert failures(link, 2) == ["debug", "debug"]
        resolve(link.opened, None)
        assert failures(link, 2) == ["warning", "debug"]
    finally:
        link.thread.stop()
