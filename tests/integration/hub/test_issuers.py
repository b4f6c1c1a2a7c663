"""A hub that trusts another issuer, whose key set it fetches."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.auth import issuers
from protocol.codes import CloseCode
from protocol.frames import Hello, Refresh
from tests.support.hub_peer import identify
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder
from tests.support.timing import eventually

NAME = "https://login.example.org"


class Login:
    """An issuer: its keys by name, and what it answers to whoever asks for them."""

    def __init__(self) -> None:
        self.keys = {"k1": Ed25519PrivateKey.generate()}
        self.status = 200
        self.asked = 0
        login = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                login.asked += 1
                self.send_response(200 if self.path == "/elsewhere" else login.status)
                if login.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(login.answer())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/keys"

    def answer(self) -> bytes:
        shown = jwt.algorithms.OKPAlgorithm.to_jwk
        keys = [{**json.loads(shown(key.public_key())), "kid": kid} for kid, key in self.keys.items()]
        return json.dumps({"keys": keys}).encode()

    def token(self, kid: str = "k1", **claims: object) -> str:
        now_s = int(time.time())
        said = {"iss": NAME, "aud": "fleet", "sub": "ann", "iat": now_s, "exp": now_s + 60, **claims}
        return jwt.encode(said, self.keys[kid], "EdDSA", headers={"kid": kid})


@pytest.fixture
def login() -> Iterator[Login]:
    login = Login()
    thread = threading.Thread(target=login.server.serve_forever, args=(0.01,))
    thread.start()
    yield login
    login.server.shutdown()
    thread.join()
    login.server.server_close()


async def start(world: World, login: Login, **more: Any) -> None:
    trusted: Any = {NAME: {"jwks": login.url, "audience": "fleet", "scopes": ["operator"], **more}}
    await world.start(issuers=trusted)


async def refused(world: World, token: str) -> tuple[int, str]:
    async with world.peer(token) as peer:
        await peer.expect(Hello)
        await peer.send(identify())
        return await peer.told()


async def test_somebody_with_a_token_of_a_trusted_issuer_is_let_in(world: World, login: Login) -> None:
    await start(world, login)
    async with world.peer(login.token()) as peer, world.peer() as admin:
        ready = await peer.identify(identify())
        assert (ready.principal, ready.scopes) == ("client:ann", ("operator",))
        await admin.identify(identify("admin"))
        await admin.result("token.revoke", name="ann")
        assert await peer.closed() == CloseCode.REVOKED
    assert (await refused(world, login.token(aud="else")))[0] == CloseCode.UNAUTHENTICATED


@pytest.mark.parametrize("claims", [{}, {"ns": "default"}])
async def test_a_name_that_has_a_key_is_not_for_who_has_a_token_alone(
    world: World, login: Login, claims: dict[str, str]
) -> None:
    await start(world, login, scopes=["agent"], agents=["*"])
    holder, token = Keyholder(), login.token(**claims)
    async with world.peer(token) as peer:
        await peer.identify(holder.frame())
    async with world.peer("") as peer:
        await holder.enter(peer, world.issue("agent", name="rack", agents=("m1",), uses=1))
    async with world.peer(token) as peer:
        await peer.expect(Hello)
        await peer.send(holder.frame())
        code, why = await peer.told()
    assert (code, "has a key" in why) == (CloseCode.UNAUTHENTICATED, True)


async def test_a_new_key_is_fetched_for_the_first_who_comes_with_it(
    world: World, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers, "APART_S", 0.0)
    await start(world, login)
    login.keys["k2"] = Ed25519PrivateKey.generate()
    async with world.peer(login.token("k2")) as peer:
        await peer.identify(identify())


async def test_unknown_keys_do_not_make_it_ask_again_and_again(world: World, login: Login) -> None:
    await start(world, login)
    login.keys["k2"] = Ed25519PrivateKey.generate()
    for _ in range(3):
        assert (await refused(world, login.token("k2")))[0] == CloseCode.UNAUTHENTICATED
    assert login.asked == 1


@pytest.mark.parametrize("status", [302, 500])
async def test_an_issuer_that_does_not_answer_is_waited_for(
    world: World, login: Login, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers, "APART_S", 0.2)
    login.status = status
    await start(world, login)
    code, message = await refused(world, login.token())
    assert (code, "could not be read yet" in message) == (CloseCode.ISSUER_UNAVAILABLE, True)
    login.status = 200
    await eventually(lambda: world.hub.services.tokens.issuers._sets[NAME].known, 5)
    async with world.peer(login.token()) as peer:
        await peer.identify(identify())


async def test_a_refresh_whose_issuer_does_not_answer_ends_the_session_until_it_does(
    world: World, login: Login
) -> None:
    login.status = 500
    await start(world, login)
    async with world.peer(world.issue("operator", name="ann")) as peer:
        await peer.identify(identify())
        await peer.send(Refresh(token=login.token()))
        assert (await peer.told())[0] == CloseCode.ISSUER_UNAVAILABLE
