"""Waiting for several things at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["together"]

Result = TypeVar("Result")


async def together(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Do them beside each other and return what each gives. One alone costs no task, and none costs nothing."""
    waiting = list(works)
    if len(waiting) > 1:
        return await asyncio.gather(*waiting)
    return [await each for each in waiting]
