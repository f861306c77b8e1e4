"""Stores what one Store transaction carries, part by part while it arrives; runs in a thread."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pacs_server.archive.archive import StoreOutcome
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.origin import origin_of
from pacs_server.dicom.part10 import MEDIA_STORAGE_DIRECTORY
from pacs_server.dicom.part10_stream import Part10Stream
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InstanceMismatch, InvalidInstance, PacsError, UnsupportedSOPClass
from pacs_server.kit.media_types import media_type_of
from pacs_server.kit.multipart import MalformedMultipart, Part, parts
from pacs_server.kit.recently import Recently
from pacs_server.services.store import StoreRequest, corrected_uids
from pacs_server.storage.contract import Bytes
from pacs_server.storage.spool import IncomingFile
from pacs_server.web.dicomweb.media_types import DICOM
from pacs_server.web.dicomweb.store_report import COERCED, IGNORED, Failed, Stored, StoreReport
from pacs_server.web.services import WebServices
from pacs_server.web.uploads import BodyCutShort

log = logging.getLogger(__name__)

MOST_PARTS: Final = 100_000
# The answer names all refused instances; so many lines of the log are for those of one request.
_MOST_TOLD: Final = 100


class Storing:
    """Stores the instances of one request; an instance that cannot be stored does not cost the others theirs."""

    def __init__(self, services: WebServices, caller: Caller, study: str | None, recent: Recently) -> None:
        """`study` is the one that the URL names, to which all instances have to belong.

        `recent` is as for `Arrivals`, and shared by all requests.
        """
        self.report = StoreReport()
        self._services = services
        self._origin = origin_of(caller)
        self._scope = caller.scope
        self._user = caller.user or ""
        self._study = study
        self._arrivals: Arrivals = services.auditor.arrivals(caller, recent=recent)

    def run(self, take: Callable[["Storing"], None]) -> StoreReport:
        """Have `take` store what the body holds; a body that breaks off has its whole parts stored."""
        try:
            take(self)
        except (MalformedMultipart, BodyCutShort) as error:
            self.report.broken = str(error)
            log.info("store request broken off", extra={"reason": str(error), "stored": len(self.report.stored)})
        finally:
            self._arrivals.end()
            if (more := len(self.report.failed) - _MOST_TOLD) > 0:
                log.info(
                    "more instances refused",
                    extra={"operation": "STOW-RS", "count": more, "user": self._user, "peer": self._origin.peer},
                )
        return self.report

    # ---------------------------------------------------------------- DICOM files

    def files(self, pieces: Iterator[bytes], boundary: str) -> None:
        """Store the parts of a multipart body, each of them a DICOM file."""
        for number, part in enumerate(parts(pieces, boundary)):
            if number >= MOST_PARTS:
                raise MalformedMultipart(f"more than {MOST_PARTS} parts")
            self._part(part)

    def _part(self, part: Part) -> None:
        media_type, parameters = media_type_of(part.headers.get("content-type", DICOM))
        if part.fault:
            self.failed(InvalidInstance(part.fault))
        elif media_type != DICOM:
            self.failed(InvalidInstance(f"a part is {media_type[:60]} and not {DICOM}"))
        else:
            self.file(part, parameters.get("transfer-syntax", ""))

    def file(self, pieces: Iterable[Bytes], transfer_syntax_uid: str = "") -> None:
        """Store one DICOM file. `transfer_syntax_uid` counts for a data set without a head only."""
        named = ("", "")
        try:
            stream = Part10Stream(pieces)
            head = stream.head
            if head is None:
                raise InvalidInstance("a part is no DICOM file")
            named = (head.media_storage_sop_class_uid, head.media_storage_sop_instance_uid)
            if head.media_storage_sop_class_uid == MEDIA_STORAGE_DIRECTORY:
                raise InvalidInstance("a DICOMDIR is no instance")
            named = stream.sop_uids()
            bare = head.data_set_offset == 0 and transfer_syntax_uid not in ("", "*")
            syntax = transfer_syntax_uid if bare else head.transfer_syntax_uid
            request = self.request(*named, syntax)
            self.instance(request, stream.data_set(), corrected=bool(corrected_uids(head, request)))
        except PacsError as error:
            self.failed(error, *named)

    # ---------------------------------------------------------------- one instance

    def request(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> StoreRequest:
        """What is said of an instance that is to be stored. Raises UnsupportedSOPClass."""
        if is_uid(sop_class_uid) and not self._services.stores_class(sop_class_uid):
            raise UnsupportedSOPClass(f"objects of the SOP class {sop_class_uid} are not stored")
        return StoreRequest(sop_class_uid, sop_instance_uid, transfer_syntax_uid, self._origin, self._scope)

    def scratch(self) -> IncomingFile:
        """A file for what cannot be stored yet; see `StoreService.scratch`."""
        return self._services.store.scratch()

    def instance(self, request: StoreRequest, data: Iterable[Bytes], *, corrected: bool = False) -> None:
        """Store one instance; raises what the service raises."""
        counted = _Counted(data)
        result = self._services.store.store_instance(request, counted, self._begin)
        self._arrivals.stored(result.outcome.value)
        self._services.metrics.received(counted.bytes)
        warning = COERCED if corrected else None
        if result.outcome is StoreOutcome.DUPLICATE_IGNORED:
            warning = IGNORED
        self.report.stored.append(Stored(request.sop_class_uid, result.uids, warning))
        log.info(
            "instance stored",
            extra={
                "operation": "STOW-RS",
                "outcome": result.outcome.value,
                "sop_instance_uid": result.uids.sop,
                "bytes": counted.bytes,
                "user": self._user,
                "peer": self._origin.peer,
            },
        )

    def failed(self, error: PacsError, sop_class_uid: str = "", sop_instance_uid: str = "") -> None:
        """Note that an instance was not stored."""
        self._arrivals.failed(str(error))
        # The report needs no tracebacks, whose frames hold what was read of the instance.
        error.__cause__ = error.__context__ = None
        self.report.failed.append(Failed(sop_class_uid, sop_instance_uid, error.with_traceback(None)))
        if len(self.report.failed) > _MOST_TOLD:
            return
        log.info(
            "instance refused",
            extra={
                "operation": "STOW-RS",
                "reason": str(error),
                "sop_instance_uid": sop_instance_uid,
                "user": self._user,
                "peer": self._origin.peer,
            },
        )

    def _begin(self, subject: Subject, sop_class_uid: str) -> None:
        # PS3.18 10.5.1.1.1: all instances belong to the study of the URL.
        if self._study is not None and subject.study_instance_uid != self._study:
            raise InstanceMismatch("the instance belongs to another study than the one of the URL")
        self._arrivals.begin(subject, sop_class_uid)


class _Counted:
    """The pieces of a data set, and how many bytes they had."""

    def __init__(self, pieces: Iterable[Bytes]) -> None:
        self._pieces = pieces
        self.bytes = 0

    def __iter__(self) -> Iterator[Bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece
