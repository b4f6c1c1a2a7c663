"""What commands print: JSON, tables, plain lines."""

from __future__ import annotations

import re
import sys
import time

import pytest

from orchestrator.cli.output import Output
from orchestrator.cli.run import _table
from protocol.requests import RunInfo

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


@pytest.mark.parametrize("columns", [80, 140])
def test_runs_fit_a_terminal_with_state_and_id_whole(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    submitted_ms = int(time.time() * 1000) - 185_000
    info = RunInfo(
        run=RUN, state="succeeded", handler="review-of-everything-there-is", queue="a-queue", attempt=3,
        agent="a-worker-with-a-long-name", submitted_ms=submitted_ms, head=3,
    )  # fmt: skip
    _table(Output(), (info,))
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    [row] = [line for line in lines if RUN in line]
    assert all(len(line) <= columns for line in lines)
    assert "succeeded" in row
    assert ("3 min ago" in row) == (columns == 80)
    assert ("a-queue" in row) == (columns == 140)


def test_json_is_one_object_a_line_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.json({"a": "é\n"})
    out.note("beside")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ('{"a":"\\u00e9\\n"}\n', "beside\n")
