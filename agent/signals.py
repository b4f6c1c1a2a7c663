"""SIGTERM and SIGINT, as an agent's program takes them."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.worker import Agent

__all__ = ["Signals"]

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """The first of them asks an agent to drain; the second one to end. Without an agent nothing is taken."""

    def __init__(self, agent: Agent | None, drain_s: float) -> None:
        self._agent = agent
        self._drain_s = drain_s
        self._asked = False

    def __enter__(self) -> None:
        if self._agent is not None and threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        if self._agent is not None and threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                asyncio.get_running_loop().remove_signal_handler(number)

    def _on_signal(self) -> None:
        assert self._agent is not None
        self._agent.stop(0.0 if self._asked else self._drain_s)
        self._asked = True
