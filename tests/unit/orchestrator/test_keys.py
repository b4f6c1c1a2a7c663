"""Several keys at once: which signs, which is believed, and what a rotation leaves behind."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from orchestrator.auth import keys
from orchestrator.auth.keys import KEYS_MAX, SIGNING_KEY, KeyUnusable, load_keys, rotate_keys
from orchestrator.auth.keywatch import KeyWatch
from orchestrator.auth.principal import Grant
from orchestrator.auth.tokens import TokenRefused, Tokens

NOW_S = 1_800_000_000
HOUR_S = 3600
GRANT = Grant("ann", "default", frozenset({"viewer"}))


def issue(data: Path, ttl_s: int = 24 * HOUR_S) -> str:
    return Tokens(load_keys(data)).issue(GRANT, now_s=NOW_S, ttl_s=ttl_s, token_id="t")


def test_what_the_old_key_signed_is_good_until_the_overlap_ends(tmp_path: Path) -> None:
    old = issue(tmp_path)
    rotate_keys(tmp_path, HOUR_S, NOW_S)
    tokens, new = Tokens(load_keys(tmp_path)), issue(tmp_path)
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    principal = tokens.verify(old, NOW_S + HOUR_S - 1)
    assert tokens.ends_s(principal) == NOW_S + HOUR_S
    with pytest.raises(TokenRefused, match="no key that is believed now"):
        tokens.verify(old, NOW_S + HOUR_S)  # which was verified before
    with pytest.raises(TokenRefused, match="no key that is believed now"):
        Tokens(load_keys(tmp_path)).verify(old, NOW_S + HOUR_S)
    assert tokens.verify(new, NOW_S + HOUR_S).name == "ann"


@pytest.mark.parametrize("named", [True, False])
def test_a_mark_ends_with_the_key_that_was_behind_it(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = load_keys(tmp_path)
    token = issue(tmp_path)
    if not named:  # as tokens were before keys had names
        token = jwt.encode(jwt.decode(token, options={"verify_signature": False}), ring.signer.private, "EdDSA")
    rotate_keys(tmp_path, HOUR_S, NOW_S)
    here, there = Tokens(load_keys(tmp_path)), Tokens(load_keys(tmp_path))
    mark = here.mark(token, here.verify(token, NOW_S).signer)
    monkeypatch.setattr(there, "_decode", None)  # the mark must do
    assert there.verify(token, NOW_S, mark).signer == ring.signer.id
    with pytest.raises(TokenRefused):
        Tokens(load_keys(tmp_path)).verify(token, NOW_S + HOUR_S, mark)


def test_an_overlap_of_nothing_ends_every_older_key(tmp_path: Path) -> None:
    first = issue(tmp_path)
    rotate_keys(tmp_path, HOUR_S, NOW_S)
    second = issue(tmp_path)
    rotate_keys(tmp_path, 0, NOW_S)
    for token in (first, second):
        with pytest.raises(TokenRefused):
            Tokens(load_keys(tmp_path)).verify(token, NOW_S)
    assert [path.name for path in (tmp_path / "keys").glob("*.pem")] == ["signing.pem"]


def test_keys_that_have_ended_are_removed_by_the_next_rotation(tmp_path: Path) -> None:
    rotate_keys(tmp_path, HOUR_S, NOW_S)
    ring = rotate_keys(tmp_path, HOUR_S, NOW_S + HOUR_S)
    assert len(ring.keys) == 2


def test_every_file_is_its_owners_alone(tmp_path: Path) -> None:
    rotate_keys(tmp_path, HOUR_S, NOW_S)
    files = list((tmp_path / "keys").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    retired = next((tmp_path / "keys").glob("retired-*"))
    retired.chmod(0o644)
    with pytest.raises(KeyUnusable, match="can be read by others"):
        load_keys(tmp_path)


def test_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    first = load_keys(tmp_path).signer.id
    with ThreadPoolExecutor(4) as pool:
        rings = list(pool.map(lambda _: rotate_keys(tmp_path, HOUR_S, NOW_S), range(4)))
    assert set(load_keys(tmp_path).keys) == {first, *(ring.signer.id for ring in rings)}
    assert len(load_keys(tmp_path).keys) == 5


def test_a_rotation_that_is_killed_half_way_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, signer = issue(tmp_path), load_keys(tmp_path).signer.id

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(keys, "replace_file", die)
    with pytest.raises(KeyboardInterrupt):
        rotate_keys(tmp_path, HOUR_S, NOW_S)
    monkeypatch.undo()
    ring = load_keys(tmp_path)
    assert (ring.signer.id, len(ring.keys)) == (signer, 1)
    assert Tokens(ring).verify(token, NOW_S + 2 * HOUR_S).name == "ann"
    rotate_keys(tmp_path, 3 * HOUR_S, NOW_S)
    assert Tokens(load_keys(tmp_path)).verify(token, NOW_S + 2 * HOUR_S).name == "ann"


def test_a_rotation_between_two_reads_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_keys(tmp_path)
    listed = keys._retired

    def late(directory: Path) -> list[tuple[Path, int]]:
        monkeypatch.setattr(keys, "_retired", listed)
        rotate_keys(tmp_path, HOUR_S, NOW_S)
        return listed(directory)

    monkeypatch.setattr(keys, "_retired", late)
    ring = load_keys(tmp_path)
    assert (len(ring.keys), ring.signer.until_s) == (2, None)
    assert ring.signer.id == load_keys(tmp_path).signer.id


def test_there_are_only_so_many_keys(tmp_path: Path) -> None:
    for _ in range(KEYS_MAX - 1):
        rotate_keys(tmp_path, HOUR_S, NOW_S)
    with pytest.raises(KeyUnusable, match="an overlap of 0"):
        rotate_keys(tmp_path, HOUR_S, NOW_S)
    rotate_keys(tmp_path, 0, NOW_S)


def test_a_key_that_was_made_a_moment_ago_is_looked_for(tmp_path: Path) -> None:
    tokens, changes = Tokens(load_keys(tmp_path)), []
    KeyWatch(tmp_path, tokens, lambda: changes.append(tokens.signer))
    rotate_keys(tmp_path, HOUR_S, NOW_S)
    assert tokens.verify(issue(tmp_path), NOW_S).name == "ann"
    assert changes == [load_keys(tmp_path).signer.id]


def test_keys_that_cannot_be_read_leave_what_was_known(tmp_path: Path) -> None:
    tokens, token = Tokens(load_keys(tmp_path)), issue(tmp_path)
    watch = KeyWatch(tmp_path, tokens, lambda: None)
    (tmp_path / SIGNING_KEY).chmod(0o644)
    watch.look()
    assert tokens.verify(token, NOW_S).name == "ann"


HEADERS: list[dict[str, object]] = [
    {"alg": "none"},
    {"alg": "HS256"},
    {"kid": "../keys/signing.pem"},
    {"kid": "0123456789abcdef"},
    {"jku": "https://example.org/keys"},
    {"jwk": {"kty": "OKP"}},
    {"x5u": "https://example.org/keys"},
    {"crit": ["exp"]},
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_says_another_key_or_algorithm_is_refused(tmp_path: Path, header: dict[str, object]) -> None:
    ring = load_keys(tmp_path)
    claims = jwt.decode(issue(tmp_path), options={"verify_signature": False})
    header = {"kid": ring.signer.id, **header}
    public = ring.signer.public.public_bytes_raw()
    key: object = {"none": None, "HS256": public}.get(str(header.get("alg")), ring.signer.private)
    posing = jwt.encode(claims, key, str(header.get("alg", "EdDSA")), headers=header)  # type: ignore[arg-type]
    with pytest.raises(TokenRefused, match="the token is not valid"):
        Tokens(ring).verify(posing, NOW_S)
