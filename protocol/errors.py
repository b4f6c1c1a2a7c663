"""What can go wrong, and whose mistake it is.

    FleetlineError
    ├── ProtocolError              a rule of the protocol was broken
    │   ├── LocalProtocolError     by this program: a bug of ours
    │   └── RemoteProtocolError    by the other side; the only one that may leave a receive path
    ├── RequestError               one request was refused; nothing else is affected
    ├── InvalidName                a name, log or id that is not of the form the specification allows
    ├── InvalidLabel               a label of an agent that no selector could ask for
    ├── InvalidSelector            a label selector that cannot be read
    ├── Mismatch                   a frame does not continue the history that the peer has (`protocol.window`)
    └── BrokenLog                  an entry cannot follow those before it (`protocol.run`)

A `ProtocolError` carries the close code; a `RequestError` its code and whether trying again can help.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from protocol.codes import CloseCode, ErrorCode

__all__ = [
    "FleetlineError",
    "InvalidLabel",
    "InvalidName",
    "InvalidSelector",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "misfit",
]


class FleetlineError(Exception):
    """The root of every error that this project raises on purpose."""


class ProtocolError(FleetlineError):
    """A rule of the protocol was broken.

    Attributes:
        code: the WebSocket close code that the connection ends with.
    """

    def __init__(self, code: CloseCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class LocalProtocolError(ProtocolError):
    """This program tried to send what the session's state does not allow: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what cannot be decoded, or what the session's state does not allow."""


class RequestError(FleetlineError):
    """A request was refused. Nothing else on the session is affected.

    Attributes:
        code: what kind of refusal it is.
        retry_ms: where trying again can help, after how many milliseconds; else None.
        data: further facts, by code (for `key_conflict` the run that holds the key, say).
    """

    def __init__(
        self,
        code: ErrorCode | str,
        message: str,
        *,
        retry_ms: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = str(code)
        self.message = message
        self.retry_ms = retry_ms
        self.data = data or {}


class InvalidName(FleetlineError, ValueError):
    """A name that does not match `[a-z0-9][a-z0-9._-]{0,127}`, or a log that is not `kind/name`."""


class InvalidLabel(FleetlineError, ValueError):
    """A label, or the value of one, that an agent cannot have (`protocol.selector`)."""


class InvalidSelector(FleetlineError, ValueError):
    """A label selector that cannot be read (`protocol.selector`)."""


def misfit(fault: ValidationError) -> str:
    """Say where a value does not fit its model, and why: its first fault, as `where: message`."""
    first = fault.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where[:120]}: {first['msg'][:200]}"
