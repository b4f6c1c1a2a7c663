"""What the entry that ended a run says of its end.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

from protocol.codec import unpack_record
from protocol.control import Cancelled, Dead, Expired, Failed, Kind, RunError, Succeeded, read_control
from protocol.entry import Entry

__all__ = ["outcome_of"]


def outcome_of(last: Entry) -> tuple[bytes | None, RunError | None, str | None]:
    """Return what the entry that ended a run says: a result, an error or a reason."""
    record = unpack_record(last.packed)
    match record.kind:
        case Kind.SUCCEEDED:
            return read_control(Succeeded, record.body).result, None, None
        case Kind.FAILED:
            return None, read_control(Failed, record.body).error, None
        case Kind.DEAD:
            dead = read_control(Dead, record.body)
            return None, dead.error or RunError(type="dead", message=dead.reason), None
        case Kind.CANCELLED:
            return None, None, read_control(Cancelled, record.body).reason
        case Kind.EXPIRED:
            return None, None, read_control(Expired, record.body).reason
        case _:
            return None, None, None
