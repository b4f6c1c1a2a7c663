"""What holds whoever of hub, keeper and server is killed, in any order."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest
import redis

from orchestrator.store.base import StoreUnavailable
from orchestrator.store.datadir import DataDirectory
from orchestrator.store.embedded import EmbeddedStore
from orchestrator.store.keys import HUBS
from tests.integration.embedded.values import answers, get, gone, put
from tests.support.embedded_hub import Hubs
from tests.support.timing import eventually_sync


def keeper_of(server_pid: int) -> int:
    """Return the parent of the server's process."""
    return int(Path(f"/proc/{server_pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def wait_until_free(data: Path) -> None:
    eventually_sync(DataDirectory(data).server_lock.free)


def test_a_hub_that_was_killed_leaves_a_store_that_the_next_adopts(hubs: Hubs) -> None:
    first = hubs.start()
    put(first.url, "k", "1")
    first.kill()
    second = hubs.start()
    assert (second.url, second.store_pid) == (first.url, first.store_pid)
    assert get(second.url, "k") == "1"
    second.kill()
    third = hubs.start()
    assert third.store_pid == first.store_pid
    assert third.stop() == 0
    eventually_sync(lambda: gone(first.store_pid))


def test_a_hub_that_was_killed_is_not_taken_for_live_by_the_next(hubs: Hubs) -> None:
    first = hubs.start()
    with redis.Redis.from_url(first.url) as client:
        client.zadd(HUBS, {"dead": 1 << 52})
        first.kill()
        hubs.start()
        assert client.exists(HUBS) == 0


def test_an_adopted_server_that_dies_is_restarted(hubs: Hubs) -> None:
    hubs.start().kill()
    hub = hubs.start()
    put(hub.url, "k", "1")
    kill(hub.store_pid)
    eventually_sync(lambda: answers(hub.url, "k") == "1")
    assert hub.stop() == 0


@pytest.mark.parametrize("victims", ["server", "keeper", "server keeper", "keeper server"])
def test_server_and_keeper_are_started_again_with_the_data_there(hubs: Hubs, victims: str) -> None:
    hub = hubs.start()
    put(hub.url, "k", "1")
    pids = {"server": hub.store_pid, "keeper": keeper_of(hub.store_pid)}
    # Frozen, so that none of them acts on the death of another before its own turn.
    for pid in (hub.process.pid, *pids.values()):
        os.kill(pid, signal.SIGSTOP)
    kill(*[pids[victim] for victim in victims.split()])
    for pid in (hub.process.pid, *[pid for name, pid in pids.items() if name not in victims]):
        if not gone(pid):
            os.kill(pid, signal.SIGCONT)
    eventually_sync(lambda: all(gone(pid) for pid in pids.values()))
    eventually_sync(lambda: answers(hub.url, "k") == "1")
    put(hub.url, "k", "2")
    assert hub.stop() == 0
    wait_until_free(hubs.data)


@pytest.mark.parametrize("order", ["hub server", "server hub", "hub keeper", "keeper hub", "server keeper hub"])
def test_whoever_is_killed_with_the_hub_nothing_is_left_but_the_data(hubs: Hubs, order: str) -> None:
    hub = hubs.start()
    put(hub.url, "k", "1")
    hub.process.send_signal(signal.SIGSTOP)
    pids = {"server": hub.store_pid, "keeper": keeper_of(hub.store_pid), "hub": hub.process.pid}
    kill(*[pids[victim] for victim in order.split() if victim != "keeper" or not gone(pids["keeper"])])
    hub.process.communicate()
    eventually_sync(lambda: all(gone(pid) for pid in pids.values()))
    wait_until_free(hubs.data)
    again = hubs.start()
    assert again.store_pid != hub.store_pid
    assert get(again.url, "k") == "1"
    assert again.stop() == 0


def test_an_orphan_ends_by_itself_after_the_grace_time(hubs: Hubs) -> None:
    hub = hubs.start(grace_s=0.4)
    keeper = keeper_of(hub.store_pid)
    put(hub.url, "k", "1")
    hub.kill()
    eventually_sync(lambda: gone(hub.store_pid) and gone(keeper))
    wait_until_free(hubs.data)
    again = hubs.start()
    assert get(again.url, "k") == "1"
    assert again.stop() == 0


def test_an_orphan_that_does_not_end_when_asked_is_killed(hubs: Hubs) -> None:
    hub = hubs.start(grace_s=0.3)
    put(hub.url, "k", "1")
    os.kill(hub.store_pid, signal.SIGSTOP)
    hub.kill()
    eventually_sync(lambda: gone(hub.store_pid))
    again = hubs.start()
    assert get(again.url, "k") == "1"
    assert again.stop() == 0


def test_a_server_is_not_ended_under_a_hub_that_lives(hubs: Hubs) -> None:
    hub = hubs.start(grace_s=0.2)
    keeper = keeper_of(hub.store_pid)
    before = looks_of(keeper)
    eventually_sync(lambda: looks_of(keeper) > before + 20)
    assert not gone(hub.store_pid)
    assert hub.stop() == 0


def looks_of(keeper: int) -> int:
    """Return how often the keeper has slept, and so looked: it does nothing else."""
    status = Path(f"/proc/{keeper}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


def test_a_server_that_could_not_write_to_its_file_comes_back_with_what_it_acknowledged(hubs: Hubs) -> None:
    hub = hubs.start()
    put(hub.url, "k", "1")
    # As on a full disk: the server ends, for it must not acknowledge what it cannot sync.
    resource.prlimit(hub.store_pid, resource.RLIMIT_FSIZE, (4096, 4096))
    with pytest.raises(redis.ConnectionError):
        put(hub.url, "too much", "x" * 10_000)
    eventually_sync(lambda: answers(hub.url, "k") == "1")
    assert get(hub.url, "too much") is None
    put(hub.url, "k", "2")
    assert hub.stop() == 0


def test_a_hub_that_comes_while_the_orphan_is_being_ended_waits_and_starts_anew(hubs: Hubs) -> None:
    hub = hubs.start(grace_s=1.5)
    put(hub.url, "k", "1")
    os.kill(hub.store_pid, signal.SIGSTOP)
    hub.kill()
    # The keeper keeps this lock once it has made up its mind, and only looks at it before.
    directory = DataDirectory(hubs.data)
    eventually_sync(lambda: not any(directory.hub_lock.free() for _ in range(100)))
    assert not gone(hub.store_pid)
    late = hubs.spawn()
    late.wait_for_store()
    assert gone(hub.store_pid)
    assert get(late.url, "k") == "1"
    assert late.stop() == 0


def test_two_hubs_at_once_on_an_orphan_come_to_one_store_and_one_refusal(hubs: Hubs) -> None:
    orphan = hubs.start()
    orphan.kill()
    rivals = [hubs.spawn(), hubs.spawn()]
    said = [rival.wait_for_store() for rival in rivals]
    assert sorted(words.get("kind", "") for words in said) == ["", "DataDirectoryInUse"]
    winner = next(rival for rival in rivals if "url" in rival.said)
    assert winner.store_pid == orphan.store_pid
    assert winner.stop() == 0


async def test_a_server_that_hangs_is_named_and_adopted_when_it_goes_on(
    hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs.start()
    hub.kill()
    os.kill(hub.store_pid, signal.SIGSTOP)
    monkeypatch.setattr("orchestrator.store.embedded.ANSWER_S", 0.2)
    with pytest.raises(StoreUnavailable, match=f"pid {hub.store_pid}.*does not answer"):
        await EmbeddedStore(hubs.data).start()
    os.kill(hub.store_pid, signal.SIGCONT)
    monkeypatch.undo()
    store = EmbeddedStore(hubs.data)
    await store.start()
    assert store.pid == hub.store_pid
    await store.stop()


async def test_a_server_that_is_not_the_recorded_one_is_not_adopted(
    hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs.start()
    hub.kill()
    record = hubs.data / "store" / "server.json"
    written = record.read_text()
    record.write_text(json.dumps({**json.loads(written), "pid": os.getpid()}))
    monkeypatch.setattr("orchestrator.store.embedded.ANSWER_S", 0.2)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await EmbeddedStore(hubs.data).start()
    assert not gone(hub.store_pid)
    record.write_text(written)
