"""Parents and children on stores of every kind: whenever a hub is killed, each step between them happens once."""

from __future__ import annotations

from orchestrator.store.base import Store
from tests.support.relatives import KILLS, World, walk_cancel, walk_end, walk_submit


async def test_what_passes_between_a_parent_and_its_children_happens_once(store: Store) -> None:
    for number, (lives, after) in enumerate(KILLS[::3]):
        for walk in (walk_submit, walk_end, walk_cancel):
            await walk(World(store, f"{walk.__name__.replace('_', '-')}-{number}"), lives, after)
