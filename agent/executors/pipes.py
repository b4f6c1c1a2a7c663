"""The three pipes of a program, on an event loop: read no faster than what was read is taken."""

from __future__ import annotations

import asyncio
import os

__all__ = ["READ_BYTES", "InputPipe", "OutputPipe"]

READ_BYTES = 64 * 1024
"""Bytes read at a time. What is not read stays in the pipe, and makes the program wait."""

LAST_BYTES_MAX = 1024 * 1024
"""Bytes read of a pipe that somebody outside the group holds open when the group is gone."""


class OutputPipe:
    """A pipe that a program writes to, our end of it."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._last_bytes: int | None = None

    async def read(self) -> bytes:
        """Return what is there, waiting for it; nothing at the end of the pipe, or behind what `finish` left."""
        while True:
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                if self._last_bytes is not None:
                    return b""
                await self._readable()
                continue
            if self._last_bytes is None:
                return data
            data = data[: self._last_bytes]
            self._last_bytes -= len(data)
            return data

    def finish(self) -> None:
        """No process of the group is left: read what they left, and wait for nothing more."""
        self._last_bytes = LAST_BYTES_MAX
        self._wake()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    async def _readable(self) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_reader(self._descriptor, self._wake)
        try:
            await self._waiting
        finally:
            self._loop.remove_reader(self._descriptor)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Ending(asyncio.BaseProtocol):
    """Knows whether a pipe's transport has let go of it already."""

    over = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The program closed its end, or we ours."""
        del exc
        self.over = True


class InputPipe:
    """A pipe that a program may read from, our end of it. What it does not read is kept until it is gone.

    That is bounded by what we say: the run's input, messages and answers, all of which the hub bounds.
    """

    def __init__(self, transport: asyncio.WriteTransport, ending: _Ending) -> None:
        self._transport = transport
        self._ending = ending

    @classmethod
    async def open(cls, descriptor: int) -> InputPipe:
        """Take over our end of a pipe."""
        loop = asyncio.get_running_loop()
        transport, ending = await loop.connect_write_pipe(_Ending, os.fdopen(descriptor, "wb", buffering=0))
        return cls(transport, ending)

    def say(self, line: bytes) -> None:
        """Write a line, if the program has not closed its end."""
        if not self._transport.is_closing():
            self._transport.write(line)

    def end(self) -> None:
        """Nothing more is said: the program reads the end of its input, behind what was said."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Let go of it."""
        if not self._ending.over:
            self._transport.abort()
