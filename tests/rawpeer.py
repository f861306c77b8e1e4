"""A peer that speaks to a server over the server's own upper layer: stores and retrieves exact bytes, streaming."""

import contextlib
import io
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import pydicom
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from pacs_server.net.acceptor import Terms
from pacs_server.net.associate import decode_accept, encode_request
from pacs_server.net.association import Association, Timeouts
from pacs_server.net.message import RESPONSE, Command, CommandField
from pacs_server.net.negotiation import AcceptedContext, Proposal, ProposedContext, UserInformation
from pacs_server.net.pdu import PDUReader, PDUType
from pacs_server.net.transport import AssociationEnded, Transport
from pacs_server.scu.connect import connect
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.store import store_request

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
_TERMS = Terms(131072, 30.0, Timeouts(idle=60.0, network=30.0), "1.2.826.0.1.3680043.8.498.1", "TEST")


def associate(port: int, contexts: Iterable[tuple[str, str]], *, calling_ae: str = "RAW") -> Association:
    """An association with the server with one context per (abstract syntax, transfer syntax)."""
    proposed = [ProposedContext(2 * n + 1, abstract, (syntax,)) for n, (abstract, syntax) in enumerate(contexts)]
    return connect(RemoteAE("PACS_SERVER", "127.0.0.1", port, 10.0, _TERMS.timeouts.idle), calling_ae, proposed, _TERMS)


@contextlib.contextmanager
def association(port: int, contexts: Iterable[tuple[str, str]]) -> Iterator[Association]:
    """`associate`, released at the end and closed in any case."""
    link = associate(port, contexts)
    try:
        yield link
        link.release()
    finally:
        link.transport.close()


@dataclass(frozen=True)
class Instance:
    """An encoded data set with what a C-STORE needs to know of it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes

    @classmethod
    def of(cls, ds: Dataset) -> "Instance":
        """`ds` in Explicit VR Little Endian."""
        data = encode(ds, is_implicit_vr=False, is_little_endian=True)
        assert data is not None
        return cls(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, data)

    @classmethod
    def read(cls, path: Path) -> "Instance":
        """The data set of a Part 10 file as it lies there."""
        with warnings.catch_warnings(action="ignore"):  # some test files are odd on purpose
            ds = pydicom.dcmread(path, stop_before_pixels=True)
        return cls(str(ds.SOPClassUID), str(ds.SOPInstanceUID), *datasets.data_set_bytes(path))

    @property
    def kind(self) -> tuple[str, str]:
        """The presentation context it travels on."""
        return self.sop_class_uid, self.transfer_syntax_uid


def context_id(link: Association, abstract_syntax: str, transfer_syntax: str | None = None) -> int:
    """The accepted context for an abstract syntax (and a transfer syntax); raises KeyError."""
    for number, context in link.contexts.items():
        if context.abstract_syntax == abstract_syntax and transfer_syntax in (None, context.transfer_syntax):
            return number
    raise KeyError(abstract_syntax)


def store(link: Association, instance: Instance) -> Command:
    """Send one instance and return the response."""
    request = store_request(link, instance.sop_class_uid, instance.sop_instance_uid)
    link.send(context_id(link, *instance.kind), request, instance.data)
    return response(link, request)


def store_from(senders: int, port: int, instances: Sequence[Instance]) -> list[list[int | None]]:
    """Send instances from so many senders at once; returns the statuses that each of them got."""

    def send(mine: Sequence[Instance]) -> list[int | None]:
        with association(port, {instance.kind for instance in mine}) as link:
            return [store(link, instance).status for instance in mine]

    with ThreadPoolExecutor(senders) as threads:
        return list(threads.map(send, (instances[number::senders] for number in range(senders))))


def response(link: Association, request: Command) -> Command:
    """The response to `request` with all its fields."""
    message = link.read_message(60.0)
    link.skip_data()
    link.busy = False
    assert message.command.message_id_being_responded_to == request.message_id
    return message.command


def retrieve(port: int, kinds: Iterable[tuple[str, str]], keys: Dataset) -> tuple[Command, dict[str, bytes]]:
    """C-GET by `keys` of the Study Root: the final response, and data set bytes by SOP Instance UID."""
    received: dict[str, bytes] = {}
    link = get_association(port, kinds)
    with contextlib.closing(link.transport):
        final = get(link, keys, lambda uid, pieces: received.update({uid: b"".join(map(bytes, pieces))}))
        link.release()
    return final, received


def get(link: Association, keys: Dataset, take: Callable[[str, Iterator[memoryview]], None]) -> Command:
    """C-GET; `take` gets each SOP Instance UID and the pieces of its data set. Returns the final response."""
    command = Command(command_field=CommandField.C_GET, message_id=link.next_message_id(), priority=0)
    command.affected_sop_class_uid = STUDY_ROOT_GET
    link.send(context_id(link, STUDY_ROOT_GET), command, encode(keys, is_implicit_vr=True, is_little_endian=True))
    while True:
        message = link.read_message()
        incoming = message.command
        if incoming.command_field == CommandField.C_GET | RESPONSE:
            link.skip_data()
            link.busy = False
            if incoming.status != 0xFF00:
                return incoming
            continue
        take(str(incoming.affected_sop_instance_uid), link.data())
        link.send(message.context.context_id, _stored(incoming))


def find(link: Association, keys: Dataset) -> tuple[Command, list[Dataset]]:
    """C-FIND by `keys` of the Study Root: the final response, and the matches."""
    command = Command(command_field=CommandField.C_FIND, message_id=link.next_message_id(), priority=0)
    command.affected_sop_class_uid = STUDY_ROOT_FIND
    link.send(context_id(link, STUDY_ROOT_FIND), command, encode(keys, is_implicit_vr=True, is_little_endian=True))
    matches: list[Dataset] = []
    while True:
        message = link.read_message(60.0)
        data = b"".join(map(bytes, link.data())) if message.command.status == 0xFF00 else link.skip_data()
        if not data:
            link.busy = False
            return message.command, matches
        matches.append(decode(io.BytesIO(data), is_implicit_vr=True, is_little_endian=True))


def _stored(request: Command) -> Command:
    return Command(
        command_field=CommandField.C_STORE | RESPONSE,
        message_id_being_responded_to=request.message_id,
        affected_sop_class_uid=request.affected_sop_class_uid,
        affected_sop_instance_uid=request.affected_sop_instance_uid,
        status=0,
    )


def get_association(port: int, kinds: Iterable[tuple[str, str]]) -> Association:
    """An association for C-GET, with the SCP role for the storage contexts (PS3.7 D.3.3.4)."""
    kinds = list(dict.fromkeys(kinds))
    pairs = [(STUDY_ROOT_GET, IMPLICIT), *kinds]
    contexts = tuple(ProposedContext(2 * n + 1, abstract, (syntax,)) for n, (abstract, syntax) in enumerate(pairs))
    user = UserInformation(131072, "1.2.826.0.1.3680043.8.498.1", roles={kind[0]: (False, True) for kind in kinds})
    sock = socket.create_connection(("127.0.0.1", port), 10)
    transport = Transport(sock, tick=30.0)
    try:
        transport.send([encode_request(Proposal("RAW", "PACS_SERVER", contexts, user))], 30.0)
        reader = PDUReader(transport, max_pdu_size=131072, pdu_timeout=30.0)
        kind, body = reader.read(30.0)
        assert kind == PDUType.ASSOCIATE_AC
        answer = decode_accept(bytes(body))
    except (AssociationEnded, AssertionError):
        transport.close()
        raise
    proposed = {context.context_id: context.abstract_syntax for context in contexts}
    accepted = {
        number: AcceptedContext(number, proposed[number], syntax, as_scu=True, as_scp=True)
        for number, result, syntax in answer.results
        if result == 0
    }
    return Association(
        transport, reader, contexts=accepted, max_pdu_size=answer.user.max_pdu_size, timeouts=_TERMS.timeouts,
        calling_ae="RAW", called_ae="PACS_SERVER", peer="127.0.0.1",
    )  # fmt: skip


def study_keys(study: str, **keys: str) -> Dataset:
    """A retrieve identifier for a study, or by `keys` for a series or an instance of it."""
    ds = Dataset()
    ds.QueryRetrieveLevel = "IMAGE" if "SOPInstanceUID" in keys else "SERIES" if keys else "STUDY"
    ds.StudyInstanceUID = study
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds
