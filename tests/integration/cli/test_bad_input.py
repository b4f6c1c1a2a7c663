"""Bad input that it takes a hub to find: the message and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli.conftest import Shell

RUN = "07-0190f3a2b1c-00112233aabbccdd"

TABLE: list[tuple[str, int, str]] = [
    (f"run show {RUN}", 2, f"there is no run {RUN}"),
    (f"run watch {RUN}", 2, f"there is no run {RUN}"),
    (f"run cancel {RUN}", 2, f"there is no run {RUN}"),
    (f"replay {RUN}", 2, f"no log run/{RUN}"),
    ("log show topic/nothing", 2, "there is no log topic/nothing"),
    ("log tail topic/nothing", 2, "there is no log topic/nothing"),
    ("queue limit desk 0", 2, "to let nothing run, pause the queue"),
    ("queue show Desk", 2, "QUEUE: "),
    ("queue show typo", 2, "no run was ever submitted to a queue 'typo', and nothing was ever said of it"),
    ("run submit review --delay 2h --deadline 1h", 2, "it could never start"),
    ("run submit review --where gpu=", 2, "'gpu=' in a selector is not understood"),
    ("run submit review --delay soon", 2, "--delay: "),
    ("run submit review --timeout 0", 2, "--timeout: "),
    ("schedule show nightly", 2, "there is no schedule 'nightly'"),
    ("schedule rm nightly", 2, "there is no schedule 'nightly'"),
    ("schedule add nightly 61_*_*_*_* h", 2, "'61_*_*_*_*' is not a cron expression: it has five fields"),
    (
        "schedule add nightly @daily h --timezone Mars/Base",
        2,
        "'Mars/Base' is not a time zone; one looks like Europe/Berlin",
    ),
    ("log export topic/nothing", 2, "there is no log topic/nothing"),
    ("log verify topic/nothing", 2, "there is no log topic/nothing"),
    ("agent show nobody", 2, "no agent 'nobody' was ever seen"),
    ("topic publish expected post 1 --expect 7", 2, "nothing was appended"),
    ("run ls --hub 127.0.0.1:1", 5, "no hub answered at ws://127.0.0.1:1/ within 5 s"),
    ("run ls --token-file wrong-token", 4, "the token is missing, wrong or expired"),
    ("topic publish news post 1 --token-file viewer-token", 4, "the token's scopes do not permit this"),
    ("schedule rm nightly --token-file viewer-token", 4, "the token's scopes do not permit this"),
    ("run submit review --token-file viewer-token", 4, "the token's scopes do not permit this"),
    ("run ls --token-file agent-token", 4, "the token does not permit this session"),
]


@pytest.fixture(scope="module")
def tokens(shell: Shell) -> Shell:
    """The shell, with tokens of several kinds in its directory."""
    files = {
        "wrong-token": "not-a-token",
        "viewer-token": shell.done("token", "issue", "looker", "--scope", "viewer"),
        "agent-token": shell.done("token", "issue", "machine", "--agent", "*"),
    }
    for name, token in files.items():
        (shell.directory / name).write_text(token)
    return shell


@pytest.mark.parametrize(("line", "code", "says"), TABLE, ids=[line[:50] for line, _, _ in TABLE])
def test_bad_input_is_told_in_one_line(tokens: Shell, line: str, code: int, says: str) -> None:
    found = tokens(*line.split())
    assert (found.returncode, found.stdout) == (code, ""), found.stderr
    assert says in found.stderr
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1


def test_a_body_that_is_too_large_is_refused_whole(shell: Shell) -> None:
    (shell.directory / "large.json").write_text('"' + "x" * 2_000_000 + '"')
    found = shell("topic", "publish", "large", "post", "@large.json")
    assert found.returncode == 2
    assert "the hub takes 1048576; nothing was sent" in found.stderr


def test_a_second_hub_on_the_same_data_directory_is_told_who_has_it(shell: Shell) -> None:
    found = shell("hub", "start", "--data", str(shell.hub.data), "--listen", "127.0.0.1:0")
    assert found.returncode == 2
    assert f"is in use by another hub (pid {shell.hub.pid}); stop that one" in found.stderr


def test_an_address_in_use_is_told(shell: Shell, tmp_path: Path) -> None:
    found = shell("hub", "start", "--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{shell.hub.port}")
    assert found.returncode == 2
    assert f"127.0.0.1:{shell.hub.port}" in found.stderr


def test_a_data_directory_of_somebody_else_is_refused(shell: Shell, somebody_elses: Path) -> None:
    found = shell("hub", "start", "--data", str(somebody_elses), "--listen", "127.0.0.1:0")
    assert found.returncode in (2, 4)
    assert "belongs to" in found.stderr
    assert "choose another directory with --data" in found.stderr
    assert not (somebody_elses / "keys").exists(), "nothing is made in it"


def test_a_store_that_does_not_answer_is_told(shell: Shell, tmp_path: Path) -> None:
    words = ("--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--store", "redis://127.0.0.1:1")
    found = shell("hub", "start", *words)
    assert found.returncode == 5
    assert "the store does not answer" in found.stderr
