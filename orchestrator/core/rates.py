"""How fast one principal may send: token buckets of frames, entries and bytes, shared by its sessions on a hub.

A bucket is charged for what has come, however much, and may so be overdrawn; then nothing more is read until it is
even again. So a message is never taken apart, and over time no more comes than the rate. What a bucket has is looked
at anew only when it seems empty: while there is enough, a message costs three subtractions and a comparison.

Specification: docs/protocol.md, section "Limits".
"""

from __future__ import annotations

import math

from protocol.limits import MESSAGE_FRAMES_MAX, RATE_BURST_S, Limits

__all__ = ["REST_S_MAX", "Meter", "Meters", "limited", "lowest"]

KINDS = ("frames_per_s_max", "entries_per_s_max", "bytes_per_s_max")
REST_S_MAX = 60
"""How long it may take at most to make up for what may come in one piece: so long, a session would be deaf."""
BEATS_A_RATE = 2
"""How many times the heartbeats of one session a rate has room for at least."""
SPARE_METERS_MAX = 1024
"""Meters of principals without a session that are kept: whoever comes back finds its own as it left it."""


def limited(limits: Limits) -> bool:
    """Whether any rate is limited."""
    return any(getattr(limits, kind) for kind in KINDS)


def lowest(limits: Limits, interval_ms: int) -> dict[str, tuple[int, str]]:
    """Return for each rate the lowest with which a session can go on, and why it is that.

    Args:
        limits: of a session.
        interval_ms: between heartbeats.
    """
    rest = f"is made up for within {REST_S_MAX} s"
    beats, frames = -(-BEATS_A_RATE * 1000 // interval_ms), -(-MESSAGE_FRAMES_MAX // REST_S_MAX)
    for_beats = f"a session sends a heartbeat every {interval_ms} ms, and more than that"
    for_frames = f"a message of {MESSAGE_FRAMES_MAX} frames {rest}"
    return {
        "frames_per_s_max": (beats, for_beats) if beats > frames else (frames, for_frames),
        "entries_per_s_max": (-(-limits.frame_entries_max // REST_S_MAX), f"a publish of frame_entries_max {rest}"),
        "bytes_per_s_max": (-(-limits.message_bytes_max // REST_S_MAX), f"a message of message_bytes_max {rest}"),
    }


class Meter:
    """The buckets of one principal.

    Args:
        limits: what may come each second; 0 for any amount.
        now_ms: a clock that never steps.
    """

    __slots__ = ("_at_ms", "_rates", "bytes", "entries", "frames", "sessions")

    def __init__(self, limits: Limits, now_ms: int) -> None:
        self._rates = tuple(float(getattr(limits, kind) or math.inf) for kind in KINDS)
        self._at_ms = now_ms
        self.frames, self.entries, self.bytes = (rate * RATE_BURST_S for rate in self._rates)
        self.sessions = 0

    def charge(self, frames: int, entries: int, size: int, now_ms: int) -> int:
        """Take note of what came. Returns for how many ms nothing more is to be read."""
        self.frames -= frames
        self.entries -= entries
        self.bytes -= size
        if min(self.frames, self.entries, self.bytes) >= 0:
            return 0
        return self.rest_ms(now_ms, (frames, entries, size))

    def rest_ms(self, now_ms: int, just_now: tuple[int, int, int] = (0, 0, 0)) -> int:
        """Return for how many ms nothing more is to be read from now on; `just_now` was charged after all else."""
        passed_s = max(0, now_ms - self._at_ms) / 1000
        self._at_ms = max(now_ms, self._at_ms)
        has = (self.frames, self.entries, self.bytes)
        self.frames, self.entries, self.bytes = left = [
            min(rate * RATE_BURST_S, amount + new + rate * passed_s) - new if rate < math.inf else rate
            for rate, amount, new in zip(self._rates, has, just_now, strict=True)
        ]
        owed_s = max(-amount / rate for rate, amount in zip(self._rates, left, strict=True) if rate < math.inf)
        return max(0, math.ceil(round(owed_s * 1000, 3)))

    @property
    def short_of(self) -> str:
        """The rate that it owes most of."""
        has = (self.frames, self.entries, self.bytes)
        left = zip(KINDS, self._rates, has, strict=True)
        return min((amount / rate, kind) for kind, rate, amount in left if rate < math.inf)[1]

    def full(self, now_ms: int) -> bool:
        """Whether it is as a new one would be."""
        self.rest_ms(now_ms)
        return all(
            amount >= rate * RATE_BURST_S
            for rate, amount in zip(self._rates, (self.frames, self.entries, self.bytes), strict=True)
        )


class Meters:
    """The meters of one hub, by principal.

    Args:
        limits: of each.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._on = limited(limits)
        self._meters: dict[str, Meter] = {}
        self._spare: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._meters)

    def enter(self, name: str, now_ms: int) -> Meter | None:
        """Return the meter for another session of a principal; None where nothing is limited."""
        if not self._on:
            return None
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = Meter(self._limits, now_ms)
        meter.sessions += 1
        self._spare.pop(name, None)
        return meter

    def leave(self, name: str, now_ms: int) -> None:
        """A session of a principal is over. What it owes it still owes when it comes back."""
        meter = self._meters.get(name)
        if meter is None:
            return
        meter.sessions -= 1
        if meter.sessions:
            return
        if meter.full(now_ms):
            del self._meters[name]
            return
        self._spare[name] = None
        if len(self._spare) > SPARE_METERS_MAX:
            longest = next(iter(self._spare))
            del self._spare[longest], self._meters[longest]
