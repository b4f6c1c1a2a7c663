"""The keys that a hub signs tokens with, and those that it still believes: made on first use, read by nobody else.

    keys/signing.pem                    signs new tokens
    keys/retired-KEYID-UNTIL.pem        signed before; what it signed is good until then (seconds since 1970)

A rotation gives the key that signs a second name, with its end in it, and puts a new key in its place in one step:
whoever is killed in between leaves a key with two names, which is the one that signs and nothing else. Rotations of one
directory take turns, by a lock that ends with its process. Hubs that run read the directory again when it has changed.

Specification: docs/protocol.md, section "Tokens"; docs/decisions/0021-revocation-and-keys.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from orchestrator.files import replace_file, stamp_of, write_new_private
from protocol.errors import FleetlineError

__all__ = [
    "KEYS_MAX",
    "SIGNING_KEY",
    "KeyUnusable",
    "Keyring",
    "SigningKey",
    "keys_stamp",
    "load_keys",
    "rotate_keys",
]

SIGNING_KEY = Path("keys") / "signing.pem"
"""Where the key that signs is in a data directory."""
KEYS_MAX = 8
"""Keys that are believed at once: a token that names none is tried with each."""
READS_MAX = 16
OTHERS = stat.S_IRWXG | stat.S_IRWXO
MARK_PURPOSE = b"fleetline mark of a verified token"
_RETIRED = re.compile(r"retired-[0-9a-f]{16}-([0-9]{1,12})\.pem")
_LOCK = "lock"


class KeyUnusable(FleetlineError):
    """The key file is there and cannot be used. The message says what to do."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of the deployment.

    Attributes:
        id: made of its public half; `kid` in the header of what it signed.
        until_s: when what it signed is good no more, in seconds since 1970; None for the key that signs.
    """

    id: str
    private: Ed25519PrivateKey = field(repr=False)
    public: Ed25519PublicKey = field(repr=False)
    mark_key: bytes = field(repr=False)
    until_s: int | None = None

    @classmethod
    def of(cls, key: Ed25519PrivateKey, until_s: int | None = None) -> SigningKey:
        """Name a key."""
        public = key.public_key()
        name = hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]
        mark_key = hmac.digest(key.private_bytes_raw(), MARK_PURPOSE, hashlib.sha256)
        return cls(name, key, public, mark_key, until_s)

    def good(self, now_s: int) -> bool:
        """Whether what it signed is believed."""
        return self.until_s is None or now_s < self.until_s


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys that are believed, by id.

    Attributes:
        signer: the one that signs.
    """

    signer: SigningKey
    keys: Mapping[str, SigningKey]

    @classmethod
    def of(cls, key: Ed25519PrivateKey) -> Keyring:
        """Return the ring of a single key."""
        signer = SigningKey.of(key)
        return cls(signer, {signer.id: signer})

    def good(self, now_s: int) -> Iterator[SigningKey]:
        """Yield the keys that are believed now, the one that signs first."""
        yield self.signer
        for key in self.keys.values():
            if key is not self.signer and key.good(now_s):
                yield key

    def ends(self) -> dict[str, int | None]:
        """Return when each key is believed no more."""
        return {key.id: key.until_s for key in self.keys.values()}

    def get(self, key_id: str, now_s: int) -> SigningKey | None:
        """Return the key of this id; None where there is none that is believed now."""
        key = self.keys.get(key_id)
        return key if key is not None and key.good(now_s) else None


def load_keys(data_dir: Path) -> Keyring:
    """Return the keys in `<data_dir>/keys`. The one that signs is made where it is missing.

    Two hubs that start at once agree on one: the file is made under another name and then given its own,
    which fails for the second, and that one reads what the first wrote.

    Raises:
        KeyUnusable: a file can be read by others, or holds no Ed25519 key.
    """
    path = data_dir / SIGNING_KEY
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new_private(path, _pem(Ed25519PrivateKey.generate()))
    for _ in range(READS_MAX):
        stamp = keys_stamp(data_dir)
        try:
            ring = _ring(path)
        except KeyUnusable:
            if stamp == keys_stamp(data_dir):
                raise
            continue
        if stamp == keys_stamp(data_dir):  # else a rotation came in between: what was read may be of before and after
            return ring
    raise KeyUnusable(f"the keys in {path.parent} change faster than they can be read")


def _ring(path: Path) -> Keyring:
    signer = _read(path, None)
    retired = sorted((until_s, each) for each, until_s in _retired(path.parent))
    found = {key.id: key for key in (_read(each, until_s) for until_s, each in retired)}
    return Keyring(signer, {**found, signer.id: signer})


def keys_stamp(data_dir: Path) -> object:
    """Return what is another whenever the key files are others, at the cost of a look at the directory."""
    found = []
    for path in sorted((data_dir / SIGNING_KEY).parent.glob("*.pem")):
        with contextlib.suppress(FileNotFoundError):  # it went this moment
            found.append((path.name, stamp_of(path.stat())))
    return found


def rotate_keys(data_dir: Path, overlap_s: int, now_s: int) -> Keyring:
    """Let a new key sign from now on; what the old one signed is good for another `overlap_s` seconds.

    With an overlap of 0 nothing that was signed before is good any more, by whichever key.

    Raises:
        KeyUnusable: a key cannot be read, or too many are believed already.
    """
    with _turn(data_dir):
        ring = load_keys(data_dir)
        path = data_dir / SIGNING_KEY
        ended = [each for each, until_s in _retired(path.parent) if overlap_s == 0 or until_s <= now_s]
        if overlap_s > 0:
            if sum(1 for _ in ring.good(now_s)) >= KEYS_MAX:
                raise KeyUnusable(f"{KEYS_MAX} keys are believed already; wait until one ends, or take an overlap of 0")
            with contextlib.suppress(FileExistsError):
                os.link(path, path.with_name(f"retired-{ring.signer.id}-{now_s + overlap_s}.pem"))
        replace_file(path, _pem(Ed25519PrivateKey.generate()), 0o600)
        for each in ended:
            each.unlink(missing_ok=True)
        _sync(path.parent)
        return load_keys(data_dir)


@contextlib.contextmanager
def _turn(data_dir: Path) -> Iterator[None]:
    """Wait for this directory's other rotations; the lock ends with the process that holds it."""
    directory = (data_dir / SIGNING_KEY).parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _retired(directory: Path) -> list[tuple[Path, int]]:
    found = ((path, _RETIRED.fullmatch(path.name)) for path in directory.iterdir())
    return [(path, int(match[1])) for path, match in found if match is not None]


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path, until_s: int | None) -> SigningKey:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as fault:
        raise KeyUnusable(f"the signing key {path} cannot be read: {fault.strerror}") from fault
    if mode & OTHERS:
        raise KeyUnusable(f"the signing key {path} can be read by others (mode {mode:o}); chmod 600 it, or remove it")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise KeyUnusable(f"{path} holds no private key that can be read: {fault}") from fault
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path} holds a key of another kind; an Ed25519 key is needed")
    return SigningKey.of(key, until_s)
