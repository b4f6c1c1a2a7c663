"""Tokens from the command line: what one says, whether it is good, and that it is not any more."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Shell
from tests.support.timing import eventually_sync


def issue(shell: Shell, name: str, *options: str) -> Path:
    """Issue a token into a file."""
    file = shell.directory / f"{name}.token"
    file.write_text(shell.done("token", "issue", name, *options))
    return file


def inspect(shell: Shell, file: Path, code: int = 0) -> dict[str, object]:
    """Return what is said of a token, which is not said itself."""
    found = shell("token", "inspect", str(file), "--json")
    assert found.returncode == code, found.stderr
    assert file.read_text().strip() not in found.stdout + found.stderr
    return dict(json.loads(found.stdout))


def test_a_token_is_told_but_not_shown(shell: Shell) -> None:
    file = issue(shell, "ann", "--agent", "a1", "--scope", "viewer", "--expires", "1h")
    said = inspect(shell, file)
    assert (said["name"], said["namespace"], said["issuer"]) == ("ann", "default", "fleetline")
    assert (said["scopes"], said["agents"]) == (["agent", "viewer"], ["a1"])
    assert (said["times"], said["signature"], said["revoked"]) == ("valid", "good", False)
    assert abs(int(str(said["expires_ms"])) / 1000 - time.time() - 3600) < 60
    people = shell("token", "inspect", stdin=file.read_bytes())
    assert people.returncode == 0, people.stderr
    assert f"id\t{said['id']}\n" in people.stdout
    assert file.read_text().strip() not in people.stdout


def test_a_token_of_another_key_is_not_good(shell: Shell) -> None:
    file = issue(shell, "eve")
    header, claims, signature = file.read_text().strip().split(".")
    file.write_text(f"{header}.{claims}.{signature[::-1]}")
    assert inspect(shell, file, 4)["signature"] == "wrong"


def test_without_a_hub_it_is_not_known_whether_it_is_revoked(shell: Shell) -> None:
    file = issue(shell, "dan")
    nowhere = {**shell.environment(), "FLEETLINE_DATA": str(shell.directory / "nowhere")}
    found = shell("token", "inspect", str(file), "--json", environment=nowhere)
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert (said["revoked"], said["reason"], said["signature"]) == (None, "no hub was reached", "unknown")


@pytest.mark.parametrize("how", ["id", "file", "principal"])
def test_a_token_is_revoked_by_its_id_its_file_or_its_name(shell: Shell, how: str) -> None:
    file, other = issue(shell, f"{how}-1"), issue(shell, f"{how}-2")
    token_id = str(inspect(shell, file)["id"])
    words = {"id": [token_id], "file": ["--file", str(file)], "principal": ["--principal", f"{how}-1"]}[how]
    (said,) = shell.json("token", "revoke", *words)
    assert (said["token"], said["principal"]) == ((None, f"{how}-1") if how == "principal" else (token_id, None))
    assert (said["until_ms"] is None) == (how != "file")
    refused = shell("run", "ls", "--token-file", str(file))
    assert (refused.returncode, "get a new one" in refused.stderr) == (4, True)
    found = inspect(shell, file, 4)
    assert (found["revoked"], found["times"]) == (True, "valid")
    assert shell("run", "ls", "--token-file", str(other)).returncode == 0
    what, named = ("name", f"{how}-1") if how == "principal" else ("token", token_id)
    marks = [mark for mark in shell.json("token", "revoked") if mark["id"] == named]
    assert [(mark["subject"], mark["since_ms"], mark["by"]) for mark in marks] == [
        (what, said["since_ms"], "client:local")
    ]
    assert f"{what}\t{named}\t" in shell.done("token", "revoked")
    lift = words if how == "principal" else [token_id]
    assert "no longer revoked" in shell.done("token", "unrevoke", *lift)
    assert "nothing to lift" in shell.done("token", "unrevoke", *lift)
    assert inspect(shell, file)["revoked"] is False


def test_it_is_kept_in_mind_for_as_long_as_was_said(shell: Shell) -> None:
    for words in (["t-1"], ["--principal", "somebody"]):
        (said,) = shell.json("token", "revoke", *words, "--expires", "2d")
        assert abs(int(str(said["until_ms"])) / 1000 - time.time() - 2 * 24 * 3600) < 60


def test_only_some_may_revoke(shell: Shell) -> None:
    viewer = issue(shell, "looker", "--scope", "viewer")
    refused = shell("token", "revoke", "--principal", "ann", "--token-file", str(viewer))
    assert (refused.returncode, refused.stdout) == (4, "")


def test_a_token_is_held_to_the_names_that_were_said(shell: Shell) -> None:
    words = ("--read", "topic/news.*", "--read", "queue/docs", "--submit", "docs", "--publish", "-")
    said = json.loads(shell.done("token", "issue", "eve", *words, "--json"))
    none: list[str] = []
    listed = {"read": ["queue/docs", "topic/news.*"], "submit": ["queue/docs"]}
    assert said["may"] == {**listed, "publish": none, "serve": none, "control": none}
    assert (
        "limited to read queue/docs, topic/news.*; submit queue/docs, good for"
        in shell("token", "issue", "eve", *words).stderr
    )
    file = shell.directory / "held.token"
    file.write_text(said["token"])
    assert shell("run", "submit", "h", "--queue", "docs", "--token-file", str(file)).returncode == 0
    refused = shell("run", "submit", "h", "--queue", "other", "--token-file", str(file))
    assert (refused.returncode, refused.stderr) == (4, "error: the token does not permit to submit queue/other\n")
    refused = shell("topic", "publish", "news.eu", "said", "--token-file", str(file))
    assert (refused.returncode, "does not permit to publish topic/news.eu" in refused.stderr) == (4, True)


@pytest.mark.parametrize(
    "given", [("--read", "queue/web"), ("--publish", "-"), ("--submit", "web"), ("--control", "-")]
)
def test_a_token_with_some_names_permits_nothing_with_others(shell: Shell, given: tuple[str, str]) -> None:
    run = shell.done("run", "submit", "h", "--queue", "web").strip()
    file = issue(shell, "mallory", *given)
    tried = {
        "--read": ("run", "show", run),
        "--publish": ("topic", "publish", "plans", "said"),
        "--submit": ("run", "submit", "h", "--queue", "web"),
        "--control": ("run", "cancel", run),
    }
    done = [verb for verb, words in tried.items() if shell(*words, "--token-file", str(file)).returncode == 0]
    assert done == [verb for verb in tried if given[0] == verb and given[1] != "-"]


def test_a_token_in_a_file_is_for_its_user_alone(shell: Shell) -> None:
    file = shell.directory / "mine.token"
    file.touch(0o644)
    assert shell.done("token", "issue", "me", "--output", str(file)) == f"{file}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert shell("run", "ls", "--token-file", str(file)).returncode == 0
    said = json.loads(shell.done("token", "issue", "me", "-o", str(file), "--json"))
    assert (said["file"], "token" in said) == (str(file), False)
    failed = shell("token", "issue", "me", "--output", str(shell.directory / "nowhere" / "mine.token"))
    assert (failed.returncode, failed.stdout, "cannot be written" in failed.stderr) == (2, "", True)


def test_the_key_is_rotated_under_a_hub_that_runs(shell: Shell) -> None:
    file = issue(shell, "old")
    (said,) = shell.json("key", "rotate", "--overlap", "1h")
    assert (said["keys"], len(said["key"])) == (2, 16)
    assert inspect(shell, file)["signature"] == "good"
    assert shell("run", "ls", "--token-file", str(file)).returncode == 0
    assert shell("run", "ls", "--token-file", str(issue(shell, "new"))).returncode == 0
    assert "from now on" in shell.done("key", "rotate", "--overlap", "0")
    eventually_sync(lambda: shell("run", "ls", "--token-file", str(file)).returncode == 4, 5)
    assert "no key that is believed now signed it" in shell("run", "ls", "--token-file", str(file)).stderr
    assert inspect(shell, file, 4)["signature"] == "wrong"


def test_a_token_that_is_held_to_names_and_one_that_enrols_say_so(shell: Shell, tmp_path: Path) -> None:
    held, join = tmp_path / "held", tmp_path / "join"
    held.write_text(shell("token", "issue", "ada", "--read", "queue/web", "--control", "-").stdout)
    join.write_text(shell("token", "issue", "rack", "--join", "--agent", "web-*", "--uses", "3").stdout)
    assert inspect(shell, held)["may"] == {
        "read": ["queue/web"],
        "control": [],
        "publish": [],
        "serve": [],
        "submit": [],
    }
    said = inspect(shell, join)["join"]
    assert isinstance(said, dict)
    assert (said["agents"], said["uses"]) == (["web-*"], 3)
    people = shell("token", "inspect", str(held)).stdout
    assert "may publish\tnothing" in people
    assert "may read" in people
    assert "queue/web" in people
