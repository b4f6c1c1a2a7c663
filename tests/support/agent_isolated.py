"""Handlers for tests of isolation. Those that run in child processes must be found by import."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import signal
import time

from agent import PlainRunContext, RunContext

__all__ = ["Unfit", "crash", "hang", "hold", "hold_lock", "hold_shared", "keep", "which"]

_KEPT: list[bytearray] = []


class Unfit:
    """Cannot be made in a child."""

    def __call__(self, ctx: PlainRunContext) -> None:
        """Never called."""

    def __reduce__(self) -> tuple[object, ...]:
        return _unfit, ()


def _unfit() -> None:
    raise pickle.UnpicklingError("made nowhere else")


def which(ctx: PlainRunContext) -> int:
    """Say which process this is."""
    return os.getpid()


def hang(ctx: PlainRunContext) -> None:
    """Heed nothing."""
    ctx.emit("pid", os.getpid())
    _deeper_and_deeper()


def _deeper_and_deeper() -> None:
    while True:
        time.sleep(0.05)


def hold_lock(ctx: PlainRunContext, seconds: float) -> int:
    """Hold the interpreter's lock, in native code."""
    ctx.emit("holding")
    ctx.flush()
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return ctx.attempt


def crash(ctx: PlainRunContext, how: str) -> None:
    """End the process without a word."""
    ctx.emit("before", how)
    ctx.flush()
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[how])
    time.sleep(60)


def hold(ctx: PlainRunContext, mib: int) -> int:
    """Allocate memory at once."""
    return len(bytearray(mib * 1024 * 1024))


async def hold_shared(ctx: RunContext, mib: int) -> None:
    """Fill shared memory, which no limit of the process counts."""
    with mmap.mmap(-1, mib * 1024 * 1024) as shared:
        for place in range(0, len(shared), mmap.PAGESIZE):
            shared[place] = 1
        await ctx.sleep(60)


def keep(ctx: PlainRunContext) -> int:
    """Leak 24 MiB, from the second call on; say which process this is."""
    if _KEPT:
        _KEPT.append(bytearray(b"x") * (24 * 1024 * 1024))
    _KEPT.append(bytearray())
    return os.getpid()
