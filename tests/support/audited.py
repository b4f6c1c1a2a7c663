"""What hubs have written down of what they refused."""

from __future__ import annotations

from typing import Any

from orchestrator.core.refusals import audit_log
from protocol.codec import unpack_record, unpack_value
from protocol.ids import LogName
from tests.support.hub_world import World

__all__ = ["refusals"]


async def refusals(world: World, log: LogName | None = None) -> list[dict[str, Any]]:
    """Return what the last hub wrote down in a log, or in the default namespace's audit, having it written first."""
    hub = world.hubs[-1].services
    await hub.audit.write(everything=True)
    page = await hub.line.store.read(log or audit_log("default"), 0, 1000)
    records = [unpack_record(entry.packed) for entry in page.entries] if page else []
    assert all(b"secret" not in record.body for record in records)
    return [unpack_value(record.body) for record in records if record.kind == "$refused"]
