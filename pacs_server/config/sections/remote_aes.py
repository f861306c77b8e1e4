"""The section `remote_aes`: the systems that this server may call, by DIMSE or DICOMweb."""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.sections.remote_auth import RemoteAuthConfig
from pacs_server.config.types import (
    AETitle,
    Host,
    Seconds,
    Section,
    check_http_url,
    check_name,
    check_remote_port,
    check_transfer_syntax,
    parse_size,
)
from pacs_server.kit.time_windows import TimeWindow

_NEEDED: Final = {"dimse": ("ae_title", "host", "port"), "dicomweb": ("name", "url")}
_NOT_FOR: Final = {"dimse": ("url", "auth"), "dicomweb": ("ae_title", "host", "port", "tls", "commitment")}


def _check_window(text: str) -> str:
    TimeWindow.parse(text)
    return text.strip()


_Name = Annotated[str, AfterValidator(check_name)]
_Port = Annotated[int, AfterValidator(check_remote_port)]
_Window = Annotated[str, AfterValidator(_check_window)]
_TransferSyntax = Annotated[str, AfterValidator(check_transfer_syntax)]


class RemoteAEConfig(Section):
    """A remote: a system that this server may call, known by its name. Timeouts in seconds, `rate` in bytes a second.

    A `dimse` remote has an AE title, host and port; its name is its AE title unless it has another one. A `dicomweb`
    remote has a name and a URL.
    """

    name: _Name = ""
    kind: Literal["dimse", "dicomweb"] = "dimse"
    ae_title: AETitle = ""
    host: Host = ""
    port: _Port = 0
    url: Annotated[str, AfterValidator(check_http_url)] = ""
    auth: RemoteAuthConfig | None = None
    tls: bool = False
    tls_check_hostname: bool = True
    connect_timeout: Seconds = 10.0
    response_timeout: Seconds = 60.0
    max_associations: Annotated[int, Field(ge=1, le=100)] = 2
    rate: Annotated[int, Field(ge=1024, le=2**40), BeforeValidator(parse_size)] | None = None
    windows: Annotated[tuple[_Window, ...], Field(strict=False)] = ()
    priority: Literal["urgent", "high", "medium", "low"] = "medium"
    backups: Annotated[tuple[_Name, ...], Field(strict=False)] = ()
    vendor: str = "auto"
    transfer_syntaxes: Annotated[tuple[_TransferSyntax, ...], Field(strict=False)] = ()
    commitment: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_title(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("ae_title"), str):
            return {**data, "name": data["ae_title"].strip(" ")}
        return data

    @property
    def uses_tls(self) -> bool:
        """Whether connections to it are encrypted."""
        return self.tls or self.url.lower().startswith("https:")

    def problem(self) -> tuple[str, str] | None:
        """The key that is wrong and what is wrong with it, None if all is well."""
        for key in _NEEDED[self.kind]:
            if not getattr(self, key):
                return key, "is missing" if self.kind == "dimse" else f"is missing, kind {self.kind} needs it"
        for key in _NOT_FOR[self.kind]:
            if getattr(self, key):
                return key, f"is not for kind {self.kind}"
        if self.kind == "dicomweb" and self.auth is not None and (wrong := self.auth.problem()) is not None:
            return f"auth.{wrong[0]}".rstrip("."), wrong[1]
        return None


def check_remotes(remotes: tuple[RemoteAEConfig, ...]) -> tuple[RemoteAEConfig, ...]:
    """The remotes, if each is complete, names and AE titles are unique, and backups are remotes.

    Raises PydanticCustomError.
    """
    for number, key, text in _problems(remotes):
        raise PydanticCustomError("remote", "{text}", {"text": text, "key": f"remote_aes[{number}].{key}"})
    return remotes


def _problems(remotes: tuple[RemoteAEConfig, ...]) -> Iterator[tuple[int, str, str]]:
    """Number and key of each remote that is wrong, and what is wrong with it."""
    for number, remote in enumerate(remotes):
        if (wrong := remote.problem()) is not None:
            yield number, *wrong
    yield from _repeated(remotes, "ae_title")
    yield from _repeated(remotes, "name")
    names = {remote.name for remote in remotes}
    for number, remote in enumerate(remotes):
        for place, backup in enumerate(remote.backups):
            key = f"backups[{place}]"
            if backup == remote.name:
                yield number, key, f"{backup} cannot be its own backup"
            elif backup not in names:
                yield number, key, f"{backup} is not the name of a remote"


def _repeated(remotes: tuple[RemoteAEConfig, ...], key: str) -> Iterator[tuple[int, str, str]]:
    seen: dict[str, int] = {}
    for number, remote in enumerate(remotes):
        value = getattr(remote, key)
        first = seen.setdefault(value, number)
        if value and first != number:
            yield number, key, f"{value} is already defined by remote_aes[{first}]"
