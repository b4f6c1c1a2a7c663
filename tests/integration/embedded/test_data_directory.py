"""Data directories that cannot be used are refused in words that help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.store.datadir import DataDirectoryError, DataDirectoryInUse
from orchestrator.store.embedded import EmbeddedStore
from tests.integration.embedded.values import get, put
from tests.support.embedded_hub import Hubs

NOBODY_UID = 65534


async def test_a_second_hub_is_refused_and_told_who_has_the_directory(hubs: Hubs) -> None:
    store = EmbeddedStore(hubs.data)
    url = await store.start()
    put(url, "k", "1")
    second = EmbeddedStore(hubs.data)
    with pytest.raises(DataDirectoryInUse, match=f"in use by another hub .pid {os.getpid()}.*--data") as caught:
        await second.start()
    await second.stop()
    assert caught.value.pid == os.getpid()
    said = hubs.spawn().wait_for_store()
    assert said["kind"] == "DataDirectoryInUse"
    assert f"kill {os.getpid()}" in said["error"]
    assert get(url, "k") == "1"
    await store.stop()


async def test_a_directory_of_somebody_else_is_refused(data: Path) -> None:
    theirs = Path("/")
    if os.geteuid() == 0:
        theirs = data
        theirs.mkdir(mode=0o700)
        os.chown(theirs, NOBODY_UID, -1)
    with pytest.raises(DataDirectoryError, match=r"belongs to .*uid \d+\).* run as its owner.*--data"):
        await EmbeddedStore(theirs).start()


def test_a_directory_that_cannot_be_written_is_refused(hubs: Hubs) -> None:
    uid = NOBODY_UID if os.geteuid() == 0 else os.geteuid()
    hubs.data.parent.chmod(0o755)
    hubs.data.mkdir()
    os.chown(hubs.data, uid, -1)
    hubs.data.chmod(0o500)
    said = hubs.spawn(uid=uid).wait_for_store()
    hubs.data.chmod(0o700)
    assert said["kind"] == "DataDirectoryError"
    assert "Permission denied; make it writable" in said["error"]


async def test_a_file_in_the_place_of_the_directory_is_refused(data: Path) -> None:
    data.write_text("not a directory")
    with pytest.raises(DataDirectoryError, match=r"cannot use .*data as the data directory: .*--data"):
        await EmbeddedStore(data).start()
    assert data.read_text() == "not a directory"
