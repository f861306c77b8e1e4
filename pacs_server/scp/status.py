"""Which error is answered with which DIMSE status (PS3.4, PS3.7 Annex C)."""

from pacs_server import errors
from pacs_server.dicom.status import Status
from pacs_server.errors import PacsError

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
    errors.ObjectNotFound: Status.OUT_OF_RESOURCES,
    errors.ObjectUnreadable: Status.OUT_OF_RESOURCES,
    errors.InvalidKey: Status.OUT_OF_RESOURCES,
    errors.ObjectExists: Status.OUT_OF_RESOURCES,
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
