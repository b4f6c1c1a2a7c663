"""Export files: every changed byte is found, and the offset named is that of the entry at fault."""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest

from orchestrator.replay.verify import ChainVerifier, FileVerifier, NotVerified, read_export
from protocol.entry import Entry, Position, chain, origin
from tests.unit.replay.entries import EPOCH, RUN, cut, export_bytes, made_log, run_log

AWKWARD = made_log(
    ("text", "é\u2028\x1b[31m"),
    ("numbers", [1, -1, 2**63 - 1, 1.5, float("nan"), float("inf")]),
    ("bytes", b"\xff\x00"),
    ("keys", {"a": None, "": True}),
    ("odd-keys", {1: "a", "1": "b"}),
)


def verify(data: bytes) -> list[Entry]:
    return list(read_export(io.BytesIO(data), FileVerifier()))


def fault_in(data: bytes) -> NotVerified:
    with pytest.raises(NotVerified) as caught:
        verify(data)
    return caught.value


@pytest.mark.parametrize("entries", [run_log(), AWKWARD, made_log(("only", 1)), []])
def test_an_export_verifies_and_gives_the_entries_back(entries: list[Entry]) -> None:
    assert verify(export_bytes(entries)) == entries


def test_an_export_of_a_trimmed_log_verifies() -> None:
    before, kept = cut(run_log(), 4)
    assert verify(export_bytes(kept, before=before)) == kept


def flips(data: bytes) -> list[tuple[int, bytes]]:
    return [
        (at, data[:at] + bytes([other]) + data[at + 1 :])
        for at, byte in enumerate(data)
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, ord("\n"), ord("0"), ord(" ")} - {byte}
    ]


def trimmed_file() -> bytes:
    before, kept = cut(AWKWARD, 2)
    return export_bytes(kept, "topic/news", before)


@pytest.mark.parametrize(
    "data",
    [export_bytes(AWKWARD), export_bytes(made_log(("only", 1))), export_bytes([], "topic/news"), trimmed_file()],
    ids=["several", "one", "none", "trimmed"],
)
def test_any_changed_byte_is_found(data: bytes) -> None:
    for at, changed in flips(data):
        try:
            verify(changed)
        except NotVerified:
            continue
        pytest.fail(f"byte {at} changed from {data[at : at + 1]!r} to {changed[at : at + 1]!r} was not found")


def test_the_offset_named_is_that_of_the_changed_line() -> None:
    data = export_bytes(AWKWARD)
    for at, changed in flips(data):
        if b"\n" in (data[at : at + 1], changed[at : at + 1]):
            continue  # two lines are at fault
        line, head = data[:at].count(b"\n") + 1, len(AWKWARD)
        assert fault_in(changed).offset in ((line,) if line <= head else (head, head + 1))


def test_any_dropped_or_doubled_byte_is_found() -> None:
    data = export_bytes(made_log(("a", {"x": 1}), ("b", b"\x01")))
    for at in range(len(data)):
        fault_in(data[:at] + data[at + 1 :])
        fault_in(data[:at] + data[at : at + 1] + data[at:])


def test_a_file_cut_anywhere_is_found() -> None:
    data = export_bytes(made_log(("a", 1), ("b", 2)))
    for end in range(len(data)):
        fault_in(data[:end])


def edit(line: int, change: Callable[[dict[str, object]], object]) -> bytes:
    lines = export_bytes(run_log()).splitlines()
    fields = json.loads(lines[line - 1])
    change(fields)
    lines[line - 1] = json.dumps(fields, separators=(",", ":")).encode()
    return b"\n".join(lines) + b"\n"


def flipped(packed: object) -> str:
    """Change a byte of a body: the last one."""
    value = bytearray(b64decode(str(packed)))
    value[-1] ^= 1
    return b64encode(value).decode()


@pytest.mark.parametrize(
    ("data", "offset", "says"),
    [
        (edit(3, lambda f: f.update(kind="result")), 3, "the field kind says 'result', it must be 'finding'"),
        (edit(3, lambda f: f.update(attempt=True)), 3, "the field attempt says true, it must be 1"),
        (edit(3, lambda f: f.update(packed="!")), 3, "packed is not base64"),
        (edit(3, lambda f: f.update(packed="AA==")), 3, "packed does not match its tag"),
        (edit(3, lambda f: f.update(packed=flipped(f["packed"]))), 3, "packed does not match its tag"),
        (edit(3, lambda f: f.update(packed="AB==")), 3, "packed is not base64 as an export writes it"),
        (edit(3, lambda f: f.update(offset="3")), 3, "offset and ts_ms are not integers"),
        (edit(3, lambda f: f.update(ts_ms=1)), 3, "its time 1 is before"),
        (edit(3, lambda f: f.pop("src")), 3, "a line without src"),
        (edit(3, lambda f: f.update(note=1)), 3, "with unknown 'note'"),
        (edit(3, lambda f: f.update(kind=f.pop("kind"))), 3, "not in the order"),
        (edit(3, lambda f: f.update(tag="0" * 16)), 3, "the chain gives"),
        (edit(3, lambda f: f.update(epoch="\ud800")), 3, "log and epoch are not names"),
        (edit(1, lambda f: f.update(log="topic/other")), 1, "in one file"),
        (edit(2, lambda f: f.update(log="topic/other")), 2, "in one file"),
        (edit(3, lambda f: f.update(log="topic/other")), 3, "the line is of 'topic/other'"),
        (edit(12, lambda f: f.update(count=12)), 11, "the field count says 12, it must be 11"),
        (edit(12, lambda f: f.update(head=14)), 12, "entries are missing: the file ends at offset 11"),
        (export_bytes(run_log()) + b"\n", 12, "there is more after the last line"),
        (b"", 1, "the file is empty"),
        (export_bytes(run_log()).rpartition(b'{"log"')[0], 12, "the file ends after offset 11, without the line that"),
        (export_bytes(run_log())[:-9], 12, "the file ends in the middle of a line"),
        (b"[" * 100_000 + b"\n", 1, "not a line of JSON"),
        (b'{"log":1,"log":2}\n', 1, "the same key twice"),
        (b'{"log":NaN}\n', 1, "NaN is not JSON"),
        (b"7\n", 1, "not a JSON object"),
    ],
)
def test_a_fault_is_named_with_its_offset(data: bytes, offset: int, says: str) -> None:
    fault = fault_in(data)
    assert fault.offset == offset
    assert f"at offset {offset}: " in str(fault)
    assert says in str(fault)


def test_lines_in_another_order_are_found() -> None:
    lines = export_bytes(run_log()).splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    assert fault_in(b"".join(lines)).offset == 4


def test_a_line_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.replay.verify.LINE_BYTES_MAX", 100)
    assert "over 100 bytes" in str(fault_in(b"x" * 1000))


def test_pages_of_a_live_log_are_followed() -> None:
    entries = run_log()
    verifier, before = ChainVerifier(origin(EPOCH)), origin(EPOCH)
    for page in (entries[:4], entries[4:]):
        after = Position(EPOCH, page[-1].offset, chain(before.tag, page))
        verifier.page(before, after, page)
        before = after
    assert verifier.count == len(entries)


def test_a_live_log_whose_tag_differs_is_found() -> None:
    entries = run_log()
    wrong = Position(EPOCH, len(entries), "0" * 16)
    with pytest.raises(NotVerified, match=f"at offset {len(entries)}.*the chain gives"):
        ChainVerifier(origin(EPOCH)).page(origin(EPOCH), wrong, entries)


def test_a_page_that_does_not_follow_is_found() -> None:
    before, kept = cut(run_log(), 2)
    with pytest.raises(NotVerified, match="at offset 1: the log goes on from offset 2"):
        ChainVerifier(origin(EPOCH)).page(before, before, kept)


def test_the_log_of_an_export_is_known_after_its_first_line() -> None:
    verifier = FileVerifier()
    verifier.feed(export_bytes(run_log()).splitlines(keepends=True)[0])
    assert verifier.log == RUN
