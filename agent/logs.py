"""Where this side's own log lines go."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO, cast

import structlog

__all__ = ["LEVEL_ENV", "ensure_logging"]

LEVEL_ENV = "FLEETLINE_LOG_LEVEL"


class _StandardError:
    """Standard error as it is when a line is written: a program may put another stream there."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def ensure_logging() -> None:
    """Send warnings and what is worse to standard error, unless the program has configured structlog itself.

    `FLEETLINE_LOG_LEVEL` names another level. Standard output belongs to the program: what it prints there may be
    read by another one.
    """
    if structlog.is_configured():
        return
    render: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]  # others show variables
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level()),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )


def _level() -> int:
    """Return the level that is asked for; a word that is none asks for nothing."""
    return logging.getLevelNamesMapping().get(os.environ.get(LEVEL_ENV, "").upper(), logging.WARNING)
