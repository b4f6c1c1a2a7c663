"""A producer's record, and what it says about the next append: fence, then dedupe.

One record for each producer of a log, in the hash `keys.producers(log)`, as six words: owner fence, last
accepted seq, offset of that entry, first seq and digest of the last accepted frame, and when it was last used.
`scripts/commit.lua` holds the same rules for the server; the contract tests hold the two together.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.store.base import PRODUCER_TTL_MS
from orchestrator.store.commits import ProducerClaim, Refusal

__all__ = ["ProducerRecord", "check_claim"]


@dataclass(frozen=True, slots=True)
class ProducerRecord:
    """What a log remembers of a producer.

    Attributes:
        fence: the owner fence it was last opened with.
        last: its last accepted seq; 0 before the first.
        last_offset: the offset of that entry; 0 before the first.
        first: seq of the first entry of the last accepted frame.
        digest: digest of that frame; without spaces, may be empty.
        ts_ms: when it was opened or last accepted, by the store's clock.
    """

    fence: int
    last: int = 0
    last_offset: int = 0
    first: int = 0
    digest: str = ""
    ts_ms: int = 0

    def encode(self) -> str:
        """Return the value of the hash field."""
        return f"{self.fence} {self.last} {self.last_offset} {self.first} {self.digest} {self.ts_ms}"

    @classmethod
    def decode(cls, value: str | bytes) -> ProducerRecord:
        """Read the value of the hash field.

        Raises:
            ValueError: it is not a producer's record.
        """
        text = value.decode() if isinstance(value, bytes) else value
        words = text.split(" ")
        if len(words) != 6:
            raise ValueError(f"not a producer's record: {text[:200]!r}")
        fence, last, last_offset, first, digest, ts_ms = words
        return cls(int(fence), int(last), int(last_offset), int(first), digest, int(ts_ms))


def check_claim(record: ProducerRecord | None, claim: ProducerClaim, entries: int, now_ms: int) -> int | Refusal:
    """Return how many of an append's entries were accepted before, or why it is refused.

    Args:
        record: what the log remembers of the producer, or None.
        claim: what the append says.
        entries: how many entries the append has, the hub's own among them.
        now_ms: the store's clock.
    """
    if record is None or record.ts_ms + PRODUCER_TTL_MS < now_ms:
        return Refusal.PRODUCER_UNKNOWN
    if claim.fence != record.fence:
        return Refusal.FENCED
    if claim.count == 0:
        return 0
    upto = claim.seq + claim.count - 1
    if upto == record.last and claim.seq == record.first and claim.digest != record.digest:
        return Refusal.CONFLICT
    if upto <= record.last:
        return entries
    if claim.seq > record.last + 1:
        return Refusal.OUT_OF_ORDER
    return record.last + 1 - claim.seq
