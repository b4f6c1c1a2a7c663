"""What people type on the command line is checked before anything is sent."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from orchestrator.cli.inputs import (
    parse_duration_s,
    parse_input,
    parse_kind,
    parse_labels,
    parse_log,
    parse_name,
    parse_run,
    parse_span_s,
)
from protocol.codec import pack_value, unpack_value

RUN = "07-0190f3a2b1c-00112233aabbccdd"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("null", None),
        ('{"a": [1, 2.5, "é"]}', {"a": [1, 2.5, "é"]}),
        ("18446744073709551615", 2**64 - 1),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_json_is_taken(text: str | None, value: Any) -> None:
    parsed = parse_input(text)
    assert parsed == value
    assert unpack_value(pack_value(parsed)) == value


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"repo": "."}\n')
    assert parse_input(f"@{file}") == {"repo": "."}


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1]")))
    assert parse_input("-") == [1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{bad", "INPUT is not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
        ("hello", "a string needs its quotes"),
        ("", "INPUT is not JSON: Expecting value at line 1 column 1"),
        ("1 2", "Extra data at line 1 column 3"),
        ('{"a":1,"a":2}', "an object has the key 'a' twice"),
        ("NaN", "NaN is no JSON value"),
        ("1e999", "a number is too large for a float"),
        ("18446744073709551616", "does not fit in 64 bits"),
        ('["\\ud800"]', "half a surrogate pair"),
        ("[" * 100_000, "nested too deep"),
        ("@no-such-file", "no-such-file cannot be read: No such file or directory"),
        ("@.", "cannot be read: Is a directory"),
    ],
)
def test_other_input_is_refused(text: str, says: str) -> None:
    with pytest.raises(CliError) as caught:
        parse_input(text)
    assert says in str(caught.value)
    assert caught.value.exit is Exit.USAGE


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_bytes(b'"a\xff"')
    with pytest.raises(CliError, match=r"is not UTF-8: byte 2 is 0xff"):
        parse_input(f"@{file}")


def test_a_huge_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cli.inputs.INPUT_BYTES_MAX", 10)
    file = tmp_path / "input.json"
    file.write_bytes(b" " * 11)
    with pytest.raises(CliError, match="is over 10 bytes"):
        parse_input(f"@{file}")


@pytest.mark.parametrize(
    ("text", "log"), [(RUN, f"run/{RUN}"), (f"run/{RUN}", f"run/{RUN}"), ("topic/news", "topic/news")]
)
def test_logs_are_read(text: str, log: str) -> None:
    assert parse_log(text) == log


@pytest.mark.parametrize("text", ["news", "topic/", "topic/A", "run/x", "other/a", "topic/a/b", "topic/../x", ""])
def test_other_logs_are_refused(text: str) -> None:
    with pytest.raises(CliError):
        parse_log(text)


def test_runs_are_read() -> None:
    assert parse_run(f"run/{RUN}") == RUN
    with pytest.raises(CliError, match="is not a run id"):
        parse_run("7")


def test_names_are_read() -> None:
    assert parse_name("a.b-c_1", "--id") == "a.b-c_1"
    with pytest.raises(CliError, match="--id: 'A' is not a name"):
        parse_name("A", "--id")


@pytest.mark.parametrize("text", ["", "$cancel", "x" * 129, "a\nb", "Said", "two words", ".said"])
def test_kinds_that_the_hub_would_refuse_are_refused(text: str) -> None:
    with pytest.raises(CliError, match=r"^KIND: "):
        parse_kind(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)])
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration_s(text, "--expires") == seconds


@pytest.mark.parametrize("text", ["", "5", "0s", "-1s", "1.5h", "1 h", "1y", "99999999999s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(CliError, match=r"--expires: .* is not a duration"):
        parse_duration_s(text, "--expires")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("0.5", 0.5), ("0.001", 0.001), ("316224000", 316_224_000), ("2w", 1_209_600)]
)
def test_spans_are_seconds_or_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_span_s(text, "--delay") == seconds


@pytest.mark.parametrize("text", ["", "-1", "5x", "0.0001", "1.5h", "1e3", "316224001", "99999w"])
def test_what_is_no_span_is_told_what_is_one(text: str) -> None:
    with pytest.raises(CliError) as caught:
        parse_span_s(text, "--delay", or_none=True)
    assert str(caught.value) == (
        f"--delay: {text!r} is not a time; write seconds from 0 (none) to 316224000 (90, 0.5), "
        "or a whole number and a unit (90s, 15m, 12h, 30d, 2w)"
    )


def test_a_span_of_nothing_is_none_where_there_need_be_none() -> None:
    assert parse_span_s(None, "--timeout") is None
    for text in ("0", "0.000", "0s"):
        assert parse_span_s(text, "--delay", or_none=True) is None
        with pytest.raises(CliError, match=r"--timeout: '0.*' is not a time; write seconds from 0\.001 to"):
            parse_span_s(text, "--timeout")


def test_labels_are_read() -> None:
    assert parse_labels(["a=1", "b=x/y:z"], "--label") == {"a": "1", "b": "x/y:z"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"], ["c="], ["b=x=y"], ["tier@@a=1"]):
        with pytest.raises(CliError, match="--label: "):
            parse_labels(wrong, "--label")
