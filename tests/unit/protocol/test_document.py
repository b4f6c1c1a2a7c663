"""docs/protocol.md says what the code does: its tables are compared with the code's, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from protocol import artifacts, control, frames, requests, requests_tokens, schedules
from protocol.backoff import RECONNECT_CAP_MS, RECONNECT_FIRST_MS
from protocol.codes import CloseCode, ErrorCode, explain
from protocol.control import CONTROL, MarkerOp
from protocol.frames import FRAMES, ResetReason, Window
from protocol.ids import PARTITIONS, LogKind
from protocol.limits import (
    ARRAYS_MAX,
    DEFAULT_HANDSHAKE_MS,
    ITEMS_MAX,
    KEPT_TAGS_MAX,
    MAPS_MAX,
    MESSAGE_FRAMES_MAX,
    NESTING_MAX,
    UNIDENTIFIED_BYTES_MAX,
    Limits,
)
from protocol.output import OUTPUT_ENTRY_BYTES_MAX, PIECE_BYTES_MAX
from protocol.requests import METHODS
from protocol.run import TRANSITIONS
from protocol.schedules import SCHEDULES_MAX
from tests.support.document import PROTOCOL, field_rows, headings, section, table

PARTS: dict[str, type[BaseModel]] = {
    "proof": frames.Proof,
    "handler spec": frames.HandlerSpec,
    "attempt claim": frames.AttemptClaim,
    "subscription verdict": frames.SubscriptionVerdict,
    "attempt verdict": frames.AttemptVerdict,
    "held attempt": frames.HeldAttempt,
    "window": frames.Window,
    "lost": frames.Lost,
    "fault": frames.Fault,
    "run info": requests.RunInfo,
    "artifact": artifacts.Artifact,
    "queue info": requests.QueueInfo,
    "schedule info": schedules.ScheduleInfo,
    "bucket": requests.Bucket,
    "rate": requests.Rate,
    "share": requests.Share,
    "key info": requests.KeyInfo,
    "peer key": requests.PeerKey,
    "refused key": requests.RefusedKey,
    "revoked mark": requests_tokens.RevokedMark,
    "log info": requests.LogInfo,
    "agent info": requests.AgentInfo,
    "run error": control.RunError,
}


def inline(model: type[BaseModel]) -> str:
    return "; ".join(f"{name} {kind}" for name, kind in field_rows(model))


def text() -> str:
    return PROTOCOL.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", FRAMES)
def test_fields_of_a_frame(kind: str) -> None:
    documented = [row[:2] for row in table(kind)]
    assert documented == list(field_rows(FRAMES[kind]))


@pytest.mark.parametrize("name", PARTS)
def test_fields_of_a_part(name: str) -> None:
    assert [row[:2] for row in table(name)] == list(field_rows(PARTS[name]))


def parts_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the models that a model's fields hold, at any depth."""
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            annotation = waiting.pop()
            waiting.extend(get_args(annotation))
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield annotation
                yield from parts_of(annotation)


def test_every_part_of_a_frame_has_its_section() -> None:
    models = [*FRAMES.values(), *(method.result for method in METHODS.values())]
    models += [row.body for row in CONTROL.values()]
    held = {part for model in models for part in parts_of(model)}
    assert held - {Limits, frames.Subscribe} <= set(PARTS.values())


def test_every_frame_says_who_sends_it() -> None:
    for kind in FRAMES:
        assert re.match(r"\s*(Hub|Peer|Either)\b", section(kind)), kind


def test_methods() -> None:
    documented = {row[0]: row[1:4] for row in table("Requests")}
    infos = {model: name for name, model in PARTS.items()}
    expected = {
        name: (
            "yes" if method.needs_op else "no",
            inline(method.params),
            infos.get(method.result) or inline(method.result),
        )
        for name, method in METHODS.items()
    }
    assert documented == expected


def test_errors_of_methods_are_codes() -> None:
    for row in table("Requests"):
        assert all(code in set(ErrorCode) for code in row[4].split())


def test_control_kinds() -> None:
    documented = {row[0]: row[1:4] for row in table("Control entries")}
    assert documented == {
        kind: (control.writer.value, control.log.value, inline(control.body)) for kind, control in CONTROL.items()
    }


def test_operations_of_a_journal() -> None:
    assert [row[0] for row in table("Journals")] == [op.value for op in MarkerOp]


def test_terminal_kinds_say_so() -> None:
    terminal = {row[0] for row in table("Control entries") if row[4].startswith("terminal")}
    assert terminal == {kind for kind, control in CONTROL.items() if control.terminal}


def test_close_codes() -> None:
    documented = {(int(code), name, means) for code, name, means in table("Close codes")}
    assert documented == {(int(code), code.name.lower(), explain(code)) for code in CloseCode}


def test_error_codes() -> None:
    assert [row[0] for row in table("Error codes")] == [code.value for code in ErrorCode]


def test_what_to_do_about_a_nack_is_said_for_codes_that_exist() -> None:
    told = {row[0] for row in table("Publishing")}
    publishing = [code.value for code in ErrorCode][: [*ErrorCode].index(ErrorCode.UNKNOWN_METHOD)]
    assert set(publishing) <= told <= {code.value for code in ErrorCode}


def test_limits() -> None:
    documented = {row[0]: int(row[1]) for row in table("Limits")}
    assert documented == Limits().model_dump()


def test_run_transitions() -> None:
    documented = {tuple(row) for row in table("Runs")}
    assert documented == {
        (before.value if before else "none", kind.value, after.value) for (before, kind), after in TRANSITIONS.items()
    }


def test_reset_reasons_and_kinds_of_log() -> None:
    assert [row[0] for row in table("Following a log")] == [reason.value for reason in ResetReason]
    assert {row[0].split("/")[0] for row in table("Names")} == set(LogKind)


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("Encoding", f"at most {ITEMS_MAX} items"),
        ("Encoding", f"at most {MESSAGE_FRAMES_MAX} frames, {MAPS_MAX} maps and {ARRAYS_MAX} arrays"),
        ("Encoding", f"at most {NESTING_MAX} levels"),
        ("Sessions", f"at most {UNIDENTIFIED_BYTES_MAX} bytes"),
        ("Sessions", f"within {DEFAULT_HANDSHAKE_MS // 1000} s"),
        ("Sessions", f"min({RECONNECT_CAP_MS // 1000} s, {RECONNECT_FIRST_MS} ms"),
        ("Partitions", f"has {PARTITIONS} partitions"),
        ("Artifacts", f"chunks of {artifacts.CHUNK_BYTES} bytes"),
        ("Artifacts", f"at most {artifacts.ARTIFACTS_MAX} artifacts"),
        ("Artifacts", f"1 to {artifacts.NAME_BYTES_MAX} bytes"),
        ("Output", f"at most {PIECE_BYTES_MAX // 1024} KiB each"),
        ("Output", f"up to {OUTPUT_ENTRY_BYTES_MAX // 1024} KiB"),
        ("Schedules", f"at most {SCHEDULES_MAX} schedules"),
        ("Diverged histories", f"{KEPT_TAGS_MAX}, say"),
        ("subscribe", f"default {Window().entries} entries, {Window().bytes} bytes"),
    ],
)
def test_numbers_in_the_text(heading: str, said: str) -> None:
    assert said in section(heading)


def test_the_example_is_made_of_the_vectors() -> None:
    vectors = json.loads(PROTOCOL.with_name("protocol-vectors.json").read_text(encoding="utf-8"))
    frames = [vector["frame"] for vector in vectors["frames"]]
    lines = re.findall(r"^(hub|peer) +(\{.+)$", section("An example"), re.MULTILINE)
    kinds = [json.loads(frame)["t"] for _, frame in lines]
    assert (kinds[0], kinds[-1]) == ("hello", "puback")
    for sender, frame in lines:
        assert json.loads(frame) in frames
        assert section(json.loads(frame)["t"]).strip().lower().startswith((sender, "either"))


def links() -> Iterator[str]:
    yield from re.findall(r"\]\(#([^)]+)\)", text())


def test_links_lead_somewhere() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in headings()}
    assert set(links()) <= anchors


def test_the_sections_that_the_code_names_exist() -> None:
    found = set()
    root = Path(__file__).parents[3]
    for folder in ("protocol", "orchestrator", "agent"):
        for path in (root / folder).rglob("*.py"):
            for named in re.findall(r"docs/protocol\.md, sections? ([^\n;]+)", path.read_text(encoding="utf-8")):
                found |= {(path.name, name) for name in re.findall(r'"([^"]+)"', named)}
    assert found
    assert {pair for pair in found if pair[1] not in headings()} == set()
