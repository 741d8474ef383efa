"""The server's settings: one tree, from the command line, the environment, a TOML file and defaults, in this order.

listen = "0.0.0.0:50051"
bundle = "/srv/radrank/bundle"
[limits]
workers = 8                     # in the environment: RADRANK_LIMITS__WORKERS=8
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from radrank.core.errors import InvalidQuery, NotFound
from radrank.engines.runtimes import AUTO, TRITON, EngineSettings

DEFAULT_LISTEN = "127.0.0.1:50051"
CONFIG_VARIABLE = "RADRANK_CONFIG"
_LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")
_ENGINES = EngineSettings()


def _is_host_and_port(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(host and colon and port.isdecimal() and int(port) < 2**16)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Group):
    """How much at once.

    workers: searches that compute side by side; in_flight: those and the ones that wait for their turn, more are
    refused; helpers: processes that re-rank beside the server's own, where searches encode nothing and a CPU re-ranks;
    streams: long-lived streams (SearchStream, Upsert) at once; message_bytes: of one message
    """

    workers: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=_cores)
    in_flight: Annotated[int, Field(ge=1, le=10_000)] = Field(default_factory=lambda: 8 * _cores())
    helpers: Annotated[int, Field(ge=0, le=16)] = Field(default_factory=lambda: min(2, _cores() - 1))
    streams: Annotated[int, Field(ge=1, le=256)] = 16
    message_bytes: Annotated[int, Field(ge=2**20, le=2**31 - 1)] = 64 * 2**20


class Engines(_Group):
    """What runs the bundle's models.

    runtime: "auto" for the best that is installed and passes the parity gate, or a runtime's name
    precision: None for what suits the runtime
    plans: directory of TensorRT plans, converted models and OpenVINO's files, None for BUNDLE.plans
    threads: of one encoder call on a CPU, None for all cores
    batch: requests that a GPU runs as one; batch_delay: seconds that an idle GPU waits for more of them
    triton: host:port of the Triton that runs them all, with runtime "triton"; triton_ca: PEM file of who signed its
    certificate, None for a channel that is not encrypted
    """

    runtime: str = AUTO
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    plans: Path | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    batch: Annotated[int, Field(ge=1, le=256)] = _ENGINES.batch
    batch_delay: Annotated[float, Field(ge=0.0, le=1.0)] = _ENGINES.batch_delay
    triton: str | None = None
    triton_ca: Path | None = None

    @field_validator("triton")
    @classmethod
    def _address(cls, triton: str | None) -> str | None:
        if triton is not None and not _is_host_and_port(triton):
            raise ValueError("must be the host:port of its gRPC, such as 127.0.0.1:8001")
        return triton

    @model_validator(mode="after")
    def _together(self) -> Engines:
        if (self.runtime == TRITON) != (self.triton is not None):
            raise ValueError('needs both runtime = "triton" and triton = "host:port", or neither')
        if self.triton_ca is not None and self.triton is None:
            raise ValueError('needs triton = "host:port" for triton_ca')
        return self

    def settings(self) -> EngineSettings:
        return EngineSettings(**dict(self))

    def check(self) -> None:
        """Raises InvalidQuery where a file can't be read."""
        if self.triton_ca is not None:
            _read("engines.triton_ca", self.triton_ca)


class Compaction(_Group):
    """A new snapshot is built once this many rows changed since the last: `rows`, or `share` of its studies if more."""

    rows: Annotated[int, Field(ge=1)] = 1_000
    share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05


class Tls(_Group):
    """PEM files; both or neither. Without them the channel is not encrypted."""

    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _both(self) -> Tls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("needs both certificate and key")
        return self


class Logs(_Group):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["plain", "json"] = "plain"


class Settings(BaseSettings):
    """Everything that `radrank serve` can be told.

    archive: directory with archive.sqlite and snapshots/; index: None serves the kind that the snapshot was built with
    token_file: holds the bearer token that callers must send; drain_seconds: given to running calls on SIGTERM
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="RADRANK_", env_nested_delimiter="__")

    listen: str = DEFAULT_LISTEN
    bundle: Path = Path("bundle")
    archive: Path = Path("archive")
    index: Literal["hnsw", "exact"] | None = None
    token_file: Path | None = None
    drain_seconds: Annotated[float, Field(ge=0.0, le=3600.0)] = 20.0
    limits: Limits = Field(default_factory=Limits)
    engines: Engines = Engines()
    compaction: Compaction = Compaction()
    tls: Tls = Tls()
    logs: Logs = Logs()

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        if listen.startswith("unix:") and len(listen) > len("unix:"):
            return listen
        if not _is_host_and_port(listen):
            raise ValueError("must be host:port, such as 127.0.0.1:50051, or unix:PATH")
        return listen

    @property
    def is_exposed(self) -> bool:
        """Reachable from other machines, without a token or without encryption."""
        guarded = self.token_file is not None and self.tls.certificate is not None
        return not self.listen.startswith(_LOOPBACK) and not guarded

    def token(self) -> str | None:
        """The bearer token, read from its file. Raises InvalidQuery where the file can't be used."""
        if self.token_file is None:
            return None
        token = _read("token_file", self.token_file).decode("ascii", "replace").strip()
        if not token or not token.isascii() or len(token.split()) != 1:
            raise InvalidQuery("token_file", "must hold one token of ASCII letters, digits and signs on one line")
        return token

    def certificates(self) -> tuple[bytes, bytes] | None:
        """(key, certificate chain) as PEM. Raises InvalidQuery where a file can't be read."""
        if self.tls.certificate is None or self.tls.key is None:
            return None
        return _read("tls.key", self.tls.key), _read("tls.certificate", self.tls.certificate)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls with all of them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def load(config: Path | None = None, **given: Any) -> Settings:
    """The settings. `config`: the TOML file, None for the one that RADRANK_CONFIG names, if any.

    given: what the command line says; None stands for nothing said. Raises InvalidQuery and NotFound.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    values = _parsed(config) if config is not None else {}

    class _WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: Any, **more: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = InitSettingsSource(settings_cls, init_kwargs=values)
            return (*super().settings_customise_sources(settings_cls, *sources, **more), file)

    try:
        return _WithFile(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InvalidQuery("settings", "; ".join(_plain(error))) from None


def lines(settings: Settings) -> Iterator[str]:
    """The settings as TOML. Secrets are not among them: only the paths of their files are."""
    tables: list[tuple[str, Mapping[str, Any]]] = []
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            tables.append((name, value))
        else:
            yield _line(name, value)
    for name, table in tables:
        yield ""
        yield f"[{name}]"
        yield from (_line(key, value) for key, value in table.items())


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"# {name} ="
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"  # JSON's strings and numbers are TOML's, too


def _parsed(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise NotFound(f"settings file {config}")
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidQuery(str(config), f"is not TOML: {error}") from None


def _plain(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in fault["loc"])
        reason = {
            "extra_forbidden": "there is no such setting",
            "missing": "must be given",
        }.get(fault["type"], fault["msg"].removeprefix("Value error, ").removeprefix("Input "))
        yield f"{name} {reason}" if name else reason


def _read(field: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidQuery(field, f"{path} can't be read: {error.strerror}") from None
