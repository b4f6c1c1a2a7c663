"""Files that a handler attaches, on their way into logs of their own.

    opened -> (read, sent) for each chunk -> all acknowledged -> checked that the file is what it was

Each file is read by a thread of its own, a chunk at a time and no faster than the hub takes them, all files in
turn. Its chunks go through the link's outbox as those of any producer, so that a reconnect costs nothing but what
was on its way. In a child process only the path is said over the pipe; the parent reads.

Specification: docs/protocol.md, section "Artifacts".
"""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agent.stream import Stream
from agent.threads import reject, resolve
from protocol.artifacts import CHUNK, ArtifactOpen, ArtifactOpened, Attached, chunk_bytes, chunk_count
from protocol.codec import pack_value
from protocol.errors import FleetlineError

if TYPE_CHECKING:
    from agent.held import Held
    from agent.link import Link

__all__ = ["AttachFailed", "Sending", "Uploader", "Uploads"]

LOOK_S = 0.2
"""How often a file that waits for its turn looks whether it was given up."""


class AttachFailed(FleetlineError):
    """A file could not be attached: it is not there, it changed meanwhile, or the handler is to stop."""


@dataclass(eq=False)
class Sending:
    """A file that is on its way. `done` is what it came to; `stop` may be called from any thread."""

    number: int
    path: str
    name: str
    done: Future[Attached] = field(default_factory=Future)

    def stop(self) -> None:
        """Give it up."""
        self.done.cancel()


class Uploader(Protocol):
    """Where an attempt's files go: `Uploads`, or a child process's pipe to them."""

    def start(self, path: str, name: str) -> Sending:
        """Begin with a file."""

    def stop(self) -> None:
        """Give up what is on its way, and begin nothing more."""


class Uploads:
    """The files that one attempt attaches. Safe in any thread."""

    def __init__(self, link: Link, held: Held) -> None:
        self._link = link
        self._held = held
        self._lock = threading.Lock()
        self._threads: dict[_Upload, threading.Thread] = {}
        self._begun = 0
        self._closed = False

    def start(self, path: str, name: str) -> Sending:
        """Begin with a file, in a thread of its own."""
        with self._lock:
            self._begun += 1
            sending = _Upload(self._begun, path, name, link=self._link, held=self._held)
            if self._closed:
                sending.stop()
                return sending
            self._threads[sending] = threading.Thread(target=self._main, args=(sending,), daemon=True)
            self._threads[sending].start()
        return sending

    def stop(self) -> None:
        """Give up what is on its way, and begin nothing more: the handler is over, or to stop."""
        with self._lock:
            self._closed = True
            sending = tuple(self._threads)
        for each in sending:
            each.stop()

    def _main(self, sending: _Upload) -> None:
        try:
            resolve(sending.done, sending.run())
        except BaseException as fault:  # noqa: BLE001 - the boundary between the thread and who waits
            reject(sending.done, fault)
        finally:
            with self._lock:
                del self._threads[sending]


@dataclass(eq=False)
class _Upload(Sending):
    """One file of this process."""

    link: Link = field(kw_only=True)
    held: Held = field(kw_only=True)
    _waits: Future[Any] | None = None
    _stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """See `Sending`."""
        with self._lock:
            self._stopped = True
            waits = self._waits
        super().stop()
        if waits is not None:
            waits.cancel()

    def run(self) -> Attached:
        """Read the file, and send it. Returns when all of it is durable.

        Raises:
            AttachFailed: see there.
            FleetlineError: the hub does not take it.
        """
        try:
            path = Path(self.path)
            _check_regular(path.stat(), path)  # before it is opened: a pipe would wait for somebody who writes
            with path.open("rb", buffering=0) as file:
                return self._send(file, _check_regular(os.fstat(file.fileno()), path))
        except OSError as fault:
            raise AttachFailed(f"{self.path} cannot be attached: {fault.strerror or fault}") from None
        except CancelledError:
            raise AttachFailed(f"{self.path} was not attached: the handler is to stop") from None

    def _send(self, file: FileIO, before: os.stat_result) -> Attached:
        assign, size, link = self.held.assign, before.st_size, self.link
        asked = ArtifactOpen(
            run=assign.run, attempt=assign.attempt, fence=assign.fence, number=self.number, name=self.name, size=size
        )
        opened: ArtifactOpened = self._wait(link.request("artifact.open", asked))
        outbox = link.peer.outbox
        stream = Stream(outbox, opened.log, self.held.stream.producer, assign.fence, opened.last)
        outbox.add(stream)
        try:
            digest = sha256()
            for seq in range(1, chunk_count(size) + 1):
                data = self._read(file, chunk_bytes(size, seq))
                digest.update(data)
                if seq > opened.last:
                    self._put(stream, pack_value(data))
            self._wait(stream.acknowledged(stream.made))
            after = os.fstat(file.fileno())
            if file.read(1) or (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
                raise self._changed()
        finally:
            outbox.remove(stream)
        return Attached(name=self.name, log=opened.log, size=size, sha256=digest.hexdigest())

    def _read(self, file: FileIO, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
        if size:
            raise self._changed()
        return b"".join(parts)

    def _put(self, stream: Stream, body: bytes) -> None:
        """Send a chunk, once few enough chunks of all files are in flight."""
        chunks = stream.box.chunks
        while not chunks.acquire(timeout=LOOK_S):
            self._check()
        seq = 0
        try:
            while not (seq := stream.offer(CHUNK, body)):
                self._wait(stream.room(len(body)))
        finally:
            if seq:
                stream.acknowledged(seq).add_done_callback(lambda _: chunks.release())
            else:
                chunks.release()

    def _check(self) -> None:
        if self._stopped:
            raise CancelledError

    def _wait(self, future: Future[Any]) -> Any:
        with self._lock:
            self._check()
            self._waits = future
        return future.result()

    def _changed(self) -> AttachFailed:
        return AttachFailed(
            f"{self.path} changed while it was attached, so it was not; attach a file that is complete, or a copy"
        )


def _check_regular(status: os.stat_result, path: Path) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise AttachFailed(f"{path} cannot be attached: it is no regular file")
    return status
