"""Every limit of the protocol, with its name, unit and default. The hub announces them in `hello`.

Specification: docs/protocol.md, section "Limits".
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ARRAYS_MAX",
    "DEFAULT_HANDSHAKE_MS",
    "DEFAULT_LIMITS",
    "ITEMS_MAX",
    "KEPT_TAGS_MAX",
    "MAPS_MAX",
    "MESSAGE_FRAMES_MAX",
    "NESTING_MAX",
    "RATE_BURST_S",
    "UNIDENTIFIED_BYTES_MAX",
    "Limits",
]

NESTING_MAX = 16
"""Levels of arrays and maps in one frame, where the hub does not announce another limit."""

ITEMS_MAX = 4096
"""Items of one array or map in a frame: msgpack makes room for as many as a header claims."""

MESSAGE_FRAMES_MAX = 1024
"""Frames of one message."""

MAPS_MAX = 16_384
"""Maps in one message, frames among them: an empty one takes a byte on the wire and 64 in memory."""

ARRAYS_MAX = 524_288
"""Arrays in one message, for the same reason."""

UNIDENTIFIED_BYTES_MAX = 64 * 1024
"""Bytes of a message before the session is identified."""

KEPT_TAGS_MAX = 4096
"""Tags that a peer keeps for each subscription, to find where a diverged log parted."""

DEFAULT_HANDSHAKE_MS = 10_000

RATE_BURST_S = 2
"""Seconds' worth of a rate that may come at once."""


class Limits(BaseModel):
    """What peers may use. A side that goes past a limit is refused, never buffered for."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    handshake_ms: int = Field(DEFAULT_HANDSHAKE_MS, ge=100)
    """Time for a connection to identify itself."""
    unidentified_max: int = Field(8192, ge=1)
    """Connections at once that have not; the longest silent makes way."""
    unidentified_per_address_max: int = Field(4096, ge=1)
    """Of those, how many from one address, or one /64 of IPv6."""
    sessions_per_principal_max: int = Field(16_384, ge=1)
    """Sessions at once with tokens, or the key, of one name in one namespace."""
    message_bytes_max: int = Field(4 * 1024 * 1024, ge=UNIDENTIFIED_BYTES_MAX)
    nesting_max: int = Field(NESTING_MAX, ge=8, le=64)
    """Levels of arrays and maps in a request, the frame itself being the first."""
    body_bytes_max: int = Field(1024 * 1024, ge=1)
    frame_entries_max: int = Field(256, ge=1)
    publish_entries_max: int = Field(8192, ge=1)
    """Entries published and not yet acknowledged, for each session."""
    publish_bytes_max: int = Field(8 * 1024 * 1024, ge=1024)
    window_entries_max: int = Field(8192, ge=1)
    window_bytes_max: int = Field(8 * 1024 * 1024, ge=1024)
    subscriptions_max: int = Field(1024, ge=1)
    requests_max: int = Field(256, ge=1)
    """Requests asked and not yet answered, for each session, but for those that wait for a run to end."""
    waits_max: int = Field(1024, ge=1)
    """Requests that wait for a run to end, likewise."""
    attempts_max: int = Field(1024, ge=1)
    artifact_bytes_max: int = Field(1024 * 1024 * 1024, ge=1)
    run_artifacts_bytes_max: int = Field(4 * 1024 * 1024 * 1024, ge=1)
    """Bytes of all artifacts of one run together."""
    frames_per_s_max: int = Field(0, ge=0)
    """Frames from all sessions of one principal on a hub; 0 for any number, here and in the next two."""
    entries_per_s_max: int = Field(0, ge=0)
    bytes_per_s_max: int = Field(0, ge=0)
    logs_per_day_max: int = Field(100_000, ge=0)
    """Logs of topics and agents that one principal makes in a day, over all hubs; 0 for any number, here and below."""
    runs_per_day_max: int = Field(0, ge=0)


DEFAULT_LIMITS = Limits()
