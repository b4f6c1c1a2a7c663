"""Entries as JSON: the same object wherever an entry is printed or exported.

`packed` is the truth; what stands beside it is for people and their tools. The rules are total, so that a
reader can recompute every readable field from `packed` and compare:

- A body that is one msgpack value is shown as that value, an empty one as null, any other as bytes.
- Bytes are `{"$base64": "..."}`; a map with keys that are not strings is `{"$map": [[key, value], ...]}`;
  floats that JSON has no word for are the strings "NaN", "Infinity" and "-Infinity".
- The packed values inside control entries (the input in `$submitted`, the result in `$succeeded` and
  `$call`, the value in `$marker`, `$checkpoint` and `$steered`, the body in `$steer`, the payload in
  `$asked`, the answer in `$answered`) are shown decoded as well.
- A body nested deeper than `READABLE_DEPTH_MAX`, or with an extension type in it, is shown as bytes.

JSON is written as ASCII, without spaces, keys in the order of `entry_object`.

Specification: docs/protocol.md, section "Entries as JSON".
"""

from __future__ import annotations

import json
from base64 import b64encode
from math import isfinite, isnan
from typing import Any

from protocol.codec import unpack_record, unpack_value
from protocol.control import PACKED_FIELDS
from protocol.entry import Entry

__all__ = ["READABLE_DEPTH_MAX", "entry_object", "json_line", "readable", "readable_body"]

READABLE_DEPTH_MAX = 64
"""Levels of arrays and maps in a body that is shown decoded."""


class _Unreadable(ValueError):
    """A value that JSON cannot show."""


def json_line(value: Any) -> str:
    """Return JSON as it is written everywhere: ASCII, one line, no spaces, no NaN."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def readable(packed: bytes) -> Any:
    """Return a packed value as something that JSON can show."""
    try:
        return _shown(unpack_value(packed), READABLE_DEPTH_MAX)
    except ValueError:
        return _bytes(packed)


def readable_body(kind: str, body: bytes) -> Any:
    """Return the body of an entry of this kind as something that JSON can show."""
    try:
        value = unpack_value(body)
        shown = _shown(value, READABLE_DEPTH_MAX)
    except ValueError:
        return _bytes(body)
    inner = PACKED_FIELDS.get(kind)
    if inner is not None and isinstance(value, dict) and inner in shown and isinstance(value[inner], bytes):
        shown[inner] = readable(value[inner])
    return shown


def entry_object(log: str, epoch: str, tag: str | None, entry: Entry) -> dict[str, Any]:
    """Return the JSON object of an entry, given the tag at its offset, or None where it is not known.

    Raises:
        ValueError: `packed` is not the packed value of an entry.
    """
    record = unpack_record(entry.packed)
    return {
        "log": log,
        "offset": entry.offset,
        "epoch": epoch,
        "ts_ms": entry.ts_ms,
        "kind": record.kind,
        "src": record.src,
        "attempt": record.attempt,
        "seq": record.seq,
        "index": record.index,
        "cause": record.cause,
        "body": readable_body(record.kind, record.body),
        "tag": tag,
    }


def _bytes(value: bytes) -> dict[str, str]:
    return {"$base64": b64encode(value).decode("ascii")}


def _shown(value: Any, depth: int) -> Any:
    if depth < 0:
        raise _Unreadable(f"more than {READABLE_DEPTH_MAX} levels")
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if isfinite(value) else _word(value)
        case bytes():
            return _bytes(value)
        case list():
            return [_shown(item, depth - 1) for item in value]
        case dict() if all(type(key) is str for key in value):
            return {key: _shown(item, depth - 1) for key, item in value.items()}
        case dict():
            return {"$map": [[_shown(key, depth - 1), _shown(item, depth - 1)] for key, item in value.items()]}
        case _:
            raise _Unreadable(f"{type(value).__name__} has no place in JSON")


def _word(value: float) -> str:
    if isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
