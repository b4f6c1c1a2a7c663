"""A link without a session: why it has none, when it is tried again, and what is said of it.

That the hub is away is said once, and once that it is back, however often it was tried in between.
"""

from __future__ import annotations

import structlog

from agent.errors import HubUnreachable
from agent.identity import KeyPending
from protocol.backoff import backoff_ms
from protocol.codes import CloseCode
from protocol.frames import Identify, Ready, Role

__all__ = ["READY_FAILURES_MAX", "Absence"]

log = structlog.get_logger("fleetline.link")

PENDING_MS = 1_000, 5_000
"""A key that an operator has to accept is tried again after a time between these: somebody may be waiting for it."""
READY_FAILURES_MAX = 3
"""A hub that opens sessions is there: one that soon loses them is tried again sooner than one that is gone."""


class Absence:
    """What a link remembers from one try to the next.

    Attributes:
        reason: why there is no session; "" while there is one.
        remedy: what to do about it, where that is another thing than to wait, or to start a hub.
        pending: the hub said last that an operator has to accept the key.
    """

    def __init__(self, identity: Identify) -> None:
        self.reason = "not tried yet"
        self.remedy = ""
        self.pending = False
        self._identity = identity
        self._failures = 0
        self._told = False
        self._was_open = False

    def failed(self, reason: str, url: str, draw: float, code: int = 0, remedy: str = "") -> int:
        """Note why a try or a session came to nothing. Returns how long to wait before the next try, in ms.

        `draw` is a random number in [0, 1), `code` what the hub closed the connection with, if it did.
        """
        self._failures += 1
        self.reason, self.remedy = reason, remedy
        self.pending = code == CloseCode.KEY_PENDING
        least_ms, most_ms = PENDING_MS
        pause_ms = backoff_ms(self._failures, draw)
        if self.pending:
            pause_ms = least_ms + int(draw * (most_ms - least_ms))
        # A client whose first connection fails is given the error.
        news = not self._told and (self._was_open or self._identity.role is Role.AGENT)
        self._told |= news
        tell = log.warning if news else log.debug
        tell("link_dropped", peer=self._identity.id, url=url, reason=reason, retry_ms=pause_ms)
        return pause_ms

    def unreachable(self, url: str, within_s: float | None) -> HubUnreachable:
        """Return the error for a hub with which no session was opened in time."""
        if self.pending:
            return KeyPending(url, self.reason)
        return HubUnreachable(url, self.reason, within_s, self.remedy)

    def over(self, frame: Ready) -> None:
        """A session is open."""
        tell, event = (log.warning, "link_back") if self._told else (log.debug, "link_ready")
        tell(event, peer=self._identity.id, session=frame.session, resumed=frame.resumed)
        self._was_open = True
        self._told = False
        self._failures = min(self._failures, READY_FAILURES_MAX)
        self.reason = ""

    def useful(self) -> None:
        """The session was of use: the next failure is the first again."""
        self._failures = 0
