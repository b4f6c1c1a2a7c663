"""The shim tells what is on disk from what is only in the page cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fsync_shim import ShimmedServer, build_shim, synced_sizes
from tests.support.timing import eventually_sync

pytestmark = pytest.mark.needs("gcc")

WRITES = 200


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


def write_acknowledged(server: ShimmedServer) -> None:
    with server.client() as client:
        for number in range(1, WRITES + 1):
            assert client.rpush("list", number) == number


def kept_after_the_cut(server: ShimmedServer) -> tuple[int, int]:
    """Return how many writes are there after a power cut, and how many bytes it cost."""
    server.kill()
    cut = server.cut_to_synced()
    server.start()
    with server.client() as client:
        return client.llen("list"), cut


def test_with_fsync_on_every_write_everything_acknowledged_survives_the_cut(tmp_path: Path, shim: Path) -> None:
    with ShimmedServer(tmp_path / "store", shim) as server:
        server.start()
        write_acknowledged(server)
        assert kept_after_the_cut(server) == (WRITES, 0)
        assert len(synced_sizes(server.ledger)) == 1


def test_without_fsync_the_cut_loses_what_was_acknowledged(tmp_path: Path, shim: Path) -> None:
    with ShimmedServer(tmp_path / "store", shim, {"appendfsync": "no"}) as server:
        server.start()
        write_acknowledged(server)
        kept, cut = kept_after_the_cut(server)
        assert cut > 0
        assert kept < WRITES


def test_a_rewritten_file_is_followed(tmp_path: Path, shim: Path) -> None:
    with ShimmedServer(tmp_path / "store", shim) as server:
        server.start()
        with server.client() as client:
            client.bgrewriteaof()
            eventually_sync(lambda: client.info("persistence")["aof_rewrites"] == 1)
            eventually_sync(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
        write_acknowledged(server)
        assert kept_after_the_cut(server) == (WRITES, 0)
        assert [path.name for path in synced_sizes(server.ledger)][-1] == "appendonly.aof.2.incr.aof"
