"""The hub's certificate: read at the start, and again whenever its files change.

A connection keeps the certificate that it began with, so a new one drops nobody. Files are replaced one after the
other: a change is looked at once they have stood still from one look to the next, and what cannot be used leaves the
one before in force.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from orchestrator.files import Stamp, stamp_of
from orchestrator.settings import Settings
from protocol.address import is_loopback
from protocol.errors import FleetlineError

__all__ = ["Certificates", "PlaintextRefused", "TlsUnusable", "check_plaintext"]

LOOK_EVERY_S = 1.0

log_ = structlog.get_logger()

Seen = tuple[Stamp, ...]


class TlsUnusable(FleetlineError):
    """The certificate, its key or the authority for clients cannot be used. The message says what to do."""


class PlaintextRefused(FleetlineError):
    """The hub would speak plain WebSocket where others can read along."""


def check_plaintext(settings: Settings) -> None:
    """Do nothing where tokens and entries cannot be read on the way, or somebody said that this is no matter.

    Raises:
        PlaintextRefused: they can.
    """
    host, _ = settings.address
    if settings.tls_cert is None and not settings.insecure_plaintext and not is_loopback(host):
        raise PlaintextRefused(
            f"listen is {settings.listen}, which others reach, and without TLS whoever is on the way reads "
            "every token: give the hub a certificate (--tls-cert FILE --tls-key FILE), or let it listen on 127.0.0.1 "
            "behind a proxy that ends TLS; --insecure-plaintext takes the risk"
        )


class Certificates:
    """What TLS connections are begun with.

    Args:
        settings: name the files; where they name none, connections are plain.

    Attributes:
        context: for connections that begin now; None for plain ones.

    Raises:
        TlsUnusable: the files cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._cert, self._key, self._client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        self.context: ssl.SSLContext | None = None
        self._tried = self._seen = self._look()
        if self._cert is not None:
            self.context = self._load()

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Return what is to run for as long as the hub does: nothing where there are no files to look at."""
        return {} if self._cert is None else {"certificates": self.run}

    async def run(self) -> None:
        """Look at the files every so often, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Take what the files hold now, once they have changed and stand still."""
        seen, before = self._look(), self._seen
        self._seen = seen
        if seen == self._tried or seen != before:
            return
        self._tried = seen
        try:
            self.context = self._load()
        except TlsUnusable as fault:
            log_.error("certificate_not_reloaded", reason=str(fault), kept="the one before")
        else:
            log_.info("certificate_reloaded", cert=str(self._cert))

    def _look(self) -> Seen:
        return tuple(_trace(path) for path in (self._cert, self._key, self._client_ca) if path is not None)

    def _load(self) -> ssl.SSLContext:
        assert self._cert is not None
        assert self._key is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        _check_private(self._key)
        try:
            context.load_cert_chain(self._cert, self._key, password=lambda: "")  # else OpenSSL asks on the terminal
        except (OSError, ValueError) as fault:
            raise TlsUnusable(
                f"tls_cert {self._cert} and tls_key {self._key} cannot be used: {_said(fault)}; they are a certificate "
                "chain in PEM, the hub's own first, and its key without a password"
            ) from None
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ValueError) as fault:
                raise TlsUnusable(f"tls_client_ca {self._client_ca} cannot be used: {_said(fault)}") from None
        return context


def _trace(path: Path) -> Stamp:
    """Return what changes when a file does, through any links; the same for any that cannot be looked at."""
    try:
        return stamp_of(path.stat())
    except OSError:
        return 0, 0, 0


def _check_private(key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as fault:
        raise TlsUnusable(f"tls_key {key} cannot be read: {fault.strerror}") from None
    if mode & stat.S_IRWXO:
        raise TlsUnusable(f"tls_key {key} can be read by anybody here (mode {mode:04o}): chmod 600 it")


def _said(fault: OSError | ValueError) -> str:
    return (fault.strerror if isinstance(fault, OSError) else None) or str(fault) or type(fault).__name__
