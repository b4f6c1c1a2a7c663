"""The key of an agent, or of a person's command line: made once, kept in its state directory, read by nobody else.

A key is made where there is a join token and no key yet. From then on each connection is opened with a proof that it
is held (`Credentials.prove`), and no token is needed.

    <state directory>/identity.json     role, namespace, name and the private key (PEM), mode 0600

Specification: docs/protocol.md, section "Proof of a key".
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from base64 import urlsafe_b64decode
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from agent.errors import HubUnreachable, NotPermitted
from protocol.errors import FleetlineError, InvalidName
from protocol.frames import Hello, Identify, Proof, Role
from protocol.ids import check_name
from protocol.proof import fingerprint, proof_bytes

if TYPE_CHECKING:  # it is loaded where there is a key: most commands have none
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "IDENTITY_FILE",
    "Credentials",
    "IdentityUnusable",
    "KeyPending",
    "KeyRefused",
    "find_credentials",
    "own_credentials",
    "state_directory",
]

IDENTITY_FILE = "identity.json"
JOIN_TOKEN_ENV = "FLEETLINE_JOIN_TOKEN"  # noqa: S105 - the name of a variable
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class IdentityUnusable(FleetlineError):
    """The key is there and cannot be used, or cannot be made. The message says what to do."""


class KeyRefused(NotPermitted):
    """The hub does not take the key of this peer: it was rejected or revoked, or the name has another one."""

    remedy = (
        "nothing was done; where the key is to be replaced, move its state directory away (as --state-dir or "
        "FLEETLINE_STATE_DIR says, else agents/ID or client in ~/.local/state/fleetline), come with a join token again "
        "(fleetline token issue NAME --join), and have an operator accept the new one"
    )


class KeyPending(HubUnreachable):
    """The hub keeps the key until an operator accepts it."""

    def __init__(self, url: str, reason: str) -> None:
        message = f"the hub at {url} has this key, and an operator has to accept it ({reason}); then come again"
        FleetlineError.__init__(self, message)
        self.url = url


@dataclass(frozen=True, slots=True)
class Identity:
    """A key, and whose it is. Its repr does not show the key."""

    role: Role
    namespace: str
    name: str
    key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """The public key."""
        return self.key.public_key().public_bytes_raw()


class Credentials:
    """What a peer opens its sessions with: its key, and until the hub knows that, a join token.

    Args:
        identity: the key.
        join_token: that lets the hub know it.
    """

    def __init__(self, identity: Identity, join_token: SecretStr | None = None) -> None:
        self._identity = identity
        self._join_token = join_token

    @property
    def place(self) -> str:
        """What operators call the key: `agent/ID` or `client/NAME`."""
        return f"{self._identity.role.value}/{self._identity.name}"

    @property
    def fingerprint(self) -> str:
        """What people compare keys by."""
        return fingerprint(self._identity.public)

    def prove(self, frame: Identify, hello: Hello) -> Identify:
        """Return `identify` with the proof that answers this hub's `hello`."""
        me = self._identity
        signature = me.key.sign(proof_bytes(hello.hub, hello.nonce, frame, me.namespace, me.name))
        proof = Proof(namespace=me.namespace, name=me.name, key=me.public, signature=signature)
        token = frame.token if self._join_token is None else self._join_token.get_secret_value()
        return frame.model_copy(update={"proof": proof, "token": token})

    def accepted(self) -> None:
        """Note that the hub let us in: a join token is not shown again."""
        self._join_token = None


def state_directory(role: Role, name: str = "") -> Path:
    """Return where the key of an agent, or of this user's command line, is kept where no other place is named."""
    named = os.environ.get("FLEETLINE_STATE_DIR")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fleetline"
    root = Path(named) if named else state
    return root / "agents" / name if role is Role.AGENT else root / "client"


def find_credentials(
    role: Role,
    name: str = "",
    *,
    directory: str | Path | None = None,
    join_token: str | SecretStr | None = None,
    join_token_file: str | Path | None = None,
    enrols: bool = True,
) -> Credentials | None:
    """Return the key in the state directory, made where there is none and a join token is; else None.

    Args:
        role: whose key it is to be.
        name: the agent's id; a client is called as its join token says.
        directory: the state directory, where it is not the usual one.
        join_token: the token itself; else `FLEETLINE_JOIN_TOKEN`.
        join_token_file: the file that holds it, which may be gone once the key is there.
        enrols: a key may be made; without, join tokens are not looked at.

    Raises:
        IdentityUnusable: the key cannot be read or made, is somebody else's, or others can read it.
    """
    place = Path(directory) if directory is not None else state_directory(role, name)
    path = place / IDENTITY_FILE
    identity = _read(path)
    token = _join_token(join_token, join_token_file, needed=identity is None) if enrols else None
    if identity is None and token is None:
        return None
    if identity is None and token is not None:
        made = _new(role, name, token)
        _write_new(path, made)
        identity = _read(path)  # of two that make one at once, both go on with the first
    assert identity is not None
    if identity.role is not role or (name and identity.name != name):
        message = f"{path} is the key of {identity.role.value}/{identity.name}; name another state directory"
        raise IdentityUnusable(message)
    return Credentials(identity, token)


def own_credentials(*, token: bool = False) -> Credentials | None:
    """Return this user's key, if `fleetline key enrol` has made one, and no token is named: by `token`, or for all.

    Raises:
        IdentityUnusable: as `find_credentials`.
    """
    if token or os.environ.get("FLEETLINE_TOKEN"):
        return None
    return find_credentials(Role.CLIENT, enrols=False)


def _join_token(given: str | SecretStr | None, file: str | Path | None, *, needed: bool) -> SecretStr | None:
    if given is not None:
        return SecretStr(given) if isinstance(given, str) else given
    if file is None:
        said = os.environ.get(JOIN_TOKEN_ENV)
        return SecretStr(said) if said else None
    try:
        return SecretStr(Path(file).read_text().strip())
    except FileNotFoundError:
        if not needed:
            return None
        raise IdentityUnusable(f"there is no join token in {file}, and no key yet that would do without one") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise IdentityUnusable(f"the join token {file} cannot be read: {type(fault).__name__}") from None


def _new(role: Role, name: str, token: SecretStr) -> Identity:
    """Make a key for the namespace that a join token is for, and a client's name."""
    try:
        claims = _claims(token.get_secret_value())
        said: dict[str, Any] = claims if isinstance(claims, dict) else {}
        namespace, named = check_name(said["ns"]), name or check_name(said["sub"])
        if not isinstance(said["join"], dict):
            raise TypeError
    except (ValueError, TypeError, KeyError, InvalidName, RecursionError):
        message = "that is no join token; `fleetline token issue NAME --join` prints one"
        raise IdentityUnusable(message) from None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Identity(role, namespace, named, Ed25519PrivateKey.generate())


def _claims(token: str) -> Any:
    _header, claims, _signature = token.split(".")
    return json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))


def _write_new(path: Path, identity: Identity) -> None:
    """Write a key that nobody else may read; one that is there already stays. It is there whole or not at all."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    said = {"role": identity.role.value, "namespace": identity.namespace, "name": identity.name, "private_key": pem}
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(beside, path)
        _sync_folder(path.parent)  # a hub that is told of the key knows no other for this name from then on
    except OSError as fault:
        raise IdentityUnusable(f"the key {path} cannot be written: {fault.strerror}") from fault
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> Identity | None:
    """Return the key in a file; None where there is none.

    Raises:
        IdentityUnusable: others can read it, or it holds no key.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise IdentityUnusable(f"the key {path} cannot be read: {fault.strerror}") from fault
    if mode & OTHERS:
        message = (
            f"the key {path} can be read by others (mode {mode:o}): whoever did is this peer; revoke it, remove it"
        )
        raise IdentityUnusable(f"{message} and enrol a new one, or chmod 600 it where you are sure")
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> Identity:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        said = json.loads(content)
        key = load_pem_private_key(said["private_key"].encode(), password=None)
        if isinstance(key, Ed25519PrivateKey):
            return Identity(Role(said["role"]), check_name(said["namespace"]), check_name(said["name"]), key)
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm, InvalidName):
        pass  # what is wrong with it is not said: it might show some of the key
    raise IdentityUnusable(f"{path} holds no key of a peer; move it away and enrol a new one")
