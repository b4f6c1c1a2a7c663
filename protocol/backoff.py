"""How long to wait before the next try: exponential backoff with full jitter.

After "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): the wait is drawn evenly from
nothing up to the bound, so that a thousand peers that lost one hub do not return as one.
"""

from __future__ import annotations

__all__ = ["RECONNECT_CAP_MS", "RECONNECT_FIRST_MS", "backoff_ms"]

RECONNECT_FIRST_MS = 200
RECONNECT_CAP_MS = 30_000


def backoff_ms(
    failures: int,
    draw: float,
    *,
    first_ms: int = RECONNECT_FIRST_MS,
    cap_ms: int = RECONNECT_CAP_MS,
) -> int:
    """Return the wait before the next try.

    Args:
        failures: tries that failed in a row, from 1.
        draw: a random number in [0, 1), given by the caller.
        first_ms: the bound after one failure; it doubles with each further one.
        cap_ms: the bound never grows past this.
    """
    bound = min(cap_ms, first_ms * 2 ** min(max(failures, 1) - 1, 32))
    return int(bound * draw)
