"""One or more frames of every type, as a real session would have them. The vectors are made from these."""

from __future__ import annotations

from protocol.codec import pack_record, pack_value
from protocol.codes import CloseCode, ErrorCode
from protocol.control import Progress
from protocol.entry import Entry, Position, chain, first_tag
from protocol.frames import (
    Ack,
    Assign,
    AttemptClaim,
    AttemptVerdict,
    Bye,
    Entries,
    Error,
    Fault,
    Frame,
    Goaway,
    HandlerSpec,
    Heartbeat,
    HeldAttempt,
    Hello,
    Identify,
    Lost,
    Nack,
    Probe,
    Proof,
    Puback,
    Publish,
    Query,
    Ready,
    Recover,
    Refresh,
    Refreshed,
    Release,
    ReleaseReason,
    Reply,
    Request,
    Reset,
    ResetReason,
    Response,
    Resumption,
    Role,
    Start,
    Subscribe,
    Subscribed,
    SubscriptionVerdict,
    Tags,
    Unsubscribe,
    Verdict,
    Window,
)
from protocol.ids import make_run_id, queue_partition
from protocol.limits import DEFAULT_LIMITS

__all__ = ["EPOCH", "FENCE", "NOW_MS", "RUN", "RUN_LOG", "SAMPLES", "TOPIC_LOG", "position", "story"]

NOW_MS = 1_760_000_000_000
EPOCH = "0123456789abcdef"
SESSION = "5e55104e5e55104e"
INSTANCE = "1257a4ce1257a4ce"
FENCE = NOW_MS + 7
RUN = make_run_id(queue_partition("default", "coding"), NOW_MS, bytes(range(8)))
RUN_LOG = f"run/{RUN}"
TOPIC_LOG = "topic/news"


def story(count: int = 3, *, start: int = 0) -> tuple[Entry, ...]:
    """Return entries of a topic, one after the other."""
    return tuple(
        Entry(
            offset,
            NOW_MS + offset,
            pack_record("said", "client:ada", pack_value({"line": offset}), seq=offset),
        )
        for offset in range(start + 1, start + count + 1)
    )


def position(offset: int) -> Position:
    """Return the position in `story` after this many entries."""
    return Position(EPOCH, offset, chain(first_tag(EPOCH), story(offset)))


def _entries(start: int, upto: int, entries: tuple[Entry, ...], *, caught_up: bool) -> Entries:
    return Entries(
        log=TOPIC_LOG,
        prev=start,
        prev_tag=position(start).tag,
        upto=upto,
        tag=position(upto).tag,
        entries=entries,
        caught_up=caught_up,
    )


_LOST = Lost(from_=2, to=3, exact=True)

SAMPLES: dict[str, Frame] = {
    "hello": Hello(
        versions=(1,),
        hub="hub-1",
        nonce=bytes(range(16)),
        heartbeat_ms=5000,
        limits=DEFAULT_LIMITS,
        durability="local",
        store_ms=NOW_MS,
    ),
    "identify: a client": Identify(version=1, role=Role.CLIENT, id="ada", instance=INSTANCE, token="eyJ.e30.c2ln"),
    "identify: an agent comes back": Identify(
        version=1,
        role=Role.AGENT,
        id="builder-1",
        instance=INSTANCE,
        session=SESSION,
        labels={"gpu": "h200"},
        queues=("coding",),
        slots=2,
        handlers=(HandlerSpec(name="review", recover=Recover.JOURNAL, retries=3),),
        subscriptions=(Subscribe(log="agent/builder-1", from_=Start.ACKED, durable="inbox"),),
        attempts=(AttemptClaim(run=RUN, fence=FENCE, seq=12),),
    ),
    "identify: an agent with a key": Identify(
        version=1,
        role=Role.AGENT,
        id="builder-1",
        instance=INSTANCE,
        proof=Proof(namespace="default", name="builder-1", key=bytes(range(32)), signature=bytes(range(64))),
    ),
    "ready: new": Ready(
        session=SESSION, fence=0, resumed=False, principal="client:ada", namespace="default", scopes=("operator",)
    ),
    "ready: resumed": Ready(
        session=SESSION,
        fence=FENCE,
        resumed=True,
        principal="agent:builder-1",
        namespace="default",
        scopes=("agent",),
        expires_ms=NOW_MS + 3_600_000,
        subscriptions=(
            SubscriptionVerdict(log="agent/builder-1", verdict=Resumption.RESUMED, at=position(2), head=3),
            SubscriptionVerdict(
                log=TOPIC_LOG,
                verdict=Resumption.RESET,
                at=position(3),
                head=9,
                reason=ResetReason.TRIMMED,
                lost=_LOST,
            ),
            SubscriptionVerdict(
                log="topic/secret", verdict=Resumption.REFUSED, code=ErrorCode.FORBIDDEN, message="not permitted"
            ),
        ),
        attempts=(
            AttemptVerdict(run=RUN, fence=FENCE, verdict=Verdict.CONTINUE, seq=10),
            AttemptVerdict(run=RUN, fence=FENCE - 1, verdict=Verdict.FENCED),
        ),
    ),
    "heartbeat: of a hub": Heartbeat(store_ms=NOW_MS),
    "heartbeat: of an agent": Heartbeat(
        attempts=(HeldAttempt(run=RUN, fence=FENCE, attempt=2), HeldAttempt(run=RUN, fence=FENCE - 1)), slots_free=1
    ),
    "heartbeat: an agent says its load": Heartbeat(attempts=(), slots_free=2, load=0.25),
    "heartbeat: the token has expired": Heartbeat(store_ms=NOW_MS, refresh_ms=60_000),
    "heartbeat: an agent is to finish": Heartbeat(store_ms=NOW_MS, drain=True, drain_ms=60_000),
    "refresh": Refresh(token="eyJ.e30.c2ln"),
    "refreshed": Refreshed(expires_ms=NOW_MS + 3_600_000),
    "refreshed: a token that does not expire": Refreshed(),
    "goaway": Goaway(after_ms=0, reason="the hub is stopping"),
    "bye": Bye(reason="done"),
    "error": Error(code=CloseCode.INVALID_FRAME, message="ack: offset: Field required", about="ack"),
    "subscribe: from a position": Subscribe(log=TOPIC_LOG, from_=position(2)),
    "subscribe: filtered and durable": Subscribe(
        log=TOPIC_LOG, from_=Start.ACKED, window=Window(entries=64, bytes=65536), kinds=("said",), durable="reader"
    ),
    "subscribed: resumed": Subscribed(
        subscription=SubscriptionVerdict(log=TOPIC_LOG, verdict=Resumption.RESUMED, at=position(2), head=3)
    ),
    "subscribed: probing": Subscribed(
        subscription=SubscriptionVerdict(log=TOPIC_LOG, verdict=Resumption.PROBING, head=3)
    ),
    "entries": _entries(0, 2, story(2), caught_up=False),
    "entries: filtered, the end of history": _entries(0, 3, story(1), caught_up=True),
    "entries: the end of history": _entries(2, 3, story(1, start=2), caught_up=True),
    "entries: an empty range": _entries(3, 3, (), caught_up=True),
    "reset": Reset(log=TOPIC_LOG, reason=ResetReason.DIVERGED, lost=_LOST, at=position(1)),
    "probe": Probe(log=TOPIC_LOG, offsets=(1, 2, 3)),
    "tags": Tags(log=TOPIC_LOG, tags=(position(1).tag, None, position(3).tag)),
    "ack": Ack(log=TOPIC_LOG, offset=2),
    "ack: all there is": Ack(log=TOPIC_LOG, offset=3),
    "ack: after a reset": Ack(log=TOPIC_LOG, offset=2, resets=1),
    "unsubscribe": Unsubscribe(log=TOPIC_LOG),
    "publish: to a topic, if the head is 3": Publish(
        log=TOPIC_LOG,
        producer="feed",
        seq=1,
        fence=FENCE,
        entries=(("said", pack_value("hello"), None, None), ("said", pack_value({"n": 1}), None, 3)),
        expect=3,
    ),
    "publish: of an attempt": Publish(
        log=RUN_LOG,
        producer="attempt/1",
        seq=12,
        fence=FENCE,
        entries=(("$progress", pack_value(Progress(current=3.0, total=10.0)), 4, None),),
    ),
    "puback": Puback(log=TOPIC_LOG, producer="feed", seq=2, offset=5, level="local"),
    "nack: a gap": Nack(
        log=TOPIC_LOG, producer="feed", seq=5, code=ErrorCode.OUT_OF_ORDER, message="seq 5 after 2", last=2
    ),
    "nack: the head moved": Nack(
        log=TOPIC_LOG, producer="feed", seq=1, code=ErrorCode.EXPECT_FAILED, message="the head is 4", head=4
    ),
    "request: submit": Request(
        id=1,
        method="run.submit",
        params={"queue": "coding", "handler": "review", "input": pack_value({"repo": "."}), "key": "pr-42"},
    ),
    "request: open a producer": Request(
        id=1, method="producer.open", params={"log": TOPIC_LOG, "producer": "feed"}, op="op-0"
    ),
    "request: cancel": Request(id=2, method="run.cancel", params={"run": RUN, "reason": "not needed"}, op="op-1"),
    "response: a result": Response(id=1, result={"run": RUN, "created": True}),
    "response: a producer": Response(id=1, result={"fence": FENCE, "last": 0}),
    "response: an error": Response(
        id=1, error=Fault(code=ErrorCode.KEY_CONFLICT, message="the key is taken", data={"run": RUN})
    ),
    "response: an error that passes": Response(
        id=2, error=Fault(code=ErrorCode.UNAVAILABLE, message="the store does not answer", retry_ms=500)
    ),
    "assign": Assign(
        run=RUN,
        queue="coding",
        handler="review",
        attempt=1,
        fence=FENCE,
        input=pack_value({"repo": "."}),
        lease_ms=15_000,
        position=Position(EPOCH, 2, "00112233445566ff"),
        recover=Recover.JOURNAL,
    ),
    "release": Release(run=RUN, fence=FENCE, reason=ReleaseReason.NO_SLOT),
    "query": Query(id=9, run=RUN, fence=FENCE, name="status", args=pack_value({"of": "files"}), timeout_ms=10_000),
    "reply": Reply(id=9, value=pack_value({"done": 3})),
    "reply, refused": Reply(id=9, error=Fault(code="no_such_query", message="it answers no query 'status'")),
}
"""By name: the type, and where there are several what sets this one apart."""
