"""The settings as frozen values, one class per section; no file is read here (that is `config_file`).

A class of the server receives its own section, never the whole `Config`. The comments of
`pacs_server.yaml.example` explain every key; a test holds them equal to the defaults below.
"""

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.errors import ConfigError

_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) *([KMGT]i?B|B)", re.IGNORECASE)
_DATABASE_URL: Final = re.compile(r"(postgresql|sqlite)(\+[a-z0-9_]+)?://")
_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})


def _check_text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be printable text and not empty")
    return text.strip()


def _check_host(host: str) -> str:
    host = _check_text(host)
    if re.search(r"[\s/]", host):
        raise ValueError(f"{host} is not a host name or address")
    return host


def _check_ae_title(title: str) -> str:
    # PS3.5 6.2: VR AE is 16 characters of the default repertoire without backslash and control
    # characters; leading and trailing spaces do not count, and only spaces is no title.
    stripped = title.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", stripped):
        raise ValueError("an AE title has 1 to 16 ASCII characters, none of them a backslash or control character")
    return stripped


def _check_path(path: Path) -> Path:
    text = str(path)
    if not text.isprintable():  # also keeps NUL and lone surrogates away from the operating system
        raise ValueError("a path must be printable text")
    return path


def _path_text(value: object) -> object:
    if value == "":
        raise ValueError("a path may not be empty")
    return Path(value) if isinstance(value, str) else value


def _check_port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a port (0 to 65535)")
    return port


def _check_remote_port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port (1 to 65535)")
    return port


def parse_size(value: object) -> object:
    """The number of bytes in a text such as 500MB (10**6) or 2GiB (2**30); anything but text as it is."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value[:40]!r} is not a size such as 500MB, 1GB or 2GiB")
    unit = found[2].upper()
    base = 1024 if "I" in unit else 1000
    return int(float(found[1]) * base ** "BKMGT".index(unit[0]))


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _check_url(url: str | None) -> str | None:
    # The value is never quoted: it may hold a password.
    if url is not None and (not url.isprintable() or not _DATABASE_URL.match(url)):
        raise ValueError("the address must begin with postgresql:// or sqlite:///")
    return url


AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Host = Annotated[str, AfterValidator(_check_host)]
Port = Annotated[int, AfterValidator(_check_port)]
FilePath = Annotated[Path, AfterValidator(_check_path), BeforeValidator(_path_text)]
Seconds = Annotated[float, Field(gt=0, le=604800, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ServerConfig(_Section):
    """Where this AE listens, and what one peer may ask of it; timeouts in seconds."""

    ae_title: AETitle = "PACS_SERVER"
    host: Host = "127.0.0.1"
    port: Port = 11112
    max_associations: Count = 50
    idle_timeout: Seconds = 60.0
    max_pdu_size: Annotated[int, Field(ge=4096, le=1_048_576)] = 131072
    check_called_ae_title: bool = False
    shutdown_timeout: Seconds = 30.0
    association_timeout: Seconds = 30.0
    network_timeout: Seconds = 30.0
    max_connections: Count = 200
    max_connections_per_address: Count = 100

    @model_validator(mode="before")
    @classmethod
    def _room_for_associations(cls, data: Any) -> Any:
        # Whoever raises max_associations alone must not be stopped by a default they never saw.
        if isinstance(data, dict) and "max_connections" not in data:
            wanted = data.get("max_associations")
            if isinstance(wanted, int) and wanted > 200:
                return {**data, "max_connections": wanted}
        return data


class StorageConfig(_Section):
    """Where the objects are kept and how; min_free_space in bytes."""

    directory: FilePath = Path("./archive")
    naming: Literal["hierarchical", "date_hierarchical", "flat"] = "hierarchical"
    duplicate_policy: Literal["reject", "replace", "ignore"] = "reject"
    min_free_space: Annotated[int, Field(ge=0, le=2**62), BeforeValidator(parse_size)] = 1_000_000_000
    fsync: bool = True
    accept_unknown_sop_classes: bool = True


class DatabaseConfig(_Section):
    """The index: a SQLite file, or another database by its URL."""

    path: FilePath = Path("./pacs.db")
    url: Annotated[str | None, AfterValidator(_check_url), BeforeValidator(_empty_is_none), Field(repr=False)] = None
    wal_mode: bool = True
    auto_migrate: bool = True

    @model_validator(mode="after")
    def _one_database(self) -> "DatabaseConfig":
        if self.url is not None and "path" in self.model_fields_set:
            raise PydanticCustomError("both", "database.path is given too, keep one of them", {"key": "database.url"})
        if self.url is None and "?" in str(self.path):
            raise PydanticCustomError("path", "the path may not hold a question mark", {"key": "database.path"})
        return self

    @property
    def sqlalchemy_url(self) -> str:
        """The URL for SQLAlchemy; may hold a password."""
        return self.url if self.url is not None else f"sqlite:///{self.path}"

    @property
    def masked_url(self) -> str:
        """The URL with every password replaced by ***, for people and logs."""
        hidden = re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", self.sqlalchemy_url)
        return re.sub(r"([?&][^=&]*password=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)


class TLSConfig(_Section):
    """DICOM over TLS on the listening port."""

    enabled: bool = False
    cert_path: FilePath = Path("./certs/server.crt")
    key_path: FilePath = Path("./certs/server.key")


class LoggingConfig(_Section):
    """What is logged, where and in which form; without a file only to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: Annotated[FilePath | None, BeforeValidator(_empty_is_none)] = None
    format: Literal["text", "json"] = "text"


class MonitoringConfig(_Section):
    """The HTTP port for metrics and status; port 0 takes any free one."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    metrics_port: Port = 9090


class AccessControlConfig(_Section):
    """The calling AE titles that may associate, as patterns with * and ?."""

    allowed_ae_titles: Annotated[tuple[AETitle, ...], Field(strict=False)] = ("*",)


class WorklistConfig(_Section):
    """The modality worklist and where its items come from; folder_interval in seconds, no port is off."""

    only_own_station: bool = False
    discontinued_returns: bool = True
    folder: Annotated[FilePath | None, BeforeValidator(_empty_is_none)] = None
    folder_interval: Seconds = 2.0
    hl7_host: Host = "127.0.0.1"
    hl7_port: Port | None = None


class CommitmentConfig(_Section):
    """When storage commitment reports are sent, and for how long; times in seconds."""

    retry_first: Seconds = 10.0
    retry_max: Seconds = 3600.0
    give_up_after: Seconds = 259_200.0
    same_association: bool = True


class RemoteAE(_Section):
    """A peer that this server may call; timeouts in seconds."""

    ae_title: AETitle
    host: Host
    port: Annotated[int, AfterValidator(_check_remote_port)]
    tls: bool = False
    connect_timeout: Seconds = 10.0
    response_timeout: Seconds = 60.0


def _check_unique(remotes: tuple[RemoteAE, ...]) -> tuple[RemoteAE, ...]:
    seen: dict[str, int] = {}
    for number, remote in enumerate(remotes):
        first = seen.setdefault(remote.ae_title, number)
        if first != number:
            text = f"{remote.ae_title} is already defined by remote_aes[{first}]"
            raise PydanticCustomError("duplicate", "{text}", {"text": text, "key": f"remote_aes[{number}].ae_title"})
    return remotes


class Config(_Section):
    """All settings, the file they came from, and where each one stands."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    database: DatabaseConfig = DatabaseConfig()
    tls: TLSConfig = TLSConfig()
    logging: LoggingConfig = LoggingConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    access_control: AccessControlConfig = AccessControlConfig()
    worklist: WorklistConfig = WorklistConfig()
    commitment: CommitmentConfig = CommitmentConfig()
    remote_aes: Annotated[tuple[RemoteAE, ...], AfterValidator(_check_unique), Field(strict=False)] = ()
    source: Path | None = None
    origins: Mapping[str, str] = Field(default_factory=dict, repr=False)

    @model_validator(mode="after")
    def _a_port_for_each(self) -> "Config":
        ports = [("server.port", self.server.host, self.server.port)]
        if self.monitoring.enabled:
            ports.append(("monitoring.metrics_port", self.monitoring.host, self.monitoring.metrics_port))
        if self.worklist.hl7_port is not None:
            ports.append(("worklist.hl7_port", self.worklist.hl7_host, self.worklist.hl7_port))
        for (first, host, port), (second, other_host, other_port) in combinations(ports, 2):
            if port == other_port != 0 and (host == other_host or _EVERY_ADDRESS & {host, other_host}):
                # The one that somebody set; the other may be a default.
                section, _, name = second.partition(".")
                key, other = (second, first) if name in getattr(self, section).model_fields_set else (first, second)
                text = f"{port} is the port of {other} too, choose another one"
                raise PydanticCustomError("same_port", "{text}", {"text": text, "key": key})
        return self

    def where(self, key: str) -> str:
        """Where the value of a dotted key such as storage.directory was set, for error messages."""
        return self.origins.get(key, "default")

    def error(self, key: str, problem: str) -> ConfigError:
        """A ConfigError that says where the dotted key was set and what is wrong with it."""
        return ConfigError(f"{self.where(key)}: {key}: {problem}")


NEEDS_RESTART: Final = (
    *("server.host", "server.port"),
    *("storage.directory", "storage.naming", "storage.fsync"),
    *(f"database.{key}" for key in DatabaseConfig.model_fields),
    "tls.enabled",
    *("logging.file", "logging.format"),
    *(f"monitoring.{key}" for key in MonitoringConfig.model_fields),
    *("worklist.folder", "worklist.folder_interval", "worklist.hl7_host", "worklist.hl7_port"),
)


def setting(config: Config, key: str) -> object:
    """The value of a dotted key, such as server.port."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def changed_needing_restart(old: Config, new: Config) -> list[str]:
    """The dotted keys whose new values a running server cannot take over."""
    return [key for key in NEEDS_RESTART if setting(old, key) != setting(new, key)]
