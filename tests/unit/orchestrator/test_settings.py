"""Where settings come from, in which order, and how a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings import CONFIG_NAME, Settings, SettingsInvalid, data_dir, load
from orchestrator.store.base import Durability
from protocol.limits import Limits


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_defaults_serve(tmp_path: Path) -> None:
    loaded = load()
    assert loaded.settings.durability is Durability.LOCAL
    assert loaded.settings.address == ("127.0.0.1", 7420)
    assert loaded.settings.data == tmp_path / "state" / "fleetline"
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.origins.keys() == Settings.model_fields.keys()


def test_environment_file_and_flags_in_rising_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLINE_LEASE_MS", "1000")
    monkeypatch.setenv("FLEETLINE_DRAIN_MS", "1000")
    monkeypatch.setenv("FLEETLINE_RECHECK_MS", "1000")
    (tmp_path / CONFIG_NAME).write_text("lease_ms = 2000\ndrain_ms = 2000\n[limits]\nsubscriptions_max = 7\n")
    loaded = load({"lease_ms": 3000, "listen": None})
    settings = loaded.settings
    assert (settings.lease_ms, settings.drain_ms, settings.recheck_ms) == (3000, 2000, 1000)
    assert settings.limits.subscriptions_max == 7
    assert settings.limits.requests_max == 256
    assert loaded.origins["lease_ms"] == "flag"
    assert loaded.origins["drain_ms"] == str(tmp_path / CONFIG_NAME)
    assert loaded.origins["recheck_ms"] == "environment"
    assert loaded.origins["listen"] == "default"


def test_the_file_in_the_data_directory_comes_before_the_one_here(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text("lease_ms = 1000")
    data = tmp_path / "data"
    data.mkdir()
    (data / CONFIG_NAME).write_text("lease_ms = 2000")
    assert load({"data": data}).settings.lease_ms == 2000


def test_a_named_file_is_read_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLINE_CONFIG", str(tmp_path / "own.toml"))
    with pytest.raises(SettingsInvalid, match=r"own\.toml, which is not a file"):
        load()
    (tmp_path / "own.toml").write_text("lease_ms = 4000")
    assert load().settings.lease_ms == 4000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"listen": "somewhere"}, r"listen \(from flag\): .*HOST:PORT"),
        ({"listen": "127.0.0.1:99999"}, "HOST:PORT"),
        ({"store": "localhost:6379"}, r"store \(from flag\).*redis://"),
        ({"durability": "replicated:2"}, "'replicated:2' is not offered yet"),
        ({"durability": "eternal"}, "durability"),
        ({"lease_ms": 1}, "lease_ms"),
    ],
)
def test_a_value_that_will_not_do_is_named(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        load(flags)


def test_a_wrong_value_in_the_environment_is_traced_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLINE_LEASE_MS", "soon")
    with pytest.raises(SettingsInvalid, match=r"^FLEETLINE_LEASE_MS: "):
        load()


def test_a_file_that_is_no_toml_or_names_no_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text("lease_ms = = 3")
    with pytest.raises(SettingsInvalid, match=CONFIG_NAME):
        load()
    (tmp_path / CONFIG_NAME).write_text("leese_ms = 3")
    with pytest.raises(SettingsInvalid, match="no setting called 'leese_ms'"):
        load()


def test_a_short_lease_makes_for_quick_heartbeats() -> None:
    assert Settings(lease_ms=3000).interval_ms == 1000
    assert Settings(lease_ms=30_000).interval_ms == 5000


def test_the_data_directory_is_the_one_here_where_there_is_one(tmp_path: Path) -> None:
    assert data_dir() == tmp_path / "state" / "fleetline"
    assert data_dir(here=True) == tmp_path / ".fleetline"
    (tmp_path / ".fleetline").mkdir()
    assert data_dir() == tmp_path / ".fleetline"


def test_ipv6_addresses_are_taken_apart() -> None:
    assert Settings(listen="[::1]:80").address == ("::1", 80)


@pytest.mark.parametrize(
    ("limits", "others", "message"),
    [
        ({"bytes_per_s_max": 100}, {}, "bytes_per_s_max is 100; the lowest that works is 69906, so that a message of"),
        ({"frames_per_s_max": 1}, {}, "frames_per_s_max is 1; the lowest that works is 18, so that a message of 1024"),
        (
            {"frames_per_s_max": 18},
            {"heartbeat_ms": 50},
            "lowest that works is 40, so that a session sends a heart",
        ),
        ({"entries_per_s_max": 4}, {}, "entries_per_s_max is 4; the lowest that works is 5, so that a publish of fra"),
    ],
)
def test_a_rate_with_which_no_session_could_go_on_is_refused_with_the_lowest_that_works(
    limits: dict[str, int], others: dict[str, int], message: str
) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        load({"limits": limits, **others})


def test_the_lowest_rates_are_taken_and_smaller_messages_make_for_lower_ones() -> None:
    assert Settings(limits=Limits(bytes_per_s_max=69_906, frames_per_s_max=18, entries_per_s_max=5))
    assert Settings(limits=Limits(bytes_per_s_max=1_093, message_bytes_max=65_536))
