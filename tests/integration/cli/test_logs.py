"""Logs on the command line: written, shown, followed, exported and verified."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.integration.cli.conftest import Shell
from tests.support.forks import COMMAND
from tests.support.timing import scaled

FIELDS = ["log", "offset", "epoch", "ts_ms", "kind", "src", "attempt", "seq", "index", "cause", "body", "tag"]
TRAILER = ["log", "epoch", "head", "tag", "count"]


@pytest.fixture(scope="module")
def news(shell: Shell) -> Shell:
    """A topic `news` with three entries."""
    for n, body in enumerate(('{"n":1}', '"two"', "-"), start=1):
        assert shell.done("topic", "publish", "news", "post", body, stdin=b"[3]") == f"{n}\n"
    return shell


def test_entries_have_the_fields_that_are_documented(news: Shell) -> None:
    shown = news.json("log", "show", "topic/news")
    assert [list(entry) for entry in shown] == [FIELDS] * 3
    assert [entry["body"] for entry in shown] == [{"n": 1}, "two", [3]]
    assert [entry["offset"] for entry in shown] == [1, 2, 3]


def test_part_of_a_log_is_shown(news: Shell) -> None:
    shown = news.json("log", "show", "topic/news", "--after", "1", "--limit", "1")
    assert [entry["offset"] for entry in shown] == [2]
    assert news("log", "show", "topic/news", "--after", "9").stdout == ""


def test_logs_are_listed(news: Shell) -> None:
    [log] = [log for log in news.json("log", "ls", "--kind", "topic") if log["log"] == "topic/news"]
    assert (log["head"], log["first"]) == (3, 1)
    assert "topic/news\t3\t1\t" in news.done("log", "ls")


def test_an_export_verifies_and_replays_without_the_hub(news: Shell) -> None:
    printed = news.done("log", "export", "topic/news")
    news.done("log", "export", "topic/news", "-o", "news.jsonl")
    assert (news.directory / "news.jsonl").read_text() == printed
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [list(line) for line in lines] == [[*FIELDS, "packed"]] * 3 + [TRAILER]
    away = news.fleet.environment()
    verified = news("log", "verify", "news.jsonl", "--json", environment=away)
    assert (verified.returncode, json.loads(verified.stdout)) == (0, lines[-1])
    assert news("log", "verify", "-", stdin=printed.encode(), environment=away).returncode == 0
    replayed = news("replay", "news.jsonl", "--json", environment=away)
    assert [json.loads(line) for line in replayed.stdout.splitlines()] == news.json("log", "show", "topic/news")


def test_a_flipped_byte_is_found_with_its_offset(news: Shell) -> None:
    data = news.done("log", "export", "topic/news").encode()
    second = data.index(b"two")
    for command in (("log", "verify"), ("replay",)):
        changed = data[:second] + b"t" + data[second:][1:].replace(b"w", b"v", 1)
        (news.directory / "flipped.jsonl").write_bytes(changed)
        found = news(*command, "flipped.jsonl")
        assert found.returncode == 6
        assert "flipped.jsonl does not verify at offset 2: " in found.stderr


def test_a_log_that_does_not_verify_is_an_object_where_that_is_asked_for(news: Shell) -> None:
    lines = news.done("log", "export", "topic/news").splitlines()
    (news.directory / "cut.jsonl").write_text("\n".join(lines[:2]) + "\n")
    found = news("log", "verify", "cut.jsonl", "--json")
    assert found.returncode == 6
    said = json.loads(found.stdout)
    assert (said["what"], said["offset"]) == ("cut.jsonl", 3)
    assert said["error"] in found.stderr


def test_a_live_log_verifies(news: Shell) -> None:
    [found] = news.json("log", "verify", "topic/news")
    assert (found["log"], found["head"], found["count"]) == ("topic/news", 3, 3)


def test_an_export_that_cannot_be_written_leaves_nothing(news: Shell) -> None:
    found = news("log", "export", "topic/news", "-o", "no-such-directory/news.jsonl")
    assert found.returncode == 2
    assert "--output: no-such-directory/news.jsonl cannot be written: No such file or directory" in found.stderr


def test_a_tail_follows(news: Shell) -> None:
    news.done("topic", "publish", "followed", "post", "1")
    news.done("topic", "publish", "followed", "post", "2")
    tail = news.start("log", "tail", "topic/followed", "-n", "1", "--json")
    assert tail.stdout is not None
    assert json.loads(tail.stdout.readline())["body"] == 2
    news.done("topic", "publish", "followed", "post", "3")
    assert json.loads(tail.stdout.readline())["body"] == 3
    tail.send_signal(2)
    _, errors = tail.communicate(timeout=scaled(20))
    assert tail.returncode == 130
    assert "Traceback" not in errors


def test_a_topic_is_watched_before_anybody_publishes_to_it(news: Shell) -> None:
    watch = news.start("topic", "watch", "unborn", "--json")
    assert watch.stdout is not None
    news.done("topic", "publish", "unborn", "post", "1")
    lines = [json.loads(watch.stdout.readline())]
    while "reset" in lines[-1]:
        lines.append(json.loads(watch.stdout.readline()))
    assert lines[-1]["body"] == 1
    watch.terminate()
    watch.communicate(timeout=scaled(20))


def test_nobody_complains_about_a_reader_that_goes_away(news: Shell) -> None:
    words = [*COMMAND, "log", "show", "topic/news"]
    command = subprocess.Popen(words, env=news.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.close()
    errors = command.stderr.read()
    command.stderr.close()
    assert command.wait(timeout=scaled(20)) == 141
    assert errors == b""
