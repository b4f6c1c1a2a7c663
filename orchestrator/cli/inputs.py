"""What people type: JSON, files, names of logs and runs. Everything is checked before anything is sent."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from protocol.control import is_control

__all__ = [
    "INPUT_BYTES_MAX",
    "parse_duration_s",
    "parse_input",
    "parse_kind",
    "parse_labels",
    "parse_log",
    "parse_name",
    "parse_run",
    "parse_said",
    "parse_span_s",
    "parse_where",
    "program_name",
]

INPUT_BYTES_MAX = 16 * 1024 * 1024
"""Bytes read of an input; what the hub takes is less, and it says how much."""

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
_RUN_ID = re.compile(r"[0-9]{2}-[0-9a-f]{11}-[0-9a-f]{16}")


def parse_input(text: str | None, what: str = "INPUT") -> Any:
    """Return the value of an argument that is JSON, `@file`, or `-` for standard input. None where it is not given.

    Raises:
        CliError: the file cannot be read, or it is not JSON that can be sent.
    """
    if text is None:
        return None
    if text == "-":
        return _decode(sys.stdin.buffer.read(INPUT_BYTES_MAX + 1), f"{what} (standard input)")
    if text.startswith("@"):
        return _decode(_file(Path(text[1:]), what), f"{what} ({text[1:]})")
    return _decode(text.encode("utf-8", "surrogateescape"), what)


def parse_said(text: str, what: str) -> Any:
    """Return the value of an argument that people say: text, or else as `parse_input` has it.

    Text is what is no JSON and begins like none.

    Raises:
        CliError: see `parse_input`; what begins as an object, an array or a string of JSON is to be one.
    """
    try:
        return parse_input(text, what)
    except CliError:
        begins = text.lstrip()[:1]
        if text == "-" or not begins or begins in '@{["':
            raise
        return text


def _file(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(INPUT_BYTES_MAX + 1)
    except PermissionError:
        raise CliError(f"{what}: {path} may not be read by this user; run as its owner", Exit.FORBIDDEN) from None
    except OSError as fault:
        raise CliError(f"{what}: {path} cannot be read: {fault.strerror}; @ goes before the path of a file") from None


def _decode(data: bytes, what: str) -> Any:
    if len(data) > INPUT_BYTES_MAX:
        raise CliError(f"{what} is over {INPUT_BYTES_MAX} bytes; put large things where handlers can fetch them")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise CliError(f"{what} is not UTF-8: byte {fault.start} is {data[fault.start]:#04x}") from None
    try:
        value = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as fault:
        where = f"line {fault.lineno} column {fault.colno}"
        hint = "; a string needs its quotes: '\"text\"'" if fault.pos == 0 and text.strip() else ""
        raise CliError(f"{what} is not JSON: {fault.msg} at {where}{hint}") from None
    except RecursionError:
        raise CliError(f"{what} is nested too deep") from None
    except ValueError as fault:
        raise CliError(f"{what} is not JSON: {fault}") from None
    _check(value, what)
    return value


def _check(value: Any, what: str) -> None:
    """Refuse what JSON has and a body has not."""
    match value:
        case bool():
            return
        case int() if not INT_MIN <= value <= INT_MAX:
            raise CliError(f"{what}: {str(value)[:40]} does not fit in 64 bits; send it as a string")
        case float() if value in (float("inf"), float("-inf")):
            raise CliError(f"{what}: a number is too large for a float; send it as a string")
        case str() if any("\ud800" <= character <= "\udfff" for character in value):
            raise CliError(f"{what}: a string has half a surrogate pair in it, which is not Unicode text")
        case list():
            for item in value:
                _check(item, what)
        case dict():
            for key, item in value.items():
                _check(key, what)
                _check(item, what)


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"an object has the key {key!r} twice")
        seen[key] = value
    return seen


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def parse_log(text: str) -> str:
    """Read a log, `kind/name`; a run's id alone is its log.

    Raises:
        CliError: it is neither.
    """
    from protocol.errors import InvalidName
    from protocol.ids import LogName

    try:
        return LogName.parse(f"run/{text}" if _RUN_ID.fullmatch(text) else text).path
    except InvalidName as fault:
        raise CliError(f"{fault}; `fleetline log ls` lists the logs") from None


def parse_run(text: str) -> str:
    """Read a run's id; `run/ID` is taken too.

    Raises:
        CliError: it is none.
    """
    run = text.removeprefix("run/")
    if not _RUN_ID.fullmatch(run):
        raise CliError(f"{text[:160]!r} is not a run id; `fleetline run ls` lists the runs")
    return run


def parse_name(text: str, what: str) -> str:
    """Read a name of something.

    Raises:
        CliError: it is none.
    """
    from protocol.errors import InvalidName
    from protocol.ids import check_name

    try:
        return check_name(text)
    except InvalidName as fault:
        raise CliError(f"{what}: {fault}") from None


def program_name(word: str) -> str:
    """Return the name of a handler that is a program: that of its file, as far as it can be a name.

    Raises:
        CliError: nothing of it can.
    """
    name = re.sub(r"[^a-z0-9._-]", "-", Path(word).name.lower()).lstrip("._-")[:128]
    if not name:
        raise CliError(f"COMMAND: {word[:160]!r} gives no name for its runs; give one with --handler NAME")
    return name


def parse_kind(text: str) -> str:
    """Read the kind of an entry or message.

    Raises:
        CliError: it is no name; those of control entries are none.
    """
    if is_control(text):
        raise CliError(f"KIND: {text[:160]!r}: kinds that begin with $ are the hub's own; choose another word")
    return parse_name(text, "KIND")


def parse_duration_s(text: str, option: str) -> int:
    """Read a span of time.

    Raises:
        CliError: it is none.
    """
    from orchestrator.cli.text import duration_s

    try:
        return duration_s(text)
    except ValueError as fault:
        raise CliError(f"{option}: {fault}") from None


def parse_span_s(text: str | None, option: str, *, or_none: bool = False) -> float | None:
    """Read a span of time, where one was given: seconds, or a number and a unit.

    Args:
        text: what was typed.
        option: what it was typed for.
        or_none: a span of 0 is none at all, which is given as None; else it is refused.

    Raises:
        CliError: it is none.
    """
    from orchestrator.cli.text import span_s
    from protocol.frames.part import SPAN_MS_MAX

    if text is None:
        return None
    most_s = SPAN_MS_MAX // 1000
    seconds = span_s(text)
    if seconds == 0 and or_none:
        return None
    if not seconds or seconds > most_s:
        least = "0 (none)" if or_none else "0.001"
        raise CliError(
            f"{option}: {text[:160]!r} is not a time; write seconds from {least} to {most_s} (90, 0.5), "
            "or a whole number and a unit (90s, 15m, 12h, 30d, 2w)"
        )
    return seconds


def parse_where(values: list[str], option: str) -> str:
    """Read requirements of a selector; return all of them as one.

    Raises:
        CliError: one cannot be read.
    """
    from protocol.errors import InvalidSelector
    from protocol.selector import parse_selector

    try:
        return str(parse_selector(",".join(values)))
    except InvalidSelector as fault:
        raise CliError(f"{option}: {fault}") from None


def parse_labels(values: list[str], option: str) -> dict[str, str]:
    """Read labels, each K=V.

    Raises:
        CliError: one is none, or is given twice.
    """
    from protocol.errors import InvalidLabel
    from protocol.selector import check_labels

    pairs: dict[str, str] = {}
    for value in values:
        label, equals, rest = value.partition("=")
        if not equals:
            raise CliError(f"{option}: {value[:160]!r} is not K=V; a label has a value, say {label[:40] or 'ssd'}=yes")
        if label in pairs:
            raise CliError(f"{option}: {label!r} is given twice")
        pairs[label] = rest
    try:
        return check_labels(pairs)
    except InvalidLabel as fault:
        raise CliError(f"{option}: {fault}") from None
