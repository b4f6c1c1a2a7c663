"""What workers are told, and how their numbers are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings import CONFIG_NAME, Settings
from orchestrator.store.base import Durability
from orchestrator.telemetry import Counters, exposition
from orchestrator.workers import Orders
from protocol.limits import Limits


def test_a_worker_is_told_everything_and_asks_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(subscriptions_max=7)
    settings = Settings(
        data=tmp_path, store="unix:///run/s", durability=Durability.MEMORY, workers=3, lease_ms=900, limits=limits
    )
    orders = Orders(settings=settings, sockets=(5, 6))
    monkeypatch.setenv("FLEETLINE_LEASE_MS", "soon")
    monkeypatch.setenv("FLEETLINE_LIMITS", '{"requests_max": 3}')
    (tmp_path / CONFIG_NAME).write_text("this is no TOML")
    assert Orders.model_validate_json(orders.model_dump_json()) == orders


def test_numbers_say_whose_they_are_where_there_are_several() -> None:
    alone = exposition(Counters(commits=2), {"agents": lambda: 3}, "h1", {}).splitlines()
    assert {'fleetline_hub_info{hub="h1"} 1', "fleetline_commits_total 2", "fleetline_agents 3"} <= {*alone}
    second = exposition(Counters(commits=2), {"agents": lambda: 3}, "h1", {"worker": "2"}).splitlines()
    wanted = {'fleetline_commits_total{worker="2"} 2', 'fleetline_agents{worker="2"} 3'}
    assert {'fleetline_hub_info{hub="h1",worker="2"} 1', *wanted} <= {*second}
