"""What can go wrong on this side of the wire, and what to do about it.

    FleetlineError                 (protocol.errors)
    ├── RequestError               (protocol.errors) one request was refused, with its code
    ├── HubUnreachable             no hub answered in time
    │   ├── KeyPending             (agent.identity) an operator has to accept the key of this peer
    │   └── HubNotFound            nothing says where the hub is
    ├── LinkEnded                  the hub ended the session for good
    │   ├── NotAuthenticated       the token is missing, wrong, expired or revoked
    │   ├── NotPermitted           the token does not permit this
    │   │   └── KeyRefused         (agent.identity) the hub does not take the key of this peer
    │   └── SessionSuperseded      another process took the agent's id
    ├── LinkClosed                 this program closed the connection
    ├── SubscriptionRefused        a log cannot be followed
    ├── HistoryReset               a log cannot be continued where the reader was; nothing is skipped silently
    ├── PublishRefused             the log did not take an entry
    │   ├── ExpectFailed           the log's head is another than was expected
    │   ├── ProducerFenced         somebody else owns the producer (or the run's attempt) now
    │   └── PublisherLost          the store lost entries that it had acknowledged
    ├── OutboxBusy                 another process has the state directory
    ├── OutboxFailed               the outbox on disk cannot be read or written
    ├── RunEnded                   a run that has no result
    │   ├── RunFailed, RunCancelled, RunExpired, RunDead
    ├── ChildDied                  the process that ran a handler ended by itself
    ├── ChildRaised                a handler raised in its process
    ├── AttachFailed, ArtifactBroken (agent.uploads, agent.results) a file that is not whole
    ├── BadHandler                 a handler that cannot be registered as it is
    ├── BadInput                   an input that does not fit the handler's parameters
    └── NonDeterminism             a handler that does not repeat what its journal says

    TimeoutError
    └── Unanswered                 a question of a handler that nobody answered in time

    BaseException
    ├── Cancelled                  raised in a plain handler whose run was cancelled
    └── ContinueAs                 (agent.endings) raised in a handler that goes on as another run

Every message says what happened, what it means, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocol.codes import explain
from protocol.control import RunError
from protocol.errors import FleetlineError, RequestError
from protocol.frames import ResetReason

__all__ = [
    "BadHandler",
    "BadInput",
    "Cancelled",
    "ChildDied",
    "ChildRaised",
    "ExpectFailed",
    "FleetlineError",
    "HistoryReset",
    "HubNotFound",
    "HubUnreachable",
    "LinkClosed",
    "LinkEnded",
    "NonDeterminism",
    "NotAuthenticated",
    "NotPermitted",
    "OutboxBusy",
    "OutboxFailed",
    "ProducerFenced",
    "PublishRefused",
    "PublisherLost",
    "RequestError",
    "Reset",
    "RunCancelled",
    "RunDead",
    "RunEnded",
    "RunExpired",
    "RunFailed",
    "SessionSuperseded",
    "SubscriptionRefused",
    "Unanswered",
]


class HubUnreachable(FleetlineError):
    """No session was opened in time: no hub answered, or none that can be trusted.

    Attributes:
        url: where one was looked for; empty where nothing says where.
    """

    def __init__(self, url: str, reason: str, within_s: float | None = None, remedy: str = "") -> None:
        within = f" within {within_s:g} s" if within_s is not None else ""
        super().__init__(
            f"no session was opened with {url}{within}: {reason}; nothing was sent; {remedy}"
            if remedy
            else f"no hub answered at {url}{within} ({reason}); nothing was sent; "
            "start one with `fleetline dev`, or name another with --hub or FLEETLINE_HUB"
        )
        self.url = url


class HubNotFound(HubUnreachable):
    """Nothing says where the hub is."""

    def __init__(self, looked_in: str) -> None:
        FleetlineError.__init__(
            self,
            f"nothing says where the hub is (looked at FLEETLINE_HUB and in {looked_in}); "
            "start one with `fleetline dev`, or name one with --hub or FLEETLINE_HUB",
        )
        self.url = ""


class LinkEnded(FleetlineError):
    """The hub ended the session, and coming back cannot help.

    Attributes:
        code: the close code.
        reason: what the hub said.
    """

    remedy = "this program and the hub disagree about the protocol: run the same version of both"

    def __init__(self, code: int, reason: str) -> None:
        said = f" ({reason})" if reason else ""
        super().__init__(f"the hub ended the session with {code}: {explain(code)}{said}; {self.remedy}")
        self.code = code
        self.reason = reason


class NotAuthenticated(LinkEnded):
    """The token is missing, wrong, expired or revoked."""

    remedy = (
        "nothing was done; get a token with `fleetline token issue` and pass it in FLEETLINE_TOKEN or --token-file, "
        "or enrol a key with a join token (--join-token-file)"
    )


class NotPermitted(LinkEnded):
    """The token does not permit this session."""

    remedy = "nothing was done; ask for a token with the scope (and agent id) that this needs"


class SessionSuperseded(LinkEnded):
    """Another process opened a session with this agent's id."""

    remedy = (
        "this process stops: its runs are fenced and go on elsewhere; "
        "give every agent process an id of its own, or stop the other one"
    )


class LinkClosed(FleetlineError):
    """This program closed the connection while something was still asked for."""

    def __init__(self, what: str = "the connection was closed by this program") -> None:
        super().__init__(f"{what}; what was not answered may or may not have happened; ask on a new connection")


class SubscriptionRefused(FleetlineError):
    """A log cannot be followed, or not any more: it is gone.

    Attributes:
        log: which log.
        code: one of `protocol.codes.ErrorCode`.
    """

    def __init__(self, log: str, code: str, message: str) -> None:
        super().__init__(f"{log} cannot be followed: {message} ({code}); nothing more of it is read")
        self.log = log
        self.code = code


@dataclass(frozen=True, slots=True)
class Reset:
    """A log cannot be continued where its reader was.

    Attributes:
        log: which log.
        reason: `unknown`, `trimmed` or `diverged`.
        first: first offset of the range that the reader does not see, or saw in vain.
        last: its last offset.
        exact: False where `first` could not be pinned; none before it is lost.
        epoch: of the log as it is now.
        offset: reading goes on after this one.
    """

    log: str
    reason: ResetReason
    first: int
    last: int
    exact: bool
    epoch: str
    offset: int


class HistoryReset(FleetlineError):
    """A log cannot be continued where its reader was. Iterating on goes on at the restart position.

    Attributes:
        reset: why, what is lost, and where reading goes on.
    """

    def __init__(self, reset: Reset) -> None:
        about = "" if reset.exact else "about "
        super().__init__(
            f"{reset.log} was {reset.reason.value}: offsets {about}{reset.first} to {reset.last} are lost to this "
            f"reader; catch this error and iterate on to continue after offset {reset.offset}"
        )
        self.reset = reset


class PublishRefused(FleetlineError):
    """The log did not take an entry.

    Attributes:
        log: which log.
        code: one of `protocol.codes.ErrorCode`.
    """

    def __init__(self, log: str, code: str, message: str) -> None:
        super().__init__(f"{log} refused an entry: {message} ({code})")
        self.log = log
        self.code = code


class ExpectFailed(PublishRefused):
    """The log's head is another than was expected. Read on up to it, and decide again.

    Attributes:
        expected: the head that was asked for.
        head: the log's last offset.
    """

    def __init__(self, log: str, expected: int, head: int | None) -> None:
        super().__init__(
            log,
            "expect_failed",
            f"its head is {head}, not {expected} as expected; nothing was appended; read what is new and try again",
        )
        self.expected = expected
        self.head = head


class ProducerFenced(PublishRefused):
    """Somebody else owns the producer, or the run's attempt, now."""


class PublisherLost(PublishRefused):
    """The store lost entries that it had acknowledged.

    Attributes:
        first: the first number of this producer's entries that is lost.
        last: the last.
    """

    def __init__(self, log: str, first: int, last: int) -> None:
        super().__init__(
            log,
            "publisher_lost",
            f"the store lost this publisher's entries {first} to {last}, which it had acknowledged; "
            "publish them again from their source with a new publisher",
        )
        self.first = first
        self.last = last


class OutboxBusy(FleetlineError):
    """Another process has the state directory.

    Attributes:
        directory: which one.
    """

    def __init__(self, directory: str, holder: str) -> None:
        super().__init__(
            f"the outbox in {directory} is in use by process {holder}; two would publish under the same numbers; "
            "stop the other process, or give this one a state directory of its own"
        )
        self.directory = directory


class OutboxFailed(FleetlineError):
    """The outbox on disk cannot be read or written. What was not confirmed is not kept."""


class RunEnded(FleetlineError):
    """A run that is over without a result.

    Attributes:
        run: the run's id.
        offset: of the run's last entry.
        error: what the handler raised, as {type, message, trace}, where it raised.
    """

    def __init__(self, run: str, offset: int, message: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(f"run {run} {message} (offset {offset})")
        self.run = run
        self.offset = offset
        self.error = error


class RunFailed(RunEnded):
    """The handler raised, and was not to be tried again."""


class RunCancelled(RunEnded):
    """The run was cancelled."""


class RunExpired(RunEnded):
    """The run's deadline passed."""


class RunDead(RunEnded):
    """The run failed or was lost as often as is allowed."""


class ChildDied(FleetlineError):
    """The process that ran a handler ended by itself: killed, out of memory, or by `os._exit`.

    Attributes:
        trace: the stacks of its threads, where native code crashed.
    """

    def __init__(self, message: str, trace: str | None = None) -> None:
        super().__init__(message)
        self.trace = trace


class ChildRaised(FleetlineError):
    """A handler raised in its process.

    Attributes:
        error: what it raised.
        index: journal index of the call or child whose failure that is, if it is one.
        begun: of a child, the last index that was given out when that was known.
        retryable: another try can help.
    """

    def __init__(self, error: RunError, index: int | None, retryable: bool, begun: int | None = None) -> None:
        super().__init__(f"{error.type}: {error.message}")
        self.error = error
        self.index = index
        self.begun = begun
        self.retryable = retryable


class BadHandler(FleetlineError):
    """A handler that cannot be registered as it is."""


class BadInput(FleetlineError):
    """An input that does not fit the handler's parameters; another try cannot help."""


class NonDeterminism(FleetlineError):
    """A handler did something else than its journal says it did before.

    Attributes:
        index: of the operation in the journal.
        expected: what the journal has there.
        actual: what the handler asked for.
        source: file and line of the handler that asked.
    """

    def __init__(self, index: int, expected: str, actual: str, source: str) -> None:
        super().__init__(
            f"operation {index} was {expected} and is now {actual}, at {source}; the handler cannot be continued "
            "from its journal; let what it does depend on its input and on what its context recorded only, put a "
            "change of it behind ctx.version, and submit a new run"
        )
        self.index = index
        self.expected = expected
        self.actual = actual
        self.source = source


class Cancelled(BaseException):
    """Raised in a plain handler, by the context, when its run was cancelled; like asyncio.CancelledError.

    It is no `Exception`, so that a handler's `except Exception` does not swallow it.
    """


class Unanswered(TimeoutError):
    """Nobody answered a question of a handler in its time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"nobody answered the question {name!r} in time")
