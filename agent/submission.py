"""What a run is submitted with: the options of `submit`, the same wherever one submits."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from math import inf
from typing import TypedDict

from protocol.requests import RunSubmit
from protocol.selector import selector_of

__all__ = ["SubmitOptions", "check_options", "span_ms", "submission"]


class SubmitOptions(TypedDict, total=False):
    """How a run is to be done. Times are in seconds, from now.

    Attributes:
        queue: where agents take it from; `default` without.
        key: submitting the same key with the same input again gives the same run; made up without.
        where: the labels of the agents that may take it: a mapping of all that they must have, or a selector
            such as `"gpu=h200, region!=eu, tier in (a,b), ssd"` (`ssd` fits any value of that label).
        priority: 0 to 9, higher first.
        delay: it waits this long before it can be taken; less than the deadline, where there is one. 0 is none.
        deadline: it expires when it has not ended by then, whatever it is doing.
        timeout: how long one attempt may take; as the handler says without.
        retries: how often a failed attempt is tried again; as the handler says without.
        backoff: the longest wait before the first further try, which doubles with each; as the handler says without.
        backoff_max: the longest wait before any; as the handler says without.
        keep: how long it is kept after its end, with its log and its result; as the hub has it without.
        concurrency_key: where the queue has a limit for each key, so many runs of the same are worked on at once.
    """

    queue: str
    key: str | None
    where: Mapping[str, str] | str
    priority: int
    delay: float | None
    deadline: float | None
    timeout: float | None
    retries: int | None
    backoff: float | None
    backoff_max: float | None
    keep: float | None
    concurrency_key: str | None


def submission(
    handler: str,
    packed_input: bytes,
    *,
    queue: str = "default",
    key: str | None = None,
    where: Mapping[str, str] | str = "",
    priority: int = 0,
    delay: float | None = None,
    deadline: float | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    backoff: float | None = None,
    backoff_max: float | None = None,
    keep: float | None = None,
    concurrency_key: str | None = None,
) -> RunSubmit:
    """Return the parameters of `run.submit` for these options (see `SubmitOptions`).

    Raises:
        ValueError: a time is not positive, a label cannot be asked for, or a number is out of its range.
    """
    return RunSubmit(
        queue=queue,
        handler=handler,
        input=packed_input,
        key=key if key is not None else secrets.token_hex(16),
        where=where if isinstance(where, str) else selector_of(where),
        priority=priority,
        delay_ms=span_ms("delay", delay) if delay else None,
        deadline_ms=span_ms("deadline", deadline),
        timeout_ms=span_ms("timeout", timeout),
        retries=retries,
        backoff_ms=span_ms("backoff", backoff),
        backoff_max_ms=span_ms("backoff_max", backoff_max),
        keep_ms=span_ms("keep", keep),
        concurrency_key=concurrency_key,
    )


def check_options(options: Mapping[str, object], known: type) -> None:
    """Do nothing where all of these are options of what is submitted so, by the `TypedDict` that says which.

    Raises:
        TypeError: one is not, and would be as if it had not been said.
    """
    others = sorted(options.keys() - known.__annotations__.keys())
    if others:
        raise TypeError(f"there is no option {others[0]!r} here; there are {', '.join(known.__annotations__)}")


def span_ms(name: str, seconds: float | None) -> int | None:
    """Return a time in whole milliseconds, at least one.

    Raises:
        ValueError: it is not positive, or has no end.
    """
    if seconds is None:
        return None
    if not 0 < seconds < inf:
        raise ValueError(f"{name} is {seconds:g} s; it must be more than none, and have an end")
    return max(1, round(seconds * 1000))
