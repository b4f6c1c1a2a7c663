"""Whom a connection is made to: what is refused, and which certificate will do."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from agent.discovery import Endpoint, locator
from agent.trust import PlaintextRefused, Trust
from tests.support.certificates import Authority


@pytest.fixture(autouse=True)
def _nothing_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HUB", "TOKEN", "CA_FILE", "CLIENT_CERT", "CLIENT_KEY", "INSECURE_PLAINTEXT"):
        monkeypatch.delenv(f"FLEETLINE_{name}", raising=False)
    monkeypatch.setenv("FLEETLINE_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize(
    "hub", ["ws://10.0.0.5:7420", "http://fleet.example.org", "fleet:7420", "ws://[2001:db8::1]:1"]
)
def test_a_token_is_not_sent_to_another_machine_in_the_clear(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlaintextRefused, match=r"wss://.*--ca-file.*--insecure-plaintext") as refused:
        locator(hub, "planted-token")()
    assert "planted-token" not in str(refused.value)
    monkeypatch.setenv("FLEETLINE_INSECURE_PLAINTEXT", "1")
    assert locator(hub)().tls() is None


@pytest.mark.parametrize("hub", ["ws://127.0.0.1:1", "localhost:1", "ws://[::1]:1"])
def test_on_this_machine_it_is(hub: str) -> None:
    assert locator(hub)().tls() is None


def test_the_hub_of_the_data_directory_is_this_machines(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hub.json").write_text('{"url": "ws://0.0.0.0:7420"}')
    assert locator()().url == "ws://0.0.0.0:7420/"


def test_what_is_given_goes_before_the_environment_and_that_before_the_noted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "noted"
    assert Trust.here(None, noted).pinned == noted
    monkeypatch.setenv("FLEETLINE_CA_FILE", "/of/environment")
    assert Trust.here(None, noted) == Trust(ca_file=Path("/of/environment"))
    assert Trust.here("/given", noted).ca_file == Path("/given")
    assert Trust.here("/given", noted, noted=True) == Trust(pinned=noted), "nobody named the hub: its note is believed"


def test_a_certificate_is_checked_and_so_is_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = Endpoint("wss://fleet.example.org", None, Trust(ca_file=authority.ca_file)).tls()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    pinned = Trust(pinned=authority.pair("hub").cert).context()
    assert (pinned.verify_mode, pinned.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_a_file_that_is_not_there_is_told_by_whoever_needs_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Trust(ca_file=tmp_path / "missing").context()
