"""What a token says of itself, and what a key and a hub say of it. The token itself is never printed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

__all__ = ["Inspected", "Standing", "ask_hub", "inspect_token", "of_file", "parse_token_id", "read_token", "show"]

TOKEN_BYTES_MAX = 64 * 1024
TOKEN_CHARS_LEAST = 80
"""No token is shorter, and no id of one that has two dots in it is as long."""
ID_CHARS_MAX = 160
_SIGNATURES = {
    "good": "good",
    "wrong": "not by a key of this data directory",
    "unknown": "not known: the key is not in this data directory",
}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a token says, unverified but for `signature`.

    Attributes:
        id: its `jti`.
        times: "valid", or in words why it is not.
        signature: "good", "wrong", or "unknown" where the key is not on this machine.
        may: the names that it is held to, by what is done with them.
        join: of a join token, what whoever enrols with it gets; empty of others.
    """

    id: str
    name: str
    namespace: str
    scopes: tuple[str, ...]
    agents: tuple[str, ...]
    issuer: str
    issued_s: int | None
    expires_s: int | None
    times: str
    signature: str
    may: dict[str, Any]
    join: dict[str, Any]

    @property
    def good(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return self.times == "valid" and self.signature != "wrong"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a hub says of a token: whether it is revoked, and why; None where none was asked, with the reason."""

    revoked: bool | None
    reason: str


def read_token(file: Path | None) -> str:
    """Read a token from a file, or from standard input; `-` is that too.

    Raises:
        CliError: there is not one token there.
    """
    what = "standard input" if file is None or str(file) == "-" else str(file)
    try:
        content = sys.stdin.buffer.read(TOKEN_BYTES_MAX) if what == "standard input" else _read(Path(what))
        words = content.decode().split()
    except OSError as fault:
        raise CliError(f"{what} cannot be read: {fault.strerror}; name the file that holds a token") from None
    except UnicodeDecodeError:
        words = []
    if len(words) != 1:
        raise CliError(f"{what} does not hold one token; `fleetline token issue` prints one")
    return words[0]


def inspect_token(token: str, data: Path) -> Inspected:
    """Read what a token says, and check its signature where the data directory has the key.

    Raises:
        CliError: it is no token.
    """
    from orchestrator.auth.tokens import PARTY, TokenRefused, unverified_claims

    try:
        claims = unverified_claims(token)
    except TokenRefused as fault:
        raise CliError(f"that is no token: {fault}") from None
    issued_s, expires_s = _seconds(claims.get("iat")), _seconds(claims.get("exp"))
    return Inspected(
        id=_text(claims.get("jti")),
        name=_text(claims.get("sub")),
        namespace=_text(claims.get("ns")),
        scopes=_texts(claims.get("scopes")),
        agents=_texts(claims.get("agents")),
        issuer=_text(claims.get("iss")),
        issued_s=issued_s,
        expires_s=expires_s,
        times=_times(issued_s, expires_s, int(time.time())),
        signature=_signature(token, data) if claims.get("iss") == PARTY else "unknown",
        may=_map(claims.get("may")),
        join=_map(claims.get("join")),
    )


def ask_hub(found: Inspected, hub: str | None, token_file: Path | None) -> Standing:
    """Ask a hub, as whoever the command line or the machine names, whether a token is revoked."""
    from agent.errors import HubUnreachable, LinkEnded
    from orchestrator.cli.connect import with_client
    from protocol.errors import RequestError

    issued_s = found.issued_s
    if not found.id or not found.name or issued_s is None:
        return Standing(None, "it has no id, no name or no time")
    try:
        said = with_client(hub, token_file, lambda client: client.check_token(found.id, found.name, issued_s))
    except HubUnreachable:
        return Standing(None, "no hub was reached")
    except LinkEnded as ended:
        return Standing(None, f"the hub does not let this command in: {ended.reason}")
    except RequestError as refused:
        return Standing(None, f"the hub does not say: {refused.message}")
    if said.namespace != found.namespace:
        return Standing(None, f"this command asked in the namespace {said.namespace}")
    return Standing(said.revoked, said.reason or "")


def show(out: Output, found: Inspected, standing: Standing) -> None:
    """Print what was found."""
    from orchestrator.cli.text import clock

    if out.as_json:
        times = {name: None if at_s is None else at_s * 1000 for name, at_s in _moments(found)}
        said = {name: getattr(found, name) for name in ("id", "name", "namespace", "scopes", "agents", "issuer")}
        said |= {name: value for name, value in (("may", found.may), ("join", found.join)) if value}
        judged = {"times": found.times, "signature": found.signature}
        out.json({**said, **times, **judged, "revoked": standing.revoked, "reason": standing.reason or None})
        return
    shown = {name: clock(at_s * 1000 if at_s is not None else None) for name, at_s in _moments(found)}
    revoked = {True: f"yes: {standing.reason}", False: "no", None: f"not known: {standing.reason}"}[standing.revoked]
    out.pairs(
        {
            "id": found.id,
            "name": found.name,
            "namespace": found.namespace,
            "scopes": ", ".join(found.scopes),
            "agents": ", ".join(found.agents),
            **{f"may {what}": _words(names) or "nothing" for what, names in found.may.items()},
            **{f"enrols: {what}": _words(value) for what, value in found.join.items()},
            "issuer": found.issuer,
            "issued": shown["issued_ms"],
            "expires": shown["expires_ms"],
            "times": found.times,
            "signature": _SIGNATURES[found.signature],
            "revoked": revoked,
        }
    )


def of_file(file: Path) -> tuple[str, int | None]:
    """Return the id of the token in a file, and when it expires.

    Raises:
        CliError: there is none, or it has no id.
    """
    from orchestrator.auth.tokens import TokenRefused, unverified_claims

    try:
        claims = unverified_claims(read_token(file))
    except TokenRefused as fault:
        raise CliError(f"--file: that is no token: {fault}") from None
    expires_s = _seconds(claims.get("exp"))
    return parse_token_id(_text(claims.get("jti"))), None if expires_s is None else expires_s * 1000


def parse_token_id(text: str) -> str:
    """Read the id of a token.

    Raises:
        CliError: it is none; a token itself is not said again.
    """
    if text.count(".") == 2 and len(text) > TOKEN_CHARS_LEAST:
        raise CliError("ID: that looks like a token, which others can see on a command line; pass it with --file FILE")
    if not 1 <= len(text) <= ID_CHARS_MAX:
        raise CliError(f"ID: an id has 1 to {ID_CHARS_MAX} characters; `fleetline token inspect` shows it")
    return text


def _moments(found: Inspected) -> tuple[tuple[str, int | None], ...]:
    return (("issued_ms", found.issued_s), ("expires_ms", found.expires_s))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(TOKEN_BYTES_MAX)


def _signature(token: str, data: Path) -> str:
    from orchestrator.auth.keys import SIGNING_KEY, load_keys
    from orchestrator.auth.tokens import Tokens

    try:
        if not (data / SIGNING_KEY).exists():
            return "unknown"
        return "good" if Tokens(load_keys(data)).signed(token, int(time.time())) else "wrong"
    except PermissionError:
        return "unknown"


def _times(issued_s: int | None, expires_s: int | None, now_s: int) -> str:
    from orchestrator.auth.tokens import SKEW_S

    if issued_s is None or expires_s is None:
        return "it does not say when it was issued and when it expires"
    if expires_s <= now_s:
        return "expired"
    return "issued in the future" if issued_s > now_s + SKEW_S else "valid"


def _seconds(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**40 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    words = value if isinstance(value, list) else [value]
    return tuple(word for word in words if isinstance(word, str))
