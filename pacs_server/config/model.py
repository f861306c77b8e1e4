"""The settings as frozen values, one class per section; no file is read here (that is `config_file`).

A class of the server receives its own section, never the whole `Config`. The comments of
`pacs_server.yaml.example` explain every key; a test holds them equal to the defaults below.
"""

import ipaddress
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.types import (
    AETitle,
    Count,
    FilePath,
    Host,
    Network,
    Port,
    Seconds,
    Secret,
    Section,
    check_long_enough,
    check_remote_port,
    check_url,
    empty_is_none,
    parse_size,
)
from pacs_server.errors import ConfigError

_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})


class ServerConfig(Section):
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
    message_timeout: Seconds = 300.0
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


class StorageConfig(Section):
    """Where the objects are kept and how; min_free_space in bytes."""

    directory: FilePath = Path("./archive")
    naming: Literal["hierarchical", "date_hierarchical", "flat"] = "hierarchical"
    duplicate_policy: Literal["reject", "replace", "ignore"] = "reject"
    min_free_space: Annotated[int, Field(ge=0, le=2**62), BeforeValidator(parse_size)] = 1_000_000_000
    trash_days: Annotated[int, Field(ge=1, le=36_500)] | None = 30
    scrub_rate: Annotated[
        Annotated[int, Field(ge=1, le=2**62)] | None, BeforeValidator(parse_size), BeforeValidator(empty_is_none)
    ] = 1_000_000
    fsync: bool = True
    accept_unknown_sop_classes: bool = True


class DatabaseConfig(Section):
    """The index: a SQLite file, or another database by its URL."""

    path: FilePath = Path("./pacs.db")
    url: Annotated[str | None, AfterValidator(check_url), BeforeValidator(empty_is_none), Field(repr=False)] = None
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


class TLSConfig(Section):
    """DICOM over TLS: on `port` beside the plain one, or without a port of its own on server.port instead."""

    enabled: bool = False
    port: Port | None = None
    cert_path: FilePath = Path("./certs/server.crt")
    key_path: FilePath = Path("./certs/server.key")
    key_password: Secret = None
    ca_path: Annotated[FilePath | None, BeforeValidator(empty_is_none)] = None
    crl_path: Annotated[FilePath | None, BeforeValidator(empty_is_none)] = None
    require_client_cert: bool = False
    min_version: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _an_authority_to_check_against(self) -> "TLSConfig":
        for key, value in (("require_client_cert", self.require_client_cert), ("crl_path", self.crl_path)):
            if value and self.ca_path is None:
                raise PydanticCustomError("ca", "needs tls.ca_path as well", {"key": f"tls.{key}"})
        return self


class LoggingConfig(Section):
    """What is logged, where and in which form; without a file only to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: Annotated[FilePath | None, BeforeValidator(empty_is_none)] = None
    format: Literal["text", "json"] = "text"


class MonitoringConfig(Section):
    """The HTTP port for metrics and status; port 0 takes any free one."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    metrics_port: Port = 9090


PeerService = Literal["echo", "store", "find", "move", "get", "worklist", "mpps", "commitment"]


class PeerRule(Section):
    """What one peer, or all whose AE titles match a pattern, may do, and from where.

    No `addresses` are all addresses. `certificate` names are held against subject and SAN of the
    peer's certificate. `max_data_rate` in bytes a second.
    """

    ae_title: AETitle
    addresses: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    allow: Annotated[tuple[PeerService, ...], Field(strict=False)] = get_args(PeerService)
    require_tls: bool = False
    certificate: Annotated[tuple[str, ...], Field(strict=False)] = ()
    move_destinations: Annotated[tuple[AETitle, ...], Field(strict=False)] = ("*",)
    max_associations: Count | None = None
    max_data_rate: Annotated[int, Field(ge=1024, le=2**40), BeforeValidator(parse_size)] | None = None


class AccessControlConfig(Section):
    """Who may associate: peers with their own rules, and AE titles as patterns with * and ?.

    `association_rate` is associations a second from one address, `association_burst` how many may come at once.
    """

    allowed_ae_titles: Annotated[tuple[AETitle, ...], Field(strict=False)] = ("*",)
    peers: Annotated[tuple[PeerRule, ...], Field(strict=False)] = ()
    max_associations_per_ae: Count | None = None
    association_rate: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    association_burst: Count = 20

    @model_validator(mode="before")
    @classmethod
    def _peers_close_the_door(cls, data: Any) -> Any:
        # Whoever lists the peers does not mean everybody else as well.
        if isinstance(data, dict) and data.get("peers") and "allowed_ae_titles" not in data:
            return {**data, "allowed_ae_titles": ()}
        return data


class UserIdentityConfig(Section):
    """User names and passwords at association (PS3.7 D.3.3.7)."""

    mode: Literal["off", "optional", "required"] = "off"
    users_path: FilePath = Path("./users")


class AuditConfig(Section):
    """The audit trail: where it is kept, what signs it, and where it is sent as well."""

    enabled: bool = True
    directory: FilePath = Path("./audit")
    key: Annotated[Secret, AfterValidator(check_long_enough)] = None
    retention_years: Annotated[int, Field(ge=1, le=200)] | None = None
    syslog_host: Annotated[Host | None, BeforeValidator(empty_is_none)] = None
    syslog_port: Annotated[int, AfterValidator(check_remote_port)] = 6514
    syslog_protocol: Literal["tls", "udp"] = "tls"


class WorklistConfig(Section):
    """The modality worklist and where its items come from; folder_interval in seconds, no port is off."""

    only_own_station: bool = False
    discontinued_returns: bool = True
    folder: Annotated[FilePath | None, BeforeValidator(empty_is_none)] = None
    folder_interval: Seconds = 2.0
    hl7_host: Host = "127.0.0.1"
    hl7_port: Port | None = None


class CommitmentConfig(Section):
    """When storage commitment reports are sent, and for how long; times in seconds."""

    retry_first: Seconds = 10.0
    retry_max: Seconds = 3600.0
    give_up_after: Seconds = 259_200.0
    same_association: bool = True


class RemoteAE(Section):
    """A peer that this server may call; timeouts in seconds."""

    ae_title: AETitle
    host: Host
    port: Annotated[int, AfterValidator(check_remote_port)]
    tls: bool = False
    tls_check_hostname: bool = True
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


class Config(Section):
    """All settings, the file they came from, where each one stands, and the files that secrets were read from."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    database: DatabaseConfig = DatabaseConfig()
    tls: TLSConfig = TLSConfig()
    logging: LoggingConfig = LoggingConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    access_control: AccessControlConfig = AccessControlConfig()
    user_identity: UserIdentityConfig = UserIdentityConfig()
    audit: AuditConfig = AuditConfig()
    worklist: WorklistConfig = WorklistConfig()
    commitment: CommitmentConfig = CommitmentConfig()
    remote_aes: Annotated[tuple[RemoteAE, ...], AfterValidator(_check_unique), Field(strict=False)] = ()
    source: Path | None = None
    origins: Mapping[str, str] = Field(default_factory=dict, repr=False)
    secret_files: Mapping[str, Path] = Field(default_factory=dict, repr=False)

    @model_validator(mode="after")
    def _a_port_for_each(self) -> "Config":
        ports = [("server.port", self.server.host, self.server.port)]
        if self.tls.enabled and self.tls.port is not None:
            ports.append(("tls.port", self.server.host, self.tls.port))
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
    *("tls.enabled", "tls.port"),
    *(f"audit.{key}" for key in AuditConfig.model_fields if key != "retention_years"),
    *("logging.file", "logging.format"),
    *(f"monitoring.{key}" for key in MonitoringConfig.model_fields),
    *("worklist.folder", "worklist.folder_interval", "worklist.hl7_host", "worklist.hl7_port"),
)


def passwords_in_clear(config: Config) -> str | None:
    """A warning if peers send passwords over a network that everybody on it can listen to."""
    plain = not config.tls.enabled or config.tls.port is not None
    if config.user_identity.mode == "off" or not plain or _is_loopback(config.server.host):
        return None
    return (
        f"{config.server.host} port {config.server.port} does not speak TLS: passwords travel in the clear, "
        "set tls.enabled without tls.port, or user_identity.mode to off"
    )


def open_to_everyone(config: Config) -> str | None:
    """A warning if anybody who reaches the server may use it, and others than this machine reach it."""
    access, tls = config.access_control, config.tls
    # With a port of its own for TLS the other one stays plain, and asks for no certificate.
    certified = tls.enabled and tls.port is None and tls.require_client_cert
    closed = access.peers or "*" not in access.allowed_ae_titles or config.user_identity.mode == "required"
    if closed or certified or _is_loopback(config.server.host):
        return None
    return (
        f"everybody who reaches {config.server.host} port {config.server.port} may store, query and retrieve: "
        "set access_control.peers or access_control.allowed_ae_titles, or tls.require_client_cert"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def setting(config: Config, key: str) -> object:
    """The value of a dotted key, such as server.port."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


SECURITY_SECTIONS: Final = ("tls.", "access_control.", "user_identity.", "audit.")
"""The sections that say who may do what, and who gets to know."""


def changed(old: Config, new: Config) -> list[str]:
    """The dotted keys whose values differ; a list such as remote_aes is one key."""
    keys = []
    for name in Config.model_fields.keys() - {"source", "origins"}:
        section = getattr(old, name)
        keys += [f"{name}.{key}" for key in type(section).model_fields] if isinstance(section, Section) else [name]
    return sorted(key for key in keys if setting(old, key) != setting(new, key))


def changed_needing_restart(old: Config, new: Config) -> list[str]:
    """The dotted keys whose new values a running server cannot take over."""
    return [key for key in NEEDS_RESTART if setting(old, key) != setting(new, key)]
