"""DIMSE statuses and which error answers with which; the only place with 0xNNNN literals (PS3.4, PS3.7 Annex C)."""

from enum import IntEnum

from pacs_server import errors
from pacs_server.errors import PacsError


class Status(IntEnum):
    """A status of a response, with the section that defines it."""

    SUCCESS = 0x0000
    # PS3.4 F.8.2.1.4
    REQUESTED_OPTIONAL_ATTRIBUTES_NOT_SUPPORTED = 0x0001
    # PS3.7 Annex C, common to all services
    INVALID_ATTRIBUTE_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    INVALID_ARGUMENT_VALUE = 0x0115
    INVALID_OBJECT_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    MISSING_ATTRIBUTE = 0x0120
    MISSING_ATTRIBUTE_VALUE = 0x0121
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORISED = 0x0124
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    # PS3.4 B.2.3, C.4.1.1.4, C.4.2.1.5, C.4.3.1.4
    OUT_OF_RESOURCES = 0xA700
    UNABLE_TO_PERFORM_SUBOPERATIONS = 0xA702
    MOVE_DESTINATION_UNKNOWN = 0xA801
    DOES_NOT_MATCH_SOP_CLASS = 0xA900
    SUBOPERATIONS_COMPLETE_WITH_FAILURES = 0xB000
    CANNOT_UNDERSTAND = 0xC000
    CANCEL = 0xFE00
    PENDING = 0xFF00
    PENDING_WITH_UNSUPPORTED_KEYS = 0xFF01


# PS3.4 Table F.7.2-2: Error ID (0000,0903) of a step that may no longer be updated.
STEP_MAY_NO_LONGER_BE_UPDATED = 0xA710

STATUS_OF: dict[type[PacsError], Status] = {
    errors.ConfigError: Status.PROCESSING_FAILURE,
    errors.InvalidInstance: Status.CANNOT_UNDERSTAND,
    errors.InstanceMismatch: Status.DOES_NOT_MATCH_SOP_CLASS,
    errors.InvalidIdentifier: Status.DOES_NOT_MATCH_SOP_CLASS,
    errors.DuplicateInstance: Status.DUPLICATE_SOP_INSTANCE,
    errors.InstanceNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.StorageFull: Status.OUT_OF_RESOURCES,
    errors.StorageUnavailable: Status.OUT_OF_RESOURCES,
    errors.IndexUnavailable: Status.OUT_OF_RESOURCES,
    errors.SchemaError: Status.OUT_OF_RESOURCES,
    errors.UnknownMoveDestination: Status.MOVE_DESTINATION_UNKNOWN,
    errors.NotAuthorised: Status.NOT_AUTHORISED,
    errors.TranscodeError: Status.PROCESSING_FAILURE,
    errors.InvalidWorklistItem: Status.PROCESSING_FAILURE,
    errors.WorklistItemNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.AttributeRefused: Status.INVALID_ATTRIBUTE_VALUE,
    errors.InvalidAttributeValue: Status.INVALID_ATTRIBUTE_VALUE,
    errors.MissingAttribute: Status.MISSING_ATTRIBUTE,
    errors.MissingAttributeValue: Status.MISSING_ATTRIBUTE_VALUE,
    errors.ProcedureStepClosed: Status.PROCESSING_FAILURE,
    errors.InvalidArgumentValue: Status.INVALID_ARGUMENT_VALUE,
    errors.InvalidObjectInstance: Status.INVALID_OBJECT_INSTANCE,
    errors.NoSuchAction: Status.NO_SUCH_ACTION,
    errors.NoSuchSOPClass: Status.NO_SUCH_SOP_CLASS,
    # Nobody may see or leave anything without a trace.
    errors.AuditUnavailable: Status.OUT_OF_RESOURCES,
    errors.UserError: Status.PROCESSING_FAILURE,
    errors.PatientError: Status.PROCESSING_FAILURE,
    errors.ResourceLimitation: Status.RESOURCE_LIMITATION,
}


def status_of(error: PacsError) -> Status:
    """The status that answers `error`."""
    return STATUS_OF[type(error)]


def is_warning(status: int) -> bool:
    """Whether a C-STORE response says stored, but (PS3.7 Annex C: 0001, 0107, 0116, Bxxx)."""
    return status in (0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000
