"""What a hub is told: environment, a TOML file and flags, in rising order.

The environment has the prefix `FLEETLINE_`. The file is the one that `FLEETLINE_CONFIG` names, else
`fleetline.toml` in the data directory, else in the current directory. `load` also tells where each
value came from, for `fleetline doctor`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from orchestrator.core.attempts import LOSSES_MAX
from orchestrator.core.rates import lowest
from orchestrator.settings_issuers import Issuers
from orchestrator.settings_values import (
    check_listen,
    check_networks,
    check_origins,
    check_store,
    resolve,
    split_words,
)
from orchestrator.store.base import Durability
from protocol.errors import FleetlineError
from protocol.frames.part import SPAN_MS_MAX
from protocol.limits import DEFAULT_LIMITS, Limits

__all__ = ["CONFIG_NAME", "WORKERS_MAX", "EnrolAccept", "Loaded", "Settings", "SettingsInvalid", "data_dir", "load"]

ENV_PREFIX = "FLEETLINE_"
CONFIG_ENV = "FLEETLINE_CONFIG"
CONFIG_NAME = "fleetline.toml"
LOCAL_DATA = Path(".fleetline")
WORKERS_MAX = 64
PathOrNone = Annotated[Path | None, AfterValidator(resolve)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_words)]
BEATS_A_LEASE = 3
"""A lease outlives at least this many heartbeats, so that one lost heartbeat loses no lease."""


class EnrolAccept(StrEnum):
    """What it takes for a new key to be accepted."""

    JOIN = "join"
    """A join token is enough."""
    MANUAL = "manual"
    """An operator accepts each key."""


class SettingsInvalid(FleetlineError):
    """A value cannot be used. The message names it, where it came from and what would do."""


def data_dir(*, here: bool = False) -> Path:
    """Return the data directory that is used where none is named.

    Args:
        here: take `.fleetline` in the current directory even where it is not there yet.
    """
    if here or LOCAL_DATA.is_dir():
        return LOCAL_DATA.absolute()
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "fleetline"


class Settings(BaseSettings):
    """What a hub is told. Make it with `load`, or with keywords alone in tests."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", frozen=True, validate_default=True)

    data: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default_factory=data_dir, description="directory of keys, the embedded store and hub.json"
    )
    store: Annotated[str | None, AfterValidator(check_store)] = Field(
        None, repr=False, description="address of a Redis-compatible server; the embedded one where none is given"
    )
    store_password: SecretStr | None = Field(
        None, description="password of the user in that address, or of the default one"
    )
    store_password_file: PathOrNone = Field(None, description="file that holds it, which nobody else may read")
    store_ca_file: PathOrNone = Field(
        None, description="authorities in PEM of the store's certificate; those of the system without"
    )
    durability: Durability = Field(
        Durability.LOCAL, description="what an acknowledgement means: memory, or local (fsynced)"
    )
    listen: Annotated[str, AfterValidator(check_listen)] = Field(
        "127.0.0.1:7420", description="address to listen on; port 0 takes a free one"
    )
    tls_cert: PathOrNone = Field(
        None, description="certificate chain in PEM, the hub's own first; read again when it changes"
    )
    tls_key: PathOrNone = Field(None, description="its key in PEM, without a password")
    tls_client_ca: PathOrNone = Field(
        None, description="authorities in PEM; where given, every peer must show a certificate of one of them"
    )
    insecure_plaintext: bool = Field(
        False, description="speak plain WebSocket on an address that others reach: tokens can be read on the way"
    )
    origins: Annotated[Words, AfterValidator(check_origins)] = Field(
        (), description="origins of web pages that may connect; no other request with an Origin header is let in"
    )
    trusted_proxies: Annotated[Words, AfterValidator(check_networks)] = Field(
        (), description="networks of proxies whose X-Forwarded-For or Forwarded is believed"
    )
    workers: int = Field(
        1,
        ge=1,
        le=WORKERS_MAX,
        description="processes that serve the address, a core each; limits are for each of them",
    )
    heartbeat_ms: int = Field(
        5_000, ge=50, le=600_000, description="longest silence of a side; never more than a third of the lease"
    )
    token_grace_ms: int = Field(
        60_000, ge=0, le=3_600_000, description="how long a session goes on after its token has expired"
    )
    lease_ms: int = Field(30_000, ge=150, description="how long an attempt is an agent's without a heartbeat")
    losses_max: int = Field(
        LOSSES_MAX, ge=1, description="how often a run's agent may be lost before the run is given up as dead"
    )
    drain_ms: int = Field(5_000, ge=0, description="longest that a stopping hub waits for what is under way")
    connections_max: int = Field(100_000, ge=1, description="connections at once")
    replay_reads_max: int = Field(16, ge=1, description="pages of history read from the store at once")
    recheck_ms: int = Field(10_000, ge=50, description="how often followed logs are compared with the store")
    log_entries_max: int = Field(
        1_000_000, ge=1_000, description="entries kept of a topic's or an agent's log; runs' logs are kept whole"
    )
    runs_kept_s: int = Field(
        30 * 24 * 3600,
        ge=0,
        le=SPAN_MS_MAX // 1000,
        description="how long a run is kept after its end, where it does not say; 0: for ever",
    )
    runs_kept_least_s: int = Field(
        60,
        ge=0,
        le=SPAN_MS_MAX // 1000,
        description="how long any run is kept at least: a submit that is sent again finds it by its key",
    )
    enrol_accept: EnrolAccept = Field(
        EnrolAccept.JOIN, description="who accepts a new key: join (a join token is enough), or manual (an operator)"
    )
    issuers: Issuers = Field(
        {}, description="other issuers of tokens, by name: where their keys are, and what they are trusted for"
    )
    log_level: str = Field("info", description="debug, info, warning or error")
    limits: Limits = Field(DEFAULT_LIMITS, description="what peers may use")

    @model_validator(mode="before")
    @classmethod
    def _refuse_replicated(cls, values: Any) -> Any:
        level = values.get("durability") if isinstance(values, dict) else None
        if isinstance(level, str) and level.startswith("replicated"):
            raise ValueError(f"durability {level!r} is not offered yet; take memory or local")
        return values

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: one of the two is missing")
        if self.store_ca_file is not None and not (self.store or "").startswith("rediss://"):
            raise ValueError("store_ca_file is for a store whose address begins with rediss://")
        if self.store is None and (self.store_password or self.store_password_file):
            raise ValueError("a password of the store needs the store's address: FLEETLINE_STORE, or store in the file")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self

    @model_validator(mode="after")
    def _rates_let_sessions_go_on(self) -> Self:
        for name, (least, why) in lowest(self.limits, self.interval_ms).items():
            rate = getattr(self.limits, name)
            if 0 < rate < least:
                raise ValueError(f"limits.{name} is {rate}; the lowest that works is {least}, so that {why} (0: any)")
        return self

    @property
    def interval_ms(self) -> int:
        """The heartbeat interval that peers are told."""
        return min(self.heartbeat_ms, self.lease_ms // BEATS_A_LEASE)

    @property
    def keep_ms(self) -> int | None:
        """How long a run is kept after its end that does not say; None for ever."""
        return self.runs_kept_s * 1000 or None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Name the sources, the strongest first; who says everything is not asked for what is said elsewhere."""
        del dotenv_settings, file_secret_settings
        if init_settings().keys() >= settings_cls.model_fields.keys():
            return (init_settings,)
        toml = TomlConfigSettingsSource(settings_cls, _config_file(init_settings(), env_settings()))
        return init_settings, toml, env_settings


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each came from: `flag`, a file, `environment` or `default`."""

    settings: Settings
    origins: Mapping[str, str]


def load(flags: Mapping[str, Any] | None = None) -> Loaded:
    """Read the settings that are in force.

    Args:
        flags: what the command line says; None means not said.

    Raises:
        SettingsInvalid: a value cannot be used, or the named file cannot be read.
    """
    said = {name: value for name, value in (flags or {}).items() if value is not None}
    environment = {
        name.lower().removeprefix(ENV_PREFIX.lower()).split("__")[0]
        for name in os.environ
        if name.lower().startswith(ENV_PREFIX.lower())
    }
    file = _config_file(said, {"data": os.environ.get(f"{ENV_PREFIX}DATA")})
    in_file: set[str] = set()
    try:
        in_file = set(TomlConfigSettingsSource(Settings, file)()) if file else in_file
        unknown = sorted(in_file - Settings.model_fields.keys())
        if unknown:
            raise SettingsInvalid(f"{file}: there is no setting called {unknown[0]!r}")
        settings = Settings(**said)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        raise SettingsInvalid(_invalid(first, said, in_file, environment, file)) from None
    except SettingsInvalid:
        raise
    except (OSError, ValueError) as fault:
        raise SettingsInvalid(f"{file}: {fault}") from fault
    names = Settings.model_fields
    return Loaded(settings, {name: _origin(name, said, in_file, environment, file) for name in names})


def _invalid(
    error: ErrorDetails, flags: Mapping[str, Any], in_file: set[str], environment: set[str], file: Path | None
) -> str:
    """Say which setting cannot be used, where it came from and why."""
    why = error["msg"].removeprefix("Value error, ")
    parts = [str(part) for part in error["loc"]]
    if not parts:
        return why
    origin = _origin(parts[0], flags, in_file, environment, file)
    if origin == "environment":
        return f"{ENV_PREFIX}{'__'.join(parts).upper()}: {why}"
    return f"{'.'.join(parts)} (from {origin}): {why}"


def _origin(name: str, flags: Mapping[str, Any], in_file: set[str], environment: set[str], file: Path | None) -> str:
    if name in flags:
        return "flag"
    if name in in_file:
        return str(file)
    return "environment" if name in environment else "default"


def _config_file(flags: Mapping[str, Any], environment: Mapping[str, Any]) -> Path | None:
    """Return the file to read, or None where there is none."""
    named = os.environ.get(CONFIG_ENV)
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingsInvalid(f"{CONFIG_ENV} names {named}, which is not a file")
        return path
    data = Path(flags.get("data") or environment.get("data") or data_dir())
    return next((path for path in (data / CONFIG_NAME, Path(CONFIG_NAME).absolute()) if path.is_file()), None)
