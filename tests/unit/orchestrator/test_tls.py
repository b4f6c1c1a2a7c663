"""The hub's certificate: what can be used, and what is said of what cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from orchestrator.settings import Settings, SettingsInvalid, load
from orchestrator.tls import Certificates, PlaintextRefused, TlsUnusable, check_plaintext
from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.pair("hub")


WRONG: dict[str, tuple[Callable[[Authority, Pair], object], str]] = {
    "no certificate": (lambda _, pair: pair.cert.unlink(), "No such file"),
    "no key": (lambda _, pair: pair.key.unlink(), r"tls_key .*hub\.key cannot be read: No such file"),
    "rubbish": (lambda _, pair: pair.cert.write_text("rubbish"), "cannot be used"),
    "another key": (lambda authority, pair: pair.key.write_bytes(authority.pair("other").key.read_bytes()), "cannot"),
    "a password": (lambda authority, pair: authority.renew(pair, password=b"secret"), "without a password"),
    "for all to read": (lambda _, pair: pair.key.chmod(0o644), r"read by anybody here \(mode 0644\): chmod 600"),
}


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_used_is_told(
    authority: Authority, pair: Pair, spoil: Callable[[Authority, Pair], object], said: str
) -> None:
    spoil(authority, pair)
    with pytest.raises(TlsUnusable, match=said) as told:
        Certificates(Settings(data=pair.cert.parent, **pair.settings()))
    assert "PRIVATE" not in str(told.value)


def test_authorities_that_cannot_be_used_are_told(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("rubbish")
    with pytest.raises(TlsUnusable, match="tls_client_ca"):
        Certificates(Settings(data=tmp_path, **pair.settings(), tls_client_ca=tmp_path / "ca"))


def test_a_change_is_taken_once_the_files_stand_still(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    certificates = Certificates(Settings(data=tmp_path, **pair.settings()))
    first = certificates.context
    certificates.look()
    assert certificates.context is first
    key = pair.key.read_bytes()
    authority.renew(pair)
    new = pair.key.read_bytes()
    pair.key.write_bytes(key)
    with capture_logs() as logs:
        certificates.look()
        pair.key.write_bytes(new)  # the second file came later
        certificates.look()
        assert (certificates.context is first, logs) == (True, [])
        certificates.look()
        assert certificates.context is not first
        certificates.look()
    assert [log["event"] for log in logs] == ["certificate_reloaded"]


def test_what_could_not_be_used_is_tried_again_once_it_is_mended(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    certificates = Certificates(Settings(data=tmp_path, **pair.settings()))
    authority.renew(pair)
    pair.key.chmod(0o644)
    with capture_logs() as logs:
        certificates.look()
        certificates.look()
        pair.key.chmod(0o600)  # as it was told
        certificates.look()
        certificates.look()
    assert [log["event"] for log in logs] == ["certificate_not_reloaded", "certificate_reloaded"]


def test_without_files_there_is_no_tls(tmp_path: Path) -> None:
    certificates = Certificates(Settings(data=tmp_path))
    certificates.look()
    assert certificates.context is None


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.9.9.9:1"])
def test_on_loopback_nothing_is_asked(listen: str, tmp_path: Path) -> None:
    check_plaintext(Settings(data=tmp_path, listen=listen))


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.5:1", "fleet.example.org:1"])
def test_elsewhere_it_is(listen: str, pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(PlaintextRefused, match="--tls-cert"):
        check_plaintext(Settings(data=tmp_path, listen=listen))
    check_plaintext(Settings(data=tmp_path, listen=listen, insecure_plaintext=True))
    check_plaintext(Settings(data=tmp_path, listen=listen, **pair.settings()))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tls_cert": "a.pem"}, "tls_cert and tls_key go together"),
        ({"tls_client_ca": "a.pem"}, "tls_client_ca needs tls_cert"),
        ({"origins": "console.example.org"}, r"origins \(from flag\): .*https://"),
        ({"origins": "https://a.example/path"}, "is no origin"),
        ({"trusted_proxies": "10.0.0.0/33"}, r"trusted_proxies .*10\.0\.0\.0/8"),
    ],
)
def test_settings_that_will_not_do(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsInvalid, match=said):
        load(flags)


def test_several_words_come_from_the_environment_and_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEETLINE_ORIGINS", "https://a.example, HTTPS://b.example:8443/")
    (tmp_path / "fleetline.toml").write_text(
        'trusted_proxies = ["10.1.2.3/8", "2001:db8::1"]\ntls_key = "k"\ntls_cert = "c"\n'
    )
    settings = load().settings
    assert settings.origins == ("https://a.example", "https://b.example:8443")
    assert settings.trusted_proxies == ("10.0.0.0/8", "2001:db8::1/128")
    assert settings.tls_cert == tmp_path / "c"
