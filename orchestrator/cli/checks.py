"""What `fleetline doctor` looks at: the data directory, keys, the store, clocks and limits of this machine."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.x509 import load_pem_x509_certificate

from orchestrator.room import FILES_RESERVED
from orchestrator.settings import Loaded, Settings
from orchestrator.store.address import address_of, without_password
from orchestrator.store.base import StoreError
from orchestrator.store.datadir import DataDirectory
from orchestrator.store.durability import Finding, Run, inspect_server
from orchestrator.store.redis_line import connect, disconnect, greet_on
from orchestrator.tls import Certificates, check_plaintext
from protocol.errors import FleetlineError

__all__ = [
    "Check",
    "Verdict",
    "check_data",
    "check_hub",
    "check_limits",
    "check_settings",
    "check_store",
    "check_tls",
    "store_url",
]

CLOCK_DIFFERENCE_MS_MAX = 1000
"""Leases are judged by the store's clock, tokens by the hub's: further apart than this, they disagree."""
FILES_LEAST = 1024
CERTIFICATE_DAYS_LEAST = 14


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    ADVICE = "advice"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        about: the part it belongs to: settings, data, store, clock, limits, hub.
        name: what was looked at.
        value: what was found.
        verdict: whether it will do.
        note: what to change where it will not; for settings, where the value came from.
    """

    about: str
    name: str
    value: str
    verdict: Verdict = Verdict.OK
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the object that is printed."""
        return {
            "about": self.about,
            "name": self.name,
            "value": self.value,
            "verdict": self.verdict.value,
            "note": self.note,
        }


def check_settings(loaded: Loaded) -> Iterator[Check]:
    """Say what is in force, and where each value came from."""
    for name, origin in loaded.origins.items():
        value = getattr(loaded.settings, name)
        if name == "limits":
            for limit, number in value:
                yield Check("settings", f"limits.{limit}", str(number), note=f"from {origin}")
        else:
            yield Check("settings", name, _shown(name, value), note=f"from {origin}")


def _shown(name: str, value: object) -> str:
    if name == "store":
        return "embedded" if value is None else without_password(str(value))
    return str(value)


def check_data(data: Path) -> Iterator[Check]:
    """Look at the data directory and who may read what is secret in it."""
    if not data.is_dir():
        note = "nothing was checked of it; the hub makes it when it starts"
        yield Check("data", "directory", f"{data} is not there", Verdict.ADVICE, note)
        return
    owner = data.stat().st_uid
    if owner != os.geteuid():
        note = "run as its owner, or choose another directory with --data"
        yield Check("data", "directory", f"{data} belongs to uid {owner}", Verdict.WRONG, note)
        return
    yield Check("data", "directory", str(data))
    for name in ("keys", "keys/signing.pem", "local.token"):
        yield _check_secret(data / name)
    for path in sorted((data / "keys").glob("retired-*.pem")):
        yield _check_secret(path)


def _check_secret(path: Path) -> Check:
    name = f"{path.parent.name}/{path.name}" if path.suffix == ".pem" else path.name
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return Check("data", name, "not there", Verdict.ADVICE, "the hub makes it when it starts")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        wanted = "700" if path.is_dir() else "600"
        note = f"chmod {wanted} {path}; whoever could read it may have what it holds"
        return Check("data", name, f"mode {mode:04o}", Verdict.WRONG, note)
    return Check("data", name, f"mode {mode:04o}")


def check_tls(settings: Settings) -> Iterator[Check]:
    """Look at the certificate, and whether tokens can be read on the way."""
    try:
        check_plaintext(settings)
        Certificates(settings)
    except FleetlineError as fault:
        yield Check("tls", "certificate", str(settings.tls_cert or "none"), Verdict.WRONG, str(fault))
        return
    if settings.tls_cert is None:
        yield Check("tls", "certificate", "none: plain WebSocket")
        return
    ends = load_pem_x509_certificate(settings.tls_cert.read_bytes()).not_valid_after_utc
    left = ends - datetime.now(UTC)
    value = f"{settings.tls_cert}, good until {ends:%Y-%m-%d}"
    if left < timedelta(0):
        yield Check("tls", "certificate", value, Verdict.WRONG, "it has ended: put a new one into the file")
    elif left < timedelta(days=CERTIFICATE_DAYS_LEAST):
        yield Check("tls", "certificate", value, Verdict.ADVICE, "it ends soon: put a new one into the file")
    else:
        yield Check("tls", "certificate", value)


def check_limits(settings: Settings) -> Iterator[Check]:
    """Look at what the system allows this user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_max + FILES_RESERVED
    value = f"{_files(soft)} open files (at most {_files(hard)})"
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield Check("limits", "open files", value)
        return
    room = max(0, soft - FILES_RESERVED)
    verdict = Verdict.ADVICE if soft >= FILES_LEAST else Verdict.WRONG
    note = f"enough for about {room} connections, connections_max is {settings.connections_max}: ulimit -n {wanted}"
    yield Check("limits", "open files", value, verdict, note)


def _files(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else str(number)


def store_url(settings: Settings) -> str | None:
    """Return the address of the store; None where it is the embedded one and that does not run."""
    if settings.store is not None:
        return address_of(settings)
    data = DataDirectory(settings.data)
    if not data.store.is_dir() or data.server_lock.free():
        return None
    record = data.record()
    return None if record is None else f"unix://{quote(str(record.socket))}"


async def check_store(settings: Settings) -> list[Check]:
    """Look at the store's settings, and how far its clock is from this machine's."""
    try:
        url = store_url(settings)
        if url is None:
            note = "it runs while a hub runs; start one to have its settings checked"
            return [Check("store", "server", "the embedded server does not run", Verdict.ADVICE, note)]
        return await _inspect(url, settings)
    except (StoreError, OSError) as fault:
        note = "start it, or name the right address with FLEETLINE_STORE or --store"
        return [Check("store", "server", str(fault), Verdict.WRONG, note)]


async def _inspect(url: str, settings: Settings) -> list[Check]:
    checks: list[Check] = []

    async def look(run: Run) -> None:
        checks.extend(map(_of_finding, await inspect_server(run, settings.durability)))
        checks.append(await _clock(run))

    connection = await connect(url)
    try:
        await greet_on(connection, look)
    finally:
        await disconnect(connection)
    return checks


def _of_finding(finding: Finding) -> Check:
    if finding.ok:
        return Check("store", finding.name, finding.value)
    verdict = Verdict.WRONG if finding.required else Verdict.ADVICE
    return Check("store", finding.name, finding.value, verdict, f"must be {finding.wanted}: {finding.remedy}")


async def _clock(run: Run) -> Check:
    """Compare the store's clock with this machine's, halfway between asking and answer."""
    before_s = time.time()
    seconds, micros = await run("TIME")
    after_s = time.time()
    store_s = int(seconds) + int(micros) / 1e6
    difference_ms = round((store_s - (before_s + after_s) / 2) * 1000)
    value = f"the store's is {difference_ms:+d} ms from this machine's"
    if abs(difference_ms) <= CLOCK_DIFFERENCE_MS_MAX:
        return Check("clock", "difference", value)
    note = "let both machines follow the same time servers (chrony, systemd-timesyncd)"
    return Check("clock", "difference", value, Verdict.WRONG, note)


async def check_hub(settings: Settings) -> list[Check]:
    """Connect to the hub that the data directory names, as any client would."""
    from agent.client import Client

    place = _running_hub(settings.data)
    if place is None:
        return [Check("hub", "connection", "no hub runs from this data directory", Verdict.ADVICE, "start one")]
    try:
        async with Client.connect(directory=settings.data, timeout=3.0) as client:
            await client.logs(limit=1)
    except FleetlineError as fault:
        return [Check("hub", "connection", str(fault), Verdict.WRONG, "see what the hub prints, or restart it")]
    url, workers = place
    several = [Check("hub", "workers", str(workers))] if workers > 1 else []
    return [Check("hub", "connection", "answers"), _listening(url, settings), *several]


def _running_hub(data: Path) -> tuple[str, int] | None:
    """Return where the hub of a data directory says that it listens, and its workers; None where none runs."""
    try:
        said = json.loads((data / "hub.json").read_text())
        return str(said["url"]), int(said.get("workers", 1))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _listening(url: str, settings: Settings) -> Check:
    """Compare where the hub listens with where one started now would."""
    found, (host, port) = urlsplit(url), settings.address
    if found.hostname == host and port in (0, found.port):
        return Check("hub", "listen", url)
    note = f"the settings say {settings.listen}: the hub was told otherwise when it started; restart it if they count"
    return Check("hub", "listen", url, Verdict.ADVICE, note)
