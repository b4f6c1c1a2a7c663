"""What an agent's log says of it: bodies of entries.

Specification: docs/protocol.md, section "Control entries".
"""

from __future__ import annotations

from protocol.frames import Name, Part, Span, UInt

__all__ = ["Connected", "Cordoned", "Disconnected", "Drained", "Draining", "Superseded"]


class Connected(Part):
    """A session of the agent opened; it is a `takeover` where another process had the id before."""

    session: Name
    fence: UInt
    instance: Name
    hub: Name
    takeover: bool


class Disconnected(Part):
    """A session of the agent ended."""

    session: Name
    reason: str


class Superseded(Part):
    """A session of the agent was ended by a newer one, `by`."""

    session: Name
    by: Name


class Cordoned(Part):
    """The agent is given no work from here on, or is again; there is nothing more to say of it."""


class Draining(Part):
    """The agent's process is to finish what it works on, within `grace_ms` where that is said, and to end."""

    instance: Name
    grace_ms: Span | None = None


class Drained(Part):
    """A process of the agent that was told to finish has done so."""

    instance: Name
