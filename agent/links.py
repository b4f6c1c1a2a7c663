"""The links of one program: a main one, and more where one log is followed twice.

A link has one subscription to a log. A second reader of the same log, with a place of its own, gets another
connection; links share one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.link import Link

if TYPE_CHECKING:
    from agent.discovery import Endpoint
    from agent.subscriptions import Subscription
    from agent.threads import LoopThread
    from protocol.frames import Identify

__all__ = ["Links"]


class Links:
    """The links of one client or agent, on one thread."""

    def __init__(self, identity: Identify, locate: Callable[[], Endpoint], thread: LoopThread) -> None:
        self._identity = identity
        self._locate = locate
        self._lock = threading.Lock()
        self.thread = thread
        self.main = Link(identity, locate, thread)
        self._logs: dict[Link, set[str]] = {self.main: set()}

    def follow(self, subscription: Subscription) -> Link:
        """Follow a log on the first link that does not follow it yet."""
        with self._lock:
            link = next((link for link, logs in self._logs.items() if subscription.log not in logs), None)
            if link is None:
                link = Link(self._identity, self._locate, self.thread)
                self._logs[link] = set()
                link.open()
            self._logs[link].add(subscription.log)
        link.follow(subscription)
        return link

    def unfollow(self, link: Link, subscription: Subscription) -> None:
        """Follow it no more. The link is free for the log again: what it is told comes after."""
        link.unfollow(subscription)
        with self._lock:
            self._logs[link].discard(subscription.log)

    def close(self, reason: str) -> None:
        """Say goodbye on every link."""
        for link in reversed(tuple(self._logs)):  # the main one last: its end is waited for
            link.leave(reason)
