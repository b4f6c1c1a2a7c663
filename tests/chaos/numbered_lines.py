"""A program that publishes the lines of a file, and is killed at any moment.

    python -m tests.chaos.numbered_lines FILE TOPIC STATE_DIR

It continues its source after the last mark of its outbox, prints `from MARK` when it begins, and ends with 0
when every line is acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import islice
from pathlib import Path

from agent.client import Client
from agent.publisher import DiskPublisher


async def publish(file: Path, topic: str, state: Path) -> None:
    """Publish what is left of the file."""
    async with Client.connect(timeout=None) as client:
        publisher = await client.publisher(topic, state_dir=state)
        assert isinstance(publisher, DiskPublisher)
        async with publisher:
            done = int(publisher.last_mark or 0)
            print(f"from {done}", flush=True)
            with file.open() as lines:
                for number, line in islice(enumerate(lines, 1), done, None):
                    await publisher.publish("line", line.rstrip("\n"), mark=str(number))


if __name__ == "__main__":
    asyncio.run(publish(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
