"""Where the hub is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.discovery import data_directories, locator
from agent.errors import HubNotFound


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work" / "deep"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FLEETLINE_HUB", raising=False)
    monkeypatch.delenv("FLEETLINE_TOKEN", raising=False)
    monkeypatch.delenv("FLEETLINE_DATA", raising=False)


def hub_in(place: Path, url: str, token: str = "local") -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "hub.json").write_text(json.dumps({"url": url, "pid": 1}))
    (place / "local.token").write_text(token + "\n")


def secret(locate_token: object) -> str | None:
    return None if locate_token is None else locate_token.get_secret_value()  # type: ignore[attr-defined]


def test_nothing_to_go_by_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(HubNotFound, match="FLEETLINE_HUB") as missing:
        locator()()
    assert str(tmp_path / "state" / "fleetline") in str(missing.value)


def test_the_data_directory_of_a_parent_directory_is_found(tmp_path: Path) -> None:
    hub_in(tmp_path / "work" / ".fleetline", "ws://127.0.0.1:1")
    hub_in(tmp_path / "state" / "fleetline", "ws://127.0.0.1:2")
    found = locator()()
    assert (found.url, secret(found.token)) == ("ws://127.0.0.1:1/", "local")
    assert data_directories()[0] == tmp_path / "work" / ".fleetline"


def test_a_directory_without_a_hub_does_not_hide_the_other(tmp_path: Path) -> None:
    (tmp_path / "work" / ".fleetline").mkdir()
    hub_in(tmp_path / "state" / "fleetline", "ws://127.0.0.1:2")
    assert locator()().url == "ws://127.0.0.1:2/"


def test_a_data_directory_that_the_environment_names_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_in(tmp_path / "state" / "fleetline", "ws://127.0.0.1:2")
    monkeypatch.setenv("FLEETLINE_DATA", str(tmp_path / "mine"))
    with pytest.raises(HubNotFound):
        locator()()
    hub_in(tmp_path / "mine", "ws://127.0.0.1:3")
    assert locator()().url == "ws://127.0.0.1:3/"


def test_environment_goes_before_the_directory_and_arguments_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_in(tmp_path / "state" / "fleetline", "ws://127.0.0.1:2")
    monkeypatch.setenv("FLEETLINE_HUB", "https://hub.example")
    monkeypatch.setenv("FLEETLINE_TOKEN", "from-env")
    found = locator()()
    assert (found.url, secret(found.token)) == ("wss://hub.example/", "from-env")
    found = locator("localhost:7", "given")()
    assert (found.url, secret(found.token)) == ("ws://localhost:7/", "given")
    (tmp_path / "file").write_text("from-file\n")
    assert secret(locator("localhost:7", token_file=tmp_path / "file")().token) == "from-file"


def test_the_local_token_goes_to_the_local_hub_only(tmp_path: Path) -> None:
    hub_in(tmp_path / "state" / "fleetline", "ws://127.0.0.1:2")
    assert locator("wss://elsewhere:2")().token is None
    assert secret(locator("ws://127.0.0.1:2")().token) == "local"


def test_who_finds_neither_token_nor_key_is_told_what_was_looked_for(tmp_path: Path) -> None:
    assert locator("localhost:2")().lacks.endswith("no key was enrolled here")
    hub_in(tmp_path / "state" / "fleetline", "ws://127.0.0.1:2")
    assert locator("ws://127.0.0.1:2")().lacks == ""
    told = "the token of the data directory is for ws://127.0.0.1:2/ alone, and this is ws://localhost:2/"
    assert locator("localhost:2")().lacks.endswith(told)
    assert locator("localhost:2", "given")().lacks == ""


def test_a_hub_that_came_back_elsewhere_is_found_by_the_same_locator(tmp_path: Path) -> None:
    place = tmp_path / "state" / "fleetline"
    hub_in(place, "ws://127.0.0.1:2")
    locate = locator()
    assert locate().url == "ws://127.0.0.1:2/"
    hub_in(place, "ws://127.0.0.1:3", "renewed")
    assert (locate().url, secret(locate().token)) == ("ws://127.0.0.1:3/", "renewed")


def test_a_token_does_not_show(tmp_path: Path) -> None:
    assert "given" not in repr(locator("localhost:7", "given")())


@pytest.mark.parametrize("hub", ["ftp://x", "ws://", "://"])
def test_what_is_no_address_is_refused(hub: str) -> None:
    with pytest.raises(ValueError, match="not the address of a hub"):
        locator(hub)()


def test_a_variable_that_is_empty_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_in(tmp_path / "work" / ".fleetline", "ws://127.0.0.1:1")
    monkeypatch.setenv("FLEETLINE_HUB", "")
    assert locator()().url == "ws://127.0.0.1:1/"
