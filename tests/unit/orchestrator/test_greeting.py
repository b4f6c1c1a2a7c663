"""The first frame, which is put together from parts encoded before, is what its parts say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.greeting import Greeting
from orchestrator.line import Line
from orchestrator.settings import Settings
from protocol.codec import decode, encode
from protocol.frames import Hello


@pytest.mark.parametrize("nonce", [bytes(16), b"\xc1" * 16, bytes(range(240, 256))])
@pytest.mark.parametrize("store_ms", [0, 1_700_000_000_000, 2**63 - 1])
def test_hello_is_put_together(nonce: bytes, store_ms: int) -> None:
    settings = Settings(heartbeat_ms=700)
    line = cast(Line, SimpleNamespace(hub_id="0123456789abcdef", level="local", now_ms=lambda: store_ms))
    greeting = Greeting(settings, line)
    [hello] = decode(greeting.frame(nonce), 10_000)
    assert isinstance(hello, Hello)
    assert (hello.nonce, hello.store_ms) == (nonce, store_ms)
    assert (hello.hub, hello.durability, hello.heartbeat_ms) == ("0123456789abcdef", "local", 700)
    assert hello.limits == settings.limits
    assert encode(hello).startswith(greeting.frame(nonce)[:20])
