"""What commands print: JSON, tables, plain lines."""

from __future__ import annotations

import sys

import pytest

from orchestrator.cli.output import Output

RUN = "07-0190f3a2b1c-00112233aabbccdd"


def test_rows_are_lines_with_tabs_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(("RUN", "STATE"), [(RUN, "queued"), ("x\ty", None)])
    assert capsys.readouterr().out == f"{RUN}\tqueued\nx\\ty\t\n"


def test_rows_are_a_table_on_a_terminal_and_ids_are_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    Output().rows(("RUN", "STATE", "HANDLER"), [(RUN, "queued", "a-handler-with-a-name-that-does-not-fit-in-there")])
    printed = capsys.readouterr().out
    assert RUN in printed
    assert "STATE" in printed


def test_json_is_one_object_a_line_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.json({"a": "é\n"})
    out.note("beside")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ('{"a":"\\u00e9\\n"}\n', "beside\n")
