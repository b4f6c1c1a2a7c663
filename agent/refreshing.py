"""When a session is given a newer token: before the one that it was opened with runs out.

Where the token comes from (a file, a function) is asked again when a third of its life is left, five minutes before its
end at the latest, and from then on ever more often, until a newer one is there. A hub whose session outlived its token
says so in a heartbeat; then it is asked at once.

A file may be read while it is written. So a newer token is said only when it was read twice, with a pause in between.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from pydantic import SecretStr

from protocol.frames import Heartbeat, Hello, Ready, Refresh, Refreshed

if TYPE_CHECKING:
    from agent.discovery import Endpoint

__all__ = ["Refreshing"]

AHEAD_MS = 300_000
LOOK_LEAST_MS = 500
LOOK_MOST_MS = 30_000

log = structlog.get_logger("fleetline.link")


class Refreshing:
    """The token of one link, from one session to the next. Used by the link's thread only."""

    def __init__(self) -> None:
        self._locate: Callable[[], Endpoint] | None = None
        self._said: SecretStr | None = None
        self._seen: SecretStr | None = None
        self._clock_gap_ms: int | None = None
        self._ends_ms: int | None = None
        self._look_ms: int | None = None

    def noting(self, locate: Callable[[], Endpoint]) -> Callable[[], Endpoint]:
        """Return what finds the hub, and notes the token that the connection comes with."""
        self._locate = locate

        def located() -> Endpoint:
            endpoint = locate()
            self._said, self._seen = endpoint.token, None
            return endpoint

        return located

    def on_hello(self, frame: Hello, now_ms: int) -> None:
        """Note the hub's clock, by which tokens end."""
        self._clock_gap_ms = frame.store_ms - now_ms
        self._look_ms = None

    def on_ready(self, frame: Ready, now_ms: int) -> None:
        """Note when the token of a session ends."""
        self._plan(frame.expires_ms, now_ms)

    def on_refreshed(self, frame: Refreshed, now_ms: int) -> None:
        """Note when the newer token ends."""
        self._plan(frame.expires_ms, now_ms)

    def on_heartbeat(self, frame: Heartbeat, now_ms: int) -> None:
        """Look for a newer token at once, where the hub says that the one it has has run out."""
        if frame.refresh_ms is not None and self._look_ms is not None:
            log.warning("token_expired", ends_in_ms=frame.refresh_ms)
            self._look_ms = now_ms

    def due_ms(self) -> int | None:
        """Return when `take` looks next."""
        return self._look_ms

    def take(self, now_ms: int) -> Refresh | None:
        """Return the newer token to say, where there is one."""
        if self._look_ms is None or now_ms < self._look_ms:
            return None
        token = self._read()
        if token is None or token == self._said:
            self._look_again(now_ms)
            return None
        if token != self._seen:
            self._seen, self._look_ms = token, now_ms + LOOK_LEAST_MS
            return None
        self._said, self._seen, self._look_ms = token, None, None  # until it is answered
        return Refresh(token=token.get_secret_value())

    def _plan(self, expires_ms: int | None, now_ms: int) -> None:
        if expires_ms is None or self._clock_gap_ms is None or self._said is None:
            self._look_ms = None
            return
        self._ends_ms = expires_ms - self._clock_gap_ms
        left_ms = self._ends_ms - now_ms
        self._look_ms = self._ends_ms - min(AHEAD_MS, left_ms // 3)

    def _look_again(self, now_ms: int) -> None:
        assert self._ends_ms is not None
        left_ms = max(0, self._ends_ms - now_ms)
        self._look_ms = now_ms + max(LOOK_LEAST_MS, min(LOOK_MOST_MS, left_ms // 4))

    def _read(self) -> SecretStr | None:
        """Return the token that there is now; None where none can be read."""
        assert self._locate is not None
        try:
            token = self._locate().token
        except Exception as fault:  # noqa: BLE001 - a file that is not there now, or a function that is not ours
            log.debug("token_not_read", reason=type(fault).__name__)
            return None
        return token if token is not None and token.get_secret_value().count(".") == 2 else None
