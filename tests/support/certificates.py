"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Pair"]

_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Pair:
    """A certificate with its key, as files.

    Attributes:
        cert: the certificate; `key` its key, for its owner alone.
        serial: of the certificate.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.cert, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self.serial = 0

    def write(self, cert: x509.Certificate, key: EllipticCurvePrivateKey, password: bytes | None = None) -> None:
        """Put other contents into the files."""
        self.serial = cert.serial_number
        cover = BestAvailableEncryption(password) if password else NoEncryption()
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cover))
        self.key.chmod(0o600)
        self.cert.write_bytes(cert.public_bytes(Encoding.PEM))

    def settings(self) -> dict[str, Any]:
        """Return the settings of a hub that has it."""
        return {"tls_cert": self.cert, "tls_key": self.key}


class Authority:
    """Signs certificates; its own is in `ca_file`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name, self._key = folder, name, generate_private_key(SECP256R1())
        self._cert = self._sign(name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(self._cert.public_bytes(Encoding.PEM))

    def pair(self, name: str, *hosts: str) -> Pair:
        """Make a certificate for these hosts, in files of this name."""
        pair = Pair(self._folder, name)
        self.renew(pair, *hosts)
        return pair

    def renew(self, pair: Pair, *hosts: str, password: bytes | None = None) -> None:
        """Put a new certificate and key into the files."""
        key = generate_private_key(SECP256R1())
        names = [x509.IPAddress(ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts or ("127.0.0.1",)]
        pair.write(self._sign(pair.cert.stem, key, x509.SubjectAlternativeName(names)), key, password)

    def trusted(self, shown: Pair | None = None) -> ssl.SSLContext:
        """Return what a peer begins TLS with that trusts this authority, and shows a certificate if it has one."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if shown is not None:
            context.load_cert_chain(shown.cert, shown.key)
        return context

    def _sign(self, name: str, key: EllipticCurvePrivateKey, about: x509.ExtensionType) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
        if isinstance(about, x509.BasicConstraints):
            builder = builder.add_extension(_SIGNS, critical=True)
        signer = self._key.public_key()
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        return (
            builder.serial_number(x509.random_serial_number())
            .add_extension(about, critical=True)
            .sign(self._key, hashes.SHA256())
        )
