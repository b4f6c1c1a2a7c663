"""A hub of several processes: all of them serve, and none outlives what it was started for."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.client import Client
from agent.context import RunContext
from agent.worker import Agent
from orchestrator import turns, workers
from orchestrator.settings import Settings
from orchestrator.turns import Turns
from orchestrator.workers import Orders, Workers
from protocol.codec import pack_value
from protocol.codes import CloseCode
from protocol.frames import Hello
from tests.integration.embedded.values import gone
from tests.support.certificates import Authority
from tests.support.fleet import Fleet, HubProcess
from tests.support.forks import CHECKOUT
from tests.support.hub_peer import HubPeer, connected, identify
from tests.support.timing import deadline, eventually

WORKERS = 3
TRIES_MAX = 100
THREE = ("--workers", str(WORKERS))


def events(hub: HubProcess, name: str) -> list[dict[str, Any]]:
    """Return what the processes of a hub wrote down under this name."""
    lines = [line for line in hub.output().splitlines() if f'"event": "{name}"' in line]
    return [json.loads(line) for line in lines]


def pids(hub: HubProcess) -> dict[int, int]:
    """Return the further workers, number to process, as they were started last."""
    return {event["worker"]: event["pid"] for event in events(hub, "worker_started")}


def numbers(hub: HubProcess) -> dict[str, int]:
    """Return which worker a hub id is of, of all that ever were."""
    return {event["hub"]: event.get("worker", 1) for event in events(hub, "hub_started")}


def in_good_order(hub: HubProcess) -> bool:
    """Whether every process drained and ended by itself."""
    return "Traceback" not in hub.output() and len(events(hub, "hub_stopped")) == WORKERS


@asynccontextmanager
async def serving(agent: Agent, hub: HubProcess) -> AsyncIterator[None]:
    ready = asyncio.Event()
    task = asyncio.create_task(agent.serve(hub.url, token=hub.token, on_ready=ready.set))
    try:
        await ready.wait()
        yield
    finally:
        agent.stop(0.0)
        await task


async def meet_all(hub: HubProcess, stack: AsyncExitStack) -> dict[str, HubPeer]:
    """Connect until there is a client at every worker; return them by the id of their hub."""
    met: dict[str, HubPeer] = {}
    for number in range(TRIES_MAX):
        peer = await stack.enter_async_context(connected(hub.url, hub.token))
        hello = await peer.expect(Hello)
        if hello.hub not in met:
            peer.frames.insert(0, hello)
            await peer.identify(identify(f"client-{number}"))
            met[hello.hub] = peer
        if len(met) == WORKERS:
            return met
    raise AssertionError(f"only {met.keys()} took connections")


async def hub_of(client: Client, name: str) -> str:
    """Return which hub an agent is connected to; nothing where none says so yet."""
    return next((agent.hub for agent in await client.agents() if agent.agent == name and agent.connected), "")


async def seen(client: Client, name: str) -> str:
    """Return which hub an agent is connected to, once one says so."""
    return await eventually(lambda: hub_of(client, name))


async def get(hub: HubProcess, path: str) -> str:
    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{hub.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(ask)


async def test_work_flows_between_all_the_workers() -> None:
    async with deadline(80), Fleet() as fleet, AsyncExitStack() as stack:
        hub = await fleet.hub(options=(*THREE, "--json"))
        await eventually(lambda: '"workers":3,' in hub.output())
        for name in ("a", "b"):
            agent = Agent(name, queues=[name])

            @agent.handler("double")
            async def double(ctx: RunContext, n: int) -> int:
                return 2 * n

            await stack.enter_async_context(serving(agent, hub))
        clients = await meet_all(hub, stack)
        assert sorted(numbers(hub)[met] for met in clients) == [1, 2, 3]
        runs = []
        for number, peer in enumerate(clients.values()):
            for queue in ("a", "b"):
                made = {"queue": queue, "handler": "double", "input": pack_value({"n": number})}
                runs.append((await peer.result("run.submit", key=f"{queue}-{number}", **made))["run"])
        async with Client.connect(hub.url, token=hub.token) as client:
            assert [await client.run(run).result(timeout=20) for run in runs] == [0, 0, 2, 2, 4, 4]
        found = {
            line
            for line in [await get(hub, "/metrics") for _ in range(TRIES_MAX)]
            for line in line.splitlines()
            if line.startswith("fleetline_hub_info")
        }
        labels = {re.sub(r'.*hub="(.*)",worker="(.)"\} 1', r"\1 \2", line) for line in found}
        assert labels == {f"{hub_id} {number}" for hub_id, number in numbers(hub).items()}
        doctor = await fleet.command(hub, "doctor", "--data", str(hub.data), "--json")
        checks = [json.loads(line) for line in doctor.stdout.splitlines()]
        assert [(check["about"], check["value"]) for check in checks if check["name"] == "workers"] == [
            ("settings", "1"),
            ("hub", "3"),
        ]
        assert (await get(hub, "/healthz")).startswith("ok")


async def test_what_is_revoked_at_one_worker_ends_at_all() -> None:
    async with deadline(80), Fleet() as fleet, AsyncExitStack() as stack:
        hub = await fleet.hub(options=THREE)
        await eventually(lambda: len(pids(hub)) == WORKERS - 1)
        peers = list((await meet_all(hub, stack)).values())
        await peers[0].result("token.revoke", name="local")
        async with deadline(1):
            assert [await peer.closed() for peer in peers] == [CloseCode.REVOKED] * WORKERS


async def test_all_workers_have_the_certificate_and_take_a_new_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.pair("hub", "127.0.0.1")
    tls = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    async with deadline(80), Fleet() as fleet:
        hub = await fleet.hub(options=(*THREE, *tls))
        url = hub.url.replace("ws:", "wss:")
        words = ("log", "ls", "--hub", url)
        trusting = await fleet.command(hub, *words, "--ca-file", str(authority.ca_file))
        assert trusting.returncode == 0, trusting.stderr
        authority.renew(pair, "127.0.0.1")
        await eventually(lambda: len(events(hub, "certificate_reloaded")) == WORKERS, 20)
        async with Client.connect(directory=hub.data) as client:
            assert await client.agents() == ()
        assert await hub.terminate() == 0
        assert in_good_order(hub)


async def test_a_worker_that_is_killed_is_replaced_and_its_agents_go_on_elsewhere() -> None:
    async with deadline(80), Fleet() as fleet, AsyncExitStack() as stack:
        hub = await fleet.hub(options=THREE)
        client = await stack.enter_async_context(Client.connect(hub.url, token=hub.token))
        go_on = asyncio.Event()
        victim, place = "", ""
        for number in range(TRIES_MAX):
            agent = Agent(f"a{number}", queues=[f"q{number}"])

            @agent.handler("wait")
            async def wait(ctx: RunContext) -> int:
                await ctx.emit("waits", None)
                await go_on.wait()
                return ctx.attempt

            await stack.enter_async_context(serving(agent, hub))
            victim = f"a{number}"
            place = await seen(client, victim)
            if numbers(hub)[place] != 1:
                break
        worker = numbers(hub)[place]
        before = pids(hub)
        run = await client.submit("wait", queue=f"q{victim[1:]}")

        async def running() -> bool:
            return (await run.get()).state == "running"

        await eventually(running, 20)
        os.kill(before[worker], signal.SIGKILL)

        async def elsewhere() -> bool:
            return await hub_of(client, victim) not in ("", place)

        await eventually(elsewhere, 30)
        go_on.set()
        assert await run.result(timeout=20) == 1, "the attempt goes on"
        await eventually(lambda: pids(hub)[worker] != before[worker], 20)
        assert [event["why"] for event in events(hub, "worker_ended")] == ["exit code -9"]
        await meet_all(hub, stack)
        assert await hub.terminate() == 0
        assert all(gone(pid) for pid in [*before.values(), *pids(hub).values()])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_all_workers_end_in_good_order_with_the_first(number: signal.Signals, code: int) -> None:
    async with deadline(80), Fleet() as fleet, AsyncExitStack() as stack:
        hub = await fleet.hub(options=THREE)
        await eventually(lambda: f"hub listening at {hub.url} (3 workers, embedded store, " in hub.output())
        clients = await meet_all(hub, stack)
        store, others = hub.store_pid, pids(hub).values()
        assert len(others) == WORKERS - 1
        os.killpg(hub.pid, number)  # as a terminal does it
        assert [await peer.closed() for peer in clients.values()] == [CloseCode.GOING_AWAY] * WORKERS
        assert await hub.ended() == code
        assert in_good_order(hub), hub.output()
        assert all(gone(pid) for pid in (store, *others))
        assert not (hub.data / "hub.json").exists()
        with socket.socket() as sock:
            assert sock.connect_ex(hub.address) != 0


async def test_the_address_is_free_at_once_when_the_first_worker_is_killed() -> None:
    async with deadline(80), Fleet() as fleet:
        hub = await fleet.hub(options=THREE)
        others = pids(hub)
        os.kill(others[2], signal.SIGSTOP)
        await hub.restart()
        assert all(gone(pid) for pid in others.values()), "also one that cannot do anything about it"
        async with Client.connect(hub.url, token=hub.token) as client:
            assert await client.agents() == ()
        assert "cannot listen" not in hub.output()
        assert await hub.terminate() == 0


async def test_a_frozen_worker_takes_no_connections_and_does_not_keep_the_hub() -> None:
    async with deadline(80), Fleet() as fleet:
        hub = fleet.new_hub(options=THREE, environment={"FLEETLINE_DRAIN_MS": "100"})
        await hub.start()
        others = pids(hub)
        os.kill(others[3], signal.SIGSTOP)
        for _ in range(24):
            async with connected(hub.url, hub.token) as peer:
                assert numbers(hub)[(await peer.expect(Hello)).hub] != 3
        hub.signal(signal.SIGTERM)
        assert await hub.ended(40) == 0
        assert [event["worker"] for event in events(hub, "worker_stop_failed")] == [3]
        assert all(gone(pid) for pid in others.values())


class Exhausted(socket.socket):
    """A listening socket of a process that may open no more files."""

    def accept(self) -> tuple[socket.socket, Any]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_workers_take_turns_with_what_waits_and_one_alone_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE_S", 60.0)
    taken: dict[str, list[socket.socket]] = {"first": [], "second": []}
    async with deadline(10):
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
            also = stack.enter_context(listening.dup())
            for _ in range(40):
                stack.enter_context(socket.create_connection(listening.getsockname()))
            both = (
                Turns([listening], taken["first"].append, shared=True),
                Turns([also], taken["second"].append, shared=True),
            )
            await eventually(lambda: all(taken.values()))
            assert [len(each) for each in taken.values()] == [16, 16]
            for one in both:
                one.close()
            last = Turns([listening], taken["second"].append, shared=False)
            await eventually(lambda: len(taken["second"]) == 24)
            last.close()
            for each in (*taken["first"], *taken["second"]):
                each.close()


async def test_where_there_is_no_room_what_comes_stays_in_the_queue() -> None:
    taken: list[socket.socket] = []
    full = True
    async with deadline(10):
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
            alone = Turns([listening], taken.append, shared=False, full=lambda: full)
            await eventually(lambda: alone._waiting[listening] is not None)
            assert not taken
            full = False
            await eventually(lambda: taken)
            alone.close()
            taken[0].close()


async def test_a_process_without_files_leaves_what_waits_to_others() -> None:
    async with deadline(10):
        with Exhausted() as listening, capture_logs() as logs:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            with socket.create_connection(listening.getsockname()):
                tried = Turns([listening], lambda _: pytest.fail("nothing was accepted"), shared=False)
                await eventually(lambda: logs)
                tried.close()
            assert logs == [{"event": "accept_failed", "log_level": "error", "reason": "Too many open files"}]


async def test_a_worker_ends_when_its_standard_input_does() -> None:
    """So where no kernel ends it together with the first worker, it ends all the same."""
    async with deadline(60), Fleet() as fleet:
        hub = await fleet.hub()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            settings = Settings(data=hub.data, store=f"unix://{hub.store_socket}", workers=2)
            orders = Orders(settings=settings, sockets=(listening.fileno(),))
            worker = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.worker", "2"],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(listening.fileno(),),
            )
            with worker:
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write(orders.model_dump_json().encode() + b"\n")
                worker.stdin.flush()
                assert await asyncio.to_thread(worker.stdout.readline) == b"ready\n"
                async with connected(f"ws://127.0.0.1:{listening.getsockname()[1]}", hub.token) as peer:
                    await peer.identify(identify())
                    worker.stdin.close()
                    await eventually(lambda: worker.poll() is not None)
                assert worker.returncode == 1
        assert json.loads((hub.data / "hub.json").read_text())["pid"] == hub.pid


async def test_a_worker_that_never_serves_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    monkeypatch.setattr(workers, "RESTART_FIRST_S", 0.01)
    monkeypatch.setattr(workers, "RESTART_CAP_S", 0.04)
    tried = Workers(Settings(workers=2), ())
    async with deadline(20):
        with capture_logs() as logs:
            task = asyncio.create_task(tried.keep(2))
            await tried.ready()
            await eventually(lambda: len(logs) >= 4)
            tried.dismiss()
            await task
        assert [event["pause_s"] for event in logs[:4]] == [0.01, 0.02, 0.04, 0.04]
        assert {event["why"] for event in logs} == {"exit code 1"}
        await tried.gone(0)
