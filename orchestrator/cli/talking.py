"""`fleetline run steer`, `answer` and `query`, and what a run was told, asks and hands to children as it is printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from protocol.children import Child
    from protocol.talk import Command, Message, Question, Talk

__all__ = [
    "answer",
    "query",
    "question_name",
    "show_talk",
    "steer",
    "talk_json",
]

QUESTION = re.compile(r"(?P<index>[0-9]{1,15})(\.(?P<digest>[A-Za-z0-9._-]{1,64}))?")
DIGEST_CHARACTERS = 8
"""As much of a question's digest as tells it from another at its index."""
TEXT = "Text, JSON, @FILE, or - for standard input."


def steer(
    run: options.Run,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help=TEXT)],
    wait: Annotated[bool, typer.Option("--wait", help="Return when the handler said what it did with it.")] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Say something to a run's handler, and print what the message is called; with --wait, what became of it."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run, parse_said

    run = parse_run(run)
    value = parse_said(message, "MESSAGE")
    out = Output(as_json)

    async def use(client: Client) -> None:
        sent = await client.run(run).steer(value, wait=wait)
        if as_json:
            out.json(_message_json(sent))
        elif wait:
            out.line(_words(sent))
        else:
            out.line(sent.id)

    with_client(hub, token_file, use, follows=wait)


def answer(
    run: options.Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION] VALUE", help=f"A question, by number or name as in `run show`, and: {TEXT}"),
    ] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Approve what it asks for.")] = False,
    deny: Annotated[bool, typer.Option("--deny", help="Deny it.")] = False,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Answer a question of a run; without QUESTION, the only one that waits. The first answer counts."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_run

    run = parse_run(run)
    question, value = _answer_of(words or [], approve=approve, deny=deny)
    out = Output(as_json)

    async def use(client: Client) -> None:
        index, digest = await _meant(client, run, question)
        answered = await client.run(run).answer(value, index, digest=digest)
        if as_json:
            out.json({"run": run, "question": answered})
        else:
            out.line(str(answered))

    with_client(hub, token_file, use)


def query(
    run: options.Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the handler calls the query.")],
    args: Annotated[str | None, typer.Argument(metavar="[ARGS]", help=TEXT)] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="S", help="How long the reply may take, 60 at most; else 10.")
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Ask a run's handler something while it works, and print its reply, as JSON. Nothing of it is recorded."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name, parse_run, parse_said, parse_span_s
    from protocol.codec import pack_value
    from protocol.conversation import QUERY_MS, QUERY_MS_MAX
    from protocol.readable import json_line, readable

    run = parse_run(run)
    parse_name(name, "NAME")
    within_s = parse_span_s(timeout, "--timeout") or QUERY_MS / 1000
    if within_s > QUERY_MS_MAX / 1000:
        raise CliError(f"--timeout: {within_s:g} s; a reply is waited for {QUERY_MS_MAX // 1000} s at most")
    value = None if args is None else parse_said(args, "ARGS")
    out = Output(as_json)

    async def use(client: Client) -> None:
        reply = readable(pack_value(await client.run(run).query(name, value, timeout=within_s)))
        if as_json:
            out.json({"run": run, "query": name, "reply": reply})
        else:
            out.line(json_line(reply))

    with_client(hub, token_file, use)


def _answer_of(words: list[str], *, approve: bool, deny: bool) -> tuple[str | None, Any]:
    """Return what the question is called, where that is said, and the answer."""
    from orchestrator.cli.inputs import parse_said

    if approve and deny:
        raise CliError("--approve and --deny exclude each other")
    decides = approve or deny
    if len(words) > (1 if decides else 2) or (not words and not decides):
        raise CliError("give one answer: VALUE, --approve or --deny; the number of a question goes before it")
    value = approve if decides else parse_said(words[-1], "VALUE")
    named = words[:1] if decides else words[:-1]
    return (named[0] if named else None), value


async def _meant(client: Client, run: str, question: str | None) -> tuple[int | None, str | None]:
    """Return index and digest of the question that is meant, by its number or by the name that one open has."""
    from protocol.talk import QuestionState

    if question is None:
        return None, None
    number = QUESTION.fullmatch(question)
    if number is not None:
        return int(number["index"]), number["digest"]
    waiting = [each for each in (await client.run(run).talk()).questions.values() if each.state is QuestionState.OPEN]
    meant = [each for each in waiting if each.name == question]
    if len(meant) == 1:
        return meant[0].index, meant[0].digest
    names = ", ".join(f"{question_name(each)} {each.name}" for each in meant or waiting) or "none"
    why = f"{len(meant)} questions of that name wait" if meant else "no question of that number or name waits"
    raise CliError(f"QUESTION: {question[:160]!r}: {why}; those that do: {names}")


def question_name(question: Question) -> str:
    """Return what `run answer` is told to answer this question, and no other that takes its place."""
    return f"{question.index}.{question.digest[:DIGEST_CHARACTERS]}"


def _message_json(message: Message) -> dict[str, Any]:
    """Return the object of a message to a run."""
    from protocol.readable import readable

    return {
        "id": message.id,
        "state": message.state.value,
        "body": readable(message.body),
        "value": None if message.value is None else readable(message.value),
        "src": message.src or None,
    }


def _question_json(question: Question) -> dict[str, Any]:
    """Return the object of a question of a run."""
    from protocol.readable import readable

    return {
        "question": question.index,
        "digest": question.digest,
        "state": question.state.value,
        "kind": question.kind.value,
        "name": question.name,
        "payload": readable(question.payload),
        "deadline_ms": question.deadline_ms,
        "answer": None if question.answer is None else readable(question.answer),
        "by": question.by or None,
        "delivered": question.delivered_at is not None,
    }


def _child_json(child: Child) -> dict[str, Any]:
    """Return the object of a child of a run. Its result is in `run show` of the child."""
    return {
        "child": child.index,
        "run": child.run,
        "handler": child.handler,
        "queue": child.queue,
        "state": _child_state(child),
        "ended_as": None if child.ended is None else child.ended.run,
        "again": child.again,
        "abandon": child.abandon,
    }


def _child_state(child: Child) -> str:
    if child.ended is not None:
        return child.ended.state
    return "asked" if child.run is None else "open"


def _cancel_json(command: Command) -> dict[str, Any]:
    """Return the object of the command that a run is to stop."""
    return {"state": command.state.value, "reason": command.reason, "src": command.src or None}


def talk_json(talk: Talk) -> dict[str, Any]:
    """Return what the object of a run has besides, where it was told or asked something or has children."""
    return {
        "messages": [_message_json(message) for message in talk.messages.values()],
        "cancel": None if talk.cancel is None else _cancel_json(talk.cancel),
        "questions": [_question_json(question) for question in talk.questions.values()],
        "children": [_child_json(child) for child in talk.children.values()],
    }


def show_talk(talk: Talk) -> dict[str, str]:
    """Return names and values that show what a run was told and asks, and its children."""
    from orchestrator.cli.text import clock
    from protocol.readable import json_line, readable

    shown = {} if talk.cancel is None else {"cancel": f"{talk.cancel.state.value} by {talk.cancel.src}"}
    for message in talk.messages.values():
        shown[f"message {message.id}"] = f"{json_line(readable(message.body))} {_words(message)}"
    for question in sorted(talk.questions.values(), key=lambda question: question.index):
        said = f"{question.kind.value} {question.name} {json_line(readable(question.payload))} {question.state.value}"
        if question.answer is not None:
            said += f" {json_line(readable(question.answer))}"
        if question.by:
            said += f" by {question.by}" + ("" if question.delivered_at is None else ", delivered")
        elif question.deadline_ms is not None:
            said += f" until {clock(question.deadline_ms)}"
        shown[f"question {question_name(question)}"] = said
    for child in talk.children.values():
        shown[f"child {child.index}"] = f"{child.run or 'not submitted yet'} {child.handler} {_child_state(child)}"
    return shown


def _words(message: Message) -> str:
    from protocol.readable import json_line, readable

    reply = "" if message.value is None else f" {json_line(readable(message.value))}"
    return f"{message.state.value}{reply}"
