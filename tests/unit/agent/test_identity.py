"""The key in a state directory: made once, read by nobody else, and what it proves."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.absence import PENDING_MS, Absence
from agent.drops import link_ended
from agent.errors import HubUnreachable
from agent.identity import IDENTITY_FILE, IdentityUnusable, KeyPending, KeyRefused, find_credentials, state_directory
from protocol.codes import CloseCode
from protocol.frames import Hello, Identify, Role
from protocol.limits import DEFAULT_LIMITS
from protocol.proof import proof_bytes

HELLO = Hello(
    versions=(1,), hub="h1", nonce=bytes(16), heartbeat_ms=1, limits=DEFAULT_LIMITS, durability="local", store_ms=0
)
FRAME = Identify(version=1, role=Role.AGENT, id="m1", instance="i1")


def join_token(**claims: object) -> str:
    said = {"sub": "rack", "ns": "plant", "join": {"scopes": ["agent"], "agents": ["m1"], "uses": 1}} | claims
    return jwt.encode(said, Ed25519PrivateKey.generate(), algorithm="EdDSA")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLEETLINE_JOIN_TOKEN", raising=False)
    monkeypatch.setenv("FLEETLINE_STATE_DIR", str(tmp_path / "state"))


def test_without_a_key_and_without_a_join_token_there_is_nothing(tmp_path: Path) -> None:
    assert find_credentials(Role.AGENT, "m1") is None
    assert not (tmp_path / "state").exists()


def test_a_key_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    token = tmp_path / "join"
    token.write_text(join_token())
    made = find_credentials(Role.AGENT, "m1", join_token_file=token)
    assert made is not None
    path = state_directory(Role.AGENT, "m1") / IDENTITY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    token.unlink()
    again = find_credentials(Role.AGENT, "m1", join_token_file=token)
    assert again is not None
    assert (again.fingerprint, again.place) == (made.fingerprint, "agent/m1")
    assert [entry.name for entry in path.parent.iterdir()] == [IDENTITY_FILE]


def test_a_key_has_its_name_for_good_before_a_hub_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, path = tmp_path / "join", state_directory(Role.AGENT, "m1") / IDENTITY_FILE
    token.write_text(join_token())
    synced, fsync = list[tuple[bool, bool]](), os.fsync

    def noted(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    find_credentials(Role.AGENT, "m1", join_token_file=token)
    assert synced == [(False, False), (True, True)], "first what is in the file, then that it is there"


def test_two_that_make_a_key_at_once_have_the_same(tmp_path: Path) -> None:
    token = join_token()

    def make(_: int) -> str:
        made = find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=token)
        assert made is not None
        return made.fingerprint

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1


def test_a_proof_is_of_this_connection_and_comes_with_the_join_token_until_it_is_known(tmp_path: Path) -> None:
    token = join_token()
    credentials = find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=token)
    assert credentials is not None
    said = credentials.prove(FRAME, HELLO)
    proof = said.proof
    assert proof is not None
    assert (proof.namespace, proof.name, said.token) == ("plant", "m1", token)
    signed = proof_bytes("h1", bytes(16), FRAME, "plant", "m1")
    Ed25519PublicKey.from_public_bytes(proof.key).verify(proof.signature, signed)
    credentials.accepted()
    assert credentials.prove(FRAME, HELLO).token is None


def test_a_client_is_called_as_its_join_token_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLINE_JOIN_TOKEN", join_token(sub="ada"))
    credentials = find_credentials(Role.CLIENT)
    assert credentials is not None
    assert credentials.place == "client/ada"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=join_token())
    (tmp_path / IDENTITY_FILE).chmod(mode)
    with pytest.raises(IdentityUnusable, match="can be read by others"):
        find_credentials(Role.AGENT, "m1", directory=tmp_path)


def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=join_token())
    for role, name in ((Role.AGENT, "m2"), (Role.CLIENT, "")):
        with pytest.raises(IdentityUnusable, match="is the key of agent/m1"):
            find_credentials(role, name, directory=tmp_path)


@pytest.mark.parametrize(
    "change",
    [lambda said: said.pop("private_key"), lambda said: said.update(private_key="x"), lambda said: said.clear()],
)
def test_a_file_without_a_key_is_refused_and_nothing_of_it_is_said(tmp_path: Path, change: object) -> None:
    find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=join_token())
    path = tmp_path / IDENTITY_FILE
    said = json.loads(path.read_text())
    secret = said["private_key"].splitlines()[1]
    change(said)  # type: ignore[operator]
    path.write_text(json.dumps(said))
    with pytest.raises(IdentityUnusable) as refused:
        find_credentials(Role.AGENT, "m1", directory=tmp_path)
    assert secret not in str(refused.value)


@pytest.mark.parametrize("token", ["", "a.b", "a.e30.c", "a.!.c", jwt.encode({"ns": "x", "sub": "y"}, "k" * 32)])
def test_what_is_no_join_token_makes_no_key(tmp_path: Path, token: str) -> None:
    with pytest.raises(IdentityUnusable, match="no join token"):
        find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=token)
    assert not list(tmp_path.iterdir())


def test_a_missing_join_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityUnusable, match="nowhere"):
        find_credentials(Role.AGENT, "m1", join_token_file=tmp_path / "nowhere")


def test_secrets_are_not_in_a_repr(tmp_path: Path) -> None:
    token = join_token()
    credentials = find_credentials(Role.AGENT, "m1", directory=tmp_path, join_token=token)
    shown = repr(vars(credentials))
    assert token not in shown
    assert "Ed25519PrivateKey" not in shown


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_a_pending_key_is_tried_again_within_seconds_however_long_it_takes(draw: float) -> None:
    absence = Absence(FRAME)
    waits = [absence.failed("pending", "ws://x", draw, CloseCode.KEY_PENDING) for _ in range(20)]
    assert all(PENDING_MS[0] <= wait_ms <= PENDING_MS[1] for wait_ms in waits)
    assert isinstance(absence.unreachable("ws://x", 1.0), KeyPending)
    absence.failed("refused", "ws://x", draw)
    assert type(absence.unreachable("ws://x", 1.0)) is HubUnreachable


def test_a_refused_key_has_an_error_of_its_own() -> None:
    for code in (CloseCode.KEY_REFUSED, CloseCode.KEY_REVOKED):
        assert isinstance(link_ended(code, ""), KeyRefused)
