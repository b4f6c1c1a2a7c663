"""Exit codes, and how expected failures are told."""

from __future__ import annotations

import importlib

import pytest

from agent.drops import link_ended
from agent.errors import HubUnreachable, RunCancelled, RunDead, RunFailed
from agent.identity import IdentityUnusable
from orchestrator.cli import errors
from orchestrator.cli.errors import CliError, explained
from orchestrator.cli.exits import Exit, exit_of_code, exit_of_state
from orchestrator.cli.text import clean
from orchestrator.replay.verify import NotVerified
from orchestrator.store.base import StoreMisconfigured, StoreUnavailable
from protocol.codes import CloseCode
from protocol.errors import InvalidName, RequestError
from protocol.run import FINAL


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliError("x", Exit.UNVERIFIED), 6),
        (HubUnreachable("ws://x", "refused"), 5),
        (StoreUnavailable("x"), 5),
        (StoreMisconfigured("x"), 2),
        (RunFailed("r", 1, "failed"), 1),
        (RunDead("r", 1, "is dead"), 1),
        (RunCancelled("r", 1, "was cancelled"), 3),
        (link_ended(CloseCode.UNAUTHENTICATED, ""), 4),
        (link_ended(CloseCode.FORBIDDEN, ""), 4),
        (link_ended(CloseCode.KEY_REFUSED, ""), 4),
        (link_ended(CloseCode.KEY_REVOKED, ""), 4),
        (IdentityUnusable(""), 4),
        (link_ended(CloseCode.INVALID_FRAME, ""), 1),
        (RequestError("forbidden", "x"), 4),
        (RequestError("not_found", "x"), 2),
        (RequestError("key_conflict", "x"), 2),
        (RequestError("unavailable", "x"), 5),
        (RequestError("internal", "x"), 1),
        (NotVerified(3, "x"), 6),
        (InvalidName("x"), 2),
        (ExceptionGroup("several", [StoreUnavailable("x")]), 5),
        (ModuleNotFoundError("No module named 'redis'", name="redis"), 2),
    ],
)
def test_an_expected_failure_has_its_exit_code(error: Exception, code: int) -> None:
    known = explained(error)
    assert known is not None
    assert known.exit == code


def test_a_missing_extra_is_named() -> None:
    assert "pip install 'fleetline[hub]'" in str(explained(ModuleNotFoundError("no", name="jwt")))


@pytest.mark.parametrize("bug", [KeyError("x"), ModuleNotFoundError("no", name="protocol.nothing"), AssertionError()])
def test_a_bug_is_not_explained_away(bug: Exception) -> None:
    assert explained(bug) is None


def test_every_final_state_has_an_exit_code() -> None:
    codes = {state.value: int(exit_of_state(state)) for state in FINAL}
    assert codes == {"succeeded": 0, "failed": 1, "dead": 1, "cancelled": 3, "expired": 3}


def test_a_code_that_nobody_knows_is_usage() -> None:
    assert exit_of_code("something_new") is Exit.USAGE


def test_errors_named_in_the_table_exist() -> None:
    for name in errors._BY_NAME:
        module, _, attribute = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), attribute), Exception)


def test_text_from_a_log_cannot_command_the_terminal() -> None:
    assert clean("a\x1b[31mb\nc\u202ed é") == "a\\x1b[31mb\\nc\\u202ed é"
