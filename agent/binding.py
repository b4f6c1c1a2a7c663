"""From a run's input to a handler's arguments.

A dict whose keys are the handler's parameters is taken as keyword arguments; anything else is its single
parameter. What is annotated is validated with pydantic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from agent.errors import BadHandler, BadInput
from protocol.codec import pack_value

__all__ = ["Binder", "pack_result"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Binder:
    """The parameters of one handler, after its context."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        """Read the handler's signature.

        Raises:
            BadHandler: it takes no context, or parameters that an input cannot name.
        """
        name = getattr(handler, "__qualname__", repr(handler))
        parameters = list(inspect.signature(handler).parameters.values())
        if not parameters or parameters[0].kind not in (_NAMED[0], inspect.Parameter.POSITIONAL_ONLY):
            raise BadHandler(f"handler {name} takes no context; make its first parameter `ctx`")
        hints = _hints(handler)
        self._handler = name
        self._adapters: dict[str, TypeAdapter[Any]] = {}
        self._required: list[str] = []
        for parameter in parameters[1:]:
            if parameter.kind not in _NAMED:
                raise BadHandler(
                    f"handler {name} takes {parameter}, which an input cannot name; give each parameter a name"
                )
            self._adapters[parameter.name] = _adapter(name, parameter.name, hints.get(parameter.name, Any))
            if parameter.default is inspect.Parameter.empty:
                self._required.append(parameter.name)

    def bind(self, given: Any) -> dict[str, Any]:
        """Return the keyword arguments for an input.

        Raises:
            BadInput: it does not fit; the message names every fault.
        """
        values = self._by_name(given)
        arguments: dict[str, Any] = {}
        faults = [f"the parameter {name} is missing" for name in self._required if name not in values]
        for name, value in values.items():
            try:
                arguments[name] = self._adapters[name].validate_python(value)
            except ValidationError as fault:
                faults.extend(_said(name, fault))
        if faults and values is not given:
            [name] = values
            if isinstance(given, dict):
                stray = _listed(given, self._adapters)
                faults.insert(0, f"there is no parameter {stray}, so all of it was taken as {name}")
            elif given is None:
                faults = [f"no input was given, and the parameter {name} is missing"]
        if faults:
            raise self._unfit(faults, "submit another input")
        return arguments

    def _by_name(self, given: Any) -> Mapping[str, Any]:
        names = list(self._adapters)
        if isinstance(given, dict) and set(given) <= set(names):
            return given
        if given is None and not self._required:
            return {}
        if len(names) == 1 or len(self._required) == 1:
            return {(self._required or names)[0]: given}
        takes = f"it takes {', '.join(names)}" if names else "it takes none"
        if not isinstance(given, dict):
            raise self._unfit([f"{_kind_of(given)} names no parameters ({takes})"], "submit an object that names them")
        faults = [f"there is no parameter {_listed(given, names)} ({takes})"]
        faults += [f"the parameter {name} is missing" for name in self._required if name not in given]
        raise self._unfit(faults, "submit an object with its names")

    def _unfit(self, faults: list[str], remedy: str) -> BadInput:
        what = "; ".join(faults)
        return BadInput(f"the input does not fit handler {self._handler}: {what}; the handler was not called; {remedy}")


def pack_result(result: Any) -> bytes:
    """Pack what a handler returned.

    Raises:
        TypeError: it holds what cannot be packed.
    """
    try:
        return pack_value(result)
    except (TypeError, ValueError, OverflowError) as fault:
        raise TypeError(
            f"the handler returned a value of type {type(result).__name__}, which cannot be packed: {fault}; "
            "return None, bool, int, float, str, bytes, or lists and dicts of them"
        ) from None


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(handler, include_extras=True)
    except (NameError, TypeError):  # names that exist for the type checker only
        return {}


def _adapter(handler: str, name: str, annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticSchemaGenerationError as fault:
        raise BadHandler(
            f"handler {handler}: parameter {name} is a {annotation}, which no input can be; use a type that pydantic "
            "can make from plain data"
        ) from fault


def _said(name: str, fault: ValidationError) -> list[str]:
    errors = fault.errors(include_url=False, include_context=False)
    return [
        f"{'.'.join(map(str, (name, *error['loc'])))}: {error['msg'].removeprefix('Value error, ')}" for error in errors
    ]


def _listed(given: Mapping[Any, Any], known: Collection[str]) -> str:
    return ", ".join(sorted(str(key) for key in given if key not in known))


def _kind_of(value: Any) -> str:
    """Return what people call a value that came as JSON or msgpack."""
    return "no input" if value is None else f"an input of type {type(value).__name__}"
