"""Where this side's own log lines go."""

from __future__ import annotations

import sys
from typing import TextIO, cast

import structlog

__all__ = ["ensure_logging"]


class _StandardError:
    """Standard error as it is when a line is written: a program may put another stream there."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def ensure_logging() -> None:
    """Send log lines to standard error, unless the program has configured structlog itself.

    Standard output belongs to the program: what it prints there may be read by another one.
    """
    if structlog.is_configured():
        return
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )
