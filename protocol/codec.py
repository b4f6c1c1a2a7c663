"""Frames, records and values as msgpack, within limits. The only module that knows msgpack.

A binary message is one or more frames, one after the other. Allowed is msgpack without extension types,
without duplicate keys, with string keys in maps; str is UTF-8.

Specification: docs/protocol.md, section "Encoding"; msgpack itself: github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NoReturn, cast

import msgpack
from pydantic import BaseModel, ValidationError

from protocol.codes import CloseCode
from protocol.entry import Entry, Record
from protocol.errors import RemoteProtocolError, misfit
from protocol.frames import FRAMES, Frame, Part
from protocol.limits import ARRAYS_MAX, ITEMS_MAX, MAPS_MAX, MESSAGE_FRAMES_MAX, NESTING_MAX

__all__ = [
    "decode",
    "encode",
    "encode_entries",
    "pack_record",
    "pack_records",
    "pack_script_arguments",
    "pack_value",
    "unpack_record",
    "unpack_script_reply",
    "unpack_value",
]

_OPEN_FRAMES = frozenset({"request", "response"})
"""Frames with parts that no schema bounds."""

PACKER_BYTES_MAX = 256 * 1024
"""A packer that has made more than this is given up, with the room that it took."""

_NUMBERS = (int, type(None))
_RECORD_FIELDS = 7
_RECORD_TYPES = frozenset((str, str, *numbers, bytes) for numbers in product(_NUMBERS, repeat=4))
"""The types that the seven values of an entry may have."""

_NEVER_NONE = (str, int, float, bool, bytes)
"""Fields of these types hold no None."""
_FORMS: dict[type[BaseModel], tuple[tuple[str, ...], dict[str, str]]] = {}


def _form(model: type[BaseModel]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the fields of a model whose value may be None, and the keys of those whose key is not their name."""
    form = _FORMS.get(model)
    if form is None:
        fields = model.model_fields.items()
        optional = tuple(name for name, field in fields if not any(field.annotation is kind for kind in _NEVER_NONE))
        form = _FORMS[model] = optional, {name: field.alias for name, field in fields if field.alias}
    return form


def _part_to_map(part: object) -> dict[str, Any]:
    if isinstance(part, int):
        raise OverflowError("an int of more than 64 bits has no place in a frame or body")
    if not isinstance(part, BaseModel):
        raise TypeError(f"{type(part).__name__} has no place in a frame or body")
    optional, renamed = _form(type(part))
    values = part.__dict__.copy()  # in the order of the fields
    for name in optional:
        if values[name] is None:
            del values[name]
    return {renamed.get(name, name): value for name, value in values.items()} if renamed else values


class _Packer(threading.local):
    """One packer for each thread: to make one costs as much as to pack an entry twice."""

    pack: Callable[[object], bytes]

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Give up the room that large values took: a packer keeps it."""
        self.pack = msgpack.Packer(default=_part_to_map).pack


_packer = _Packer()


def _pack(value: object) -> bytes:
    packed = _packer.pack(value)
    if len(packed) > PACKER_BYTES_MAX:
        _packer.renew()
    return packed


def encode(frame: Part) -> bytes:
    """Return the bytes of one frame. Keys whose value is None are left out."""
    return _pack(frame)


def encode_entries(
    log: str, prev: int, prev_tag: str, upto: int, tag: str, entries: tuple[Entry, ...], *, caught_up: bool = False
) -> bytes:
    """Return the bytes of an `entries` frame, as `encode` does: of all frames the hub sends most of these."""
    frame: dict[str, Any] = {"t": "entries", "log": log, "prev": prev, "prev_tag": prev_tag, "upto": upto, "tag": tag}
    frame["entries"] = entries
    frame["caught_up"] = caught_up
    return _pack(frame)


def _malformed(message: str) -> NoReturn:
    raise RemoteProtocolError(CloseCode.MALFORMED, message)


class _Budget:
    """What one message may still hold, so that a small one cannot become large in memory."""

    __slots__ = ("_arrays", "_maps")

    def __init__(self) -> None:
        self._maps = MAPS_MAX
        self._arrays = ARRAYS_MAX

    def map(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        self._maps -= 1
        if self._maps < 0:
            _too_large(f"more than {MAPS_MAX} maps in a message")
        result = dict(pairs)
        if len(result) != len(pairs):
            _malformed("a map has the same key twice")
        for key in result:
            if type(key) is not str:
                _malformed("a map has a key that is not a string")
        return result

    def array(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        self._arrays -= 1
        if self._arrays < 0:
            _too_large(f"more than {ARRAYS_MAX} arrays in a message")
        return items


def _too_large(message: str) -> NoReturn:
    raise RemoteProtocolError(CloseCode.TOO_LARGE, message)


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    _malformed(f"extension type {code} ({len(data)} bytes) is not allowed")


def _check_nesting(items: Iterable[Any], levels: int, most: int) -> None:
    """Refuse what is in an array or a map where it holds more levels of them than are left of `most`."""
    for item in items:
        kind = type(item)
        if kind is dict or kind is tuple:
            if levels == 1:
                raise RemoteProtocolError(CloseCode.TOO_LARGE, f"more than {most} levels of arrays and maps")
            _check_nesting(item.values() if kind is dict else item, levels - 1, most)
        elif kind is msgpack.Timestamp:
            _malformed("extension type -1 is not allowed")


def decode(message: bytes, bytes_max: int, nesting_max: int = NESTING_MAX) -> Iterator[Frame]:
    """Yield the frames of a message, one by one, so that those before a fault take effect.

    Raises:
        RemoteProtocolError: the message is too large, is not msgpack of the allowed form, or holds a
            frame of an unknown type or one that does not fit its schema.
    """
    if len(message) > bytes_max:
        raise RemoteProtocolError(CloseCode.TOO_LARGE, f"a message of {len(message)} bytes; the limit is {bytes_max}")
    budget = _Budget()
    unpacker = msgpack.Unpacker(
        use_list=False,
        list_hook=budget.array if len(message) > ARRAYS_MAX else None,  # each takes a byte at least
        object_pairs_hook=budget.map,
        ext_hook=_refuse_extension,
        max_buffer_size=max(bytes_max, 1),
        max_array_len=ITEMS_MAX,
        max_map_len=ITEMS_MAX,
    )
    unpacker.feed(message)
    frames, size = 0, len(message)
    while unpacker.tell() < size:
        frames += 1
        if frames > MESSAGE_FRAMES_MAX:
            _too_large(f"more than {MESSAGE_FRAMES_MAX} frames in a message")
        try:
            value = unpacker.unpack()
        except msgpack.OutOfData:
            _malformed("the message ends inside a frame")
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as fault:
            _malformed(f"not msgpack of the allowed form: {type(fault).__name__} {fault}"[:200])
        yield _to_frame(value, nesting_max)


def _to_frame(value: object, nesting_max: int) -> Frame:
    if not isinstance(value, dict):
        _malformed("a frame is a map")
    kind = value.get("t")
    model = FRAMES.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise RemoteProtocolError(CloseCode.UNKNOWN_FRAME, f"no frame is of type {kind!r:.80}")
    if kind in _OPEN_FRAMES:
        _check_nesting(value.values(), nesting_max, nesting_max)
    try:
        frame: Frame = model.__pydantic_validator__.validate_python(value)  # which is what `model_validate` calls
    except ValidationError as fault:
        raise RemoteProtocolError(CloseCode.INVALID_FRAME, f"{kind}: {misfit(fault)}") from None
    return frame


def pack_record(
    kind: str,
    src: str,
    body: bytes,
    *,
    attempt: int | None = None,
    seq: int | None = None,
    index: int | None = None,
    cause: int | None = None,
) -> bytes:
    """Return the `packed` value of an entry: what a `Record` has, in its order.

    Made once, by the hub; everybody after it uses these bytes.
    """
    return _pack((kind, src, attempt, seq, index, cause, body))


def pack_records(
    entries: Iterable[tuple[str, bytes, int | None, int | None]], src: str, attempt: int | None, first_seq: int
) -> tuple[bytes, ...]:
    """Return the `packed` values of entries as a `publish` has them, numbered from `first_seq`."""
    pack = _packer.pack
    packed = [
        pack((kind, src, attempt, seq, index, cause, body))
        for seq, (kind, body, index, cause) in enumerate(entries, first_seq)
    ]
    if max(map(len, packed), default=0) > PACKER_BYTES_MAX:
        _packer.renew()
    return tuple(packed)


def unpack_record(packed: bytes) -> Record:
    """Return what an entry says.

    Raises:
        ValueError: `packed` is not the array of seven that an entry is.
    """
    try:
        values = msgpack.unpackb(packed, use_list=False, max_array_len=_RECORD_FIELDS, max_map_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as fault:
        raise ValueError(f"not the packed value of an entry: {fault}") from fault
    if type(values) is not tuple or tuple(map(type, values)) not in _RECORD_TYPES:
        raise ValueError("not the packed value of an entry, which is [kind, src, attempt, seq, index, cause, body]")
    return Record(*values)


def pack_value(value: Any) -> bytes:
    """Return a body: any value of None, bool, int, float, str, bytes, list, tuple, dict, or of our models.

    Raises:
        TypeError: the value holds something else.
        ValueError: it is nested too deep; OverflowError: an int does not fit in 64 bits.
    """
    return _pack(value)


def unpack_value(body: bytes) -> Any:
    """Return the value of a body. An empty body is None.

    Raises:
        ValueError: the body is not one msgpack value.
    """
    if not body:
        return None
    try:
        _check_complete(body)
        return msgpack.unpackb(body, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as fault:
        raise ValueError(f"not one msgpack value: {type(fault).__name__} {fault}"[:200]) from fault


def _check_complete(body: bytes) -> None:
    """Walk over a value without making it: msgpack makes room for as many items as a header claims."""
    walker = msgpack.Unpacker(max_buffer_size=len(body))
    walker.feed(body)
    walker.skip()


def pack_script_arguments(value: Any) -> bytes:
    """Return arguments for a script in the store, whose msgpack knows neither bin nor str8."""
    return cast(bytes, msgpack.packb(value, use_bin_type=False))


def unpack_script_reply(reply: bytes, *, text: bool = False) -> Any:
    """Return what a script in the store packed. Its msgpack has one kind of string: all are bytes, or all text."""
    return msgpack.unpackb(reply, raw=not text, unicode_errors="replace", strict_map_key=False)
