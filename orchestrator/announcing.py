"""What a hub leaves in its data directory for this machine's user: where it is, and a token to come with."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from pathlib import Path

from orchestrator.auth.principal import ANY_AGENT, Grant
from orchestrator.auth.tokens import Tokens
from orchestrator.core.permissions import Scope
from orchestrator.files import replace_file
from orchestrator.settings import Settings

__all__ = ["HUB_FILE", "TOKEN_FILE", "announce", "leave_token", "withdraw"]

HUB_FILE = "hub.json"
TOKEN_FILE = "local.token"  # noqa: S105 - the name of a file
LOCAL_NAME = "local"
LOCAL_TOKEN_TTL_S = 365 * 24 * 3600


def announce(settings: Settings, url: str, tokens: Tokens) -> None:
    """Write down where the hub is, the certificate by which it is known there, and a token for this machine's user."""
    leave_token(settings.data, tokens)
    place = {"url": url, "pid": os.getpid()}
    if settings.workers > 1:
        place["workers"] = settings.workers
    if settings.tls_cert is not None:
        place["certificate"] = str(settings.tls_cert)
    replace_file(settings.data / HUB_FILE, (json.dumps(place) + "\n").encode(), 0o644)


def leave_token(data: Path, tokens: Tokens) -> None:
    """Write a new token for this machine's user in the place of the old one."""
    scopes = frozenset({Scope.OPERATOR, Scope.AGENT, Scope.ADMIN})
    grant = Grant(LOCAL_NAME, "default", scopes, frozenset({ANY_AGENT}))
    token = tokens.issue(grant, now_s=int(time.time()), ttl_s=LOCAL_TOKEN_TTL_S, token_id=secrets.token_hex(8))
    replace_file(data / TOKEN_FILE, token.encode(), 0o600)


def withdraw(data: Path, url: str) -> None:
    """Take back the note of where the hub is, unless another hub has written its own."""
    path = data / HUB_FILE
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text()).get("url") == url:
            path.unlink()
