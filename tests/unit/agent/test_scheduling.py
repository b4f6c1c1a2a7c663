"""What a client asks for when it makes a schedule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.scheduling import ScheduleMethods
from protocol.codec import pack_value
from protocol.frames import Part


class _Asked(ScheduleMethods):
    def __init__(self) -> None:
        self.params: list[Part] = []

    async def ask(self, method: str, params: Part) -> Any:
        assert method == "schedule.add"
        self.params.append(params)

    def _pack(self, value: Any, log: str) -> bytes:
        del log
        return pack_value(value)


@pytest.mark.parametrize("option", ["delay", "keep", "concurrency_key"])
def test_an_option_that_no_schedule_has_is_refused_and_not_left_out(option: str) -> None:
    client, options = _Asked(), {option: 60}
    with pytest.raises(TypeError, match=f"there is no option '{option}' here"):
        asyncio.run(client.add_schedule("nightly", "0 3 * * *", "clean", **options))  # type: ignore[arg-type]
    assert client.params == []
    asyncio.run(client.add_schedule("nightly", "0 3 * * *", "clean", retries=2))
    assert len(client.params) == 1
