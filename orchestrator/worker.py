"""A further process of a hub: a hub like any other, on the sockets and the store of the one that started it.

    python -m orchestrator.worker NUMBER

`orchestrator.workers`, which starts it, writes `Orders` on its standard input, and is told in a line on standard
output that it serves. It drains and ends on SIGTERM, and ends at once, with nothing in good order, when whoever
started it is gone: by then others want the address.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from socket import socket

import structlog

from orchestrator.hub import Hub, calm_collector
from orchestrator.process import loop_factory, told_to_stop
from orchestrator.telemetry import configure_logs
from orchestrator.workers import Orders
from protocol.errors import FleetlineError

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
ORPHANED = 1

log_ = structlog.get_logger()


def main() -> int:
    """Serve until SIGTERM, or until the process that started this one is gone."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    number = int(sys.argv[1])
    orders = Orders.model_validate_json(sys.stdin.buffer.readline())
    configure_logs(orders.settings.log_level)
    structlog.contextvars.bind_contextvars(worker=number)
    calm_collector()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(number, orders))
    except (FleetlineError, OSError) as fault:
        log_.error("worker_failed", reason=str(fault))
        return 1
    return 0


async def _serve(number: int, orders: Orders) -> None:
    # Only its end is to come now. Where the kernel does not end us with worker one, this does.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), os._exit, ORPHANED)
    told = told_to_stop()
    sockets = [socket(fileno=each) for each in orders.sockets]
    async with Hub(orders.settings, worker=number, sockets=sockets):
        os.write(sys.stdout.fileno(), b"ready\n")
        await told


if __name__ == "__main__":
    sys.exit(main())
