"""All settings as one frozen value; no file is read here (that is `load.py`).

A class of the server receives its own section, never the whole `Config`. The comments of
`pacs_server.yaml.example` explain every key; a test holds them equal to the defaults.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pacs_server.config.sections.access_control import AccessControlConfig
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.config.sections.commitment import CommitmentConfig
from pacs_server.config.sections.database import DatabaseConfig
from pacs_server.config.sections.logging import LoggingConfig
from pacs_server.config.sections.monitoring import MonitoringConfig
from pacs_server.config.sections.remote_aes import RemoteAEConfig, check_unique_titles
from pacs_server.config.sections.server import ServerConfig
from pacs_server.config.sections.storage import StorageConfig
from pacs_server.config.sections.tls import TLSConfig
from pacs_server.config.sections.user_identity import UserIdentityConfig
from pacs_server.config.sections.worklist import WorklistConfig
from pacs_server.config.types import Live, Section, TakesEffect
from pacs_server.errors import ConfigError

_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})
# The sections that say who may do what, and who gets to know.
_SECURITY_SECTIONS: Final = frozenset({"tls", "access_control", "user_identity", "audit"})


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
    remote_aes: Live[
        Annotated[tuple[RemoteAEConfig, ...], AfterValidator(check_unique_titles), Field(strict=False)]
    ] = ()
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


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of the server by its dotted key, in the order of the sections; a list such as remote_aes is one."""
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from ((f"{name}.{key}", each) for key, each in field.annotation.model_fields.items())
        elif takes_effect(field) is not None:
            yield name, field


def takes_effect(field: FieldInfo) -> TakesEffect | None:
    """When a change of a setting takes effect, as its type says; None for a field that is no setting."""
    return next((each for each in field.metadata if isinstance(each, TakesEffect)), None)


def setting(config: Config, key: str) -> object:
    """The value of a dotted key, such as server.port."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def changed(old: Config, new: Config) -> list[str]:
    """The dotted keys whose values differ; a list such as remote_aes is one key."""
    return sorted(key for key, _ in settings() if setting(old, key) != setting(new, key))


def changed_needing_restart(old: Config, new: Config) -> list[str]:
    """The dotted keys whose new values a running server cannot take over."""
    needs_restart = (key for key, field in settings() if takes_effect(field) is TakesEffect.AT_RESTART)
    return [key for key in needs_restart if setting(old, key) != setting(new, key)]


def is_about_security(key: str) -> bool:
    """Whether a dotted key says who may do what, or who gets to know."""
    return key.partition(".")[0] in _SECURITY_SECTIONS
