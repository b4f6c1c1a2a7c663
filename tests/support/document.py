"""Reads docs/protocol.md as far as it is tables, and says what those of the code would be."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from protocol.entry import Entry, Position
from protocol.frames.part import SPAN_MS_MAX

__all__ = ["PROTOCOL", "field_rows", "headings", "section", "table", "type_text"]

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"

_PLAIN: dict[Any, str] = {
    Any: "any",
    Entry: "entry",
    Position: "position",
    bool: "bool",
    bytes: "bin",
    float: "number",
    str: "str",
    type(None): "nil",
}
_LARGEST_UINT = 2**63


def section(heading: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    text = PROTOCOL.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/protocol.md has no heading {heading!r}"
    return found.group(1)


def headings() -> list[str]:
    """Return all headings, in order."""
    return re.findall(r"^#+ (.+)$", PROTOCOL.read_text(encoding="utf-8"), re.MULTILINE)


def table(heading: str) -> list[tuple[str, ...]]:
    """Return the rows of the first table below a heading, without backquotes."""
    rows = []
    for line in section(heading).splitlines():
        if line.startswith("|"):
            rows.append(tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|")))
        elif rows:
            break
    assert rows, f"no table under {heading!r}"
    return rows[2:]


def field_rows(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield (name, type) of each field of a frame or body; optional fields' names end in `?`."""
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) is not Literal:
            yield (field.alias or name) + ("" if field.is_required() else "?"), _field_type(field)


def _field_type(field: FieldInfo) -> str:
    annotation = field.annotation
    options = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType) and len(options) == 1:
        annotation = options[0]
    return type_text(annotation, tuple(field.metadata))


def type_text(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Return how the document writes a type."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return type_text(inner, (*more, *metadata))
    bounds = _bounds(metadata)
    if annotation is int:
        return _integer(bounds)
    if annotation is str and "pattern" in bounds:
        return "tag" if "0-9a-f" in bounds["pattern"] else "digest"
    if annotation is str and "max_length" in bounds:
        return "short" if bounds["max_length"] == 160 else f"str ≤ {bounds['max_length']}"
    origin, inner_types = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return _array(inner_types) + _most(bounds)
    if origin is dict:
        key, value = inner_types
        return "map" if value is Any else f"map {type_text(key)} → {type_text(value)}" + _most(bounds)
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_text, inner_types))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " / ".join(member.value for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return re.sub(r"(?<!^)([A-Z])", r" \1", annotation.__name__).lower()
    return _PLAIN[annotation]


def _bounds(metadata: tuple[Any, ...]) -> dict[str, Any]:
    """Return what pydantic's and annotated_types' constraints say, the first of each kind."""
    found: dict[str, Any] = {}
    for item in metadata:
        nested = item.metadata if isinstance(item, FieldInfo) else [item]
        for each in nested:
            for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
                value = getattr(each, name, None)
                if value is not None:
                    found.setdefault(name, value)
    return found


def _integer(bounds: dict[str, Any]) -> str:
    if not bounds:
        return "int"
    low, high = bounds["ge"], bounds.get("le", bounds.get("lt"))
    if high in (None, _LARGEST_UINT):
        return "uint" if low == 0 else f"uint ≥ {low}"
    if high == 2**53:
        return f"{low} to 2⁵³ - 1"
    return "span" if (low, high) == (1, SPAN_MS_MAX) else f"{low} to {high}"


def _array(inner: tuple[Any, ...]) -> str:
    if inner[-1] is Ellipsis:
        return f"[{type_text(inner[0])}]"
    return "[" + ", ".join(map(type_text, inner)) + "]"


def _most(bounds: dict[str, Any]) -> str:
    low, high = bounds.get("min_length"), bounds.get("max_length")
    if low and high:
        return f" {low} to {high}"
    if low:
        return f" ≥ {low}"
    return f" ≤ {high}" if high else ""
