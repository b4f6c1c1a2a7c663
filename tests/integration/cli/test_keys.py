"""`fleetline key` and join tokens, as processes: from a join token to a key that is revoked."""

from __future__ import annotations

from pathlib import Path

from tests.integration.cli.conftest import APP, Shell
from tests.support.timing import scaled


def joined(shell: Shell, *words: str) -> Path:
    """Issue a join token into a file."""
    file = shell.directory / "join.token"
    file.write_text(shell.done("token", "issue", *words, "--join", "--data", str(shell.hub.data)))
    return file


def test_an_agent_enrols_and_its_key_is_listed_and_revoked(shell: Shell) -> None:
    join = joined(shell, "rack", "--agent", "key-*")
    state = str(shell.directory / "state")
    words = ("agent", "start", APP, "--id", "key-1", "--join-token-file", str(join), "--state-dir", state)
    agent = shell.start(*words)
    try:
        assert agent.stderr is not None
        assert "agent key-1 serves " in agent.stderr.readline()
        join.unlink()
        [key] = [each for each in shell.json("key", "ls") if each["name"] == "agent/key-1"]
        assert (key["state"], key["by"], key["scopes"]) == ("accepted", "join:rack", ["agent"])
        assert key["fingerprint"] in shell.done("key", "ls", "--state", "accepted")
        assert "agent/key-1" in shell.done("key", "ls", "--after", "key-0", "--limit", "1")
        assert "agent/key-1" not in shell.done("key", "ls", "--after", "agent/key-1")
        wrong = shell("key", "revoke", "key-1", "--fingerprint", "SHA256:other")
        assert (wrong.returncode, "key_state" in wrong.stderr or "is SHA256:" in wrong.stderr) == (2, True)
        assert shell.done("key", "revoke", "key-1").split() == ["agent/key-1", "revoked", key["fingerprint"]]
        assert agent.wait(scaled(10)) == 4
    finally:
        agent.kill()
        agent.communicate(timeout=scaled(20))
    again = shell(*words)
    assert again.returncode == 4
    assert "revoked" in again.stderr


def test_a_command_line_has_a_key_in_the_place_of_a_token(shell: Shell) -> None:
    join = joined(shell, "ada", "--scope", "viewer")
    elsewhere = shell.fleet.environment(
        FLEETLINE_HUB=shell.hub.url,
        FLEETLINE_DATA=str(shell.directory / "nothing"),
        FLEETLINE_STATE_DIR=str(shell.directory / "ada"),
    )
    assert shell("run", "ls", environment=elsewhere).returncode == 4
    enrolled = shell("key", "enrol", "--join-token-file", str(join), environment=elsewhere)
    assert enrolled.stdout.startswith("client/ada accepted SHA256:"), enrolled.stderr
    assert shell("run", "ls", environment=elsewhere).returncode == 0
    assert shell("key", "enrol", environment=elsewhere).stdout == enrolled.stdout
    forbidden = shell("key", "revoke", "client/ada", environment=elsewhere)
    assert forbidden.returncode == 4
    shell.done("key", "revoke", "client/ada")
    assert shell("run", "ls", environment=elsewhere).returncode == 4
