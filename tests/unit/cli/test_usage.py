"""Bad input on the command line that needs no hub to be told: the message and the exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.table import execute

ROOT = Path(__file__).parents[3]
RUN = "07-0190f3a2b1c-00112233aabbccdd"

TABLE: list[tuple[list[str], int, str]] = [
    (["bogus"], 2, "No such command 'bogus'; see `fleetline --help`"),
    (["run", "ls", "--bogus"], 2, "No such option: --bogus; see `fleetline run ls --help`"),
    (["run", "submit"], 2, "Missing argument 'HANDLER'; see `fleetline run submit --help`"),
    (["run", "submit", "Review"], 2, "HANDLER: 'Review' is not a name; a name is 1 to 128 of a-z 0-9 . _ -"),
    (["run", "submit", "review", "{bad"], 2, "INPUT is not JSON: Expecting property name enclosed in double quotes"),
    (["run", "submit", "review", "@missing.json"], 2, "INPUT: missing.json cannot be read: No such file or directory"),
    (["run", "submit", "review", "--queue", "a/b"], 2, "--queue: 'a/b' is not a name"),
    (["run", "submit", "review", "--key", ""], 2, "--key: a key is 1 to 512 characters"),
    (["run", "submit", "review", "--retries", "-1"], 2, "'--retries'"),
    (["run", "submit", "review", "--follow", "--wait"], 2, "--follow and --wait exclude each other"),
    (["run", "ls", "--state", "done"], 2, "--state: 'done' is no state of a run; it is one of queued, running"),
    (["run", "ls", "--limit", "0"], 2, "'--limit'"),
    (
        ["run", "ls", "--hub", "ftp://x"],
        2,
        "--hub: 'ftp://x' is not the address of a hub; it looks like ws://HOST:PORT",
    ),
    (["run", "ls", "--hub", "nonsense"], 2, "--hub: 'nonsense' is not the address of a hub"),
    (["run", "submit", "x", "--priority", "10"], 2, "'--priority'"),
    (["run", "ls", "--hub", "ws://x:99999"], 2, "is not the address of a hub"),
    (["run", "ls", "--token-file", "missing"], 2, "--token-file: missing cannot be read: No such file or directory"),
    (["run", "ls", "--token-file", "two-words"], 2, "--token-file: two-words does not hold one token"),
    (["run", "show", "7"], 2, "'7' is not a run id; `fleetline run ls` lists the runs"),
    (["run", "cancel", RUN, "--reason", "x" * 1025], 2, "--reason: at most 1024 characters"),
    (
        ["run", "submit", "x", "--delay", "-1"],
        2,
        "--delay: '-1' is not a time; write seconds from 0 (none) to 316224000",
    ),
    (["run", "submit", "x", "--where", "tier@@a"], 2, "--where: 'tier@@a' in a selector is not understood: write gpu="),
    (["queue", "limit", "q", "-1"], 2, "N: '-1' is neither a whole number from 1 to 999999999 nor `none`"),
    (["queue", "limit", "q", "--bogus"], 2, "N: '--bogus' is neither"),
    (["queue", "limit", "q", "1", "--bogus"], 2, "--bogus"),
    (["queue", "limit", "q", "0"], 2, "to let nothing run, pause the queue"),
    (["queue", "limit", "q", "9" * 20], 2, "is neither a whole number from 1 to 999999999 nor `none`"),
    (["schedule", "add", "Nightly", "* * * * *", "h"], 2, "NAME: 'Nightly' is not a name"),
    (["schedule", "add", "n", "* * * * *"], 2, "Missing argument 'HANDLER'; see `fleetline schedule add --help`"),
    (["schedule", "add", "n", "* * * * *", "h", "--missed", "all"], 2, "--missed: 'all' is neither of skip and once"),
    (["schedule", "add", "n", "*" * 257, "h"], 2, "CRON: at most 256 printable characters"),
    (["schedule", "rm", "a/b"], 2, "NAME: 'a/b' is not a name"),
    (["log", "ls", "--kind", "queue"], 2, "--kind: 'queue' is no kind of log; it is one of agent, run, topic"),
    (["log", "show", "news"], 2, "'news' is not a log; a log is agent/ID, run/ID, topic/NAME or artifact/ID"),
    (["log", "show", "topic/../x"], 2, "'../x' is not a name"),
    (["log", "verify", "missing.jsonl"], 2, "'missing.jsonl' is neither a file that is there nor a log"),
    (["log", "verify", "two-words"], 6, "two-words does not verify at offset 1: not a line of JSON"),
    (["replay", "missing.jsonl"], 2, "'missing.jsonl' is neither a file that is there nor a log"),
    (["replay", "two-words"], 6, "two-words does not verify at offset 1"),
    (["replay", RUN, "--until", "0"], 2, "'--until'"),
    (["topic", "publish", "News", "post"], 2, "TOPIC: 'News' is not a name"),
    (["topic", "publish", "news", "$post"], 2, "kinds that begin with $ are the hub's own"),
    (["topic", "publish", "news", "Two words"], 2, "KIND: 'Two words' is not a name"),
    (["topic", "publish", "news", "post", "@missing"], 2, "BODY: missing cannot be read"),
    (["agent", "send", "A", "reload"], 2, "AGENT: 'A' is not a name"),
    (["agent", "start", "agent:agent"], 2, "a module called 'agent' would shadow Fleetline's own package"),
    (["agent", "start", "no_such_module_here:agent"], 2, "there is no module 'no_such_module_here'"),
    (["agent", "start", "x:agent", "--label", "gpu"], 2, "--label: 'gpu' is not K=V; a label has a value, say gpu=yes"),
    (
        ["agent", "start", "x:agent", "--label", "tier@@a=b"],
        2,
        "--label: 'tier@@a' is not a label: a label is 1 to 128",
    ),
    (["agent", "start", "x:agent", "--label", "gpu=a b"], 2, "--label: 'a b' is not a value of the label 'gpu': "),
    (["agent", "start", "x:agent", "--id", "A"], 2, "--id: 'A' is not a name"),
    (["agent", "start", "x:agent", "--slots", "0"], 2, "'--slots'"),
    (["agent", "exec"], 2, "Missing argument 'COMMAND...'; see `fleetline agent exec --help`"),
    (
        ["agent", "exec", "--", "no-such-program"],
        2,
        "COMMAND: there is no program 'no-such-program' that",
    ),
    (["agent", "exec", "--", "..."], 2, "COMMAND: '...' gives no name for its runs; give one with --handler NAME"),
    (["agent", "exec", "--handler", "A", "--", "true"], 2, "--handler: 'A' is not a name"),
    (["agent", "exec", "--label", "gpu", "--", "true"], 2, "--label: 'gpu' is not K=V"),
    (["agent", "exec", "--slots", "0", "--", "true"], 2, "'--slots'"),
    (["agent", "exec", "--retries", "-1", "--", "true"], 2, "'--retries'"),
    (
        ["agent", "exec", "--term-grace", "-1", "--", "true"],
        2,
        "--term-grace: '-1' is not a time; write seconds from 0.001",
    ),
    (
        ["agent", "exec", "--message-grace", "0", "--", "true"],
        2,
        "--message-grace: '0' is not a time; write seconds from 0.001",
    ),
    (["agent", "exec", "--timeout", "soon", "--", "true"], 2, "--timeout: 'soon' is not a time; write seconds"),
    (["dev", "protocol:agent"], 2, "a module called 'protocol' would shadow Fleetline's own package"),
    (["hub", "start", "--listen", "here"], 2, "is HOST:PORT, say 127.0.0.1:7420"),
    (["hub", "start", "--store", "mysql://x"], 2, "is an address that begins with one of redis://"),
    (["hub", "start", "--durability", "replicated:2"], 2, "replicated levels are not offered yet"),
    (["hub", "start", "--durability", "disk"], 2, "durability (from flag): "),
    (["hub", "start", "--workers", "0"], 2, "workers (from flag): Input should be greater than or equal to 1"),
    (["hub", "start", "--workers", "-1"], 2, "workers (from flag): Input should be greater than or equal to 1"),
    (["hub", "start", "--workers", "65"], 2, "workers (from flag): Input should be less than or equal to 64"),
    (["hub", "start", "--workers", "x"], 2, "Invalid value for '--workers': Input should be a valid integer"),
    (["token", "issue", "me", "--expires", "5"], 2, "--expires: '5' is not a duration; write a whole number above 0"),
    (["token", "issue", "me", "--scope", "boss"], 2, "--scope: 'boss' is no scope; it is one of agent, operator"),
    (["token", "issue", "me", "--scope", "agent"], 2, "--scope agent: say which agent ids the token may use"),
    (["token", "issue", "me", "--agent", "A"], 2, "--agent: 'A' is not a name"),
    (["token", "issue", "me", "--read", "news"], 2, "--read: 'news' is no pattern here; one is agent/NAME, topic/NAME"),
    (["token", "issue", "me", "--submit", "topic/a"], 2, "--submit: 'topic/a' is no pattern here; one is queue/NAME"),
    (["token", "issue", "me", "--serve", "a*b*c*d*e*"], 2, "--serve: 'a*b*c*d*e*' is no pattern"),
    (["token", "issue", "me", "--uses", "2"], 2, "--uses: only a join token is counted; add --join"),
    (["token", "issue", "me", "--join", "--agent", "a*b*"], 2, "--agent: 'a*b' is not a name"),
    (["token", "issue", "me", "--agent", "a*"], 2, "--agent: 'a*' is not a name"),
    (["key", "enrol"], 2, "--join-token-file: name the file that holds a join token"),
    (["key", "accept", "A"], 2, "NAME: 'A' is not a name"),
    (["token", "issue", "Me"], 2, "NAME: 'Me' is not a name"),
    (["token", "revoke"], 2, "say what to revoke: the ID of a token, --file FILE that holds it, or --principal NAME"),
    (["token", "revoke", "t1", "--principal", "ann"], 2, "say what to revoke"),
    (["token", "revoke", "x" * 161], 2, "ID: an id has 1 to 160 characters"),
    (["token", "revoke", f"{'e' * 60}.{'e' * 60}.e"], 2, "ID: that looks like a token, which others can see on a"),
    (["token", "revoke", "--file", "two-words"], 2, "two-words does not hold one token"),
    (["token", "revoke", "t1", "--expires", "5"], 2, "--expires: '5' is not a duration"),
    (["token", "revoke", "--file", "one-word", "--expires", "5d"], 2, "--expires: the token in the file says itself"),
    (["token", "unrevoke"], 2, "say what is to be good again: the ID of a token, or --principal NAME"),
    (["token", "unrevoke", "t1", "--principal", "ann"], 2, "say what is to be good again"),
    (["token", "inspect", "missing"], 2, "missing cannot be read: No such file or directory"),
    (["token", "inspect", "one-word"], 2, "that is no token: it does not have the form of a JWT"),
    (["token", "issue", "me", "--data", "missing"], 2, "missing; start the hub first (it makes one)"),
    (["run", "ls"], 5, "nothing says where the hub is (looked at FLEETLINE_HUB and in "),
]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FLEETLINE_HUB", "FLEETLINE_TOKEN", "FLEETLINE_DATA", "FLEETLINE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "two-words").write_text("not json\n")
    (tmp_path / "one-word").write_text("word\n")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FLEETLINE_LISTEN", "here", "FLEETLINE_LISTEN: is HOST:PORT"),
        ("FLEETLINE_LEASE_MS", "soon", "FLEETLINE_LEASE_MS: "),
        ("FLEETLINE_WORKERS", "0", "FLEETLINE_WORKERS: Input should be greater than or equal to 1"),
        ("FLEETLINE_WORKERS", "many", "FLEETLINE_WORKERS: Input should be a valid integer"),
        ("FLEETLINE_LOG_LEVEL", "loud", "'loud' is no level; it is one of debug, info"),
        ("FLEETLINE_DURABILITY", "replicated:2", "durability 'replicated:2' is not offered yet"),
    ],
)
def test_a_setting_that_will_not_do_is_named_as_it_was_given(
    name: str, value: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert execute(["hub", "start"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Value error" not in said


def test_an_agent_without_handlers_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "fl_idle.py").write_text("from agent import Agent\nagent = Agent('idle')\n")
    for words in (["agent", "start"], ["dev"]):
        assert execute([*words, "fl_idle:agent"]) == 2
        assert "the agent idle has no handlers" in capsys.readouterr().err


def test_the_doctor_does_not_praise_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    execute(["doctor", "--data", str(tmp_path / "nowhere")])
    said = capsys.readouterr()
    assert "nothing is wrong" not in said.err
    assert "nothing was checked of" in said.out + said.err


@pytest.mark.parametrize(("words", "code", "says"), TABLE, ids=[" ".join(words)[:60] for words, _, _ in TABLE])
def test_bad_input_is_told_in_one_line(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert execute(words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert says in printed.err
    assert not (tmp_path / ".fleetline").exists(), "bad input leaves nothing behind"


def test_a_group_without_a_verb_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["log"]) == 2
    assert "export" in "".join(capsys.readouterr())


def test_output_that_cannot_be_written_is_told_in_one_line() -> None:
    for words in (["--help"], ["--version"], ["replay", "--help"]):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "orchestrator.cli.main", *words]
            found = subprocess.run(
                command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
            )
        assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
        assert "No space left on device" in found.stderr


def test_ctrl_c_while_modules_load_leaves_no_traceback() -> None:
    code = (
        "import builtins, os, signal, sys\n"
        "real = builtins.__import__\n"
        "def load(name, *more):\n"
        "    if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *more)\n"
        "import orchestrator.cli.main\n"
        "builtins.__import__ = load\n"
        "orchestrator.cli.main.main(['--help'])\n"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (130, "")


def test_help_loads_nothing_heavy() -> None:
    heavy = ("asyncio", "cryptography", "jwt", "msgpack", "pydantic", "redis", "rich", "structlog", "websockets")
    code = f"orchestrator.cli.table.table(); print([name for name in {heavy!r} if name in sys.modules])"
    command = [sys.executable, "-c", f"import sys, orchestrator.cli.table; {code}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"


def test_a_command_reads_the_table_of_its_own_noun() -> None:
    code = "orchestrator.cli.table.execute(['topic', '--help']); print('orchestrator.cli.schedule' in sys.modules)"
    command = [sys.executable, "-c", f"import sys, orchestrator.cli.table; {code}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.endswith("False\n")
    assert "Publish to topics" in found.stdout
