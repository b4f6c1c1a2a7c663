"""The logs that one session follows: one subscription each.

Specification: docs/protocol.md, section "Following a log".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from orchestrator.following import Reader, Subscription
from orchestrator.peers import Peer
from orchestrator.services import Services
from orchestrator.store.base import StoreUnavailable
from orchestrator.together import together
from orchestrator.verdicts import Known, refused
from protocol.codes import ErrorCode
from protocol.errors import InvalidName, RequestError
from protocol.frames import Ack, Subscribe, Subscribed, SubscriptionVerdict, Tags
from protocol.ids import LogName, check_name
from protocol.refusals import What

__all__ = ["Follows"]


class Follows:
    """The subscriptions of one session.

    Args:
        hub: what connections share.
        reader: the connection.
        peer: the session.
    """

    __slots__ = ("_hub", "_peer", "_reader", "_subscriptions")

    def __init__(self, hub: Services, reader: Reader, peer: Peer) -> None:
        self._hub = hub
        self._reader = reader
        self._peer = peer
        self._subscriptions: dict[str, Subscription] = {}

    def join(self, frames: Iterable[Subscribe]) -> list[tuple[Subscribe, Subscription | SubscriptionVerdict]]:
        """Begin the subscriptions with which a session opens: their tails are told of what is appended from now on."""
        return [(frame, self._follow(frame)) for frame in frames]

    async def resume(
        self, joined: list[tuple[Subscribe, Subscription | SubscriptionVerdict]], known: Mapping[LogName, Known]
    ) -> tuple[SubscriptionVerdict, ...]:
        """Return the verdicts on what `join` began; nothing is sent before `begin`.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        return tuple(await together(self._resume(frame, followed, known) for frame, followed in joined))

    def begin(self) -> None:
        """Start sending: the peer was told that its session is open."""
        for subscription in tuple(self._subscriptions.values()):
            subscription.begin()

    def subscribe(self, frame: Subscribe) -> None:
        """Take up a subscription, and tell the peer the verdict."""
        followed = self._follow(frame)
        if isinstance(followed, Subscription):
            self._reader.spawn_asked(self._answer(frame, followed))
        else:
            self._reader.send(Subscribed(subscription=followed))

    def unsubscribe(self, path: str) -> None:
        """Follow a log no more."""
        subscription = self._subscriptions.pop(path, None)
        if subscription is not None:
            subscription.end()
            if subscription.durable is not None:
                self._hub.acks.note(subscription.durable)

    def ack(self, frame: Ack) -> None:
        """Take an acknowledgement; one of a subscription that is over means nothing.

        Raises:
            RemoteProtocolError: the peer acknowledged what it was never sent.
        """
        subscription = self._subscriptions.get(frame.log)
        if subscription is not None:
            subscription.on_ack(frame)
            if subscription.durable is not None:
                self._hub.acks.note(subscription.durable)

    def tags(self, frame: Tags) -> None:
        """Take the answer to a probe.

        Raises:
            RemoteProtocolError: it does not answer the probe.
        """
        subscription = self._subscriptions.get(frame.log)
        if subscription is not None:
            subscription.on_tags(frame)

    def pump(self) -> None:
        """Send on: the connection takes more."""
        for subscription in tuple(self._subscriptions.values()):
            subscription.pump()

    def end(self) -> None:
        """Follow nothing, and wait for no run, any more."""
        for path in tuple(self._subscriptions):
            self.unsubscribe(path)
        self._peer.over = True
        self._hub.waiting.gone(self._peer)

    def _follow(self, frame: Subscribe) -> Subscription | SubscriptionVerdict:
        """Begin a subscription, or say why there is none. One that there is for the log ends."""
        hub, peer = self._hub, self._peer
        try:
            log = LogName.parse(frame.log, peer.namespace)
            if frame.durable is not None:
                check_name(frame.durable)
        except InvalidName as fault:
            return refused(frame.log, ErrorCode.NOT_FOUND, str(fault))
        if peer.permit.read(log) is False:
            return self._forbidden(log)
        self.unsubscribe(frame.log)
        limit = hub.settings.limits.subscriptions_max
        if len(self._subscriptions) >= limit:
            return refused(frame.log, ErrorCode.TOO_MANY, f"a session follows at most {limit} logs")
        subscription = Subscription(hub.line, self._reader, log, frame, hub.settings.limits)
        self._subscriptions[frame.log] = subscription
        return subscription

    def _forbidden(self, log: LogName) -> SubscriptionVerdict:
        self._hub.audit.forbidden(self._peer, What.SUBSCRIBE, log.path)
        return refused(log.path, ErrorCode.FORBIDDEN, f"the token does not permit to follow {log.path}")

    async def _answer(self, frame: Subscribe, subscription: Subscription) -> None:
        try:
            verdict = await self._verify(frame, subscription)
        except StoreUnavailable as fault:
            verdict = refused(frame.log, ErrorCode.UNAVAILABLE, str(fault))
        current = self._subscriptions.get(frame.log)
        if current is subscription or current is None:
            self._reader.send(Subscribed(subscription=verdict))
        if current is subscription:
            subscription.begin()

    async def _resume(
        self, frame: Subscribe, followed: Subscription | SubscriptionVerdict, known: Mapping[LogName, Known]
    ) -> SubscriptionVerdict:
        if isinstance(followed, Subscription):
            return await self._verify(frame, followed, known.get(followed.tail.log))
        return followed

    async def _verify(
        self, frame: Subscribe, subscription: Subscription, known: Known | None = None
    ) -> SubscriptionVerdict:
        """Return the verdict on a subscription; one that is refused ends."""
        peer = self._peer
        log = subscription.tail.log
        make = partial(self._hub.making.log, peer) if peer.permit.make(log) else None
        followed = False
        try:
            if not await self._hub.reading.may_read(peer.permit, log):
                return self._forbidden(log)
            verdict = await subscription.verify(frame, peer.principal, known, make)
            followed = verdict.code is None
            return verdict
        except RequestError as fault:
            return refused(frame.log, ErrorCode(fault.code), fault.message)
        finally:
            if not followed and self._subscriptions.get(frame.log) is subscription:
                self.unsubscribe(frame.log)
