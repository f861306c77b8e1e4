"""What became of the instances of a STOW-RS request; **the** table of Failure Reasons (PS3.18 10.5.3, Annex I)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from pacs_server import errors
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import PacsError

# PS3.18 Table I.2-2: Referenced SOP Class not supported. C-STORE has no such status: it never gets that far.
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122

FAILURE_REASONS: Final[dict[type[PacsError], int]] = {
    errors.InvalidInstance: Status.CANNOT_UNDERSTAND,
    errors.InstanceMismatch: Status.DOES_NOT_MATCH_SOP_CLASS,
    errors.DuplicateInstance: Status.DUPLICATE_SOP_INSTANCE,
    errors.UnsupportedSOPClass: SOP_CLASS_NOT_SUPPORTED,
    errors.InstanceNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.NotAuthorised: Status.NOT_AUTHORISED,
    errors.StorageFull: Status.OUT_OF_RESOURCES,
    errors.StorageUnavailable: Status.OUT_OF_RESOURCES,
    errors.ObjectExists: Status.OUT_OF_RESOURCES,
    errors.IndexUnavailable: Status.OUT_OF_RESOURCES,
    errors.SchemaError: Status.OUT_OF_RESOURCES,
    errors.AuditUnavailable: Status.OUT_OF_RESOURCES,
}
"""**The** table of Failure Reasons (0008,1197), PS3.18 Table I.2-2 and PS3.4 B.2.3; any other error is 0110."""

COERCED: Final = 0xB000
"""Warning Reason: the File Meta Information named another instance than the data set, which counts."""
IGNORED: Final = int(Status.DUPLICATE_SOP_INSTANCE)
"""Warning Reason: another object is stored under the UID, and it stays (`storage.duplicate_policy` is `ignore`)."""


def failure_reason(error: PacsError) -> int:
    """The Failure Reason that tells of an error."""
    found = (FAILURE_REASONS[kind] for kind in type(error).__mro__ if kind in FAILURE_REASONS)
    return next(found, Status.PROCESSING_FAILURE)


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that is in the archive."""

    sop_class_uid: str
    uids: InstanceUIDs
    warning: int | None


@dataclass(frozen=True, slots=True)
class Failed:
    """An instance that is not; the UIDs are empty if nobody knows them."""

    sop_class_uid: str
    sop_instance_uid: str
    error: PacsError


InstanceURL = Callable[[InstanceUIDs], str]


@dataclass(slots=True)
class StoreReport:
    """What became of the instances; `broken` says why the body could not be read to its end."""

    stored: list[Stored] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    broken: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was sent that could be stored or refused."""
        return not self.stored and not self.failed

    @property
    def status(self) -> HTTPStatus:
        """The status of the answer (PS3.18 Table 10.5.3-1).

        If nothing was stored for want of room it is 507, and for another reason that may pass 503: then it is worth
        trying again, which 409 would deny.
        """
        if self.stored:
            whole = not self.failed and not self.broken and not any(each.warning for each in self.stored)
            return HTTPStatus.OK if whole else HTTPStatus.ACCEPTED
        reasons = {failure_reason(each.error) for each in self.failed}
        if reasons != {Status.OUT_OF_RESOURCES}:
            return HTTPStatus.CONFLICT
        full = all(isinstance(each.error, errors.StorageFull) for each in self.failed)
        return HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.SERVICE_UNAVAILABLE

    def module(self, study_url: Callable[[str], str], instance_url: InstanceURL) -> dict[str, Any]:
        """The Store Instances Response Module in the DICOM JSON Model (PS3.18 Table I.1-1)."""
        studies = {each.uids.study for each in self.stored}
        # It is of type 2: with several studies there is no one URL.
        module = _element("00081190", "UR", study_url(studies.pop()) if len(studies) == 1 else None)
        failed = [_failed(each) for each in self.failed if each.sop_instance_uid]
        others = [_reason(each) for each in self.failed if not each.sop_instance_uid]
        if self.broken:
            others.append(_element("00081197", "US", int(Status.CANNOT_UNDERSTAND)))
        stored = [_stored(each, instance_url(each.uids)) for each in self.stored]
        for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", others)):
            if items:
                module[tag] = {"vr": "SQ", "Value": items}
        return module


def _stored(stored: Stored, url: str) -> dict[str, Any]:
    item = _referenced(stored.sop_class_uid, stored.uids.sop) | _element("00081190", "UR", url)
    return item if stored.warning is None else item | _element("00081196", "US", stored.warning)


def _failed(failed: Failed) -> dict[str, Any]:
    return _referenced(failed.sop_class_uid, failed.sop_instance_uid) | _reason(failed)


def _reason(failed: Failed) -> dict[str, Any]:
    return _element("00081197", "US", int(failure_reason(failed.error)))


def _referenced(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return _element("00081150", "UI", sop_class_uid) | _element("00081155", "UI", sop_instance_uid)


def _element(tag: str, vr: str, value: object) -> dict[str, Any]:
    return {tag: {"vr": vr, "Value": [value]} if value else {"vr": vr}}
