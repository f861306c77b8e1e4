"""The store service: stream an instance into the archive, check that it is the announced one, and add it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pacs_server.archive.archive import Archive, ReceivedInstance, StoreOutcome
from pacs_server.archive.stored_file import USUAL_HEAD, header_of
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.part10 import (
    MEDIA_STORAGE_DIRECTORY,
    FileHead,
    Provenance,
    encode_head,
    seal_offset,
)
from pacs_server.dicom.part10_stream import Part10Stream
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import InstanceUIDs, are_uids
from pacs_server.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceMismatch,
    InvalidInstance,
    NotAuthorised,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.index.scope import ScopeIndex
from pacs_server.kit.last_failure import LastFailure
from pacs_server.storage.contract import Bytes
from pacs_server.storage.spool import IncomingFile

_READ_SIZE = 1024 * 1024

Begin = Callable[[Subject, str], None]
"""Called with the patient and study of an instance and its SOP Class UID before the instance is placed; may raise."""

Note = Callable[[str], None]
"""Called with a sentence for people about an instance that was stored in another form than the file it came from."""


def _begin(subject: Subject, sop_class_uid: str) -> None:
    """Do nothing."""


def _ignore(note: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What the sender says about the instance that follows, and the limits of what the sender may store."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    origin: Origin
    scope: Scope = EVERYTHING


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of an instance, and the UIDs that identify it."""

    outcome: StoreOutcome
    uids: InstanceUIDs


class StoreService:
    """Stores instances; may be shared by all threads."""

    def __init__(self, archive: Archive, scopes: ScopeIndex | None = None) -> None:
        """Without `scopes` it stores nothing of senders with limits."""
        self._archive = archive
        self._scopes = scopes
        self._last = LastFailure()

    def problem(self) -> str | None:
        """Why disk or index recently failed to store an instance; None if they did not, or have stored one since."""
        return self._last.reason()

    def store(self, request: StoreRequest, data: Iterable[Bytes], begin: Begin = _begin) -> StoreOutcome:
        """Store a data set that comes in pieces; when this returns, the instance is durable.

        Raises InvalidInstance, InstanceMismatch, DuplicateInstance, NotAuthorised, StorageFull, StorageUnavailable,
        IndexUnavailable, and what `begin` raises; then nothing is left behind, and `data` may not have been read to its
        end.
        """
        return self.store_instance(request, data, begin).outcome

    def store_instance(self, request: StoreRequest, data: Iterable[Bytes], begin: Begin = _begin) -> StoreResult:
        """Store a data set as `store` does, and tell its UIDs as well."""
        if not are_uids((request.sop_instance_uid, request.sop_class_uid)):
            raise InvalidInstance("the command's SOP Class or Instance UID is not a UID")
        origin = request.origin
        # The file and the row have the same time, so that the index can be rebuilt from the files.
        received_at = datetime.now(UTC)
        file = self._receive()
        try:
            head = encode_head(
                request.sop_class_uid,
                request.sop_instance_uid,
                request.transfer_syntax_uid,
                origin.calling_ae,
                Provenance(received_at, origin.calling_ae, origin.peer, origin.move_originator),
            )
            file.write(head)
            digest = hashlib.sha256()
            start: bytes | None = None
            for piece in data:
                if start is None:
                    start = bytes(piece[:USUAL_HEAD])
                file.write(piece)
                digest.update(piece)
            header = header_of(file, len(head), request.transfer_syntax_uid, start or b"")
            _check(request, header)
            self._check_limits(request, header)
            begin(_subject(header), header.sop_class_uid)
            received = ReceivedInstance(
                file, header, digest.hexdigest(), len(head), origin, received_at, seal_offset(head)
            )
            outcome = self._archive.add(received)
            self._last.worked()
            return StoreResult(outcome, header.uids)
        except DuplicateInstance:
            # Another sender may have stored it since the limits were checked.
            self._check_limits(request, header)
            raise
        except (StorageFull, StorageUnavailable, IndexUnavailable) as error:
            self._last.failed(str(error))
            raise
        finally:
            file.discard()

    def scratch(self) -> IncomingFile:
        """A file on the disk that receives, for what cannot be stored yet; its user discards it.

        Raises what `store` raises before it takes data.
        """
        return self._receive()

    def _check_limits(self, request: StoreRequest, header: Header) -> None:
        """Raise NotAuthorised if a sender with limits would not see the instance, or would join it to what is hidden.

        One sentence for all: a sender may not learn from it what is stored. A patient without a name would be taken for
        any patient of that ID, so that the sender would learn the name.
        """
        if not request.scope.is_limited:
            return
        value = header.values.get
        patient = value("patient_id", ""), value("issuer_of_patient_id", "")
        allowed = (
            bool(patient[0] and value("patient_name"))
            and request.scope.shows(value("modality", ""), request.origin.calling_ae, patient, header.uids.study)
            and self._scopes is not None
            and not self._scopes.hides(header.uids, request.scope)
            and not self._scopes.leads_out(header.values, header.uids.study, request.scope)
        )
        if not allowed:
            raise NotAuthorised("this instance is not within the limits of this user")

    def _receive(self) -> IncomingFile:
        try:
            return self._archive.receive()
        except (StorageFull, StorageUnavailable, IndexUnavailable) as error:
            if error.__cause__ is not None:  # without a cause it is `min_free_space`, which readiness checks itself
                self._last.failed(str(error))
            raise

    def store_file(
        self, path: Path, origin: Origin, begin: Begin = _begin, note: Note = _ignore
    ) -> StoreOutcome | None:
        """Store a DICOM file from the disk as `store` does; None if it holds no instance (not DICOM, or a DICOMDIR).

        Calls `note` if the file names another instance in its File Meta Information than in its data set.
        Raises what `store` raises, and StorageUnavailable if the file cannot be read.
        """
        with _reading():
            file = path.open("rb", buffering=0)
        with file:
            stream = Part10Stream(_pieces(file))
            head = stream.head
            if head is None or head.media_storage_sop_class_uid == MEDIA_STORAGE_DIRECTORY:
                return None
            request = StoreRequest(*stream.sop_uids(), head.transfer_syntax_uid, origin)
            outcome = self.store(request, stream.data_set(), begin)
        corrected = corrected_uids(head, request)
        if corrected:
            note(f"its File Meta Information has another {' and '.join(corrected)} than its data set, which counts")
        return outcome


def _check(request: StoreRequest, header: Header) -> None:
    # PS3.4 B.2.3: the data set has to be the instance that the command announced.
    if header.uids.sop != request.sop_instance_uid:
        raise InstanceMismatch("SOP Instance UID differs from the command's")
    if header.sop_class_uid != request.sop_class_uid:
        raise InstanceMismatch("SOP Class UID differs from the command's")


def corrected_uids(head: FileHead, request: StoreRequest) -> list[str]:
    """The names of the UIDs that a file has in its head otherwise than in its data set; a bare data set has no head."""
    uids = {
        "SOP Class UID": (head.media_storage_sop_class_uid, request.sop_class_uid),
        "SOP Instance UID": (head.media_storage_sop_instance_uid, request.sop_instance_uid),
    }
    return [name for name, (in_head, in_data_set) in uids.items() if in_head not in ("", in_data_set)]


def _subject(header: Header) -> Subject:
    value = header.values.get
    return Subject(
        value("patient_id", ""), value("issuer_of_patient_id", ""), header.uids.study, value("accession_number", "")
    )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while True:
        with _reading():
            piece = file.read(_READ_SIZE)
        if not piece:
            return
        yield piece


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"cannot read the file: {error.strerror or error}") from error
