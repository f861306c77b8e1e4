"""A Storage SCP beside a temporary server: the destination of C-MOVE and of forwarding, which keeps what it gets."""

import io
import logging
import threading
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.net.acceptor import Acceptor, Admitted, Rejection, Terms
from pacs_server.net.association import Association, Message, PeerReleased, Timeouts
from pacs_server.net.listener import Connection, ConnectionLimits, Connections, Listener, bind
from pacs_server.net.message import RESPONSE, CommandField
from pacs_server.net.negotiation import Proposal
from pacs_server.net.pdu import PeerAborted, ProtocolError
from pacs_server.net.transport import AssociationEnded, ConnectionLost
from pacs_server.scp.contexts import Service, service_of, supports
from pacs_server.scp.dispatch import Handlers, Result
from pacs_server.testing.dimse_faults import FaultyAdmission, Noted, faulty_handlers, noted
from pacs_server.testing.faults import Faults
from pacs_server.testing.faulty_transport import FaultyTransport

log = logging.getLogger(__name__)

_TERMS: Final = Terms(131072, 30.0, Timeouts(60.0, 30.0), IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)
_LIMITS: Final = ConnectionLimits(100, 100)
_STOP_SECONDS: Final = 5.0


class Destination:
    """A Storage SCP that takes everything, unless its `faults` say otherwise."""

    def __init__(self, ae_title: str) -> None:
        """Bind a free port; `start` begins to listen."""
        self.ae_title = ae_title
        self.faults = Faults()
        self.operations: Noted = noted()
        self._received: list[Dataset] = []
        self._stopping = threading.Event()
        self._socket = bind("127.0.0.1", 0)
        self.host, self.port = self._socket.getsockname()[:2]
        self._acceptor = Acceptor(_TERMS, supports(accept_unknown=True))
        self._connections = Connections()
        self._listener = Listener(
            self._socket, self._connections, serve=self._serve, limits=lambda: _LIMITS, refused=lambda *_: None
        )
        handlers: Handlers = {
            (Service.STORAGE, CommandField.C_STORE): self._store,
            (Service.VERIFICATION, CommandField.C_ECHO): _echo,
        }
        self._handlers = faulty_handlers(handlers, self.faults, self.operations)
        self._admission = FaultyAdmission(self, self.faults, self._stopping)

    @property
    def received(self) -> list[Dataset]:
        """What came in, in the order of its arrival."""
        return list(self._received)

    def start(self) -> None:
        """Listen."""
        self._listener.start()

    def stop(self) -> None:
        """Accept no more, and end what is open."""
        self._stopping.set()
        self._listener.stop()
        self._connections.kill(_STOP_SECONDS)

    def admit(self, caller: Caller, _identity: object) -> Admitted:
        """Let everybody in."""
        return Admitted(caller)

    def _serve(self, connection: Connection) -> None:
        try:
            transport = FaultyTransport(connection.socket, tick=1.0, faults=self.faults)
            connection.transport = transport
            association = self._acceptor.accept(
                transport, _TERMS.association_timeout, admit=lambda proposal: self._admit(connection, proposal)
            )
        except (AssociationEnded, OSError) as ended:
            log.info("no association with a destination", extra={"reason": str(ended)})
            return
        self._connections.established(connection, association)
        try:
            while True:
                self._answer(association, association.read_message())
                association.done()
        except AssociationEnded as ended:
            if not isinstance(ended, ConnectionLost | PeerAborted | PeerReleased):
                association.abort(ended.reason if isinstance(ended, ProtocolError) else None)

    def _admit(self, connection: Connection, proposal: Proposal) -> Admitted | Rejection:
        caller = Caller(Door.DIMSE, connection.address, proposal.calling_ae, proposal.called_ae)
        return self._admission.admit(caller, None)

    def _answer(self, association: Association, message: Message) -> None:
        field = message.command.command_field or 0
        handler = self._handlers.get((service_of(message.context.abstract_syntax), field))
        if handler is not None:
            handler(association, message)
            return
        association.skip_data()
        if not field & RESPONSE and field != CommandField.C_CANCEL:
            association.respond(message, Status.UNRECOGNIZED_OPERATION)

    def _store(self, association: Association, message: Message) -> Result:
        data = b"".join(map(bytes, association.data()))
        self._received.append(_data_set(message, data))
        association.respond(message, Status.SUCCESS)
        return Result(Status.SUCCESS)


def _echo(association: Association, message: Message) -> Result:
    association.respond(message, Status.SUCCESS)
    return Result(Status.SUCCESS)


def _data_set(message: Message, data: bytes) -> Dataset:
    """A received data set, as if it were read from a file."""
    command, meta = message.command, FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(command.affected_sop_class_uid or "")
    meta.MediaStorageSOPInstanceUID = UID(command.affected_sop_instance_uid or "")
    meta.TransferSyntaxUID = UID(message.context.transfer_syntax)
    buffer = io.BytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    buffer.write(data)
    buffer.seek(0)
    return dcmread(buffer)
