"""How much chaos: a short form for every run of the suite, and longer ones by environment variables.

FLEETLINE_CHAOS_ROUNDS   kills, cuts and restarts of each kind, times the short form's
FLEETLINE_CHAOS_LONG     the full times of the lease tests (5 s leases, handlers of 60 s and 20 s)
"""

from __future__ import annotations

import os

__all__ = ["LONG", "ROUNDS", "rounds"]

ROUNDS = int(os.environ.get("FLEETLINE_CHAOS_ROUNDS", "1"))
LONG = bool(os.environ.get("FLEETLINE_CHAOS_LONG"))


def rounds(short: int) -> int:
    """Return how often to do what the short form does `short` times."""
    return short * ROUNDS
