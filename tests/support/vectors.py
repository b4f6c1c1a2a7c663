"""Builds docs/protocol-vectors.json: bytes for whoever writes a client in another language.

`scripts/vectors` writes it; a test compares it with what this builds. Nothing here depends on time or chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.codec import encode, pack_record, pack_value
from protocol.codes import CloseCode
from protocol.control import Call, Checkpoint, Claimed, Marker, MarkerOp, Submitted, Succeeded
from protocol.conversation import Suspended
from protocol.entry import Entry, first_tag, next_tag
from protocol.family import ChildEnded, ChildRun, Continue, Continued, Spawn
from protocol.frames import Ack, Heartbeat, Identify, Part, Recover, Role
from protocol.ids import LogName, make_run_id, partition_of, queue_partition
from protocol.limits import ITEMS_MAX, NESTING_MAX, UNIDENTIFIED_BYTES_MAX
from protocol.proof import fingerprint, proof_bytes
from tests.support.samples import EPOCH, NOW_MS, RUN, SAMPLES, story

__all__ = ["build_vectors", "invalid_messages", "render_vectors"]


def jsonable(value: Any) -> Any:
    """Return a msgpack value as JSON has it: bytes are {"hex": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return value


def _as_sent(frame: Part) -> Any:
    return jsonable(msgpack.unpackb(encode(frame)))


def _records() -> list[dict[str, Any]]:
    rows: tuple[dict[str, Any], ...] = (
        {"kind": "said", "src": "client:ada", "body": b""},
        {"kind": "said", "src": "client:ada", "seq": 1, "body": pack_value("héllo")},
        {"kind": "finding", "src": "agent:builder-1", "attempt": 2, "seq": 7, "index": 3, "cause": 4, "body": b"\xc3"},
        {"kind": "large", "src": "client:ada", "seq": 2**53 - 1, "body": pack_value({"text": "x" * 300})},
    )
    names = ("kind", "src", "attempt", "seq", "index", "cause", "body")
    return [{**{name: jsonable(row.get(name)) for name in names}, "packed": pack_record(**row).hex()} for row in rows]


def _run_story() -> tuple[Entry, ...]:
    """The log of a run that succeeds at once."""
    claimed = Claimed(
        attempt=1,
        fence=NOW_MS + 7,
        agent="builder-1",
        instance="1257a4ce1257a4ce",
        lease_ms=15_000,
        recover=Recover.RESTART,
        retries=0,
    )
    submitted = Submitted(queue="coding", handler="review", input=pack_value({"repo": "."}), key="pr-42")
    agent = "agent:builder-1"
    packed = (
        pack_record("$submitted", "client:ada", pack_value(submitted)),
        pack_record("$claimed", "hub:hub-1", pack_value(claimed)),
        pack_record("finding", agent, pack_value({"file": "a.py"}), attempt=1, seq=1, index=0),
        pack_record("$succeeded", agent, pack_value(Succeeded(result=pack_value(1))), attempt=1, seq=2),
    )
    return tuple(Entry(place, NOW_MS + 10 * place, value) for place, value in enumerate(packed, 1))


def _journal_story() -> tuple[Entry, ...]:
    """What a handler's journal looks like: one entry of each kind of operation, and that it was put away."""
    agent, due_ms = "agent:builder-1", NOW_MS + 5_000
    bodies = (
        ("$marker", Marker(op=MarkerOp.NOW, value=pack_value(NOW_MS))),
        ("$marker", Marker(op=MarkerOp.SLEEP, name="5.0", value=pack_value(due_ms))),
        ("$marker", Marker(op=MarkerOp.VERSION, name="two-reviewers", value=pack_value(1))),
        ("$call", Call(name="git.diff", digest="00112233445566778899aabbccddeeff", result=pack_value("+x"))),
        ("$marker", Marker(op=MarkerOp.EFFECT, name="open_pr")),
        ("$checkpoint", Checkpoint(value=pack_value({"file": 7}))),
    )
    last = len(bodies) + 1
    ending = pack_value(Suspended(sleep_ms=4_000, questions=(7, 9)))
    return (
        *(
            Entry(place, NOW_MS + place, pack_record(kind, agent, pack_value(body), attempt=1, seq=place, index=place))
            for place, (kind, body) in enumerate(bodies, 1)
        ),
        Entry(last, NOW_MS + last, pack_record("$suspended", agent, ending, attempt=1, seq=last)),
    )


def _family_story() -> tuple[Entry, ...]:
    """What a run's log says of a child, and of the run that goes on in its place."""
    agent, hub = "agent:builder-1", "hub:hub-1"
    spawn = Spawn(queue="parts", handler="lint", input=pack_value("a.py"), digest="00112233445566778899aabbccddeeff")
    child: dict[str, Any] = {"index": 1, "digest": spawn.digest, "run": RUN}
    packed = (
        pack_record("$spawn", agent, pack_value(spawn), attempt=1, seq=1, index=1),
        pack_record("$child", hub, pack_value(ChildRun(**child, queue="parts", handler="lint"))),
        pack_record(
            "$child_ended",
            hub,
            pack_value(ChildEnded(**child, state="succeeded", offset=3, result=pack_value({"faults": 0}))),
        ),
        pack_record("$continue", agent, pack_value(Continue(input=pack_value("b.py"))), attempt=1, seq=2),
        pack_record("$continued", hub, pack_value(Continued(run=RUN))),
    )
    return tuple(Entry(place, NOW_MS + place, value) for place, value in enumerate(packed, 1))


def _chain(what: str, epoch: str, entries: Iterable[Entry]) -> dict[str, Any]:
    tag = first_tag(epoch)
    rows = []
    for entry in entries:
        tag = next_tag(tag, *entry)
        rows.append({"offset": entry.offset, "ts_ms": entry.ts_ms, "packed": entry.packed.hex(), "tag": tag})
    return {"what": what, "epoch": epoch, "tag_0": first_tag(epoch), "entries": rows}


def _nested(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


def invalid_messages() -> tuple[tuple[str, bytes, CloseCode], ...]:
    """Messages to a session that is ready, what is wrong with each, and the code it ends with."""
    ack: dict[Any, Any] = {"t": "ack", "log": "topic/news", "offset": 2}
    pack = msgpack.packb
    malformed = CloseCode.MALFORMED
    invalid = CloseCode.INVALID_FRAME
    return (
        ("a byte that msgpack does not use", b"\xc1", malformed),
        ("a frame that is cut off", pack(ack)[:-1], malformed),
        ("a frame, and one that is cut off", pack(ack) + pack(ack)[:5], malformed),
        ("not a map", pack([1, 2]), malformed),
        ("a number", b"\x01", malformed),
        ("the same key twice", b"\x84" + pack(ack)[1:] + pack("log") + pack("topic/news"), malformed),
        ("a key that is not a string", pack({**ack, 1: 2}), malformed),
        ("a key that is bytes", pack({**ack, b"x": 2}), malformed),
        ("a key that is an array", b"\x84" + pack(ack)[1:] + pack([1]) + b"\x01", malformed),
        ("an extension type", pack({**ack, "x": msgpack.ExtType(5, b"12")}), malformed),
        ("a timestamp in params", pack(_asking(msgpack.Timestamp(1))), malformed),
        ("a string that is not UTF-8", b"\x81\xa1t\xa2\xff\xfe", malformed),
        ("an array header that claims 2^32 - 1 items", b"\x82\xa1t\xa3ack\xa1x\xdd\xff\xff\xff\xff", malformed),
        (f"an array of {ITEMS_MAX + 1} items", pack(_asking([0] * (ITEMS_MAX + 1))), malformed),
        (f"params nested {NESTING_MAX + 1} levels deep", pack(_asking(_nested(NESTING_MAX - 1))), CloseCode.TOO_LARGE),
        ("no type", pack({"log": "topic/news"}), CloseCode.UNKNOWN_FRAME),
        ("a type that is not a string", pack({"t": 7}), CloseCode.UNKNOWN_FRAME),
        ("an unknown type", pack({"t": "shout"}), CloseCode.UNKNOWN_FRAME),
        ("a field that is missing", pack({"t": "ack", "log": "topic/news"}), invalid),
        ("a field of another type", pack({**ack, "offset": "2"}), invalid),
        ("a number with a fraction", pack({**ack, "offset": 2.0}), invalid),
        ("true for a number", pack({**ack, "offset": True}), invalid),
        ("a negative offset", pack({**ack, "offset": -1}), invalid),
        ("an offset of 64 bits", pack({**ack, "offset": 2**63}), invalid),
        ("bytes for a string", pack({**ack, "log": b"topic/news"}), invalid),
        ("a name that is too long", pack({**ack, "log": "topic/" + "n" * 160}), invalid),
        ("a choice that does not exist", pack({"t": "release", "run": RUN, "fence": 1, "reason": "tired"}), invalid),
        ("a position with a tag that is none", pack(_following([EPOCH, 1, "xyz"])), invalid),
        ("a position of two", pack(_following([EPOCH, 1])), invalid),
        ("a start that does not exist", pack(_following("now")), invalid),
        ("a publish without entries", pack(_publishing([])), invalid),
        ("an entry of three", pack(_publishing([["said", b"", None]])), invalid),
        ("a body that is a string", pack(_publishing([["said", "text", None, None]])), invalid),
        ("a seq of 0", pack({**_publishing([["said", b"", None, None]]), "seq": 0}), invalid),
        ("a frame of the hub's", encode(SAMPLES["ready: new"]), CloseCode.UNEXPECTED_FRAME),
        ("a second identify", encode(SAMPLES["identify: a client"]), CloseCode.UNEXPECTED_FRAME),
    )


def _asking(value: Any) -> dict[str, Any]:
    return {"t": "request", "id": 1, "method": "log.get", "params": {"x": value}}


def _following(start: Any) -> dict[str, Any]:
    return {"t": "subscribe", "log": "topic/news", "from": start}


def _publishing(entries: list[Any]) -> dict[str, Any]:
    return {"t": "publish", "log": "topic/news", "producer": "feed", "seq": 1, "fence": 1, "entries": entries}


def _lenient() -> list[dict[str, Any]]:
    ack = {"t": "ack", "log": "topic/news", "offset": 2}
    rows = (
        ("keys in another order", msgpack.packb(dict(reversed(ack.items())))),
        ("a key that no schema has", msgpack.packb({**ack, "later": [1, {"x": 2}]})),
        ("integers and strings that are not in their shortest form", _long_form()),
    )
    return [
        {"what": what, "hex": message.hex(), "same_as": encode(Ack(**_without_t(ack))).hex()} for what, message in rows
    ]


def _without_t(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "t"}


def _long_form() -> bytes:
    def text(value: str) -> bytes:
        return b"\xdb" + len(value).to_bytes(4, "big") + value.encode()

    pairs = (
        text("t") + text("ack") + text("log") + text("topic/news") + text("offset") + b"\xcf" + (2).to_bytes(8, "big")
    )
    return b"\xdf\x00\x00\x00\x03" + pairs


def _run_ids() -> list[dict[str, Any]]:
    rows = []
    for namespace, queue in (("default", "default"), ("default", "coding"), ("team-a", "coding")):
        partition = queue_partition(namespace, queue)
        rows.append({"namespace": namespace, "queue": queue, "partition": partition})
        rows[-1] |= {"time_ms": NOW_MS, "random": bytes(range(8)).hex()}
        rows[-1]["run"] = make_run_id(partition, NOW_MS, bytes(range(8)))
    return rows


def _partitions() -> list[dict[str, Any]]:
    logs = (
        ("default", "agent/builder-1"),
        ("default", "topic/news"),
        ("team-a", "topic/news"),
        ("default", f"run/{RUN}"),
    )
    return [
        {"namespace": namespace, "log": log, "partition": partition_of(LogName.parse(log, namespace))}
        for namespace, log in logs
    ]


def _proofs() -> list[dict[str, Any]]:
    secret = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    key, nonce = secret.public_key().public_bytes_raw(), bytes(range(16))
    frame = Identify(version=1, role=Role.AGENT, id="builder-1", instance="1257a4ce1257a4ce")
    signed = proof_bytes("hub-1", nonce, frame, "default", "builder-1")
    parts: dict[str, Any] = {
        "hub": "hub-1",
        "nonce": nonce.hex(),
        "role": "agent",
        "namespace": "default",
        "name": "builder-1",
    }
    parts |= {"id": frame.id, "instance": frame.instance, "version": 1}
    secrets = {"private_key": bytes(range(32)).hex(), "key": key.hex(), "fingerprint": fingerprint(key)}
    return [{**parts, **secrets, "signed": signed.hex(), "signature": secret.sign(signed).hex()}]


def build_vectors() -> dict[str, Any]:
    """Return the content of the file."""
    together = (Heartbeat(), SAMPLES["ack"])
    return {
        "protocol": "fleetline.v1",
        "frames": [
            {"name": name, "hex": encode(frame).hex(), "frame": _as_sent(frame)} for name, frame in SAMPLES.items()
        ],
        "messages": [
            {
                "what": "two frames in one message",
                "hex": b"".join(map(encode, together)).hex(),
                "frames": [_as_sent(frame) for frame in together],
            }
        ],
        "lenient": _lenient(),
        "invalid": [
            {"what": what, "hex": message.hex(), "code": int(code)} for what, message, code in invalid_messages()
        ],
        "records": _records(),
        "chains": [
            _chain("an empty log", EPOCH, ()),
            _chain("a topic", EPOCH, story(3)),
            _chain("a run", "fedcba9876543210", _run_story()),
            _chain("the operations of a journal", "fedcba9876543210", _journal_story()),
            _chain("a child, and a run that goes on as another one", "fedcba9876543210", _family_story()),
        ],
        "runs": _run_ids(),
        "partitions": _partitions(),
        "proofs": _proofs(),
        "limits": {
            "unidentified_bytes_max": UNIDENTIFIED_BYTES_MAX,
            "items_max": ITEMS_MAX,
            "nesting_max": NESTING_MAX,
        },
    }


def render_vectors() -> str:
    """Return the file: JSON with one vector a line, so that a change shows as the lines it touches."""
    parts = []
    for section, rows in build_vectors().items():
        if isinstance(rows, list):
            lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows)
            parts.append(f'  "{section}": [\n{lines}\n  ]')
        else:
            parts.append(f'  "{section}": {json.dumps(rows, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
