"""A store that asks who the hub is: the least that its user may, TLS, and a password that shows nowhere."""

from __future__ import annotations

import asyncio
import re
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agent.client import Client
from agent.context import RunContext
from agent.worker import Agent
from orchestrator.cli.main import main
from orchestrator.hub import Hub
from orchestrator.settings import Settings, SettingsInvalid, load
from orchestrator.store.address import Address, address_of, without_password
from orchestrator.store.base import Durability, StoreError, StoreMisconfigured
from orchestrator.store.redis import RedisStore
from tests.support.certificates import Authority
from tests.support.fleet import Fleet
from tests.support.stores import StoreServer, valkey
from tests.support.timing import deadline, eventually

SECRET = "planted/secret@+"
ROOT = Path(__file__).parents[3]


def documented_rules() -> list[str]:
    """Return the rules of the deployment guide for the hub's user, with a password of the test's."""
    found = re.search(r"```acl\nuser fleetline (.*?)\n```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    assert found
    return found[1].replace("PASSWORD", SECRET).split()


async def with_user(server: StoreServer) -> None:
    """Give the server the user of the guide, and let nobody in without a password."""
    assert await server.command("ACL", "SETUSER", "fleetline", *documented_rules()) == b"+OK\r\n"


def test_the_rules_name_every_command_of_the_scripts_and_the_client() -> None:
    used = set()
    for module in (ROOT / "orchestrator/store").glob("*.py"):
        sent = re.findall(r"(?:\.call|pack_command|\brun)\(\s*\"([A-Z]+)\"", module.read_text())
        used |= {word.lower() for word in sent}
    assert {"hgetall", "ssubscribe", "config"} <= used
    for script in (ROOT / "orchestrator/store/scripts").glob("*.lua"):
        used |= {word.lower() for word in re.findall(r"call\('([A-Z]+)'", script.read_text())}
    allowed = {rule[1:].partition("|")[0] for rule in documented_rules() if rule.startswith("+")}
    assert used <= allowed


async def test_a_hub_works_as_a_user_who_may_no_more_than_the_guide_says(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    async with deadline(60), valkey(tmp_path) as server, AsyncExitStack() as stack:
        await with_user(server)
        settings: dict[str, Any] = {"store": f"unix://fleetline@{server.socket}", "store_password_file": secret}
        settings |= {"listen": "127.0.0.1:0", "recheck_ms": 200, "log_entries_max": 1_000, "runs_kept_least_s": 0}
        first = await stack.enter_async_context(Hub(Settings(data=tmp_path / "a", **settings)))
        (tmp_path / "b").mkdir(mode=0o700)
        await stack.enter_async_context(Hub(Settings(data=tmp_path / "b", **settings)))
        token = (tmp_path / "a" / "local.token").read_text()
        agent = Agent("a1")

        @agent.handler("double")
        async def double(ctx: RunContext, n: int) -> int:
            await ctx.emit("half", n)
            return 2 * n

        serving = asyncio.create_task(agent.serve(first.url, token=token))
        stack.push_async_callback(asyncio.wait, [serving])
        stack.callback(agent.stop, 0.0)
        async with Client.connect(first.url, token=token) as client:
            run = await client.submit("double", {"n": 4}, concurrency_key="k", keep=0.2)
            assert await run.result(timeout=20) == 8
            await client.publish("news", "note", "x")
            assert [entry.body async for entry in client.read("topic/news")] == ["x"]

            async def gone() -> bool:
                return run.id not in {info.run for info in await client.runs()}

            await eventually(gone, 20)
        refused = await server.command("ACL", "LOG")
        assert b"fleetline" not in refused, refused


async def test_a_user_of_the_guide_reaches_nothing_else(tmp_path: Path) -> None:
    async with deadline(20), valkey(tmp_path) as server:
        await with_user(server)
        for words in (("SET", "mine", "x"), ("HGET", "mine", "x"), ("FLUSHALL",), ("CONFIG", "SET", "save", "")):
            assert (await server.command("ACL", "DRYRUN", "fleetline", *words)).startswith(b"$"), words


@asynccontextmanager
async def behind_tls(server: StoreServer, context: ssl.SSLContext) -> AsyncIterator[int]:
    """End TLS in front of a server; yield the port."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_unix_connection(server.socket)
        await asyncio.gather(carry(reader, to_writer), carry(to_reader, writer))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield int(listening.sockets[0].getsockname()[1])


async def test_a_store_is_reached_by_tls_with_an_authority_of_its_own_and_only_so(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.pair("store", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    async with deadline(20), valkey(tmp_path) as server, behind_tls(server, context) as port:
        await with_user(server)
        settings = Settings(
            data=tmp_path,
            store=f"rediss://fleetline@127.0.0.1:{port}",
            store_password=SecretStr(SECRET),
            store_ca_file=authority.ca_file,
        )
        whole = address_of(settings)
        assert whole is not None
        store = RedisStore(whole, Durability.LOCAL, "hub")
        await store.open()
        assert await store.now_ms() > 0
        await store.close()
        stranger = settings.model_copy(update={"store_ca_file": Authority(tmp_path, "other").ca_file})
        with pytest.raises(StoreError, match="certificate verify failed") as told:
            await RedisStore(address_of(stranger) or "", Durability.LOCAL, "hub").open()
        assert "planted" not in "".join(traceback.format_exception(told.value)) + repr(told.value)


@pytest.mark.parametrize("store", ["unix://fleetline:{}@{}", "unix://fleetline:wrong-{}@{}"])
async def test_a_password_is_in_no_traceback_and_no_repr(tmp_path: Path, store: str) -> None:
    planted = "planted-secret"
    async with deadline(20), valkey(tmp_path) as server:
        settings = Settings(data=tmp_path / "hub", store=store.format(planted, server.socket), listen="127.0.0.1:0")
        with pytest.raises(StoreError) as told:  # there is no such user
            async with Hub(settings):
                pass
        assert planted not in f"{told.value} {told.value!r} {settings!r} {address_of(settings)!r}"
        assert planted not in "".join(traceback.format_exception(told.value))


async def test_the_password_of_a_hub_with_workers_is_in_nothing_that_it_leaves_or_says(tmp_path: Path) -> None:
    planted = "planted-secret"
    async with deadline(60), valkey(tmp_path) as server, Fleet() as fleet:
        rules = [rule.replace(SECRET, planted) for rule in documented_rules()]
        assert await server.command("ACL", "SETUSER", "fleetline", *rules) == b"+OK\r\n"
        environment = {"FLEETLINE_STORE_PASSWORD": planted, "FLEETLINE_LOG_LEVEL": "debug"}
        options = ("--store", f"unix://fleetline@{server.socket}", "--workers", "2")
        hub = fleet.new_hub(options=options, environment=environment)
        await hub.start()
        await eventually(lambda: "worker_started" in hub.output())
        children = (Path("/proc") / str(hub.pid) / "task" / str(hub.pid) / "children").read_text().split()
        words = [(Path("/proc") / pid / "cmdline").read_bytes() for pid in (str(hub.pid), *children)]
        assert len(words) >= 2
        await server.kill()
        await eventually(lambda: "connection refused" in hub.output().lower() or "store" in hub.output())
        await server.start()
        left = [path.read_bytes() for path in hub.data.rglob("*") if path.is_file()]
        assert not [text for text in (*words, *left, hub.output().encode()) if planted.encode() in text]


def test_a_password_on_the_command_line_is_refused_unsaid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (["hub", "start"], ["doctor"]):
        for address in ("redis://:planted-secret@h:1", "unix:///s?password=planted-secret"):
            with pytest.raises(SystemExit) as ended:
                main([*words, "--data", str(tmp_path), "--store", address])
            assert ended.value.code == 2
            said = capsys.readouterr()
            assert "FLEETLINE_STORE_PASSWORD" in said.err
            assert "planted" not in said.err + said.out


@pytest.mark.parametrize("address", ["redis://:planted/secret@h:1", "redis://u:planted:secret#@h:x"])
def test_an_address_that_is_none_is_refused_unsaid(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLINE_STORE", address)
    with pytest.raises(SettingsInvalid, match="FLEETLINE_STORE: is no address") as told:
        load()
    assert "planted" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://h:1", "redis://h:1"),
        ("redis://u@h:1", "redis://u@h:1"),
        ("rediss://u:planted@h:1/0", "rediss://u:...@h:1/0"),
        ("unix:///s?db=0&password=planted", "unix:///s?db=0"),
    ],
)
def test_what_is_shown_of_an_address(address: str, shown: str) -> None:
    assert without_password(address) == shown
    assert "planted" not in repr(Address(address))


@pytest.mark.parametrize(("mode", "content", "said"), [(0o644, SECRET, "mode 0644"), (0o600, "", "is empty")])
def test_a_password_file_that_will_not_do_is_told(tmp_path: Path, mode: int, content: str, said: str) -> None:
    file = tmp_path / "password"
    file.write_text(content)
    file.chmod(mode)
    settings = Settings(data=tmp_path, store="redis://h:1", store_password_file=file)
    with pytest.raises(StoreMisconfigured, match=said) as told:
        address_of(settings)
    assert SECRET not in str(told.value)
