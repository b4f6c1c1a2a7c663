"""Where the `fleetline` command begins and ends: whatever happens in between, it leaves with one exit code.

Nothing of ours is imported before `main` runs, so that Ctrl-C while modules load is an end like any other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130
"""`orchestrator.cli.exits.Exit.INTERRUPTED`, which may not be imported yet."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    from orchestrator.cli.exits import Exit
    from orchestrator.cli.table import execute

    code = int(execute(arguments))
    try:
        sys.stdout.flush()
    except OSError as fault:
        if code == Exit.DONE:
            code = int(Exit.FAILED)
            if isinstance(fault, BrokenPipeError):
                code = int(Exit.BROKEN_PIPE)
            else:
                sys.stderr.write(f"error: standard output cannot be written: {fault.strerror}\n")
        _give_up_output()
    return code


def _give_up_output() -> None:
    """Make sure that the interpreter does not complain about what it could not write again while it ends."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())


if __name__ == "__main__":
    main()
