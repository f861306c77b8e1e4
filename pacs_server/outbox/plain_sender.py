"""Senders over associations that are opened for each task and presentation context."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.status import Status
from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable
from pacs_server.net.acceptor import Rejected
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded
from pacs_server.scu.connect import read_response
from pacs_server.scu.link import Link, Requestor
from pacs_server.scu.plan import choose, plan
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.sending import Answer, Outgoing
from pacs_server.scu.store import store_request
from pacs_server.services.transcode import transcode

_VERIFICATION: Final = "1.2.840.10008.1.1"
_ECHO: Final = (ProposedContext(1, _VERIFICATION, ("1.2.840.10008.1.2",)),)
# PS3.8 9.3.4: rejected for a while.
_TRANSIENT: Final = 2
_numbers = itertools.count(1)


class PlainSenders:
    """Opens senders to DIMSE remotes."""

    def __init__(self, requestor: Requestor, remotes: Callable[[str], RemoteAE | None]) -> None:
        self._requestor = requestor
        self._remotes = remotes

    def open(self, remote: RemoteAEConfig) -> "PlainSender":
        """A sender to a remote. Raises RemoteError."""
        return PlainSender(self._requestor, self._known(remote))

    def probe(self, remote: RemoteAEConfig) -> None:
        """C-ECHO (PS3.4 A.4). Raises RemoteError."""
        with Link(self._requestor, self._known(remote), _ECHO) as link:
            _exchanged(link, remote.name, _echo)

    def stop(self) -> None:
        """End all associations at once."""
        self._requestor.kill()

    def _known(self, remote: RemoteAEConfig) -> RemoteAE:
        known = self._remotes(remote.name)
        if known is None:
            raise RemoteError(f"{remote.name} is no remote AE")
        return known


class PlainSender:
    """Sends instances over one association at a time."""

    def __init__(self, requestor: Requestor, remote: RemoteAE) -> None:
        self._requestor = requestor
        self._remote = remote
        self._open = ExitStack()
        self._kind: tuple[str, str] | None = None
        self._link: Link
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def send(self, instance: Outgoing) -> Answer:
        """Send one instance. Raises RemoteUnreachable and RemoteBusy."""
        kind = (instance.sop_class_uid, instance.transfer_syntax_uid)
        if kind != self._kind:
            self._open.close()
            self._link = self._open.enter_context(Link(self._requestor, self._remote, plan({kind})[0].contexts))
            self._kind, number = kind, next(_numbers)
            self._name = f"{self._remote.ae_title}@{self._remote.host}:{self._remote.port} #{number}"
        status = _exchanged(self._link, self._remote.name, lambda association: _store(association, instance))
        permanent = status in (Status.DOES_NOT_MATCH_SOP_CLASS, 0x0122) or status & 0xF000 == 0xC000
        detail = "" if status == 0 else f"{self._remote.name} answered 0x{status:04X}"
        return Answer(status, permanent, detail, self._name)


def _store(association: Association, instance: Outgoing) -> int:
    choice = choose(association.contexts_as_scu, instance.sop_class_uid, instance.transfer_syntax_uid)
    if choice is None:
        # PS3.7 C.5.6: the SOP class is not supported.
        return 0x0122
    context_id, transfer_syntax = choice
    request = store_request(association, instance.sop_class_uid, instance.uids.sop)
    source = instance.open()
    if isinstance(source, bytes):
        association.send(context_id, request, source)
        return _status(read_response(association, request))
    with source:
        if transfer_syntax == instance.transfer_syntax_uid:
            association.send_source(context_id, request, source)
        else:
            data = source.read(0, source.size)
            association.send(context_id, request, transcode(data, instance.transfer_syntax_uid, transfer_syntax))
    return _status(read_response(association, request))


def _echo(association: Association) -> int:
    (context_id,) = association.contexts or (None,)
    if context_id is None:
        # It is there, and that was asked.
        return 0
    request = Command(
        command_field=CommandField.C_ECHO, message_id=association.next_message_id(),
        affected_sop_class_uid=_VERIFICATION,
    )  # fmt: skip
    association.send(context_id, request)
    return _status(read_response(association, request))


def _status(response: Command) -> int:
    return Status.CANNOT_UNDERSTAND if response.status is None else response.status


def _exchanged(link: Link, name: str, operation: Callable[[Association], int]) -> int:
    try:
        return link.exchange(operation)
    except Rejected as rejected:
        # PS3.8 9.3.4: 2,3,1 is temporary congestion and 2,3,2 the local limit.
        if rejected.rejection.result == _TRANSIENT:
            raise RemoteBusy(f"{name}: {rejected.how}") from rejected
        raise RemoteUnreachable(f"{name}: {rejected.how}") from rejected
    except AssociationEnded as ended:
        raise RemoteUnreachable(f"{name}: {ended.how}") from ended
