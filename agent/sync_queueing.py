"""The blocking twin of `agent.queueing`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar

from agent.queueing import QueueMethods
from protocol.requests import DeadLetters, QueueInfo

__all__ = ["SyncQueueMethods"]

T = TypeVar("T")


class SyncQueueMethods(ABC):
    """What a blocking client can do with queues."""

    @property
    @abstractmethod
    def _twin(self) -> QueueMethods:
        """The client that does the work."""

    @abstractmethod
    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work of the client's, and wait for it."""

    def queues(self, limit: int = 100) -> tuple[QueueInfo, ...]:
        """Return queues, by name."""
        return self._wait(self._twin.queues(limit))

    def queue(self, name: str) -> QueueInfo:
        """Return a queue, with what waits on it."""
        return self._wait(self._twin.queue(name))

    def set_queue(
        self,
        name: str,
        *,
        paused: bool | None = None,
        limit: int | None = None,
        key_limit: int | None = None,
        rate: str | None = None,
        burst: int = 1,
    ) -> QueueInfo:
        """Say something of a queue. See `Client.set_queue`."""
        said = self._twin.set_queue(name, paused=paused, limit=limit, key_limit=key_limit, rate=rate, burst=burst)
        return self._wait(said)

    def purge_queue(self, name: str, reason: str | None = None) -> int:
        """Cancel every run of a queue that waits. Returns how many there were."""
        return self._wait(self._twin.purge_queue(name, reason))

    def dead_letters(self, name: str, limit: int = 100) -> DeadLetters:
        """Return the runs of a queue that ended as dead. See `Client.dead_letters`."""
        return self._wait(self._twin.dead_letters(name, limit))

    def retry_dead(self, name: str) -> int:
        """Submit the dead letters of a queue again, each once. Returns how many there were."""
        return self._wait(self._twin.retry_dead(name))
