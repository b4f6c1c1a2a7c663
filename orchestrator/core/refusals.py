"""What was refused, counted until it is written down: pure.

The same refusal again costs a look into a dictionary. What is written of it is one entry the first time and one for
each interval after that, however often it came. How much can be told apart is bounded, for each peer, for all who are
not known and altogether; past that only the kind of thing is counted, so that nobody's flood hides what others do.

Specification: docs/protocol.md, section "Audit".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from protocol.ids import LogKind, LogName
from protocol.refusals import AUDIT_TOPIC, Refusals, What

__all__ = [
    "NOTED_MAX",
    "OTHERS",
    "PEER_MAX",
    "REPEAT_MS",
    "STRANGERS_MAX",
    "Counted",
    "Refusal",
    "Tallies",
    "asked_for",
    "audit_log",
    "network_of",
]

REPEAT_MS = 60_000
"""How often the same refusal is written down at most."""
NOTED_MAX = 4_096
"""Refusals that are told apart at once."""
PEER_MAX = 32
"""Those of them that are of one peer."""
STRANGERS_MAX = 256
"""Those of them that are of peers which nobody authenticated."""
OTHERS = "others"
"""The reason of what is no longer told apart."""
NETWORKS_KEPT_MAX = 4_096
"""Whoever floods a hub comes from the same addresses again and again."""
ABOUT_CHARACTERS_MAX = 160
SITE_BITS = {4: 24, 6: 48}
_NAMES = ("run", "log", "queue", "agent", "schedule", "parent")
"""Parameters of requests that name what the request is about."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that was refused, as far as it is told from others.

    Attributes:
        namespace: whose concern it is; that of a peer which was not authenticated is `default`.
        what: it asked for.
        code: an error code, or the name of a close code in lower case.
        reason: a word of ours for why, where the code does not say; never what a peer sent.
        who: the principal, "" where nobody was authenticated.
        about: the log, method, queue or agent that it was to.
        network: where a peer came from that was not authenticated, see `network_of`.
        agent: the agent in whose log it belongs, if it has one; else it belongs in `topic/audit`.
    """

    namespace: str
    what: What
    code: str
    reason: str = ""
    who: str = ""
    about: str = ""
    network: str = ""
    agent: str = ""

    @property
    def log(self) -> LogName:
        """Where it is to be written down."""
        return LogName(self.namespace, LogKind.AGENT, self.agent) if self.agent else audit_log(self.namespace)


@dataclass(slots=True)
class _Tally:
    count: int
    first_ms: int
    last_ms: int
    written_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """A refusal with how often it came since it was written down last, and from when to when."""

    refusal: Refusal
    count: int
    first_ms: int
    last_ms: int

    def body(self) -> Refusals:
        """Return what is written down of it."""
        what = self.refusal
        return Refusals(
            what=what.what,
            code=what.code,
            count=self.count,
            first_ms=self.first_ms,
            last_ms=self.last_ms,
            reason=what.reason or None,
            who=what.who[:ABOUT_CHARACTERS_MAX] or None,
            about=what.about[:ABOUT_CHARACTERS_MAX] or None,
            network=what.network or None,
        )


class Tallies:
    """The refusals that are not written down yet, and those that were a short while ago."""

    def __init__(self) -> None:
        self._tallies: dict[Refusal, _Tally] = {}
        self._noted: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        """How many refusals are told apart."""
        return len(self._tallies)

    def note(self, refusal: Refusal, now_ms: int) -> None:
        """Count a refusal."""
        self._add(Counted(refusal, 1, now_ms, now_ms))

    def take(self, now_ms: int, *, everything: bool = False) -> list[Counted]:
        """Return what is to be written down now, and count it anew; what did not come again is forgotten.

        Args:
            now_ms: the time.
            everything: also what was written down a short while ago.
        """
        if not self._tallies:
            return []
        found: list[Counted] = []
        for refusal, tally in tuple(self._tallies.items()):
            written_ms = tally.written_ms
            if not everything and written_ms is not None and 0 <= now_ms - written_ms < REPEAT_MS:
                continue
            if tally.count:
                found.append(Counted(refusal, tally.count, tally.first_ms, tally.last_ms))
                tally.count, tally.written_ms = 0, now_ms
            else:
                del self._tallies[refusal]
                self._noted[_source(refusal)] -= 1
        self._noted += Counter()  # those that are 0 leave
        return found

    def put_back(self, counted: Iterable[Counted]) -> None:
        """Take back what could not be written down."""
        for each in counted:
            self._add(each)
            self._tallies[self._place(each.refusal)].written_ms = None

    def _add(self, counted: Counted) -> None:
        refusal = self._place(counted.refusal)
        tally = self._tallies.get(refusal)
        if tally is None:
            self._tallies[refusal] = _Tally(counted.count, counted.first_ms, counted.last_ms)
            self._noted[_source(refusal)] += 1
            return
        tally.first_ms = min(tally.first_ms, counted.first_ms) if tally.count else counted.first_ms
        tally.last_ms = max(tally.last_ms, counted.last_ms) if tally.count else counted.last_ms
        tally.count += counted.count

    def _place(self, refusal: Refusal) -> Refusal:
        """Return what a refusal is counted as: itself, while there is room."""
        if refusal in self._tallies:
            return refusal
        source_max = PEER_MAX if refusal.who else STRANGERS_MAX
        if len(self._tallies) < NOTED_MAX and self._noted[_source(refusal)] < source_max:
            return refusal
        coarse = replace(refusal, reason=OTHERS, about="", network="", agent="")
        if coarse in self._tallies or len(self._tallies) < NOTED_MAX:
            return coarse
        return replace(coarse, who="")


def asked_for(method: str, params: Mapping[str, Any]) -> str:
    """Return what a request is about, in the few words that are written down of it: no other parameter is."""
    names = (params[name] for name in _NAMES if isinstance(params.get(name), str))
    return " ".join((method, *(name[:ABOUT_CHARACTERS_MAX] for name in names)))[:ABOUT_CHARACTERS_MAX]


def audit_log(namespace: str) -> LogName:
    """Return the log where hubs write down what they refused in a namespace."""
    return LogName(namespace, LogKind.TOPIC, AUDIT_TOPIC)


@lru_cache(maxsize=NETWORKS_KEPT_MAX)
def network_of(address: str) -> str:
    """Return the network of an address, or of a part of it: as much as is written down is /24, or /48 of IPv6."""
    try:
        parsed = ip_address(address.partition("/")[0].partition("%")[0])
    except ValueError:
        return "unknown"
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback:
        return "loopback"
    return str(ip_network(f"{parsed}/{SITE_BITS[parsed.version]}", strict=False))


def _source(refusal: Refusal) -> tuple[str, str]:
    """Return whose room a refusal takes: all who are not known share theirs."""
    return (refusal.namespace, refusal.who) if refusal.who else ("", "")
