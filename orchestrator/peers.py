"""Who is connected to this hub: what each part of the hub may know of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.auth.principal import Principal
from orchestrator.core.attempts import Holder
from orchestrator.core.permissions import Permit
from orchestrator.core.standing import NOTHING_SAID, Standing
from protocol.frames import HandlerSpec, Role
from protocol.frames import Part as FramePart

__all__ = ["Held", "Peer", "Peers"]


class Held(NamedTuple):
    """An attempt that a connected agent holds, of a run on `queue` with this concurrency key, or none.

    `related`: the end of the run is of concern to a parent or to children. `keep_ms`: how long it is kept after that.
    """

    attempt: int
    fence: int
    queue: str
    related: bool = False
    keep_ms: int | None = None
    key: str = ""


@dataclass(slots=True, eq=False)
class Peer:
    """One identified session, for as long as it is open.

    Attributes:
        namespace: everything the peer names lives in it.
        principal: who it is, as authenticated: `agent:<id>` or `client:<name>`; the `src` of entries.
        account: whose token it came with, `namespace/name`, or whose key, `namespace/role/name`; its sessions are
            counted together.
        role: agent or client.
        id: the agent's or client's name.
        instance: the process.
        session: id of the session.
        fence: of the session; grows with every open of the same agent id.
        permit: what it may do.
        queues: that the agent serves, handlers by name, slots that it has.
        held: attempts that it holds, by run.
        doubted: runs that its last heartbeat listed, with their fences, of which this hub knows no attempt.
        send: put a frame on its way, in order; never blocks.
        load: how busy it says it is, from 0 to 1, where it does; `since_ms` is when its session opened.
        leaving: it is about to close; it is given no more work. `over`: it has ended.
        standing: what is said of the agent.
        bearer: what its token, or the record of its key, says.
        key: fingerprint of the key that it proved to hold, if it did.
        warned_s: of which end of its token it was told.
    """

    namespace: str
    principal: str
    role: Role
    id: str
    instance: str
    session: str
    fence: int
    permit: Permit
    send: Callable[[FramePart], None]
    labels: Mapping[str, str] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    handlers: Mapping[str, HandlerSpec] = field(default_factory=dict)
    slots: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    doubted: set[tuple[str, int]] = field(default_factory=set)
    load: float | None = None
    account: str = ""
    since_ms: int = 0
    leaving: bool = False
    over: bool = False
    standing: Standing = NOTHING_SAID
    bearer: Principal | None = None
    key: str | None = None
    warned_s: int = 0

    @property
    def holder(self) -> Holder:
        """What attempts are given to."""
        return Holder(self.id, self.instance, self.session, self.fence)

    @property
    def draining(self) -> bool:
        """Whether this process is to finish what it works on, and to end."""
        return self.standing.drains(self.instance)

    @property
    def shut(self) -> bool:
        """Whether it is given no more work, however many slots are free."""
        return self.leaving or self.standing.cordoned or self.draining

    @property
    def slots_free(self) -> int:
        """How many more attempts it may be given."""
        return 0 if self.shut or (self.load or 0) >= 1 else max(0, self.slots - len(self.held))


class Peers:
    """The agents that are connected to this hub, by namespace and id.

    Args:
        opening_ms: how long a session may take to open.
    """

    def __init__(self, opening_ms: int) -> None:
        self._agents: dict[tuple[str, str], Peer] = {}
        self._opening_ms = opening_ms
        self._missed: set[tuple[str, str]] = set()
        self._missed_before: set[tuple[str, str]] = set()
        self._turned_ms = 0

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._agents.values()))

    def __len__(self) -> int:
        return len(self._agents)

    def agent(self, namespace: str, agent_id: str) -> Peer | None:
        """Return the open session of an agent on this hub."""
        return self._agents.get((namespace, agent_id))

    def add(self, peer: Peer) -> None:
        """Note an agent's session, in the place of an older one."""
        self._agents[peer.namespace, peer.id] = peer

    def remove(self, peer: Peer) -> None:
        """Forget a session, unless a newer one has taken its place."""
        if self._agents.get((peer.namespace, peer.id)) is peer:
            del self._agents[peer.namespace, peer.id]

    def miss(self, namespace: str, agent_id: str, now_ms: int) -> None:
        """Note that something was said of an agent: a session of it may just be opening, which nobody can tell yet."""
        if now_ms - self._turned_ms >= self._opening_ms:
            self._turned_ms = now_ms
            self._missed, self._missed_before = set(), self._missed
        self._missed.add((namespace, agent_id))

    def missed(self, peer: Peer) -> bool:
        """Whether something may have been said of this agent, or another session of it opened, while this one was."""
        key = peer.namespace, peer.id
        return key in self._missed or key in self._missed_before
