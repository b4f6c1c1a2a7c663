"""Whom a connection is made to: certificates, and where plain WebSocket will do.

What the system trusts is trusted, or the authorities in the file that `FLEETLINE_CA_FILE` names. A hub that asks for
a certificate of its peers is shown `FLEETLINE_CLIENT_CERT` with `FLEETLINE_CLIENT_KEY`. The hub of the data directory
is known by the certificate that it noted there, whatever its name. Files are read again before every connection.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import FleetlineError, HubUnreachable
from protocol.address import is_loopback

__all__ = ["PLAINTEXT_ENV", "SYSTEM", "PlaintextRefused", "Trust", "check_plaintext", "explain_fault"]

CA_ENV = "FLEETLINE_CA_FILE"
CERT_ENV = "FLEETLINE_CLIENT_CERT"
KEY_ENV = "FLEETLINE_CLIENT_KEY"
PLAINTEXT_ENV = "FLEETLINE_INSECURE_PLAINTEXT"
_TRUE = ("1", "true", "yes", "on")
_OF_ANOTHER_NAME = (62, 64)
"""OpenSSL's numbers for a certificate that is not for this host, or this IP address."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")
_PEM_END = "-----END CERTIFICATE-----"


class PlaintextRefused(HubUnreachable):
    """The token would travel where others can read it."""

    def __init__(self, url: str) -> None:
        FleetlineError.__init__(
            self,
            f"{url} is plain WebSocket to another machine, and whoever is on the way reads the token: use the hub's "
            f"wss:// address, with --ca-file or {CA_ENV} where its certificate is of an authority of your own; "
            f"--insecure-plaintext or {PLAINTEXT_ENV}=1 takes the risk",
        )
        self.url = url


def check_plaintext(url: str) -> None:
    """Do nothing where what is said to this address cannot be read on the way, or somebody said that it may be.

    Raises:
        PlaintextRefused: it can.
    """
    parts = urlsplit(url)
    permitted = os.environ.get(PLAINTEXT_ENV, "").lower() in _TRUE
    if parts.scheme == "ws" and not permitted and not is_loopback(parts.hostname or ""):
        raise PlaintextRefused(url)


def explain_fault(fault: Exception, url: str, *, garbled: bool = False) -> tuple[str, str]:
    """Return why no connection was made, and what to do where it is for whoever named the hub to do something.

    `garbled` says that something answered, in no words of ours.
    """
    if isinstance(fault, ssl.SSLCertVerificationError):
        if fault.verify_code in _OF_ANOTHER_NAME:
            why = f"its certificate is for another name ({fault.verify_message})"
            return why, "name the hub as its certificate does, with --hub or FLEETLINE_HUB"
        why = f"its certificate is not trusted here ({fault.verify_message})"
        return why, f"name the file of its authorities, with --ca-file or {CA_ENV}"
    cut = isinstance(fault, ConnectionResetError) and url.startswith("wss://")
    if cut or (isinstance(fault, ssl.SSLError) and fault.reason in _NO_TLS):
        return "what answered seems to speak no TLS", "the address of a hub without TLS begins with ws://"
    if garbled and url.startswith("ws://"):
        return "what answered is no hub, or one that speaks TLS", "the address of a hub with TLS begins with wss://"
    return f"{type(fault).__name__}: {fault}", ""


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificate a hub must show, and which one it is shown.

    Attributes:
        ca_file: authorities in PEM; those of the system where there is none.
        cert: own certificate, for hubs that ask for one, with its `key`.
        pinned: a file whose first certificate is the hub's, whatever name it has.
    """

    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    pinned: Path | None = None

    @classmethod
    def here(cls, ca_file: str | Path | None = None, pinned: Path | None = None, *, noted: bool = False) -> Trust:
        """Return what this process is told; where the hub was `noted`, and not named, its certificate is, too."""
        named = (ca_file, *(os.environ.get(name) for name in (CA_ENV, CERT_ENV, KEY_ENV)))
        given, of_environment, cert, key = (Path(each) if each else None for each in named)
        authorities = None if pinned and noted else given or of_environment
        return cls(authorities, cert, key, None if authorities else pinned)

    def context(self) -> ssl.SSLContext:
        """Return what a TLS connection begins with.

        Raises:
            OSError: a file cannot be read, or does not hold what it should.
        """
        if self.pinned is None:
            context = ssl.create_default_context(cafile=self.ca_file)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # this very certificate will do, and no other
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            first, end, _ = self.pinned.read_text().partition(_PEM_END)
            context.load_verify_locations(cadata=first + end)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")  # else OpenSSL asks on the terminal
        return context


SYSTEM = Trust()
"""What the system trusts."""
