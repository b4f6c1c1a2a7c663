"""The scripts that run in the server, and commands as the bytes that go to it.

Scripts go through EVALSHA; a server that does not know one (it was restarted, or its scripts were flushed)
is sent the whole of it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1
from importlib.resources import files

__all__ = ["COMMIT", "DELETE", "READ", "TAGS", "TRIM", "Script", "pack_command"]


def pack_command(*args: bytes | str | int) -> bytes:
    """Return a command in the server's protocol (RESP)."""
    return b"*%d\r\n" % len(args) + _pack_arguments(
        arg if isinstance(arg, bytes) else str(arg).encode() for arg in args
    )


def _pack_arguments(args: Iterable[bytes]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


def _read(name: str) -> bytes:
    return files("orchestrator.store").joinpath("scripts", f"{name}.lua").read_bytes()


class Script:
    """One script of `orchestrator/store/scripts`."""

    def __init__(self, name: str, *shared: str) -> None:
        """Read a script.

        Args:
            name: its file.
            shared: files of functions that it uses; they go between its first line and the rest of it.
        """
        self.name = name
        first, rest = _read(name).split(b"\n", 1)
        self.source = b"\n".join((first, *map(_read, shared), rest))
        digest = sha1(self.source, usedforsecurity=False).hexdigest().encode()
        self._by_digest = _pack_arguments((b"EVALSHA", digest))
        self._whole = _pack_arguments((b"EVAL", self.source))

    def pack(self, keys: Sequence[bytes], args: Sequence[bytes], *, whole: bool = False) -> bytes:
        """Return the call, by digest or with the whole script."""
        return b"".join(
            (
                b"*%d\r\n" % (3 + len(keys) + len(args)),
                self._whole if whole else self._by_digest,
                _pack_arguments((b"%d" % len(keys), *keys, *args)),
            )
        )


COMMIT = Script("commit")
READ = Script("read", "blocks")
TAGS = Script("tags", "blocks")
TRIM = Script("trim", "blocks")
DELETE = Script("delete")
