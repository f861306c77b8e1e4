"""What the server prints when it has started: where it listens, and DCMTK commands that reach it from this machine."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pacs_server import __version__
from pacs_server.app.ports import Address, Addresses
from pacs_server.config.model import Config
from pacs_server.config.sections.access_control import PeerService
from pacs_server.dicom.caller import Caller, Door
from pacs_server.services.access import Refusal, rule_for

_ANY_HOST: Final = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class _Tool:
    """A tool of DCMTK: the AE title that it takes by itself, the service that it asks for, and its last arguments.

    `user` are its options for the name of a user; None if it has none.
    """

    name: str
    ae_title: str
    service: PeerService
    arguments: str
    user: str | None


_TOOLS: Final = (
    _Tool("echoscu", "ECHOSCU", "echo", "", None),
    _Tool("storescu", "STORESCU", "store", " image.dcm", " -usr NAME -pwd PASSWORD"),
)


@dataclass(frozen=True, slots=True)
class _Door:
    """A port for DICOM as a peer on this machine sees it."""

    host: str
    port: int
    tls: bool


def welcome(config: Config, at: Addresses) -> Iterator[str]:
    """The lines to print."""
    yield f"pacs-server {__version__} listening on {at.dicom[0]} port {at.dicom[1]} as {config.server.ae_title}"
    if at.tls is not None:
        yield "DICOM over TLS at {} port {}".format(*at.tls)
    if at.monitoring is not None:
        yield "monitoring at http://{}:{}/status".format(*at.monitoring)
    if at.web is not None:
        yield f"web at {'https' if config.web.tls.enabled else 'http'}://{at.web[0]}:{at.web[1]}/"
    if at.hl7 is not None:
        yield "HL7 orders at {} port {}".format(*at.hl7)
    commands = [command for tool in _TOOLS if (command := _command(config, at, tool)) is not None]
    if not commands:
        named = "" if config.source is None else f" --config {shlex.quote(str(config.source))}"
        yield f"no peer on this machine is let in; what peers tried: pacs-server{named} peers seen"
    for number, command in enumerate(commands):
        yield f"{'     ' if number else 'try: '}{command}"


def _command(config: Config, at: Addresses, tool: _Tool) -> str | None:
    """The command line with which the server accepts the tool; None if there is none."""
    user = tool.user if config.user_identity.mode == "required" else ""
    way = _way_in(config, at, tool)
    if user is None or way is None:
        return None
    title, door = way
    calling = "" if title == tool.ae_title else f" -aet {shlex.quote(title)}"
    called = f" -aec {shlex.quote(config.server.ae_title)}"
    tls = _tls_options(config) if door.tls else ""
    return f"{tool.name}{calling}{called}{tls}{user} {door.host} {door.port}{tool.arguments}"


def _way_in(config: Config, at: Addresses, tool: _Tool) -> tuple[str, _Door] | None:
    """An AE title and a port with which access rules let the tool use its service; None if there are none."""
    for title in (tool.ae_title, *_titles_with_rules(config)):
        for door in _doors(at):
            # Who connects to an address of this machine comes from that address.
            rule = rule_for(Caller(Door.DIMSE, door.host, title, tls=door.tls), config.access_control)
            if not isinstance(rule, Refusal) and tool.service in rule.allow:
                return title, door
    return None


def _titles_with_rules(config: Config) -> list[str]:
    """AE titles that access rules are about, one for each pattern."""
    access = config.access_control
    patterns = (*(rule.ae_title for rule in access.peers), *access.allowed_ae_titles)
    return [pattern.replace("*", "").replace("?", "1").strip() or "ANY" for pattern in patterns]


def _doors(at: Addresses) -> Iterator[_Door]:
    """The ports for DICOM, plain ones first."""
    if at.tls != at.dicom:
        yield _door(at.dicom, tls=False)
    if at.tls is not None:
        yield _door(at.tls, tls=True)


def _door(address: Address, *, tls: bool) -> _Door:
    host, port = address
    return _Door("127.0.0.1" if host in _ANY_HOST else host, port, tls)


def _tls_options(config: Config) -> str:
    """DCMTK's options for TLS, without checking the certificate of the server."""
    return " +tls client.key client.crt -ic" if config.tls.require_client_cert else " +tla -ic"
