"""REST: the status of the server, its storage, and its configuration without secrets."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field
from pydantic_core import to_jsonable_python

from pacs_server.config.explanations import Explanation, explanations
from pacs_server.config.model import Config, setting, settings, takes_effect
from pacs_server.config.secrets import is_secret
from pacs_server.config.types import TakesEffect
from pacs_server.dicom.caller import Role
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "server"
_NOTHING: Final = Explanation("", "", "")


class Counts(Answer):
    """How much is stored."""

    patients: int
    studies: int
    series: int
    instances: int


class Status(Answer):
    """Whether the server can work."""

    version: str
    ae_title: str
    ready: Annotated[bool, Field(description="Whether instances can be stored and retrieved.")]
    not_ready: Annotated[str | None, Field(description="Why not.")]
    counts: Annotated[Counts | None, Field(description="null for callers who see only a part, or if it is not known.")]


class ServerStatus(Answer):
    """All sections of the status page, as `pacs-server status` shows them."""

    sections: dict[str, Any]


class LastBackup(Answer):
    """The last backup that `pacs-server backup` has made of this archive."""

    ended: datetime
    snapshot: Annotated[str, Field(description="Its name in the directory of backups.")]
    directory: Annotated[str, Field(description="The directory of backups, on the machine that made it.")]
    instances: int
    bytes: int
    problems: Annotated[int, Field(description="How many files were missing or damaged.")]
    verified: Annotated[bool, Field(description="Whether it was read back afterwards.")]
    is_old: Annotated[bool, Field(description="Whether it is older than a week.")]


class Storage(Answer):
    """The disk, and how fast it fills."""

    directory: str
    free_bytes: int | None
    total_bytes: int | None
    bytes_per_day: Annotated[float | None, Field(description="What came in a day over the last week.")]
    days_left: Annotated[float | None, Field(description="Until the disk is full at that rate; null for never.")]
    quarantine_files: int | None
    last_backup: Annotated[LastBackup | None, Field(description="null if this archive knows of none.")]


class Setting(Answer):
    """A setting as it is in force."""

    key: str
    value: Annotated[Any, Field(description="null for a secret.")]
    secret: Annotated[bool, Field(description="Whether the value is a secret, which is not shown.")]
    is_set: Annotated[bool, Field(description="Whether it has a value.")]
    origin: Annotated[str, Field(description="Where it was set: a file with its line, the environment, or default.")]
    needs_restart: Annotated[bool, Field(description="Whether a change takes effect only after a restart.")]
    default: Annotated[str, Field(description="The default, as the documentation writes it, with `code`.")]
    values: Annotated[str, Field(description="Which values it takes.")]
    explanation: Annotated[str, Field(description="What it does: the sentences of docs/configuration.md.")]


class Configuration(Answer):
    """The settings in force."""

    settings: list[Setting]
    waiting_for_restart: Annotated[
        list[str], Field(description="Settings that have changed in the file and take effect after a restart.")
    ]
    last_reload: Annotated[dict[str, Any] | None, Field(description="When settings were read again, and the result.")]


class Server:
    """The resources status, server, storage and configuration."""

    def __init__(self, services: WebServices) -> None:
        self._status = services.status
        self._config = services.config

    def operations(self) -> list[Operation]:
        """The operations of the resources."""
        return [
            Operation(
                method="GET", path="/status", name="show_status", tag=_TAG, role=Role.READER,
                summary="Show whether the server can work.", answer=Status, run=self._show,
            ),
            Operation(
                method="GET", path="/server", name="show_server", tag=_TAG, role=Role.OPERATOR,
                summary="Show the whole status page.", answer=ServerStatus, run=self._sections,
            ),
            Operation(
                method="GET", path="/storage", name="show_storage", tag=_TAG, role=Role.OPERATOR,
                summary="Show how full the storage is, and how fast it grows.", answer=Storage, run=self._storage,
            ),
            Operation(
                method="GET", path="/configuration", name="show_configuration", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Show the settings in force, without secrets, and those that wait for a restart.",
                answer=Configuration, run=self._configuration,
            ),
        ]  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        found = self._status()
        counts = None if call.caller.scope.is_limited else found["counts"]
        return Status(
            version=str(found["version"]), ae_title=str(found["ae_title"]), ready=found["not_ready"] is None,
            not_ready=None if found["not_ready"] is None else str(found["not_ready"]), counts=counts,  # type: ignore[arg-type]
        )  # fmt: skip

    def _sections(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return ServerStatus(sections=dict(self._status()))

    def _storage(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        sections: Mapping[str, Any] = self._status()
        found = {**sections["storage"], "last_backup": sections.get("backup")}
        return Storage(**{name: found[name] for name in Storage.model_fields})

    def _configuration(self, call: Call[Any, None]) -> Answer:
        config = self._config()
        reload: Mapping[str, Any] | None = self._status().get("last_reload")  # type: ignore[assignment]
        return Configuration(
            settings=[_setting(config, key, takes_effect(field)) for key, field in settings()],
            waiting_for_restart=list((reload or {}).get("needs_restart", ())),
            last_reload=None if reload is None else dict(reload),
        )


def _setting(config: Config, key: str, effect: TakesEffect | None) -> Setting:
    value, secret = setting(config, key), is_secret(key)
    told = explanations().get(key, _NOTHING)
    return Setting(
        key=key,
        value=None if secret else to_jsonable_python(value, fallback=str),
        secret=secret,
        is_set=value not in (None, ""),
        origin=config.where(key),
        needs_restart=effect is TakesEffect.AT_RESTART,
        default=told.default,
        values=told.values,
        explanation=told.effect,
    )
