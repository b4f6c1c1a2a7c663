"""The publisher process of `ingest`: the agent package's publisher, on one topic, in a loop.

uvloop drives the loop that publishes; the link's own thread has the loop that the agent package gives it.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import structlog
import uvloop

from agent.client import Client
from agent.publisher import Publisher
from scripts.bench.lib.child import ChildFailed, serve

__all__: list[str] = []

KIND = "bench"


async def _round(command: dict[str, Any]) -> dict[str, Any]:
    """Publish `count` entries and return the seconds from the first to the last acknowledgement."""
    count, body = command["count"], b"x" * command["body_bytes"]
    async with Client.connect(command["url"], directory=sys.argv[1]) as client:
        window = client.links.main.peer.limits.publish_entries_max
        if window != command["in_flight"]:
            raise ChildFailed(f"the hub takes {window} entries in flight, not {command['in_flight']}")
        publisher = await client.publisher(command["name"])
        assert isinstance(publisher, Publisher)
        began = time.perf_counter()
        for _ in range(count):
            await publisher.publish(KIND, body)
        await publisher.flush()
        seconds = time.perf_counter() - began
        await publisher.aclose()
        head = (await client.log(f"topic/{command['name']}")).head.offset
        if head != count:
            raise ChildFailed(f"the hub acknowledged {count} entries and holds {head}")
    return {"seconds": seconds}


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    uvloop.run(serve(_round))
