"""Tokens for thousands of agents, signed with the key of a hub's data directory: each its own, or one to enrol with."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from orchestrator.auth.keys import load_keys
from orchestrator.auth.principal import Grant
from orchestrator.auth.tokens import Tokens
from orchestrator.core.permissions import Scope

__all__ = ["agent_tokens", "join_tokens"]

TTL_S = 3600
NAMESPACE = "default"


def agent_tokens(data: Path, prefix: str, count: int) -> dict[str, str]:
    """Return so many agent ids, each with a token that permits to be that agent and no other."""
    tokens = Tokens(load_keys(data))
    now_s = int(time.time())
    issued: dict[str, str] = {}
    for number in range(count):
        name = f"{prefix}-{number:05d}"
        grant = Grant(name, NAMESPACE, frozenset({Scope.AGENT}), frozenset({name}))
        issued[name] = tokens.issue(grant, now_s=now_s, ttl_s=TTL_S, token_id=secrets.token_hex(16))
    return issued


def join_tokens(data: Path, prefix: str, count: int) -> dict[str, str]:
    """Return so many agent ids, all with the one join token by which each of them enrols a key."""
    names = [f"{prefix}-{number:05d}" for number in range(count)]
    grant = Grant(prefix, NAMESPACE, frozenset({Scope.AGENT}), frozenset({f"{prefix}-*"}), uses=count)
    token = Tokens(load_keys(data)).issue(grant, now_s=int(time.time()), ttl_s=TTL_S, token_id=secrets.token_hex(16))
    return dict.fromkeys(names, token)
