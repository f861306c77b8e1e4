"""All settings as one frozen value. `config/load.py` reads them; this one reads no file.

A class of the server receives the section that it needs, never the whole `Config`. The comments of
`pacs_server.yaml.example` explain every setting; a test compares them with the defaults.
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
from pacs_server.config.sections.fetching import FetchingConfig
from pacs_server.config.sections.forwarding import ForwardingConfig
from pacs_server.config.sections.logging import LoggingConfig
from pacs_server.config.sections.monitoring import MonitoringConfig
from pacs_server.config.sections.polling import CacheConfig, PollingConfig, PrefetchConfig, check_polling
from pacs_server.config.sections.remote_aes import RemoteAEConfig, check_remotes
from pacs_server.config.sections.routing import RoutingConfig
from pacs_server.config.sections.server import ServerConfig
from pacs_server.config.sections.storage import StorageConfig
from pacs_server.config.sections.tls import TLSConfig
from pacs_server.config.sections.user_identity import UserIdentityConfig
from pacs_server.config.sections.web import WebConfig
from pacs_server.config.sections.worklist import WorklistConfig
from pacs_server.config.types import Live, Section, TakesEffect
from pacs_server.errors import ConfigError

_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})
# The sections that decide who may do what, and what is recorded of it.
_SECURITY_SECTIONS: Final = frozenset({"tls", "access_control", "user_identity", "audit", "web"})


class Config(Section):
    """All settings, with the file they came from, the place of each setting, and the files that secrets came from."""

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
    forwarding: ForwardingConfig = ForwardingConfig()
    fetching: FetchingConfig = FetchingConfig()
    web: WebConfig = WebConfig()
    routing: RoutingConfig = RoutingConfig()
    cache: CacheConfig = CacheConfig()
    remote_aes: Live[Annotated[tuple[RemoteAEConfig, ...], AfterValidator(check_remotes), Field(strict=False)]] = ()
    polling: Live[Annotated[tuple[PollingConfig, ...], AfterValidator(check_polling), Field(strict=False)]] = ()
    prefetch: Live[Annotated[tuple[PrefetchConfig, ...], Field(strict=False)]] = ()
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
        if self.web.enabled:
            ports.append(("web.port", self.web.host, self.web.port))
        if self.worklist.hl7_port is not None:
            ports.append(("worklist.hl7_port", self.worklist.hl7_host, self.worklist.hl7_port))
        for (first, host, port), (second, other_host, other_port) in combinations(ports, 2):
            if port == other_port != 0 and (host == other_host or _EVERY_ADDRESS & {host, other_host}):
                # Name the setting that somebody set, since the other one may be a default.
                section, _, name = second.partition(".")
                key, other = (second, first) if name in getattr(self, section).model_fields_set else (first, second)
                text = f"{port} is the port of {other} too, choose another one"
                raise PydanticCustomError("same_port", "{text}", {"text": text, "key": key})
        return self

    @model_validator(mode="after")
    def _remotes_that_are_there(self) -> "Config":
        names = {remote.name for remote in self.remote_aes}
        asked = [(f"polling[{number}].remote", each.remote) for number, each in enumerate(self.polling)]
        asked += [
            (f"prefetch[{number}].from[{place}]", name)
            for number, each in enumerate(self.prefetch)
            for place, name in enumerate(each.from_)
        ]
        for key, name in asked:
            if name not in names:
                text = f"{name} is not the name of a remote in remote_aes"
                raise PydanticCustomError("remote", "{text}", {"text": text, "key": key})
        return self

    def remote(self, name: str) -> RemoteAEConfig | None:
        """The remote with this name, None if there is none."""
        return next((remote for remote in self.remote_aes if remote.name == name), None)

    def where(self, key: str) -> str:
        """The place where a setting such as storage.directory was set, for error messages."""
        return self.origins.get(key, "default")

    def error(self, key: str, problem: str) -> ConfigError:
        """A ConfigError that says where a setting was set and what is wrong with it."""
        # What lies in a list is not a default: if it has no place of its own, the list has one.
        place = place_of(self.origins, key) if "[" in key else self.where(key)
        return ConfigError(f"{place}: {key}: {problem}")


def place_of(origins: Mapping[str, str], key: str) -> str:
    """The place of a setting, else of the list or section around it, else "default"."""
    place = origins.get(key)
    while place is None and key:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
        place = origins.get(key)
    return place or "default"


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its dotted key, in the order of the sections; a list such as remote_aes is one setting."""
    yield from _settings_of(Config, "")


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds; None if it holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _settings_of(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            yield from _settings_of(inner, f"{prefix}{name}.")
        elif takes_effect(field) is not None:
            yield f"{prefix}{name}", field


def takes_effect(field: FieldInfo) -> TakesEffect | None:
    """When a change of a setting takes effect, as its type says; None if the field is not a setting."""
    return next((each for each in field.metadata if isinstance(each, TakesEffect)), None)


def setting(config: Config, key: str) -> object:
    """The value of a dotted key, such as server.port."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def changed(old: Config, new: Config) -> list[str]:
    """The dotted keys of the settings whose values differ; a list such as remote_aes is one setting."""
    return sorted(key for key, _ in settings() if setting(old, key) != setting(new, key))


def changed_needing_restart(old: Config, new: Config) -> list[str]:
    """The dotted keys of the settings that differ and that a running server cannot take over."""
    needs_restart = (key for key, field in settings() if takes_effect(field) is TakesEffect.AT_RESTART)
    return [key for key in needs_restart if setting(old, key) != setting(new, key)]


def is_about_security(key: str) -> bool:
    """Whether a setting decides who may do what, or what is recorded of it."""
    return key.partition(".")[0] in _SECURITY_SECTIONS
