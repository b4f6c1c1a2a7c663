"""What the columns of the lists mean: the help of each list says it, and so does docs/guide.md, section "Lists"."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["AGENTS", "ARTIFACTS", "DEAD", "KEYS", "LOGS", "QUEUES", "REVOKED", "RUNS", "SCHEDULES", "epilog"]

RUNS = {
    "RUN": "its id",
    "STATE": "queued, running, succeeded, failed, cancelled, expired or dead",
    "HANDLER": "what does it",
    "QUEUE": "where agents take it from",
    "ATTEMPT": "the number of its latest attempt, 0 before the first",
    "AGENT": "who holds it, or held it last",
    "SUBMITTED": "when",
}
QUEUES = {
    "QUEUE": "its name",
    "STATE": "open or paused",
    "WAITING": "runs that wait for an agent",
    "LATER": "runs that come to it later: delayed, suspended, or waiting for a further try",
    "ACTIVE": "runs that agents work on",
    "LIMIT": "how many may be active at once; any number where it is empty",
    "PER KEY": "how many of those with the same concurrency key; likewise",
    "RATE": "how fast they start; as fast as agents take them where it is empty",
    "PARKED": "runs that wait until fewer with their concurrency key are worked on",
    "DEAD": "dead letters: runs that failed or were lost too often, and were not submitted again",
}
DEAD = {
    "RUN": "its id",
    "HANDLER": "what did it",
    "ATTEMPT": "how many attempts it had",
    "DIED": "when",
    "ERROR": "what it failed with last",
}
ARTIFACTS = {
    "NAME": "what it was attached as",
    "BYTES": "its size",
    "ATTEMPT": "which attempt attached it",
    "SHA-256": "of its content",
}
AGENTS = {
    "AGENT": "its id",
    "STATE": "connected or away; cordoned or draining where that is so",
    "SINCE": "when that began",
    "QUEUES": "where it takes runs from",
    "SLOTS": "how many it works on at a time",
    "LOAD": "how busy it says that it is, 0% to 100%",
    "VERSION": "of its code, where it says so",
    "LABELS": "what it says of itself, for `run submit --where`",
}
SCHEDULES = {
    "SCHEDULE": "its name",
    "CRON": "when it is due",
    "TIMEZONE": "whose clock that is about",
    "HANDLER": "what does its runs",
    "STATE": "open or paused",
    "NEXT": "when it is due next, by that clock",
    "LAST RUN": "id of the latest run that it made",
}
KEYS = {
    "NAME": "whose it is",
    "STATE": "pending, accepted, rejected or revoked",
    "FINGERPRINT": "of the key",
    "SCOPES": "what its holder may do",
    "MAY": "the names that its holder does it with; everything where it is empty",
    "SINCE": "when that state began",
    "BY": "who decided; join:NAME is a join token",
    "REFUSED": "another key that somebody came with, and how often that was noted",
}
REVOKED = {
    "WHAT": "token, name (all tokens that were issued to it until then), agent or key",
    "ID": "of the token, the name or the agent; the key's fingerprint",
    "SINCE": "when it was revoked",
    "UNTIL": "from when it matters no more, and is forgotten; kept until it is lifted where it is empty",
    "BY": "who did it",
}
LOGS = {
    "LOG": "run/ID, topic/NAME, agent/ID or artifact/ID",
    "HEAD": "its last offset",
    "FIRST": "the first offset that is kept",
    "LAST ENTRY": "when it was written",
}


def epilog(columns: Mapping[str, str]) -> str:
    """Return the end of a list's help."""
    said = ", ".join(f"{name} ({what})" for name, what in columns.items())
    return f"Columns: {said}. Where the output is no terminal they stand between tabs, without a header."
