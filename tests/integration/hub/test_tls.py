"""TLS in the hub: who connects, what a change of the files does, and where plain WebSocket will do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from agent.client import Client
from agent.errors import HubUnreachable, NotAuthenticated
from orchestrator import hub as hub_module
from orchestrator import tls
from orchestrator.tls import PlaintextRefused
from protocol.frames import Hello
from tests.support.audited import refusals
from tests.support.certificates import Authority
from tests.support.hub_peer import connected, identify
from tests.support.hub_world import World
from tests.support.timing import deadline, eventually


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setattr(tls, "LOOK_EVERY_S", 0.02)
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CA_FILE", "CLIENT_CERT", "CLIENT_KEY", "INSECURE_PLAINTEXT"):
        monkeypatch.delenv(f"FLEETLINE_{name}", raising=False)


async def serial(world: World, context: ssl.SSLContext) -> int:
    """Return the number of the certificate that a new connection is shown."""
    place = urlsplit(world.hub.url)
    _, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_a_client_with_the_authority_works_and_one_without_does_not_trust(
    world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start(**authority.pair("hub").settings())
    url = world.hub.url
    assert url.startswith("wss://127.0.0.1:")
    async with Client.connect(url, token=world.token, ca_file=authority.ca_file) as client:
        assert await client.publish("news", "note", "x" * 300_000) == 1
        assert [entry.body async for entry in client.read("topic/news")] == ["x" * 300_000]
    with pytest.raises(Exception, match=r"self[- ]signed|unable to get local issuer"):
        await Client.connect(url, token=world.token, timeout=0.5)
    monkeypatch.setenv("FLEETLINE_CA_FILE", str(authority.ca_file))
    async with Client.connect(url, token=world.token):
        assert world.hub.services.counters.sessions == 2


async def test_the_hub_of_the_data_directory_is_known_by_its_certificate(
    world: World, authority: Authority, tmp_path: Path
) -> None:
    await world.start(**authority.pair("hub", "fleet.example.org").settings())
    async with Client.connect(directory=world.data) as client:
        await client.logs()
    note = world.data / "hub.json"
    said = json.loads(note.read_text())
    said["certificate"] = str(Authority(tmp_path, "stranger").pair("other", "fleet.example.org").cert)
    note.write_text(json.dumps(said))
    with pytest.raises(Exception, match="its certificate is not trusted here"):
        await Client.connect(directory=world.data, timeout=0.5)


async def test_who_comes_in_the_wrong_way_is_told_the_right_one(world: World, authority: Authority) -> None:
    hub = await world.start(**authority.pair("hub", "fleet.example.org").settings())
    place = urlsplit(hub.url).netloc
    for url, ca_file, told in (
        (hub.url, None, r"its certificate is not trusted here .*--ca-file"),
        (hub.url, authority.ca_file, r"its certificate is for another name .*name the hub as its certificate does"),
        (f"ws://{place}", None, r"no hub, or one that speaks TLS; .* begins with wss://"),
    ):
        with pytest.raises(HubUnreachable, match=f"no session was opened with {url}/ within 0.5 s: .*{told}"):
            await Client.connect(url, token=world.token, ca_file=ca_file, timeout=0.5)


async def test_who_speaks_tls_to_a_hub_that_does_not_is_told(world: World) -> None:
    plain = urlsplit((await world.start()).url).netloc
    with pytest.raises(HubUnreachable, match=r"what answered seems to speak no TLS; .* begins with ws://"):
        await Client.connect(f"wss://{plain}", token=world.token, timeout=0.5)


async def test_a_hub_says_who_it_wants_to_hear_from_and_a_program_what_it_lacks(world: World) -> None:
    hub = await world.start()
    with pytest.raises(NotAuthenticated, match=r"no token was named, FLEETLINE_TOKEN is not set, .*--join-token-file"):
        await Client.connect(hub.url)


async def test_a_new_certificate_is_taken_and_nobody_is_dropped(world: World, authority: Authority) -> None:
    pair = authority.pair("hub")
    await world.start(**pair.settings())
    trusted = authority.trusted()
    async with connected(world.hub.url, world.token, ssl=trusted) as peer:
        await peer.identify(identify())
        first = pair.serial
        assert await serial(world, trusted) == first
        with capture_logs() as logs:
            authority.renew(pair)

            async def renewed() -> bool:
                return await serial(world, trusted) == pair.serial != first

            await eventually(renewed)
            pair.cert.write_text("nothing of the kind")
            await eventually(lambda: [log for log in logs if log["event"] == "certificate_not_reloaded"])
            assert await serial(world, trusted) == pair.serial, "the one before is kept"
            authority.renew(pair)
            await eventually(renewed)
        told = [log["event"] for log in logs if log["event"].startswith("certificate")]
        assert told == ["certificate_reloaded", "certificate_not_reloaded", "certificate_reloaded"]
        assert [log["log_level"] for log in logs if "not_reloaded" in log["event"]] == ["error"]
        assert await peer.result("log.list"), "the session goes on with the certificate that it began with"


async def test_a_peer_without_a_certificate_of_the_authority_is_not_let_in(
    world: World, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start(**authority.pair("hub").settings(), tls_client_ca=authority.ca_file)
    strangers = Authority(tmp_path, "strangers").pair("stranger")
    for context in (authority.trusted(), authority.trusted(strangers)):
        with pytest.raises((OSError, ConnectionClosed, InvalidHandshake)):
            async with connected(world.hub.url, world.token, ssl=context) as peer:
                await peer.expect(Hello)
    assert world.hub.services.counters.connections == 0
    agent = authority.pair("agent")
    async with connected(world.hub.url, world.token, ssl=authority.trusted(agent)) as peer:
        await peer.identify(identify())
    monkeypatch.setenv("FLEETLINE_CLIENT_CERT", str(agent.cert))
    monkeypatch.setenv("FLEETLINE_CLIENT_KEY", str(agent.key))
    async with Client.connect(world.hub.url, token=world.token, ca_file=authority.ca_file) as client:
        await client.logs()


async def test_who_says_nothing_or_speaks_plain_to_tls_is_cut_off(world: World, authority: Authority) -> None:
    await world.start(**authority.pair("hub").settings(), limits={"handshake_ms": 300})
    place = urlsplit(world.hub.url)
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(words)
        async with deadline(5):
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in await reader.read()
        writer.transport.abort()
    await eventually(lambda: not world.hub._work)
    async with connected(world.hub.url, world.token, ssl=authority.trusted()) as peer:
        await peer.identify(identify())


async def test_a_stopping_hub_does_not_wait_for_who_has_not_begun_tls(
    world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "FAREWELL_S", 60.0)
    hub = world.new_hub(**authority.pair("hub").settings(), limits={"handshake_ms": 60_000})
    async with deadline(10):
        async with hub:
            place = urlsplit(hub.url)
            silent = socket.create_connection((str(place.hostname), place.port or 0))
            await eventually(lambda: hub._server.connected)
        silent.close()


async def test_a_hub_that_others_reach_speaks_plain_only_if_that_was_said(world: World) -> None:
    with pytest.raises(PlaintextRefused, match=r"--tls-cert FILE.*--insecure-plaintext"):
        await world.start(listen="0.0.0.0:0")
    await world.start(listen="0.0.0.0:0", insecure_plaintext=True)


async def test_only_web_pages_that_are_named_may_connect(world: World) -> None:
    await world.start(origins=("https://console.example.org",))
    for origin in ("https://evil.example", "null", "https://console.example.org.evil.example"):
        with pytest.raises(InvalidStatus) as refused:
            async with connected(world.hub.url, world.token, {"Origin": origin}):
                pass
        assert refused.value.response.status_code == 403
    async with connected(world.hub.url, world.token, {"Origin": "https://console.example.org"}) as peer:
        await peer.identify(identify())
    (noted,) = await refusals(world)
    assert (noted["what"], noted["code"], noted["reason"]) == ("connection", "forbidden", "origin")
    assert (noted["network"], noted["count"]) == ("loopback", 3)
    assert not any("evil" in str(value) for value in noted.values())


@pytest.mark.parametrize(("proxies", "address"), [(("127.0.0.0/8",), "192.0.2.7"), ((), "127.0.0.1")])
async def test_a_peers_address_is_what_a_trusted_proxy_says(
    world: World, proxies: tuple[str, ...], address: str
) -> None:
    await world.start(trusted_proxies=proxies)
    with capture_logs() as logs:
        async with connected(world.hub.url, world.token, {"X-Forwarded-For": "198.51.100.1, 192.0.2.7"}) as peer:
            await peer.identify(identify())
        await eventually(lambda: [log for log in logs if log["event"] == "connection_ended"])
    assert [log["address"] for log in logs if log["event"] == "connection_ended"] == [address]
