"""REST: how other systems reach this archive, and what to write into the configuration for a new remote."""

import json
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from pacs_server.config.model import Config
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.config.types import is_loopback
from pacs_server.dicom.caller import Role
from pacs_server.errors import InvalidRequest
from pacs_server.kit.own_addresses import host_name, own_addresses
from pacs_server.web.api.operation import Answer, Call, Operation, Parameters, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "server"
_ANY: Final = ("0.0.0.0", "::")


class Connection(Answer):
    """How to reach the archive."""

    ae_title: str
    host_name: Annotated[str, Field(description="What this machine calls itself.")]
    addresses: Annotated[
        list[str], Field(description="At which addresses it listens; empty if others cannot reach it.")
    ]
    port: int
    tls_port: Annotated[int | None, Field(description="The port for TLS; null for none.")]
    is_local: Annotated[bool, Field(description="Whether only programs on this machine can reach it.")]
    checks_called_ae: Annotated[bool, Field(description="Whether peers have to call it by its AE title.")]
    lets_everybody_in: Annotated[bool, Field(description="Whether every AE title is let in.")]
    web: Annotated[str, Field(description="The address of the pages.")]
    web_is_local: Annotated[bool, Field(description="Whether only this machine reaches the pages.")]
    dicomweb: Annotated[str, Field(description="The address of the DICOMweb services.")]
    api: Annotated[str, Field(description="The address of the REST API.")]
    file: Annotated[str, Field(description="The configuration file; empty if there is none, or for other roles.")]


class NewRemote(Parameters):
    """A remote to be added."""

    ae_title: Annotated[str, Field(max_length=64, description="Its AE title.")]
    host: Annotated[str, Field(max_length=255, description="Its host name or address.")]
    port: Annotated[int, Field(description="Its port.")] = 104
    name: Annotated[str, Field(max_length=64, description="How people call it; its AE title if empty.")] = ""
    tls: Annotated[bool, Field(description="Whether it speaks TLS.")] = False


class RemoteLines(Answer):
    """Lines for the configuration file."""

    lines: Annotated[list[str], Field(description="The section of the configuration file, in YAML.")]


class ConnectionResource:
    """The resource connection."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/connection", name="show_connection", tag=_TAG, role=Role.READER,
                summary="Tell how other systems reach this archive.", answer=Connection, run=self._show,
            ),
            Operation(
                method="GET", path="/connection/remote", name="draft_remote", tag=_TAG, role=Role.OPERATOR,
                summary="Write the lines that add a remote to the configuration file; nothing is changed.",
                query=NewRemote, answer=RemoteLines, run=self._draft, errors={400: "Something of it cannot be."},
            ),
        ]  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        config = self._services.config()
        status = self._services.status()
        host, port = _split(str(status.get("address") or f"{config.server.host}:{config.server.port}"))
        tls = status.get("tls_address")
        may_know = call.caller.role >= Role.OPERATOR and not call.caller.scope.is_limited
        return Connection(
            ae_title=config.server.ae_title, host_name=host_name(), addresses=_reachable(host), port=port,
            tls_port=_split(str(tls))[1] if tls else None, is_local=is_loopback(host),
            checks_called_ae=config.server.check_called_ae_title, lets_everybody_in=_is_open(config),
            web=call.base, web_is_local=is_loopback(config.web.host), dicomweb=f"{call.base}/dicom-web",
            api=f"{call.base}/api/v1", file=str(config.source.absolute()) if may_know and config.source else "",
        )  # fmt: skip

    def _draft(self, call: Call[NewRemote, None]) -> Answer:
        unlimited(call)
        query = call.query
        values = {"ae_title": query.ae_title, "host": query.host, "port": query.port, "name": query.name}
        try:
            remote = RemoteAEConfig.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if (wrong := remote.problem()) is not None:
            raise InvalidRequest(f"{wrong[0]} {wrong[1]}")
        known = self._services.config().remote_aes
        if any(remote.name == each.name or remote.ae_title == each.ae_title for each in known):
            raise InvalidRequest(f"{remote.name} is in remote_aes already")
        named = [] if remote.name == remote.ae_title else [f"    name: {json.dumps(remote.name)}"]
        lines = ["remote_aes:", f"  - ae_title: {json.dumps(remote.ae_title)}", *named,
                 f"    host: {json.dumps(remote.host)}", f"    port: {remote.port}"]  # fmt: skip
        return RemoteLines(lines=[*lines, *(["    tls: true"] if query.tls else [])])


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _reachable(host: str) -> list[str]:
    if is_loopback(host):
        return []
    return own_addresses() if host in _ANY else [host]


def _is_open(config: Config) -> bool:
    access = config.access_control
    return not access.peers and "*" in access.allowed_ae_titles
