"""Secrets are planted wherever one comes in; none of them comes out: no log line, error, repr, entry or export."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from agent.client import Client
from agent.discovery import Endpoint, locator
from agent.errors import FleetlineError
from agent.logs import ensure_logging
from orchestrator.cli.main import main
from orchestrator.settings import Settings
from orchestrator.telemetry import configure_logs
from protocol.frames import Hello, Refresh, Role
from protocol.ids import LogKind, LogName
from tests.support.certificates import Authority
from tests.support.hub_peer import connected, identify
from tests.support.hub_world import World
from tests.support.timing import eventually

PLANTED = "planted-secret"
JWT = f"eyJhbGciOiJub25lIn0.{PLANTED}.{PLANTED}"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Let everything be logged as a hub logs it, at the lowest level; yield what was."""
    output = io.StringIO()
    before = structlog.get_config()
    monkeypatch.setattr("sys.stderr", output)
    configure_logs("debug", as_json=True)
    structlog.configure(cache_logger_on_first_use=False)
    yield output
    structlog.configure(**before)


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("configure", [configure_logs, ensure_logging])
def test_a_fault_on_a_terminal_does_not_show_what_variables_hold(
    said: io.StringIO, monkeypatch: pytest.MonkeyPatch, configure: Callable[[], None]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    structlog.reset_defaults()

    def fail(token: str) -> None:
        raise RuntimeError(f"a fault of {len(token)}")

    configure()
    try:
        fail(PLANTED)
    except RuntimeError:
        structlog.get_logger().exception("connection_failed")
    assert "a fault of 14" in terminal.getvalue()
    assert PLANTED not in terminal.getvalue()


async def stored(world: World) -> bytes:
    """Return every entry of every log, as an export would have them."""
    found = b""
    for namespace in ("default", "fleetline"):
        for kind in LogKind:
            for name, _ in await world.store.log_names(namespace, kind, 1_000):
                page = await world.store.read(LogName(namespace, kind, name), 0, 1_000)
                found += b"".join(entry.packed for entry in page.entries) if page else b""
    return found


async def test_tokens_that_come_in_come_out_nowhere(world: World, said: io.StringIO) -> None:
    await world.start()
    agent_token, told = world.issue("agent", agents=("a1",)), ""
    async with connected(world.hub.url, JWT) as peer:
        await peer.expect(Hello)
        await peer.send(identify())
        told += repr(await peer.told())
    async with connected(world.hub.url) as peer:
        await peer.expect(Hello)
        await peer.send(identify(token=JWT))
        told += repr(await peer.told())
    async with connected(world.hub.url, agent_token) as peer:
        ready = await peer.identify(identify("a1", Role.AGENT))
        told += repr(ready)
        await peer.send(Refresh(token=JWT))
        told += repr(await peer.told())
    async with connected(world.hub.url, agent_token) as peer:
        await peer.expect(Hello)
        await peer.send(identify("a2", Role.AGENT))
        told += repr(await peer.told())
    async with connected(world.hub.url, world.token) as peer:
        await peer.identify(identify())
        told += repr(await peer.result("log.list"))
    await eventually(lambda: said.getvalue().count("connection_ended") == 5)
    out = said.getvalue() + told + (await stored(world)).decode(errors="replace") + repr(world.hub.settings)
    signatures = [token.rpartition(".")[2] for token in (agent_token, world.token)]
    key = (world.data / "keys" / "signing.pem").read_text().splitlines()[1]
    assert [secret for secret in (PLANTED, key, *signatures) if secret in out] == []


async def test_a_token_is_in_no_error_and_no_repr_of_a_client(world: World, said: io.StringIO) -> None:
    await world.start()
    locate = locator(world.hub.url, JWT)
    shown = repr(locate) + repr(locate())
    for hub in (world.hub.url, "ws://127.0.0.1:1", "ws://10.1.2.3:1"):
        with pytest.raises(FleetlineError) as refused:
            await Client.connect(hub, token=JWT, timeout=0.3)
        shown += "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    shown += repr(Endpoint("ws://h", SecretStr(JWT)))
    async with Client.connect(world.hub.url, token=world.token) as client:
        shown += repr(client) + repr(vars(client.links.main))
    secrets = (PLANTED, world.token.rpartition(".")[2])
    assert [secret for secret in secrets if secret in shown + said.getvalue()] == []


async def test_a_private_key_is_in_no_log_line_when_it_cannot_be_used(
    world: World, tmp_path: Path, said: io.StringIO
) -> None:
    pair = Authority(tmp_path).pair("hub")
    secret = pair.key.read_text().splitlines()[1]
    pair.cert.write_text(pair.key.read_text())
    with pytest.raises(FleetlineError) as told:
        await world.start(**pair.settings())
    shown = "".join(traceback.format_exception(told.value)) + said.getvalue()
    assert "tls_cert" in shown
    assert secret not in shown


def test_doctor_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEETLINE_TOKEN", JWT)
    for environment in (
        {"FLEETLINE_STORE": f"redis://u:{PLANTED}@127.0.0.1:1"},
        {"FLEETLINE_STORE": "redis://u@127.0.0.1:1", "FLEETLINE_STORE_PASSWORD": PLANTED},
        {"FLEETLINE_STORE": f"unix:///nowhere?password={PLANTED}"},
    ):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for words in ((), ("--json",)):
            with pytest.raises(SystemExit) as ended:
                main(["doctor", "--data", str(tmp_path), *words])
            assert ended.value.code == 1
            said = capsys.readouterr()
            assert "store" in said.out
            assert PLANTED not in said.out + said.err
    assert PLANTED not in repr(Settings(data=tmp_path))
