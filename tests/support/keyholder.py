"""Somebody with a key, who proves it as docs/protocol.md says; and the ways to prove it wrongly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.frames import Hello, Identify, Proof, Ready, Role
from protocol.proof import fingerprint, proof_bytes
from tests.support.hub_peer import HubPeer, identify

__all__ = ["Keyholder"]


@dataclass
class Keyholder:
    """A name with a key."""

    name: str = "m1"
    role: Role = Role.AGENT
    namespace: str = "default"
    instance: str = "i1"
    secret: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def key(self) -> bytes:
        return self.secret.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)

    @property
    def place(self) -> str:
        return f"{self.role.value}/{self.name}"

    def frame(self, **fields: Any) -> Identify:
        fields = {"slots": 1, "queues": ("default",)} | fields if self.role is Role.AGENT else fields
        return identify(self.name, self.role, self.instance, **fields)

    def proven(self, hello: Hello, **fields: Any) -> Identify:
        """Return what it says in answer to `hello`."""
        frame = self.frame(**fields)
        signature = self.secret.sign(proof_bytes(hello.hub, hello.nonce, frame, self.namespace, self.name))
        proof = Proof(namespace=self.namespace, name=self.name, key=self.key, signature=signature)
        return frame.model_copy(update={"proof": proof})

    async def enter(self, peer: HubPeer, token: str | None = None, **fields: Any) -> Ready:
        """Open a session."""
        hello = await peer.expect(Hello)
        await peer.send(self.proven(hello, token=token, **fields))
        peer.ready = await peer.expect(Ready)
        return peer.ready

    async def refused(self, peer: HubPeer, token: str | None = None) -> tuple[int, str]:
        """Try to open a session; return with what code it was refused, and why."""
        hello = await peer.expect(Hello)
        await peer.send(self.proven(hello, token=token))
        return await peer.told()
