"""Hypothesis strategies: any frame that fits its schema, made from the schema itself."""

from __future__ import annotations

import types
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from protocol.entry import Entry, Position

__all__ = ["frames", "values"]

_TAGS = st.text("0123456789abcdef", min_size=16, max_size=16)
_TEXTS = st.text(max_size=20)

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    _TEXTS,
    st.binary(max_size=20),
)


def values(max_leaves: int = 10) -> st.SearchStrategy[Any]:
    """Return values that a frame may hold where its schema says any; arrays are tuples."""
    return st.recursive(
        _SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=4).map(tuple), st.dictionaries(_TEXTS, inner, max_size=4)),
        max_leaves=max_leaves,
    )


def frames(model: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    """Return any instance of a model."""
    given: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) is not Literal:
            given[name] = _of(field.annotation, tuple(field.metadata))
    return st.fixed_dictionaries(given).map(lambda made: model.model_validate(made, by_name=True, by_alias=False))


def _of(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of(inner[0], (*inner[1:], *metadata))
    if origin in (Union, types.UnionType):
        return st.one_of(*(_of(option, metadata if option is not type(None) else ()) for option in inner))
    bounds = _bounds(metadata)
    if origin is tuple:
        if inner[-1] is not Ellipsis:
            return st.tuples(*map(_of, inner))
        return st.lists(_of(inner[0]), min_size=bounds.get("min_length", 0), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_of(inner[0]), values(4) if inner[1] is Any else _of(inner[1]), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return frames(annotation)
    if annotation in (Entry, Position):
        return _named(annotation)
    return _plain(annotation, bounds)


def _named(kind: type[NamedTuple]) -> st.SearchStrategy[Any]:
    fields = [_of(annotation) for annotation in get_type_hints(kind, include_extras=True).values()]
    return st.tuples(*fields).map(lambda parts: kind(*parts))


def _plain(annotation: Any, bounds: dict[str, Any]) -> st.SearchStrategy[Any]:
    if annotation is int:
        low = bounds.get("ge", 0)
        high = bounds.get("le", bounds.get("lt", 2**63) - 1)
        return st.one_of(st.integers(low, min(high, low + 300)), st.integers(low, high))
    if annotation is str:
        least = bounds.get("min_length", 0)
        return _TAGS if "pattern" in bounds else st.text(min_size=least, max_size=max(20, least))
    least_bytes = bounds.get("min_length", 0)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        Any: values(),
        bool: st.booleans(),
        bytes: st.binary(min_size=least_bytes, max_size=bounds.get("max_length", max(40, least_bytes))),
        float: st.floats(bounds.get("ge"), bounds.get("le"), allow_nan=False),
        type(None): st.none(),
    }
    return plain[annotation]


def _bounds(metadata: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        for each in item.metadata if isinstance(item, FieldInfo) else [item]:
            for name in ("ge", "le", "lt", "min_length", "max_length", "pattern"):
                value = getattr(each, name, None)
                if value is not None:
                    found.setdefault(name, value)
    return found
